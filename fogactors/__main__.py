"""`python -m fogactors`."""

from fogactors.app.cli import main

main()

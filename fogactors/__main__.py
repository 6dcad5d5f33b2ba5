"""`python -m fogactors`, and the command `fogactors`."""

from __future__ import annotations

import sys

__all__ = ["main"]


def main() -> None:
    """The entry point. A probe is asked past everything that it does not need."""
    if sys.argv[1:2] == ["probe"]:
        from fogactors.app import probe

        code = probe.main(sys.argv[2:])
        if code is not None:
            sys.exit(code)
    from fogactors.app import cli

    cli.main()


if __name__ == "__main__":
    main()

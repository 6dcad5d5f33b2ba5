"""A program's `main` with an end that says what went wrong in one line, and by an exit code."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import NoReturn

from fogactors.errors import FogError, exit_code
from fogactors.messaging.blocking.defaults import program_name

__all__ = ["run"]

EXIT_CTRL_C = 130


def run(main: Callable[[], object]) -> NoReturn:
    """Call `main` and end the program. A `FogError` that leaves it is one line on standard error instead of a
    traceback; other errors are bugs, and keep theirs.

    Exit codes as those of the command `fogactors`: 0 done, or stopped by a signal; 2 refused (a wrong password, no
    permission) or configured wrongly; 3 no broker; 1 any other error; 130 Ctrl-C where nothing waited for it.
    """
    try:
        main()
    except FogError as error:
        print(f"{program_name()}: {error}", file=sys.stderr)  # noqa: T201 - its last words
        sys.exit(exit_code(error))
    except KeyboardInterrupt:
        sys.exit(EXIT_CTRL_C)
    sys.exit(0)

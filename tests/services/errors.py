"""What can go wrong, and what a test does about it."""

import os
from pathlib import Path
from typing import NoReturn

import pytest


class ServiceUnavailable(Exception):
    """This machine cannot run the service; the message says in one line what is missing."""


class ServiceFailed(Exception):
    """The service can run here and did not; the message ends with the tail of its log."""


def skip_or_fail(error: ServiceUnavailable) -> NoReturn:
    """Skip on a laptop, fail where CI=true: there a missing service would hide every test that needs it."""
    if os.environ.get("CI", "").lower() == "true":
        pytest.fail(str(error), pytrace=False)
    pytest.skip(str(error))


def tail(path: Path, lines: int = 25) -> str:
    """The last lines of a log, for an error message; empty where there is no log yet."""
    try:
        text = path.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""
    return "\n".join(text.splitlines()[-lines:])

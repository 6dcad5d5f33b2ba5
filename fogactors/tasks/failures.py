"""An exception as data that can travel: bounded, printable, encodable, whatever the task's own class does."""

from __future__ import annotations

import traceback
from typing import Final

from fogactors.errors import FogError
from fogactors.messages import ErrorInfo
from fogactors.tasks.retry import Retry

__all__ = ["brief", "error_info"]

MESSAGE_LIMIT: Final = 4_000
TRACEBACK_LIMIT: Final = 16_000
# Characters, as in a worker process: an exception that quotes its input must not fill the store, nor make a dead letter
# that no queue takes.


def error_info(error: BaseException) -> ErrorInfo:
    """Its type's name, its text and, where it is not one of ours, its traceback."""
    return ErrorInfo(type=type(error).__name__, message=_text(error), traceback=_traceback(error))


def brief(error: ErrorInfo | None) -> str:
    """One line."""
    if error is None:
        return ""
    return f"{error.type}: {error.message}" if error.message else error.type


def _text(error: BaseException) -> str:
    try:
        text = str(error)
    except Exception as unprintable:  # the task's own class, so anything may happen
        text = f"<its text raised {type(unprintable).__name__}>"
    return _portable(text[:MESSAGE_LIMIT])


def _traceback(error: BaseException) -> str | None:
    if isinstance(error, (Retry, FogError)):
        return None
    try:
        return _portable("".join(traceback.format_exception(error))[-TRACEBACK_LIMIT:])
    except Exception:  # out of memory, or a `__cause__` that is a trap: the failure itself still counts
        return None


def _portable(text: str) -> str:
    """Lone surrogates, as in file names that are no UTF-8, cannot be encoded."""
    return text.encode("utf-8", "backslashreplace").decode()

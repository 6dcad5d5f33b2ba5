"""Which conversation the work in hand belongs to: it flows from what is handled to what is published meanwhile.

A context variable, so that it holds in every task and thread that a handler starts, and in no other.
"""

from __future__ import annotations

from collections.abc import Generator
from contextlib import contextmanager
from contextvars import ContextVar

__all__ = ["causation_id", "correlated", "correlation_id"]

_current: ContextVar[tuple[str | None, str | None]] = ContextVar("fogactors conversation", default=(None, None))


def correlation_id() -> str | None:
    """The correlation id of what is being handled here; `None` outside of any handler."""
    return _current.get()[0]


def causation_id() -> str | None:
    """The id of the very message that is being handled here; `None` outside of any handler."""
    return _current.get()[1]


@contextmanager
def correlated(id: str | None, cause: str | None = None) -> Generator[None]:  # noqa: A002
    """What is published, called or started inside belongs to this conversation; threads and tasks inherit it. `cause`:
    the message that is handled inside."""
    token = _current.set((id, cause))
    try:
        yield
    finally:
        _current.reset(token)

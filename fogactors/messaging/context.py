"""Which conversation the work in hand belongs to: it flows from what is handled to what is published meanwhile."""

from __future__ import annotations

from collections.abc import Generator
from contextlib import contextmanager
from contextvars import ContextVar

__all__ = ["correlated", "correlation_id"]

_current: ContextVar[str | None] = ContextVar("fogactors correlation id", default=None)


def correlation_id() -> str | None:
    """The correlation id of what is being handled here; `None` outside of any handler."""
    return _current.get()


@contextmanager
def correlated(id: str | None) -> Generator[None]:  # noqa: A002
    """What is published, called or started inside belongs to this conversation; threads and tasks inherit it."""
    token = _current.set(id)
    try:
        yield
    finally:
        _current.reset(token)

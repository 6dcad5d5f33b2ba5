"""How long Redis may take, and what it says when it does not do as asked, as our errors."""

from __future__ import annotations

from collections.abc import Generator
from contextlib import contextmanager
from typing import Final

import anyio
from redis.exceptions import AuthenticationError, NoPermissionError, RedisError

from fogactors.errors import CoordRefused, CoordUnavailable

__all__ = ["ANSWER_TIMEOUT_S", "CALL_TIMEOUT_S", "CONNECT_TIMEOUT_S", "in_time", "quietly", "translated"]

CONNECT_TIMEOUT_S: Final = 1.0
ANSWER_TIMEOUT_S: Final = 2.0
CALL_TIMEOUT_S: Final = 3.0
"""For one method in all: its turn, the connection, the login, the answer, a retry."""
_CLOSED: Final = "the handler is closed"
"""What uvloop says, as a RuntimeError, of a write on a connection that has ended. redis-py hands it on as it is."""


@contextmanager
def translated(what: str) -> Generator[None]:
    """Raises `CoordRefused` for what no waiting will mend, else `CoordUnavailable`; both say what was to be done."""
    try:
        yield
    except (AuthenticationError, NoPermissionError) as error:
        raise CoordRefused(f"{what}: Redis refuses: {error}") from error
    except (RedisError, OSError) as error:
        if "CERTIFICATE_VERIFY_FAILED" in str(error):
            raise CoordRefused(f"{what}: Redis shows a certificate that is not trusted: {error}") from error
        if "NOPERM" in str(error) or "ACL failure" in str(error):  # inside a script it is a plain ResponseError
            raise CoordRefused(f"{what}: Redis refuses: {error}") from error
        raise CoordUnavailable(f"{what}: {type(error).__name__}: {error}") from error
    except RuntimeError as error:
        if _CLOSED not in str(error):
            raise
        raise CoordUnavailable(f"{what}: the connection to Redis was closed") from error


@contextmanager
def in_time(what: str) -> Generator[None]:
    try:
        with anyio.fail_after(CALL_TIMEOUT_S):
            yield
    except TimeoutError:
        raise CoordUnavailable(f"{what}: Redis did not answer within {CALL_TIMEOUT_S:g} s") from None


@contextmanager
def quietly() -> Generator[None]:
    """For a goodbye."""
    try:
        yield
    except (RedisError, OSError):
        return
    except RuntimeError as error:
        if _CLOSED not in str(error):
            raise

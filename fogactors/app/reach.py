"""Connecting to the broker and to Redis from a command, with errors that say which of the two it is, and which key
names it."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from typing import Final
from urllib.parse import urlsplit

import anyio

from fogactors.app.settings import Settings
from fogactors.bus import Bus
from fogactors.coord.redis import RedisCoord
from fogactors.errors import AccessRefused, BusUnavailable, CoordUnavailable

__all__ = ["broker_error", "connect_broker", "connect_redis", "open_redis"]

CLOSE_S: Final = 3.0


async def connect_broker(bus: Bus, settings: Settings) -> None:
    """Open it within `boot_wait_s`. Raises `BusUnavailable`, `AccessRefused`."""
    try:
        await bus.open(timeout=max(1.0, settings.bus.boot_wait_s))
    except (BusUnavailable, AccessRefused) as error:
        raise broker_error(error) from error


def broker_error(error: BusUnavailable | AccessRefused) -> BusUnavailable | AccessRefused:
    """The same kind, so that the exit code stays."""
    verb = "refuses" if isinstance(error, AccessRefused) else "cannot be reached"
    return type(error)(f"the broker ([bus] url) {verb}: {error}")


async def connect_redis(coord: RedisCoord, settings: Settings) -> None:
    """Raises `CoordUnavailable`, `CoordRefused`."""
    try:
        await coord.open()
    except CoordUnavailable as error:
        parts = urlsplit(settings.coord.url)
        where = f"Redis at {parts.hostname or 'localhost'}:{parts.port or 6379}"
        # The client's own text names classes and errno, and is the only place where the cause is to be found.
        text = str(error)
        refused = "refused" in text or "Connect call failed" in text
        why = "refused the connection" if refused else f"cannot be reached: {text.rpartition('Error: ')[2]}"
        raise CoordUnavailable(f"{where} {why} ([coord] url)") from error


@asynccontextmanager
async def open_redis(settings: Settings, name: str) -> AsyncGenerator[RedisCoord]:
    """`name`: what Redis knows the connection by, behind the node's. Raises `CoordUnavailable`, `CoordRefused`."""
    coord = RedisCoord(settings.coord.url, name=f"{settings.node.name}-{name}")
    try:
        await connect_redis(coord, settings)
        yield coord
    finally:
        with anyio.move_on_after(CLOSE_S, shield=True):
            await coord.close()

"""The link to the broker: the one who connects, and whose exit tells everybody behind it that the connection is
gone."""

from __future__ import annotations

from typing import Any

import anyio

from fogactors.bus.base import Bus
from fogactors.core import Actor, Exit, StopRequested
from fogactors.errors import BusUnavailable

__all__ = ["BusLink"]

OPEN_TIMEOUT_S = 10.0
CLOSE_TIMEOUT_S = 3.0


class BusLink(Actor[Any]):
    """First child under `rest_for_one`. The client library's own reconnecting is not used: its restore loop and
    ours would be two mechanisms for one job, and only ours can restart what stands on the connection."""

    def __init__(self, bus: Bus) -> None:
        self._bus = bus

    async def on_start(self) -> None:
        await self._bus.open(timeout=OPEN_TIMEOUT_S)

    async def run(self) -> None:
        reason = ""
        async with anyio.create_task_group() as tasks:

            async def watch() -> None:
                nonlocal reason
                reason = await self._bus.wait_lost() or "no reason given"
                tasks.cancel_scope.cancel()

            tasks.start_soon(watch)
            await self.ctx.wait_stop()
            tasks.cancel_scope.cancel()
        if reason:
            raise BusUnavailable(f"{self.ctx.path}: the connection to the broker was lost: {reason}")
        raise StopRequested

    async def on_stop(self, exit: Exit) -> None:  # noqa: A002
        with anyio.move_on_after(CLOSE_TIMEOUT_S, shield=True):
            await self._bus.close()

"""The link to the broker: the one who connects, and whose exit tells everybody behind it that the connection is
gone."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Final

import anyio

from fogactors.bus.base import Bus
from fogactors.core import Actor, Backoff, ChildSpec, Exit, StopRequested
from fogactors.errors import AccessRefused, BusError, BusUnavailable

__all__ = ["BusBlocked", "BusLink", "LinkState", "link_spec"]

OPEN_TIMEOUT_S: Final = 10.0
CLOSE_TIMEOUT_S: Final = 3.0
LOOK_S: Final = 1.0
"""How often it looks for an alarm. The client library tells nobody when one comes."""


@dataclass(frozen=True, slots=True, kw_only=True)
class BusBlocked:
    """The broker has an alarm (memory, disk) and takes no messages, or it does again (`blocked` is false)."""

    at: datetime
    path: str
    blocked: bool


@dataclass(slots=True)
class LinkState:
    """`trouble`: why there is no connection; empty while there is one. It outlives the incarnations of a link."""

    trouble: str = "not tried yet"


def link_spec(bus: Bus, reconnect: Backoff, state: LinkState | None = None) -> ChildSpec:
    """A link, whose connection is opened anew at the pace of `reconnect`, so that a failover takes no longer than it
    must. A broker that refuses the login is not knocked at like that: its log would fill for nothing."""
    known = state or LinkState()
    return ChildSpec(
        id="link",
        factory=lambda: BusLink(bus, known),
        start_s=OPEN_TIMEOUT_S + 5.0,
        backoff=reconnect,
        slow_after=(AccessRefused,),
    )


class BusLink(Actor[Any]):
    """First child under `rest_for_one`. The client library's own reconnecting is not used: its restore loop and
    ours would be two mechanisms for one job, and only ours can restart what stands on the connection."""

    def __init__(self, bus: Bus, state: LinkState) -> None:
        self._bus = bus
        self._state = state

    async def on_start(self) -> None:
        try:
            await self._bus.open(timeout=OPEN_TIMEOUT_S)
        except BusError as error:
            self._state.trouble = str(error)
            raise
        self._state.trouble = ""

    async def run(self) -> None:
        reason = ""
        async with anyio.create_task_group() as tasks:

            async def watch() -> None:
                nonlocal reason
                reason = await self._bus.wait_lost() or "no reason given"
                tasks.cancel_scope.cancel()

            tasks.start_soon(watch)
            tasks.start_soon(self._watch_alarms)
            await self.ctx.wait_stop()
            tasks.cancel_scope.cancel()
        if reason:
            self._state.trouble = f"the connection was lost: {reason}"
            raise BusUnavailable(f"{self.ctx.path}: the connection to the broker was lost: {reason}")
        raise StopRequested

    async def _watch_alarms(self) -> None:
        blocked = False
        try:
            while True:
                if self._bus.is_blocked != blocked:
                    blocked = not blocked
                    self._tell(blocked)
                await anyio.sleep(LOOK_S)
        finally:
            if blocked:  # what the next connection finds is told then
                self._tell(False)

    def _tell(self, blocked: bool) -> None:
        self.ctx.emit(BusBlocked(at=datetime.now(UTC), path=self.ctx.path, blocked=blocked))

    async def on_stop(self, exit: Exit) -> None:  # noqa: A002
        with anyio.move_on_after(CLOSE_TIMEOUT_S, shield=True):
            await self._bus.close()

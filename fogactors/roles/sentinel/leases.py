"""Says in Redis that this node is a member, and holds the master lease or waits for it.

The holder takes members out that beat no more. Redis may be away for as long as it likes: nothing here touches a
broker.
"""

from __future__ import annotations

from typing import Any, Final

import anyio

from fogactors.coord.cluster import CLUSTER_MASTER
from fogactors.core import Actor, Exit, StopRequested
from fogactors.errors import CoordError, LeaseLost
from fogactors.roles.sentinel.state import Sentinel, StoreAway

__all__ = ["LeaseKeeper"]

STORE_S: Final = 5.0
AGAIN_S: Final = 1.0
"""After a turn without an answer: a store that is back should not be without a master for as long as a turn takes."""


class LeaseKeeper(Actor[Any]):
    """A loop of its own, three times as fast as the lease runs out. `beats_s`: how long a heartbeat lives."""

    def __init__(self, sentinel: Sentinel, beats_s: float) -> None:
        self._it = sentinel
        self._beats_s = beats_s
        self._away = False

    async def run(self) -> None:
        while not self.ctx.stop_requested:
            changed = self._it.changed
            await self._guarded()
            turn_s = self._it.config.lease_s / 3
            with anyio.move_on_after(min(turn_s, AGAIN_S) if self._away else turn_s):
                async with anyio.create_task_group() as tasks:

                    async def until(wait: Any) -> None:
                        await wait()
                        tasks.cancel_scope.cancel()

                    tasks.start_soon(until, changed.wait)
                    tasks.start_soon(until, self.ctx.wait_stop)
        raise StopRequested

    async def on_stop(self, exit: Exit) -> None:  # noqa: A002
        it = self._it
        if exit.kind == "stopped" and it.master is not None:  # the next need not wait for it to run out
            with anyio.move_on_after(2.0, shield=True):
                try:
                    await it.coord.release(it.master)
                except CoordError:
                    return
                it.master = None

    async def _guarded(self) -> None:
        it, error = self._it, ""
        try:
            with anyio.fail_after(STORE_S):
                await self._turn()
        except LeaseLost:
            self._lost()
        except (CoordError, TimeoutError) as away:
            error = str(away) or "no answer in time"
        if bool(error) != self._away:
            self._away = bool(error)
            self.ctx.emit(StoreAway(at=it.now(), broker=it.node, away=self._away, error=error))

    async def _turn(self) -> None:
        it = self._it
        if it.settled:
            await it.coord.cluster_join(it.node)
        if not it.serves:
            await self._without_a_cluster()
            return
        held = it.master
        lease = await it.coord.acquire(CLUSTER_MASTER, it.node, it.config.lease_s)
        if lease is None:
            self._lost()
            return
        it.master = lease
        if held is None or held.token != lease.token:
            it.tell_changed()
        await it.coord.expire_members(lease, self._beats_s)

    async def _without_a_cluster(self) -> None:
        it = self._it
        if it.master is None or not it.server.running:
            return
        if not it.came_up:
            await it.coord.renew(it.master)  # it begins: nobody else may meanwhile
        # Cut off, or its broker pauses: when the lease has run out one of those that serve is to have it. Not given up
        # at once, because a cluster to which a member comes looks like that for a moment.
        elif await it.coord.holder(CLUSTER_MASTER) != it.node:
            self._lost()

    def _lost(self) -> None:
        if self._it.master is not None:
            self._it.master = None
            self._it.tell_changed()

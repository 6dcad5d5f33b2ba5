"""The two ends of a sentinel's tree: the server, which stops last, and who waits for its turn, which stops first."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Any, Final

import anyio

from fogactors.cluster.ctl import CtlFailed
from fogactors.coord.cluster import CLUSTER_STOPPING
from fogactors.core import Actor, Exit, StopRequested
from fogactors.errors import CoordError
from fogactors.roles.sentinel.state import BrokerExited, Sentinel, StopTurn

__all__ = ["ServerKeeper", "Stopper"]

STORE_S: Final = 5.0
TURN_S: Final = 1.0
AWAY_S: Final = 30.0
"""How long a turn waits for a Redis that is away: a deploy that changes everything restarts it with the brokers."""


class ServerKeeper(Actor[Any]):
    """First child: tells of a server that ends by itself, and ends it when the whole tree is stopped. It neither starts
    one (the plan does) nor takes one with it when it fails itself."""

    def __init__(self, sentinel: Sentinel) -> None:
        self._it = sentinel

    async def run(self) -> None:
        it = self._it
        while not self.ctx.stop_requested:
            changed, running = it.changed, it.server.running
            async with anyio.create_task_group() as tasks:

                async def until(wait: Any) -> None:
                    await wait()
                    tasks.cancel_scope.cancel()

                tasks.start_soon(until, self.ctx.wait_stop)
                tasks.start_soon(until, it.server.wait if running else changed.wait)
            if running and not it.server.running and not self.ctx.stop_requested:
                self.ctx.emit(BrokerExited(at=it.now(), broker=it.node, code=it.server.returncode))
                it.ask_look()
        raise StopRequested

    async def on_stop(self, exit: Exit) -> None:  # noqa: A002
        it = self._it
        if exit.kind != "stopped":
            return  # a failure of ours is none of the broker's
        in_order = await it.server.stop(it.config.stop_s)
        outcome = "in order" if in_order else f"killed: it had not ended after {it.config.stop_s:g} s"
        self.ctx.emit(StopTurn(at=it.now(), broker=it.node, step="server stopped", outcome=outcome))
        if it.stop_lease is not None:
            with suppress(CoordError, TimeoutError), anyio.fail_after(STORE_S):
                await it.coord.release(it.stop_lease)


class Stopper(Actor[Any]):
    """Last child: at a stop of the tree it waits until no other node stops and no queue needs ours, then drains it.
    All of it bounded; a node that has to go goes."""

    def __init__(self, sentinel: Sentinel) -> None:
        self._it = sentinel

    async def run(self) -> None:
        await self.ctx.wait_stop()
        raise StopRequested

    async def on_stop(self, exit: Exit) -> None:  # noqa: A002
        it = self._it
        if exit.kind != "stopped" or not it.server.running:
            return
        deadline = anyio.current_time() + it.config.stop_wait_s
        self._told("turn", await self._turn(deadline))
        if not it.came_up:  # of one that is up, whatever it says now, queues may need it
            return
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(self._keep)
            await self._step("quorum without us", deadline, self._quorum_without_us)
            await self._step("drain", anyio.current_time() + it.config.stop_drain_s, it.ctl.drain)
            tasks.cancel_scope.cancel()

    async def _turn(self, deadline: float) -> str:
        """The stop lease: three nodes that are told to stop at once go one after the other."""
        it = self._it
        holder: str | None = None
        answered_at = anyio.current_time()
        away_s = min(AWAY_S, it.config.stop_wait_s / 2)  # the other half is for the queues that need this node
        while anyio.current_time() < deadline:
            try:
                with anyio.fail_after(STORE_S):
                    it.stop_lease = await it.coord.acquire(CLUSTER_STOPPING, it.node, self._lease_s)
                    if it.stop_lease is not None:
                        return "ours"
                    holder = await it.coord.holder(CLUSTER_STOPPING)
                answered_at = anyio.current_time()
            except (CoordError, TimeoutError) as error:
                if anyio.current_time() - answered_at >= away_s:
                    return f"Redis could not be asked for {away_s:g} s, so it goes without: {error}"
            await anyio.sleep(TURN_S)
        return f"not within {it.config.stop_wait_s:g} s, {holder} has it; it goes all the same"

    @property
    def _lease_s(self) -> float:
        """Renewed until the drain is over; from then on it must outlast the server's own stop."""
        return self._it.config.stop_s + 30.0

    async def _keep(self) -> None:
        it = self._it
        while it.stop_lease is not None:
            with suppress(CoordError, TimeoutError), anyio.fail_after(STORE_S):
                await it.coord.renew(it.stop_lease)
            await anyio.sleep(self._lease_s / 3)

    async def _quorum_without_us(self, timeout: float) -> None:
        """The tool waits, but ends at once when a queue does not answer it, as one that elects a leader."""
        deadline = anyio.current_time() + timeout
        while True:
            try:
                return await self._it.ctl.await_quorum_plus_one(deadline - anyio.current_time())
            except CtlFailed as error:
                if error.kind != "failed" or anyio.current_time() + TURN_S >= deadline:
                    raise
            await anyio.sleep(TURN_S)

    async def _step(self, name: str, deadline: float, do: Callable[[float], Awaitable[None]]) -> None:
        left = deadline - anyio.current_time()
        if left <= 0:
            self._told(name, "no time left for it")
            return
        try:
            await do(left)
        except CtlFailed as error:
            self._told(name, str(error))
        else:
            self._told(name, "done")

    def _told(self, step: str, outcome: str) -> None:
        self.ctx.emit(StopTurn(at=self._it.now(), broker=self._it.node, step=step, outcome=outcome))

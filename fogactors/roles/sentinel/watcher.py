"""Tells of each change of the cluster: nodes that do not run, alarms, partitions, queues that are short of a majority.

At rest it asks port mappers, which costs nothing; what changes there makes the former look before its time. All else
comes from what the former has seen.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any, Final, NamedTuple

import anyio
import msgspec

from fogactors.bus.base import Bus, Message
from fogactors.cluster.ctl import CtlFailed, Status
from fogactors.cluster.look import reach
from fogactors.cluster.plan import Reach, majority
from fogactors.core import Actor, StopRequested
from fogactors.errors import BusError, CoordError, QueueFull
from fogactors.messages import ClusterChange, ClusterFact
from fogactors.roles.sentinel.state import ClusterChanged, Sentinel
from fogactors.wire.codec import encode
from fogactors.wire.topology import CONTROL

__all__ = ["CHANGE_TYPE", "EVENTS_CHANNEL", "Announcer", "Fact", "Watcher", "facts_of"]

CHANGE_TYPE: Final = "cluster.changed"
"""The AMQP type on `system.fanout`, where orders are as well."""
EVENTS_CHANNEL: Final = "fog:cluster:events"
REACH_EVERY_S: Final = 2.0
NOTIFY_S: Final = 2.0
CRITICAL_S: Final = 10.0
"""Before a tool that failed is asked again: each try costs some processor time in a bad moment."""


class Fact(NamedTuple):
    """Something that is true of the cluster now."""

    what: ClusterFact
    node: str
    detail: str = ""


def facts_of(status: Status | None, nodes: tuple[str, ...], critical: str, own: str) -> frozenset[Fact]:
    """What a node's own words mean; `critical`: the queues that need it. None: it says nothing, so nothing is known."""
    if status is None:
        return frozenset()
    facts = [Fact("node_down", node) for node in sorted({*nodes, *status.members} - status.running)]
    facts += [Fact("alarm", node, resource) for node, resource in sorted(status.alarms)]
    facts += [Fact("partition", node, other) for node, others in status.partitions.items() for other in others]
    if len(status.running) < majority(len(status.members)):
        facts += [Fact("quorum_lost", own, ", ".join(sorted(status.members - status.running)))]
    elif critical:
        facts += [Fact("quorum_critical", own, critical)]
    return frozenset(facts)


class Watcher(Actor[Any]):
    """A loop of its own."""

    def __init__(self, sentinel: Sentinel) -> None:
        self._it = sentinel
        self._facts: frozenset[Fact] = frozenset()
        self._reached: Mapping[str, Reach] = {}
        self._seen: Status | None = None
        self._ask_at = float("inf")

    async def run(self) -> None:
        while not self.ctx.stop_requested:
            changed = self._it.changed
            await self._turn()
            with anyio.move_on_after(REACH_EVERY_S):
                async with anyio.create_task_group() as tasks:

                    async def until(wait: Any) -> None:
                        await wait()
                        tasks.cancel_scope.cancel()

                    tasks.start_soon(until, changed.wait)
                    tasks.start_soon(until, self.ctx.wait_stop)
        raise StopRequested

    async def _turn(self) -> None:
        it = self._it
        if not it.server.running or (not it.came_up and self._booting_s < it.config.forgotten_s):
            return  # nothing is known, so nothing has changed
        reached = await reach(it.config.peers, it.config.epmd_port)
        if self._reached and reached != self._reached:
            it.ask_look()
        self._reached = reached
        status = it.status if it.settled else self._of_one_that_is_silent(reached)
        if status is None or (status == self._seen and time.monotonic() < self._ask_at):
            return
        critical = await self._critical(status)
        facts = facts_of(status, it.config.nodes, critical or "", it.node)
        if critical is None:  # what was known of it holds until it can be asked
            facts |= {fact for fact in self._facts if fact.what == "quorum_critical"}
        # What is over comes first: of a fact whose detail has changed, the last that is heard is that it holds.
        for fact in sorted(self._facts - facts):
            await self._tell(fact, on=False)
        for fact in sorted(facts - self._facts):
            await self._tell(fact, on=True)
        self._facts, self._seen = facts, status
        self._ask_at = time.monotonic() + CRITICAL_S if critical is None else float("inf")

    def _of_one_that_is_silent(self, reached: Mapping[str, Reach]) -> Status | None:
        """The server runs and says nothing: with pause_minority a node that finds itself in a minority stops, and one
        that boots with its data waits for the others. It is that when most others are gone; otherwise who knows."""
        it = self._it
        running = frozenset(node for node, how in reached.items() if how == "up")
        if len(running) + 1 >= majority(len(it.config.nodes)):
            return None
        return Status(members=frozenset(it.config.nodes), running=running)

    @property
    def _booting_s(self) -> float:
        return time.monotonic() - self._it.server.started_at

    async def _critical(self, status: Status) -> str | None:
        """Asked only when a node is missing: with all of them no queue is short of one, or a member is being added.
        None: it could not be asked."""
        if set(self._it.config.nodes) <= status.running or len(status.running) < majority(len(status.members)):
            return ""
        try:
            return await self._it.ctl.critical()
        except CtlFailed:
            return None

    async def _tell(self, fact: Fact, *, on: bool) -> None:
        it = self._it
        change = ClusterChange(what=fact.what, on=on, node=fact.node, detail=fact.detail, seen_by=it.node, at=it.now())
        it.unsent.append(change)
        self.ctx.emit(
            ClusterChanged(at=change.at, broker=it.node, what=fact.what, on=on, about=fact.node, detail=fact.detail)
        )
        try:
            with anyio.fail_after(NOTIFY_S):
                await it.coord.notify(EVENTS_CHANNEL, msgspec.json.encode(change).decode())
        except (CoordError, TimeoutError):
            return  # it goes over the bus as well, and whoever listens must be able to ask anew


class Announcer(Actor[Any]):
    """Publishes what the watcher has found on `system.fanout`, as soon as there is a connection."""

    def __init__(self, sentinel: Sentinel, bus: Bus) -> None:
        self._it = sentinel
        self._bus = bus

    async def run(self) -> None:
        unsent = self._it.unsent
        while not self.ctx.stop_requested:
            while unsent:
                change = unsent[0]
                message = Message(encode(change), type=CHANGE_TYPE, persistent=False)
                try:
                    await self._bus.publish(CONTROL, "", message, mandatory=False, timeout=NOTIFY_S)
                except QueueFull:
                    pass  # somebody's queue is gone with its node, and everybody else has it
                except BusError:
                    break  # later; the link tells of a connection that is lost
                if unsent and unsent[0] is change:
                    unsent.popleft()
            with anyio.move_on_after(REACH_EVERY_S):
                await self.ctx.wait_stop()
        raise StopRequested

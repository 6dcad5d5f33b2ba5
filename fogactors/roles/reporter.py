"""The reports of a process: its node's load, what its tiers have in hand, and its totals, to `metrics.topic`.

No link stands before it: a report that cannot be sent is lost, which does no harm, because the next one says it all
again. So it needs no broker to start, and a broker that is away costs one try to connect for each report.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Final

import anyio
import psutil

from fogactors.bus.base import Bus, Message
from fogactors.core import Actor, ChildSpec, Exit, StopRequested, SupervisorSpec
from fogactors.errors import BusError, QueueMissing
from fogactors.messages import NodeMetrics, TierLoad
from fogactors.roles.base import RoleContext
from fogactors.roles.loads import loads_of
from fogactors.roles.reports import ALL_ROLES, REPORTING, MetricsConfig
from fogactors.roles.totals import Totals
from fogactors.tasks.executor import Load
from fogactors.wire.codec import encode
from fogactors.wire.topology import DLQ, METRICS, RESULTS_PENDING

__all__ = ["MetricsLost", "Reporter", "trees"]

FIRST_S: Final = 1.0
"""From the start to the first report, at most: a node should be seen soon, and its load needs some time to be one."""
OPEN_S: Final = 3.0
SEND_S: Final = 3.0
LAST_S: Final = 1.0
"""For the last report, when the process stops."""
CLOSE_S: Final = 0.5
"""Both together are less than the program's budget leaves after a whole drain."""


@dataclass(frozen=True, slots=True, kw_only=True)
class MetricsLost:
    """Reports cannot be sent, or can again (`away` is false)."""

    at: datetime
    node: str
    away: bool
    error: str = ""


class Reporter(Actor[Any]):
    """One for each process. `executors`: the paths of those in this process; `queues`: those whose depth it reports."""

    def __init__(
        self,
        bus: Bus,
        config: MetricsConfig,
        totals: Totals,
        node: str,
        role: str,
        executors: tuple[str, ...] = (),
        queues: tuple[str, ...] = (),
    ) -> None:
        self._bus = bus
        self._config = config
        self._totals = totals
        self._node = node
        self._role = role
        self._executors = executors
        self._queues = queues
        self._away = False
        self._process = psutil.Process()

    async def on_start(self) -> None:
        self._hear_no_more = self.ctx.system.events.subscribe(self._totals.count)
        self._last = self.ctx.now()
        psutil.cpu_percent()  # of the time since the last call in this thread: the first says nothing

    async def run(self) -> None:
        interval_s = self._config.interval_s
        due = self.ctx.now() + min(FIRST_S, interval_s)
        while not self.ctx.stop_requested:
            with anyio.move_on_after(due - self.ctx.now()):
                await self.ctx.wait_stop()
            with anyio.move_on_after(LAST_S if self.ctx.stop_requested else interval_s):
                await self._send(await self._report())
            due = max(due + interval_s, self.ctx.now())
        raise StopRequested

    async def on_stop(self, exit: Exit) -> None:  # noqa: A002
        self._hear_no_more()
        with anyio.move_on_after(CLOSE_S, shield=True):
            await self._bus.close()

    async def _report(self) -> NodeMetrics:
        memory, now = psutil.virtual_memory(), self.ctx.now()
        process = self._totals.next()
        process.resident_mb = self._process.memory_info().rss >> 20
        report = NodeMetrics(
            node=self._node,
            role=self._role,
            at=datetime.now(UTC),
            window_s=round(now - self._last, 3),
            cpu_percent=psutil.cpu_percent(),
            memory_used_mb=(memory.total - memory.available) >> 20,
            memory_total_mb=memory.total >> 20,
            load1=round(psutil.getloadavg()[0], 2),
            tiers=[_tier_load(load) for load in await loads_of(self.ctx.system, self._executors)],
            process=process,
        )
        self._last = now
        return report

    async def _send(self, report: NodeMetrics) -> None:
        try:
            if not self._bus.is_open:
                await self._bus.open(timeout=OPEN_S)
            if report.process is not None:
                report.process.queues = await self._depths()
            # What nobody has taken by then is of a process that may be gone: it must not look alive to a sink that
            # comes back after an hour.
            message = Message(encode(report), type="node_metrics", persistent=False, expiration=self._config.silent_s)
            key = f"metrics.node.{self._node}.{self._role}"
            await self._bus.publish(METRICS, key, message, mandatory=False, timeout=SEND_S)
            error = ""
        except BusError as lost:
            error = str(lost)
        if bool(error) != self._away:
            self._away = bool(error)
            self.ctx.emit(MetricsLost(at=report.at, node=self._node, away=self._away, error=error))

    async def _depths(self) -> dict[str, int]:
        depths: dict[str, int] = {}
        for queue in self._queues:
            try:
                depths[queue] = (await self._bus.inspect(queue)).ready
            except QueueMissing:
                continue  # no reason to report nothing else
        return depths


def _tier_load(load: Load) -> TierLoad:
    return TierLoad(
        tier=load.tier,
        cpu=load.size.cpu,
        memory_mb=int(load.size.memory_mb),
        cpu_used=round(load.size.cpu - load.free.cpu, 3),
        memory_used_mb=int(load.size.memory_mb - load.free.memory_mb),
        running=load.running,
        waiting=load.waiting,
    )


def trees(context: RoleContext, roles: Iterable[str]) -> tuple[SupervisorSpec, ...]:
    """For a process that runs these roles; none where it reports nothing."""
    # A heartbeat is run beside every role, and makes no process one of several.
    names, config = [role for role in roles if role != "heartbeat"], context.metrics
    if config is None or config.interval_s <= 0 or not set(names) & set(REPORTING):
        return ()
    bus, totals = context.make_bus("metrics"), Totals()
    role = names[0] if len(names) == 1 else ALL_ROLES
    # The reaper's user may see them; an executor's may not.
    queues = (DLQ, RESULTS_PENDING) if "dlq-reaper" in names else ()
    reporter = ChildSpec(
        id="reporter",
        factory=lambda: Reporter(bus, config, totals, context.node, role, context.executors, queues),
        shutdown_s=LAST_S + CLOSE_S,
    )
    return (SupervisorSpec(id="metrics", exceeded="pause", backoff=context.backoff, children=(reporter,)),)

"""`metrics-sink`: takes the reports of all processes and serves them to Prometheus.

It keeps nothing: what counts is counted where it happens, and after a restart it knows all again within an interval.
Run one of them: two would share the queue, and each would know half.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Final

import anyio
import anyio.to_thread

from fogactors.bus.base import Bus, Consumer, Delivery
from fogactors.core import Actor, ChildSpec, Exit, StopRequested, SupervisorSpec
from fogactors.errors import ActorError, BusUnavailable, WireError
from fogactors.messages import NodeMetrics
from fogactors.roles.base import RoleContext, controlled
from fogactors.roles.reports import MetricsServer, Reports
from fogactors.wire.codec import decode
from fogactors.wire.topology import DLQ, RESULTS_PENDING

__all__ = ["METRICS_QUEUE", "NAME", "MetricsEndpoint", "MetricsSink", "ReportRefused", "trees"]

NAME: Final = "metrics-sink"
METRICS_QUEUE: Final = "metrics.node"
PREFETCH: Final = 100
CLOSE_S: Final = 2.0


@dataclass(frozen=True, slots=True, kw_only=True)
class ReportRefused:
    """A report is not what it should be, e.g. of a node with other tiers. Told at the 1st, 2nd, 4th, 8th ...; `total`:
    so many so far."""

    at: datetime
    key: str
    error: str
    total: int


@dataclass(frozen=True, slots=True)
class _Lost:
    reason: str


class MetricsEndpoint(Actor[Any]):
    """Owns the server. Beside the tree that stands on the broker, so that a broker's bad day is seen on `/metrics`
    instead of taking it away."""

    def __init__(self, reports: Reports, serve: Callable[[Reports], MetricsServer]) -> None:
        self._reports = reports
        self._serve = serve

    async def on_start(self) -> None:
        self._server = self._serve(self._reports)

    async def run(self) -> None:
        await self.ctx.wait_stop()
        raise StopRequested

    async def on_stop(self, exit: Exit) -> None:  # noqa: A002
        with anyio.move_on_after(CLOSE_S, shield=True):
            await anyio.to_thread.run_sync(self._server.close, abandon_on_cancel=True)


class MetricsSink(Actor[Any]):
    """Takes what comes, in order."""

    def __init__(self, bus: Bus, reports: Reports) -> None:
        self._bus = bus
        self._reports = reports
        self._consumer: Consumer | None = None

    async def run(self) -> None:
        self._consumer = await self._bus.consume(
            METRICS_QUEUE, self._tell, prefetch=PREFETCH, on_lost=lambda reason: self._tell(_Lost(reason))
        )
        await super().run()

    async def on_stop(self, exit: Exit) -> None:  # noqa: A002
        if self._consumer is not None:
            with anyio.move_on_after(CLOSE_S, shield=True):
                await self._consumer.close()

    async def handle(self, message: Any) -> None:
        if isinstance(message, _Lost):
            raise BusUnavailable(f"the broker took the consumer of {METRICS_QUEUE} away: {message.reason}")
        delivery: Delivery = message
        try:
            report = decode(delivery.body, NodeMetrics, delivery.content_type)
        except WireError as error:
            self._reports.refuse()
            self._refused(delivery, str(error))
        else:
            if self._reports.take(report) == "refused":
                self._refused(delivery, "its role, a tier, a queue or a histogram is not known here")
        await delivery.ack()

    def _refused(self, delivery: Delivery, error: str) -> None:
        total = self._reports.counts["refused"]
        if total & (total - 1) == 0:
            self.ctx.emit(ReportRefused(at=datetime.now(UTC), key=delivery.routing_key, error=error, total=total))

    def _tell(self, message: object) -> None:
        with suppress(ActorError):  # ending: it goes back when the channel closes
            self.ctx.mailbox.put_nowait(message)


def trees(context: RoleContext) -> tuple[SupervisorSpec, ...]:
    """None where no port is set, as in `fogactors up` on a laptop."""
    config, serve = context.metrics, context.serve_metrics
    if config is None or serve is None or config.port == 0:
        return ()
    reports = Reports(context.tiers.names, (DLQ, RESULTS_PENDING), silent_s=config.silent_s)
    endpoint = ChildSpec(id="endpoint", factory=lambda: MetricsEndpoint(reports, serve))
    bus = context.make_bus(NAME)
    sink = ChildSpec(id="sink", factory=lambda: MetricsSink(bus, reports), mailbox=max(context.mailbox, 2 * PREFETCH))
    return (
        SupervisorSpec(id="metrics-endpoint", exceeded="pause", backoff=context.backoff, children=(endpoint,)),
        controlled(context, NAME, bus, sink),
    )

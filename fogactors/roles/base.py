"""What every role is given, and how a tree of one is put together."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Final

from fogactors.bus.base import Bus
from fogactors.bus.link import LinkState, link_spec
from fogactors.cluster.config import ClusterConfig
from fogactors.coord.base import Coord
from fogactors.core import Backoff, ChildSpec, Intensity, SupervisorSpec
from fogactors.messages import Command, Control
from fogactors.roles.health import Health
from fogactors.roles.reports import MetricsConfig, MetricsServer, Reports
from fogactors.tasks import control
from fogactors.tasks.budget import MemoryBudget
from fogactors.tasks.executor import ExecutorConfig
from fogactors.tasks.executor_config import utc_now
from fogactors.tasks.isolation import ProcessPool
from fogactors.tasks.registry import Registry
from fogactors.tasks.replay import DlqConfig
from fogactors.tasks.tiers import Tiers

__all__ = ["DRAIN_MARGIN_S", "HeartbeatConfig", "RoleContext", "controlled", "with_link"]

DRAIN_MARGIN_S: Final = 8.0
"""What an executor may take beyond its drain: to kill what did not finish, to hand it back and to close channels."""

RECONNECT: Final = Backoff(first_s=0.05, max_s=0.25)
"""Not the pace of other restarts: to knock at a closed port costs a millisecond, while a pause that has grown to half a
minute lets the broker wait for us for longer than it was down."""


@dataclass(frozen=True, slots=True, kw_only=True)
class HeartbeatConfig:
    """Seconds; the keys of `[heartbeat]`."""

    interval_s: float = 30.0
    ttl_s: float = 90.0
    loop_blocked_s: float = 30.0
    loop_dead_s: float = 60.0


def _ignore(_: object) -> None: ...
def _nothing() -> None: ...
def _nobody() -> str:
    return ""


@dataclass(frozen=True, slots=True, kw_only=True)
class RoleContext:
    """Made once by the program. `make_bus` gives each tree a connection of its own: what one of them does to its
    connection must not reach the others. `urgent` takes an event from any thread, for alarms that cannot wait for the
    event loop because it is the loop that hangs. `reconnect` is the pace of links, `backoff` that of all else."""

    node: str
    tiers: Tiers
    registry: Registry
    coord: Coord
    make_bus: Callable[[str], Bus]
    make_pool: Callable[[int], ProcessPool]
    executor: Callable[[str], ExecutorConfig]
    heartbeat: HeartbeatConfig = HeartbeatConfig()
    dlq: DlqConfig = field(default_factory=DlqConfig)
    metrics: MetricsConfig | None = None
    serve_metrics: Callable[[Reports], MetricsServer] | None = None
    """Injected, because only `observe` knows Prometheus."""
    intensity: Intensity = field(default_factory=Intensity)
    backoff: Backoff = field(default_factory=Backoff)
    reconnect: Backoff = RECONNECT
    mailbox: int = 1000
    memory: MemoryBudget = field(default_factory=MemoryBudget)
    """Of this process: what the executors of all its tiers share."""
    now: Callable[[], datetime] = utc_now
    urgent: Callable[[object], None] = _ignore
    health: Health = field(default_factory=Health)
    """Where a role adds what a probe is to know of it."""
    request_stop: Callable[[], None] = _nothing
    """What the order to drain does: ask the program to stop, as SIGTERM does."""
    broker_node: Callable[[], str] = _nobody
    """The RabbitMQ node that lives with this process, e.g. `rabbit@rabbitmq1`, whose heartbeat it writes; empty: none,
    or none that is up. Asked from the heartbeat's thread."""
    executors: tuple[str, ...] = ()
    """Paths of those in this process."""
    process: str = "heartbeat"
    """What the process runs, for its beats: several on one node are not to write one another's."""
    cluster: ClusterConfig | None = None
    """Of node-sentinel; None: this host is no node of the cluster."""
    definitions: Callable[[bool], Mapping[str, Any]] | None = None
    """What RabbitMQ is to import (its definitions.json), without queues or with them."""


def controlled(
    context: RoleContext,
    id: str,  # noqa: A002
    bus: Bus,
    child: ChildSpec,
    orders: dict[Command, control.Order] | None = None,
    *,
    also: tuple[ChildSpec, ...] = (),
    listens: Callable[[control.ControlActor], Awaitable[None]] | None = None,
) -> SupervisorSpec:
    """A role: its link, what it does (and `also`, which takes nothing with it but what comes behind), and the ear for
    orders. That comes last, so that it goes first, and its failure takes nobody with it. `listens` is called each time
    that it hears orders from then on."""

    async def drain(_: control.ControlActor, __: Control) -> None:
        context.request_stop()

    known: dict[Command, control.Order] = {"drain": drain, **(orders or {})}
    return with_link(context, id, bus, child, *also, control.child(bus, context.node, id, known, listens))


def with_link(context: RoleContext, id: str, bus: Bus, *children: ChildSpec) -> SupervisorSpec:  # noqa: A002
    """The shape of every tree that talks to the broker: the link first, so that all that stands on it goes and
    comes with it; and a pause instead of an escalation, because a broker that is down is weather, not a bug. Without
    its broker it is not ready."""
    state = LinkState()
    context.health.ready(f"broker/{id}", lambda: None if bus.is_open else f"not connected: {state.trouble}")
    return SupervisorSpec(
        id=id,
        strategy="rest_for_one",
        exceeded="pause",
        intensity=context.intensity,
        backoff=context.backoff,
        children=(link_spec(bus, context.reconnect, state), *children),
    )

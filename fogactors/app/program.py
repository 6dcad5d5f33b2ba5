"""Everything one process runs: the services it stands on, the registry of tasks, and a tree of roles."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager, suppress
from dataclasses import dataclass
from typing import Any

import anyio

from fogactors.app.check import overlong
from fogactors.app.cluster import broker_definitions, cluster_config
from fogactors.app.services import Embedded, Remote, Services, part_for, role_body
from fogactors.app.settings import Settings
from fogactors.bus import Bus, QueueDepth
from fogactors.core import (
    CANCEL_GRACE_S,
    ActorSystem,
    Backoff,
    ChildSpec,
    Events,
    Intensity,
    Ref,
    RemoveChild,
    SupervisorSpec,
    walk,
)
from fogactors.errors import ActorError, ConfigError
from fogactors.messages import Reason
from fogactors.roles import ROLES, Health, HeartbeatConfig, RoleContext, up_tree
from fogactors.roles.base import with_link
from fogactors.roles.health import OK, store_watch
from fogactors.roles.reports import MetricsConfig, MetricsServer, Reports
from fogactors.roles.tier_executor import EXECUTOR
from fogactors.tasks.budget import MemoryBudget
from fogactors.tasks.client import Submitter
from fogactors.tasks.executor import ExecutorConfig
from fogactors.tasks.isolation import ProcessPool
from fogactors.tasks.registry import Registry, default_registry
from fogactors.tasks.replay import DlqConfig, DlqPolicy
from fogactors.tasks.tiers import Tier, Tiers
from fogactors.wire import Topology

__all__ = ["Program", "role_context", "tiers_of"]


@dataclass(frozen=True, slots=True)
class Program:
    """A running program."""

    settings: Settings
    system: ActorSystem
    context: RoleContext
    tree: SupervisorSpec
    services: Services

    @classmethod
    @asynccontextmanager
    async def start(
        cls,
        settings: Settings,
        roles: tuple[str, ...],
        *,
        tiers: tuple[str, ...] | None = None,
        events: Events | None = None,
        registry: Registry = default_registry,
        urgent: Callable[[object], None] | None = None,
        request_stop: Callable[[], None] = lambda: None,
        stop: anyio.Event | None = None,
        health: Health | None = None,
        needs: tuple[str, ...] = (),
    ) -> AsyncGenerator[Program]:
        """Import the task modules, reach the services, start the tree of these roles, and stop it on leaving. `tiers`:
        those that this process serves, by default all. `request_stop`: what the order to drain calls. `stop` ends the
        wait for the broker. `health`: what probes are told, if there are any. `needs`: the access roles whose part of
        the topology must be there; none: these roles'.

        Raises `ConfigError`, also for a task whose time limit is too long, what `Remote.open` raises, `StartFailed`,
        and from the body `RestartIntensityExceeded`.
        """
        registry.import_modules(settings.tasks.modules)
        for finding in overlong(settings, registry):
            raise ConfigError(finding.text)
        if "tier-executor" in roles:
            _check_budget(settings, tiers)
        brings_it_up = any(ROLES[role].runs_broker for role in roles)
        wanted = None if brings_it_up else part_for(settings, needs or roles, tiers)
        async with _services(settings, wanted, stop) as services:
            context = role_context(settings, services, registry, urgent, request_stop, health)
            try:
                async with ActorSystem(events=events) as system:
                    tree = up_tree(context, roles, tiers or context.tiers.names)
                    if health is not None and settings.probe.port:
                        await system.start(store_watch(context.coord, health))
                    await system.start(tree)
                    program = cls(settings, system, context, tree, services)
                    context.health.program = OK
                    yield program
                    context.health.program = "stopping"
                    await program.drain()
            finally:
                with anyio.move_on_after(1.0, shield=True):
                    await context.coord.close()

    async def drain(self) -> None:
        """Drain all executors at the same time. A supervisor stops its children one by one, so without this several
        full executors in one process would need the sum of their drains."""

        async def stop(executor: str, supervisor: Ref[Any], timeout: float) -> None:
            with suppress(ActorError):  # down already, or its supervisor is: then there is nothing to drain
                # Forgotten as well: a link that fails while it or another tier drains must not bring it back.
                await supervisor.ask(RemoveChild(executor), timeout)

        async with anyio.create_task_group() as drains:
            for path, spec in walk(self.tree):
                if isinstance(spec, ChildSpec) and spec.id == EXECUTOR:
                    supervisor = self.system.ref(path.rpartition("/")[0])
                    drains.start_soon(stop, spec.id, supervisor, spec.shutdown_s + CANCEL_GRACE_S)

    @asynccontextmanager
    async def submitter(self) -> AsyncGenerator[Submitter]:
        """A submitter on a connection of its own, with a link that brings it back."""
        settings = self.settings.bus
        bus = self.services.bus("submitter", max_body=settings.max_body_bytes)
        link = await self.system.start(with_link(self.context, "submitter", bus))
        coord = self.services.coord("submitter")
        try:
            async with Submitter(
                bus,
                coord,
                self.context.tiers,
                publish_timeout_s=settings.publish_timeout_s,
                max_time_limit_s=settings.max_time_limit_s,
                idempotency_ttl_s=self.settings.coord.idempotency_ttl_s,
                result_ttl_s=self.settings.coord.result_ttl_s,
            ) as submitter:
                yield submitter
        finally:
            with anyio.CancelScope(shield=True):  # bounded by the link's own budget
                await self.system.stop(link)
                await coord.close()

    async def depths(self) -> Mapping[str, QueueDepth]:
        return await self.services.depths()


def _services(
    settings: Settings, wanted: Topology | None, stop: anyio.Event | None
) -> AbstractAsyncContextManager[Services]:
    return Embedded.open(settings) if settings.bus.url.startswith("memory:") else Remote.open(settings, wanted, stop)


def _check_budget(settings: Settings, served: tuple[str, ...] | None) -> None:
    """So that whatever a tier admits fits into the budget at some time. Raises `ConfigError`."""
    budget_mb = settings.node.memory_mb
    for tier in settings.tiers:
        if 0 < budget_mb < tier.memory_mb and (served is None or tier.name in served):
            raise ConfigError(
                f"[node] memory_mb = {budget_mb} is less than [tiers.{tier.name}] memory_mb = {tier.memory_mb}, and "
                f"this process serves that tier; raise it, or name other tiers with --tier"
            )


def tiers_of(settings: Settings) -> Tiers:
    return Tiers(tuple(Tier(each.name, each.cpu, each.memory_mb, each.slots) for each in settings.tiers))


def role_context(
    settings: Settings,
    services: Services,
    registry: Registry = default_registry,
    urgent: Callable[[object], None] | None = None,
    request_stop: Callable[[], None] = lambda: None,
    health: Health | None = None,
) -> RoleContext:
    """What roles are given, from the settings."""
    executor, tasks, supervision = settings.executor, settings.tasks, settings.supervision

    def make_bus(name: str) -> Bus:
        return services.bus(name, max_body=role_body(settings))

    def make_pool(size: int) -> ProcessPool:
        return ProcessPool(size, recycle_after=tasks.recycle_after, start_s=tasks.process_start_s)

    def executor_config(tier: str) -> ExecutorConfig:
        return ExecutorConfig(
            node=settings.node.name,
            tier=tier,
            look_ahead=executor.look_ahead,
            guarantee_every=executor.guarantee_every,
            help_after_s=executor.help_after_s,
            help_grace_s=executor.help_grace_s,
            drain_s=executor.drain_s,
            watchdog_s=executor.watchdog_s,
            time_limit_s=tasks.time_limit_s,
            consumer_timeout_s=settings.bus.consumer_timeout_s,
            result_ttl_s=settings.coord.result_ttl_s,
            result_inline_bytes=settings.coord.result_inline_bytes,
            publish_timeout_s=settings.bus.publish_timeout_s,
            max_body_bytes=settings.bus.max_body_bytes,
        )

    def serve(reports: Reports) -> MetricsServer:
        from fogactors.observe.metrics import serve_metrics  # only one role has a use for Prometheus' library

        return serve_metrics(metrics.host, metrics.port, reports)

    beat, metrics = settings.heartbeat, settings.metrics
    return RoleContext(
        node=settings.node.name,
        tiers=tiers_of(settings),
        registry=registry,
        coord=services.coord("roles"),
        make_bus=make_bus,
        make_pool=make_pool,
        executor=executor_config,
        heartbeat=HeartbeatConfig(
            interval_s=beat.interval_s,
            ttl_s=beat.ttl_s,
            loop_blocked_s=beat.loop_blocked_s,
            loop_dead_s=beat.loop_dead_s,
        ),
        dlq=_dlq_config(settings),
        metrics=MetricsConfig(host=metrics.host, port=metrics.port, interval_s=metrics.interval_s),
        serve_metrics=serve,
        intensity=Intensity(supervision.intensity, supervision.period_s),
        backoff=Backoff(first_s=supervision.backoff_first_s, max_s=supervision.backoff_max_s),
        reconnect=Backoff(first_s=min(0.05, settings.bus.reconnect_max_s), max_s=settings.bus.reconnect_max_s),
        mailbox=supervision.mailbox,
        memory=MemoryBudget(settings.node.memory_mb),
        urgent=urgent or (lambda _: None),
        health=health or Health(dead_s=beat.loop_dead_s),
        request_stop=request_stop,
        cluster=cluster_config(settings),
        definitions=lambda queues: broker_definitions(settings, queues=queues),
    )


def _dlq_config(settings: Settings) -> DlqConfig:
    policies: dict[Reason, DlqPolicy] = {
        reason: DlqPolicy(
            replay_after_s=policy.replay_after_s, max_replays=policy.max_replays, retention_s=policy.retention_s
        )
        for reason, policy in settings.dlq.by_reason().items()
    }
    return DlqConfig(retention_s=settings.dlq.retention_s, policies=policies)

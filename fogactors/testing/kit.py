"""A whole system in one test: broker, store, roles and a submitter, all in memory.

    async def test_a_thumbnail_is_made():
        async with fog() as system:
            handle = await system.submit(thumbnail, Path("cat.png"), width=64)
            assert await handle.result(timeout=5) == Path("cat-64.png")
            await system.recorder.wait_for(TaskEnded, name=thumbnail.name, state="succeeded")

What goes wrong on a bad day: `system.fail_next(thumbnail, OSError("no space"))`, `system.broker.faults`, the switches
of `system.store`, `system.kill("tier-executor-light")`. What was given up on: `system.dead_letters`.

Nobody waits for a delay. The system has a clock of its own (`SkewedClock`): its broker's delays, its times of day and
its deadlines go by it. When the broker is at rest (`fogactors.bus.embedded.rest`) the clock jumps to the end of the
next delay, so a task for tomorrow runs now, and by that clock it is tomorrow. While anything is in hand, ready or on
its way time runs as it always does: what a task sleeps, its time limit, pauses of supervisors and what a test waits are
real. So is the time of the store, because leases and heartbeats are renewed in real time: no result runs out because
another task was waited for.
"""

from __future__ import annotations

import random
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import datetime
from functools import partial
from typing import Any, Final, ParamSpec, TypeVar

import anyio

from fogactors.bus import Bus, Delivery, MemoryBroker, MemoryBus
from fogactors.coord import Coord, MemoryCoord, MemoryStore
from fogactors.core import ActorSystem, Backoff, Events, Intensity, Ref
from fogactors.roles import ROLES, HeartbeatConfig, RoleContext, up_tree
from fogactors.roles.reports import MetricsConfig, MetricsServer, Reports
from fogactors.tasks.client import Handle, Submitter
from fogactors.tasks.executor import ExecutorConfig, GetLoad, Load
from fogactors.tasks.registry import Registry, default_registry
from fogactors.tasks.replay import DlqConfig
from fogactors.tasks.task import TaskDef
from fogactors.tasks.tiers import Tier, Tiers
from fogactors.testing.failing import FailingPool, FailingRegistry, Failures
from fogactors.testing.letters import DeadLetters
from fogactors.testing.recorder import EventRecorder
from fogactors.testing.skew import SkewedClock
from fogactors.wire import fog_topology
from fogactors.wire.topology import PARKED

__all__ = ["TIERS", "Fog", "eventually", "fog"]

P = ParamSpec("P")
R = TypeVar("R")

NODE: Final = "node"
TIERS: Final = (
    Tier("light", cpu=0.5, memory_mb=512, slots=4),
    Tier("medium", cpu=0.75, memory_mb=768, slots=2),
    Tier("heavy", cpu=1.0, memory_mb=1024, slots=2),
)


@dataclass(frozen=True, slots=True)
class Fog:
    """A system that runs. `submit` is the submitter's; `recorder` has every event since the start. `dead_letters` are
    those that the reaper has parked. `clock` is the system's. `urgent`: alarms that came while the event loop hung."""

    actors: ActorSystem
    broker: MemoryBroker
    store: MemoryStore
    submitter: Submitter
    recorder: EventRecorder
    bus: MemoryBus
    tiers: Tiers
    dead_letters: DeadLetters
    clock: SkewedClock
    registry: Registry
    failures: Failures
    urgent: list[object] = field(default_factory=list[object])

    async def submit(self, task: TaskDef[P, R], /, *args: P.args, **kwargs: P.kwargs) -> Handle[R]:
        return await self.submitter.submit(task, *args, **kwargs)

    def fail_next(self, task: TaskDef[..., Any], error: Exception | type[Exception], times: int = 1) -> None:
        """Let the next `times` attempts of a task raise `error` instead of running it, in whatever mode it runs.

        An attempt that fails like this is one: it is counted, and the task's own retry policy judges its error, where
        `Retry(delay)` is a wish, `ChildCrashed("...")` a worker process that died. A failure that no attempt has met by
        the end of the test is an `AssertionError` there. Raises `UnknownTask`, and `ValueError` for `times` below 1.
        """
        self.registry.get(task.name)
        self.failures.arm(task.name, error, times)

    def now(self) -> datetime:
        """The time of day by the system's clock, for `not_before`."""
        return self.clock.now()

    def advance(self, seconds: float) -> None:
        """Move the system's clock ahead, also while something is in hand. What is due by then happens as soon as
        somebody waits."""
        self.clock.advance(seconds)
        self.broker.clock_moved()

    def executor(self, tier: str = "light") -> Ref[Any]:
        return self.actors.ref(f"fogactors/tier-executor-{tier}/executor")

    async def load(self, tier: str = "light") -> Load:
        return await self.executor(tier).ask(GetLoad())

    async def wait_idle(self, tier: str = "light", timeout: float = 5.0) -> None:
        """Until an executor has nothing in hand and its whole size is free. Raises `AssertionError`."""

        async def idle() -> bool:
            load = await self.load(tier)
            return load.running == load.waiting == 0 and load.free == load.size

        with anyio.move_on_after(timeout):
            while not await idle():  # noqa: ASYNC110 - an executor tells of tasks, not of its books
                await anyio.sleep(0.005)
            return
        raise AssertionError(f"the {tier} executor is not idle after {timeout:g} s: {await self.load(tier)}")

    async def stop(self) -> None:
        """Stop all roles, as SIGTERM does: executors drain."""
        await self.actors.stop(self.actors.ref("fogactors"))

    def kill(self, role: str, reason: str = "killed by the test") -> int:
        """End one role, e.g. `tier-executor-light`, as a crash of its process would: its connection is cut, and what an
        executor had in hand is held against it. Raises `ValueError` when there is no connection of this name."""
        cut = self.cut(role, reason)
        self.store.bury(f"{NODE}/{role.removeprefix('tier-executor-')}")
        return cut

    def cut(self, role: str, reason: str = "cut by the test") -> int:
        """Cut the connection of one role. Its process lives, and connects again. Raises `ValueError`, as `kill`."""
        cut = self.broker.kill_connection(role, reason)
        if not cut:
            raise ValueError(
                f"no connection is called {role!r}; they are named after their tree, e.g. tier-executor-light"
            )
        return cut

    def ready(self, queue: str) -> int:
        """Messages that wait in a queue."""
        return self.broker.depths()[queue].ready

    async def peek(self, queue: str) -> list[Delivery]:
        """What waits in a queue or stands in the stream of dead letters, as it is. Costs each message of a queue one
        delivery."""
        deliveries: list[Delivery] = []
        offset = "first" if queue == PARKED else None
        consumer = await self.bus.consume(queue, deliveries.append, prefetch=100_000, offset=offset)
        await consumer.close()
        return deliveries


@asynccontextmanager
async def fog(
    *,
    tiers: tuple[Tier, ...] = TIERS,
    serve: tuple[str, ...] = ("light",),
    roles: tuple[str, ...] = ("dlq-reaper", "tier-executor"),
    registry: Registry = default_registry,
    wrap_bus: Callable[[str, Bus], Bus] = lambda name, bus: bus,
    wrap_coord: Callable[[Coord], Coord] = lambda coord: coord,
    heartbeat: HeartbeatConfig = HeartbeatConfig(),  # noqa: B008 - frozen
    broker_node: Callable[[], str] = lambda: "",
    dlq: DlqConfig = DlqConfig(),  # noqa: B008
    metrics: MetricsConfig | None = None,
    intensity: Intensity = Intensity(max_restarts=20),  # noqa: B008
    process_start_s: float = 20.0,
    max_body: int = 4 * 1024 * 1024,
    skip_delays: bool = True,
    seed: int = 0,
    **executor: Any,
) -> AsyncGenerator[Fog]:
    """Start a system and stop it on leaving. `serve`: the tiers that have an executor. `executor`: fields of
    `ExecutorConfig` for all of them. `wrap_bus` (by the role's name), `wrap_coord`: what the roles get instead of the
    plain clients. `broker_node`: the RabbitMQ node that beats with the heartbeat. `dlq`: what becomes of dead letters,
    by their reason. `metrics`: how often a process reports, and where `metrics-sink` serves; without it neither
    happens. `skip_delays=False`: delays take their time, or as long as the test wants, by `Fog.advance`.

    A restart is allowed more often, and a pause is shorter, than a program would have it. Raises `AssertionError` on
    leaving when failures are left that `Fog.fail_next` has armed.
    """
    unknown = [role for role in roles if role not in ROLES]
    if unknown:
        raise ValueError(f"there is no role {unknown[0]!r}; there are: {', '.join(ROLES)}")
    events, urgent = Events(), list[object]()
    settings: dict[str, Any] = {"drain_s": 2.0, "help_after_s": 0.05, "help_grace_s": 0.2} | executor
    clock, failures = SkewedClock(), Failures()
    registry = FailingRegistry(registry, failures)
    async with MemoryBroker(clock=clock.monotonic, skip=clock.advance if skip_delays else None) as broker:
        broker.declare(fog_topology(tuple(tier.name for tier in tiers)))
        store = MemoryStore()

        def make_bus(name: str) -> Bus:
            return wrap_bus(name, MemoryBus(broker, name=name, max_body=max_body))

        context = RoleContext(
            node=NODE,
            tiers=Tiers(tiers),
            registry=registry,
            coord=wrap_coord(MemoryCoord(store)),
            make_bus=make_bus,
            make_pool=lambda size: FailingPool(size, failures, start_s=process_start_s),
            executor=lambda tier: ExecutorConfig(node=NODE, tier=tier, now=clock.now, **settings),
            heartbeat=heartbeat,
            broker_node=broker_node,
            dlq=dlq,
            metrics=metrics,
            serve_metrics=None if metrics is None else partial(_serve_metrics, metrics),
            intensity=intensity,
            backoff=Backoff(first_s=0.05, max_s=0.2),
            now=clock.now,
            urgent=urgent.append,
        )
        bus = MemoryBus(broker, name="submitter")
        await bus.open()
        async with (
            Submitter(bus, MemoryCoord(store), context.tiers, publish_timeout_s=1.0, now=clock.now) as submitter,
            ActorSystem(events=events, rng=random.Random(seed)) as actors,  # noqa: S311 - jitter
        ):
            recorder = EventRecorder(events)
            await actors.start(up_tree(context, roles, serve))
            yield Fog(
                actors,
                broker,
                store,
                submitter,
                recorder,
                bus,
                context.tiers,
                DeadLetters(broker),
                clock,
                registry,
                failures,
                urgent,
            )
    # Outside of all that runs, and only where the test itself came to its end: the first error is the one to see.
    if unused := failures.unused():
        told = ", ".join(f"{count} of {name}" for name, count in unused.items())
        raise AssertionError(f"failures that fail_next armed and no attempt met: {told}")


def _serve_metrics(config: MetricsConfig, reports: Reports) -> MetricsServer:
    from fogactors.observe.metrics import serve_metrics  # Prometheus' library, for the tests that look at it

    return serve_metrics(config.host, config.port, reports)


async def eventually(condition: Callable[[], bool], what: str, timeout: float = 5.0) -> None:
    """Wait until something is true that no event tells of. Raises `AssertionError` naming `what`."""
    with anyio.move_on_after(timeout):
        while not condition():  # noqa: ASYNC110
            await anyio.sleep(0.005)
        return
    raise AssertionError(f"not within {timeout:g} s: {what}")

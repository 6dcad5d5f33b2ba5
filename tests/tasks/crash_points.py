"""Processes that die where a schedule says, on the embedded broker, in virtual time.

A schedule is data: what is to be done, and at which calls of its broker or store each process dies. It says all that
there is to say, so `str(schedule)` is enough to repeat a run.
"""

from __future__ import annotations

import asyncio
import random
import selectors
import sys
from collections import Counter
from collections.abc import AsyncGenerator, Callable, Coroutine
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import anyio

import fogactors
from fogactors.bus import Delivery, MemoryBroker, MemoryBus, Message
from fogactors.coord import MemoryCoord, MemoryStore
from fogactors.core import ActorSystem, Events
from fogactors.errors import CoordUnavailable
from fogactors.messages import DeadLetter, DeadLetterFate
from fogactors.roles import ROLES, RoleContext
from fogactors.tasks.deadletter import DEAD_LETTER_TYPE, FATE_TYPE
from fogactors.tasks.events import TaskStarted
from fogactors.tasks.executor import ExecutorConfig
from fogactors.tasks.isolation import ProcessPool
from fogactors.tasks.replay import DlqConfig
from fogactors.tasks.tiers import Tier, Tiers
from fogactors.testing.crash import Call, Mortal, When
from fogactors.wire import decode, fog_topology
from fogactors.wire.topology import PARKED, TASKS, Queue, Topology
from tests.tasks import crash_tasks

ROLE_NAMES = ("tier-executor", "dlq-reaper")
TIERS = Tiers((Tier("light", cpu=0.5, memory_mb=512, slots=2),))
EPOCH = datetime(2030, 1, 1, tzinfo=UTC)
MAX_BODY = 2048
"""Of the roles' bus: small, so that a body can be too large for a dead letter."""
DELAYS_S = (1e-6, 1e-6, 0.001, 0.02, 0.3)
"""How long a call takes: never nothing, or two of them would be told the same time."""
MOST_CRASHES = 3
"""Of a random schedule. With more of them the broker gives a task up, as it must."""
LATEST = 60
"""Call of a random crash."""
HOME = f"{Path(fogactors.__file__).parent}/"
TESTING = f"{HOME}testing/"


class VirtualLoop(asyncio.SelectorEventLoop):
    """Time jumps to the next timer when nothing else is left to do, and a wait that nobody will ever end fails at once.
    Possible here because nothing in these schedules waits for the outside: no socket, no thread, no process."""

    def __init__(self) -> None:
        self._time = 0.0
        super().__init__(_Jumping(self))

    def time(self) -> float:
        return self._time


class _Jumping(selectors.DefaultSelector):
    def __init__(self, loop: VirtualLoop) -> None:
        super().__init__()
        self._loop = loop

    def select(self, timeout: float | None = None) -> list[Any]:
        if timeout is None:
            raise RuntimeError("everything waits for something that will not come")
        self._loop._time += timeout
        return []


def run_virtual(main: Coroutine[Any, Any, None]) -> None:
    with asyncio.Runner(loop_factory=VirtualLoop) as runner:
        runner.run(main)


@dataclass(frozen=True, slots=True)
class Schedule:
    """`scenes`: what is to be done. `crashes`: by role, the calls at which it dies, each counted from the last crash.
    `seed`: how long each call takes, and with it what happens in between; 0: next to nothing."""

    scenes: tuple[str, ...]
    crashes: dict[str, tuple[tuple[int, When], ...]] = field(default_factory=dict)
    seed: int = 0

    def __str__(self) -> str:
        deaths = [f"{role}:{n}:{when}" for role, points in self.crashes.items() for n, when in points]
        return " ".join([",".join(self.scenes), str(self.seed), *deaths])

    @classmethod
    def read(cls, text: str) -> Schedule:
        scenes, seed, *deaths = text.split()
        crashes: dict[str, tuple[tuple[int, When], ...]] = {}
        for death in deaths:
            role, n, when = death.split(":")
            crashes[role] = (*crashes.get(role, ()), (int(n), "before" if when == "before" else "after"))
        return cls(tuple(scenes.split(",")), crashes, int(seed))

    @classmethod
    def random(cls, seed: int, scenes: tuple[str, ...]) -> Schedule:
        rng = random.Random(seed)
        chosen = tuple(rng.choices(scenes, k=rng.randint(2, 6)))
        crashes: dict[str, tuple[tuple[int, When], ...]] = {}
        for _ in range(rng.randint(1, MOST_CRASHES)):
            role = rng.choice(ROLE_NAMES)
            point: tuple[int, When] = (rng.randint(1, LATEST), rng.choice(("before", "after")))
            crashes[role] = (*crashes.get(role, ()), point)
        return cls(chosen, crashes, seed)


class Store(MemoryStore):
    """Counts the ends that were really written: the store notifies of each, and of no other."""

    def __init__(self) -> None:
        super().__init__(anyio.current_time)
        self.written: Counter[str] = Counter()

    def publish(self, channel: str, payload: str) -> None:
        if channel.startswith("fog:done:"):
            self.written[payload] += 1
        super().publish(channel, payload)


class Partitioned:
    """A store that cannot be reached while `World.cut` says so."""

    def __init__(self, coord: MemoryCoord, world: World) -> None:
        self._coord = coord
        self._world = world

    def __getattr__(self, name: str) -> Any:
        method = getattr(self._coord, name)

        async def call(*args: Any, **kwargs: Any) -> Any:
            if self._world.cut:
                raise CoordUnavailable("cut off")
            return await method(*args, **kwargs)

        return call if asyncio.iscoroutinefunction(method) else method


MOST_DELIVERIES = 7
"""Of a task, by the limit of the broker, which is lower here: where the store is away each of them is played."""

Site = tuple[str, int]
"""File (below `fogactors`) and line of an await in the production code."""


class World:
    """The broker, the store and what tasks leave behind: all that survives a process."""

    def __init__(self, schedule: Schedule, *, dlq: DlqConfig | None = None) -> None:
        self.schedule = schedule
        self.dlq = dlq or DlqConfig()
        self.runs: Counter[str] = Counter()
        self.attempts: dict[str, int] = {}
        self.crashes = 0
        self.setbacks = 0
        """What else may make a task run once more: a worker process that died, a refusal, a drain."""
        self.calls: dict[str, list[str]] = {role: [] for role in ROLE_NAMES}
        """By role, up to a crash."""
        self.hits: set[tuple[Site, When | None]] = set()
        """Where calls were made, and how its process died there, if it did."""
        self.cut = self.was_cut = False
        """Whether the store cannot be reached, and ever could not."""
        self.stop: dict[str, anyio.Event] = {}
        self.store: Store
        self.broker: MemoryBroker
        self.bus: MemoryBus
        self._rng = random.Random(schedule.seed)
        self._over = False
        """What processes still do then is not part of the schedule."""

    def now(self) -> datetime:
        return EPOCH + timedelta(seconds=anyio.current_time())

    @asynccontextmanager
    async def open(self) -> AsyncGenerator[None]:
        """With a process in each role."""
        self.store = Store()
        async with MemoryBroker() as self.broker, anyio.create_task_group() as tasks:
            self.broker.declare(topology())
            self.bus = MemoryBus(self.broker, name="operator", max_body=4 * MAX_BODY)
            await self.bus.open()
            for role in ROLE_NAMES:
                tasks.start_soon(self._host, role)
            yield
            self._over = True
            tasks.cancel_scope.cancel()

    def quiet(self) -> bool:
        """Nothing is left to be done."""
        feeds = ("results.success", "results.failed", "metrics.node", PARKED)
        return not any(
            depth.unsettled or depth.stalled or (depth.ready and name not in feeds)
            for name, depth in self.broker.depths().items()
        )

    async def publish(self, body: bytes, *, key: str = "normal") -> None:
        await self.bus.publish(TASKS, key, Message(body, type="task"))

    async def parked(self) -> tuple[list[DeadLetter], list[DeadLetterFate]]:
        """What stands in the stream."""
        found: list[Delivery] = []
        consumer = await self.bus.consume(PARKED, found.append, prefetch=10_000, offset="first")
        await consumer.close()
        letters = [decode(each.body, DeadLetter) for each in found if each.type == DEAD_LETTER_TYPE]
        return letters, [decode(each.body, DeadLetterFate) for each in found if each.type == FATE_TYPE]

    # -- processes

    async def _host(self, role: str) -> None:
        """One process after the other in this role. Each is made anew, so nothing but `World` outlives it."""
        points = list(self.schedule.crashes.get(role, ()))
        calls = 0

        while True:
            names: list[str] = []
            self.stop[role] = anyio.Event()
            with anyio.CancelScope() as life:

                async def plan(call: Call, life: anyio.CancelScope = life) -> When | None:
                    nonlocal calls
                    if self._over:
                        return None
                    number = calls = calls + 1
                    if number > len(self.calls[role]):
                        self.calls[role].append(call.name)
                    sites = _sites()
                    await anyio.sleep(self._rng.choice(DELAYS_S) if self.schedule.seed else DELAYS_S[0])
                    if life.cancel_called:
                        return None
                    when = points[0][1] if points and points[0][0] == number else None
                    self.hits.update((site, when) for site in sites)
                    return when

                def kill(life: anyio.CancelScope = life, names: list[str] = names) -> None:
                    nonlocal calls
                    self.crashes += 1
                    calls = 0
                    points.pop(0)
                    for name in names:
                        self.broker.kill_connection(name)
                    life.cancel()

                process = Mortal(plan, kill, once=True)
                if role == "tier-executor":
                    crash_tasks.here = crash_tasks.Here(process.point, self._began)

                def make_bus(name: str, process: Mortal = process, names: list[str] = names) -> Any:
                    names.append(name)
                    return process.bus(name, MemoryBus(self.broker, name=name, max_body=MAX_BODY))

                coord = process.coord(Partitioned(MemoryCoord(self.store), self))  # type: ignore[arg-type]
                context = context_of(coord, make_bus, now=self.now, dlq=self.dlq)
                await self._live(role, context)

    async def _live(self, role: str, context: RoleContext) -> None:
        events = Events()
        events.subscribe(self._see)
        async with ActorSystem(events=events, rng=random.Random(self.schedule.seed)) as actors:
            for tree in ROLES[role].trees(context, ("light",)):
                await actors.start(tree)
            await self.stop[role].wait()

    def _began(self, name: str) -> int:
        self.runs[name] += 1
        return self.runs[name]

    def _see(self, event: object) -> None:
        if isinstance(event, TaskStarted):
            self.attempts[event.task_id] = max(event.attempt, self.attempts.get(event.task_id, 0))


def topology() -> Topology:
    def limited(queue: Queue) -> Queue:
        few = replace(queue.policy, delivery_limit=MOST_DELIVERIES - 1)
        return queue if queue.policy.delivery_limit < 0 else replace(queue, policy=few)

    whole = fog_topology(("light",))
    return replace(whole, queues=tuple(map(limited, whole.queues)))


def context_of(coord: Any, make_bus: Callable[[str], Any], *, now: Callable[[], datetime], **more: Any) -> RoleContext:
    """Of a process that runs the tasks of `crash_tasks` in the tier `light`."""
    settings: dict[str, Any] = {"drain_s": 1.0, "now": now}
    return RoleContext(
        node="node",
        tiers=TIERS,
        registry=crash_tasks.registry,
        coord=coord,
        make_bus=make_bus,
        make_pool=ProcessPool,
        executor=lambda tier: ExecutorConfig(node="node", tier=tier, **settings),
        now=now,
        **more,
    )


def _sites() -> list[Site]:
    """The awaits in the production code that led here: all of them, because what several call has one line."""
    frame, sites = sys._getframe(1), list[Site]()
    while frame is not None:
        file = frame.f_code.co_filename
        if file.startswith(HOME) and not file.startswith(TESTING):
            sites.append((file.removeprefix(HOME), frame.f_lineno))
        frame = frame.f_back
    return sites

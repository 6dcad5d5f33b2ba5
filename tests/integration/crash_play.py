"""Plays crash schedules on a real RabbitMQ and a real Redis; what is to be done is in `tests/tasks/crash_scenes.py`."""

from __future__ import annotations

import os
import random
import signal
import sys
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from subprocess import PIPE
from typing import Any

import anyio
import msgspec
from anyio.abc import Process
from anyio.streams.buffered import BufferedByteReceiveStream

from fogactors.bus import Bus, Message
from fogactors.coord import Coord
from fogactors.coord.base import done_channel
from fogactors.messages import DeadLetter, TaskResult
from fogactors.tasks.deadletter import DEAD_LETTER_TYPE
from fogactors.tasks.executor_config import utc_now
from fogactors.tasks.settle import DEATHS_ALLOWED
from fogactors.wire import decode, fog_topology
from fogactors.wire.topology import PARKED, TASKS, Queue, Topology
from tests.integration.crash_process import ZERO_BEFORE, Book, Order
from tests.integration.fog import Services, connected, store, until
from tests.tasks.crash_points import ROLE_NAMES
from tests.tasks.crash_scenes import GIVEN_UP, SCENES

STEP = 20
"""How many times as fast as it is the ladder of retries is."""
FEEDS = ("results.success", "results.failed", "metrics.node")
"""Queues that nobody here reads."""
LATEST = 40
"""Call of a random crash."""


def fast_topology() -> Topology:
    def faster(queue: Queue) -> Queue:
        ttl = queue.policy.message_ttl_ms
        return queue if ttl is None else replace(queue, policy=replace(queue.policy, message_ttl_ms=ttl // STEP))

    topology = fog_topology(("light",))
    return replace(topology, queues=tuple(map(faster, topology.queues)))


@dataclass(frozen=True)
class Schedule:
    """`scenes` to be played at once; `crashes`: the deaths of each role's processes, one after the other."""

    seed: int
    scenes: tuple[str, ...]
    crashes: dict[str, list[dict[str, Any]]]

    @classmethod
    def random(cls, seed: int, scenes: tuple[str, ...]) -> Schedule:
        rng = random.Random(seed)
        chosen = tuple(rng.choices(scenes, k=rng.randint(3, 6)))
        crashes: dict[str, list[dict[str, Any]]] = {role: [] for role in ROLE_NAMES}
        for _ in range(rng.randint(1, 3)):
            number, when = rng.randint(1, LATEST), rng.choice(("before", "after"))
            crashes[rng.choice((*ROLE_NAMES, ROLE_NAMES[0]))].append({"number": number, "when": when})
        return cls(seed, chosen, crashes)


@dataclass
class Stage:
    """Where schedules are played. `letters`: how often the stream has one, by its task or its bytes."""

    services: Services
    bus: Bus
    coord: Coord
    folder: Path
    sources: dict[str, Source]
    letters: Counter[str] = field(default_factory=Counter[str])
    crashes: int = 0

    @classmethod
    @asynccontextmanager
    async def open(cls, services: Services, folder: Path) -> AsyncIterator[Stage]:
        async with connected(services) as bus, store(services) as coord, AsyncExitStack() as stack:
            sources = {role: await stack.enter_async_context(Source.open()) for role in ROLE_NAMES}
            stage = cls(services, bus, coord, folder, sources)
            await bus.consume(PARKED, stage._read, prefetch=1000, offset="first")
            yield stage

    def _read(self, delivery: Any) -> None:
        if delivery.type == DEAD_LETTER_TYPE:
            letter = decode(delivery.body, DeadLetter)
            self.letters[letter.task_id or letter.body.decode()] += 1

    async def play(self, schedule: Schedule) -> list[str]:
        """What is not as it must be, a line each."""
        prefix = f"crash{os.getpid()}x{schedule.seed}"
        scenes = [(SCENES[name], f"{prefix}-{n}") for n, name in enumerate(schedule.scenes)]
        book, written = Book(self.folder / prefix), Counter[str]()
        crashes = self.crashes
        async with self.coord.listen(done_channel(f"{prefix}-0")) as notices, anyio.create_task_group() as tasks:

            async def count() -> None:
                async for id_ in notices:
                    written[id_] += 1

            tasks.start_soon(count)
            order = Order(
                role="",
                amqp_url=self.services.amqp_url,
                redis_url=self.services.redis_url,
                book=str(self.folder / prefix),
                zero=utc_now() - ZERO_BEFORE,
                seed=schedule.seed,
            )
            for scene, id_ in scenes:
                await self.bus.publish(TASKS, "normal", Message(scene.body(id_), type="task"))
            for role in ROLE_NAMES:
                points = schedule.crashes.get(role, [])
                tasks.start_soon(self._host, msgspec.structs.replace(order, role=role), points)
            await until(lambda: self._ended(scenes), f"the end of {schedule}")
            await until(self._empty, f"empty queues after {schedule}")
            tasks.cancel_scope.cancel()
        most = self.crashes - crashes
        lines: list[str] = []
        for scene, id_ in scenes:
            record = await self.coord.result(id_)
            runs, attempt = book.runs(id_), book.attempt(id_)
            if record is not None:
                lines += self._faults(scene, id_, record, written[id_], most)
            if runs > scene.most + most + scene.setbacks:
                lines.append(f"{id_} ran {runs} times, with {most} crashes")
            if attempt > scene.most:
                lines.append(f"{id_} came to attempt {attempt} of {scene.most}")
        return [f"{schedule}: {line}" for line in lines]

    def _faults(self, scene: Any, id_: str, record: TaskResult, written: int, most: int) -> list[str]:
        lines: list[str] = []
        # Every crash charges what was in hand, and a channel that is closed what was still on its way to us.
        charged = most + scene.setbacks >= DEATHS_ALLOWED
        if record.state not in scene.ends and not (record.state == "worker_lost" and charged):
            lines.append(f"{id_} ended as {record.state}")
        if written != 1:
            lines.append(f"{id_} was recorded {written} times")
        if record.state in GIVEN_UP and not self.letters[id_]:
            lines.append(f"{id_} {record.state}, and there is no dead letter of it")
        return lines

    async def _ended(self, scenes: list[tuple[Any, str]]) -> bool:
        for scene, id_ in scenes:
            if not scene.ends:
                if not self.letters[f"garbage {id_}"]:
                    return False
                continue
            record = await self.coord.result(id_)
            if record is None or (record.state in GIVEN_UP and not self.letters[id_]):
                return False
        return True

    async def _empty(self) -> bool:
        queues = [each.name for each in fast_topology().queues if each.type == "quorum" and each.name not in FEEDS]
        return not any([(await self.bus.inspect(queue)).ready for queue in queues])

    async def _host(self, order: Order, points: list[dict[str, Any]]) -> None:
        """One process after the other in a role: those that die where `points` say, and then one that lives."""
        for point in [*points, {}]:
            await self.sources[order.role].run(msgspec.structs.replace(order, **point))
            self.crashes += 1


class Source:
    """What the processes of one role are forked from, one after the other."""

    def __init__(self, process: Process) -> None:
        assert process.stdin is not None
        assert process.stdout is not None
        self._orders = process.stdin
        self._answers = BufferedByteReceiveStream(process.stdout)

    @classmethod
    @asynccontextmanager
    async def open(cls) -> AsyncIterator[Source]:
        command = [sys.executable, "-m", "tests.integration.crash_process"]
        async with await anyio.open_process(command, stdin=PIPE, stdout=PIPE, stderr=None) as process:
            yield cls(process)
            process.kill()

    async def run(self, order: Order) -> None:
        """Until it has killed itself; when this is cancelled it is killed."""
        await self._orders.send(msgspec.json.encode(order) + b"\n")
        pid = int(await self._answers.receive_until(b"\n", 20))
        try:
            code = int(await self._answers.receive_until(b"\n", 20))
        except BaseException:
            os.kill(pid, signal.SIGKILL)  # its parent has not told of its end, or that is yet unread
            with anyio.CancelScope(shield=True):
                await self._answers.receive_until(b"\n", 20)
            raise
        assert code == -signal.SIGKILL, f"{order.role} ended with {code} instead of dying at {order.number}"

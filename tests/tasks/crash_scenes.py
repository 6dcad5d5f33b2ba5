"""What is to be done in a schedule: each scene leads through another road from "delivered" to "settled", and says what
must be true at its end, wherever a process died on that road."""

from __future__ import annotations

from collections import Counter
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any

import anyio
import msgspec

from fogactors.bus import Message
from fogactors.coord import MemoryCoord
from fogactors.errors import QueueFull
from fogactors.messages import Control, Task, TaskResult
from fogactors.tasks.replay import DlqConfig, DlqPolicy
from fogactors.tasks.task import TaskDef
from fogactors.wire import encode
from fogactors.wire.topology import CONTROL, DLX, PARKED, RESULTS, RESULTS_PENDING
from tests.tasks import crash_tasks as tasks
from tests.tasks.crash_points import EPOCH, MOST_DELIVERIES, Schedule, World, run_virtual, topology

DEADLINE_S = 800.0
"""Of a whole schedule. Virtual, so nobody waits for it; records are kept for longer."""

Act = Callable[[World, list[str]], Awaitable[None]]

DLQ = DlqConfig(
    policies={
        "time_limit": DlqPolicy(replay_after_s=5, max_replays=1),
        "bad_arguments": DlqPolicy(retention_s=1),
    }
)


async def _nothing(world: World, ids: list[str]) -> None: ...


@dataclass(frozen=True, slots=True)
class Scene:
    """`count` tasks that must end in one of `ends`; with none of them the bytes are no task, and must be a dead letter.
    `most`: runs of one of them without a setback. `setbacks`: what of the scene itself may make one run once more.
    `generations`: how often it is replayed, and once more. `refused`: queues that refuse, `refusals` times. `during`:
    what an operator does meanwhile, given the ids."""

    task: TaskDef[..., Any] | None = None
    ends: tuple[str, ...] = ("succeeded",)
    count: int = 1
    most: int = 1
    generations: int = 1
    setbacks: int = 0
    refused: tuple[str, ...] = ()
    refusals: int = 1
    during: Act = _nothing
    args: dict[str, Any] = field(default_factory=dict[str, Any])
    fields: dict[str, Any] = field(default_factory=dict[str, Any])

    def body(self, id_: str) -> bytes:
        fields = {"name": self.task.name if self.task else "", "created": EPOCH} | self.fields
        if self.task is None and "name" not in self.fields:
            return f"garbage {id_}".encode()
        args = msgspec.Raw(msgspec.json.encode({"name": id_} | self.args))
        return encode(Task(id=id_, args=args, max_attempts=self.most // self.generations, **fields))


# -- what operators do


async def _order(world: World, command: Any, task_id: str | None = None) -> None:
    order = Control(id=f"{command}-{anyio.current_time()}", command=command, at=world.now(), task_id=task_id)
    await world.bus.publish(CONTROL, "", Message(encode(order), type="control"), mandatory=False)


async def _cancel(world: World, ids: list[str]) -> None:
    """As a submitter does: record it, and tell everybody who is there, once."""
    await anyio.sleep(0.5)
    for id_ in ids:
        record = TaskResult(task_id=id_, name="", state="cancelled", finished=world.now())
        await MemoryCoord(world.store).cancel(record)
        await _order(world, "cancel", id_)


async def _cancel_by_order(world: World, ids: list[str]) -> None:
    """Tell the executors only, so that the record is theirs to write; again, because nothing but the order is left of
    it when one of them dies."""
    while any(world.store.result(id_) is None for id_ in ids):
        await anyio.sleep(0.5)
        for id_ in ids:
            await _order(world, "cancel", id_)


async def _pause(world: World, ids: list[str]) -> None:
    await anyio.sleep(0.5)
    await _order(world, "pause")
    await anyio.sleep(2)
    await _order(world, "resume")


async def _drain(world: World, ids: list[str]) -> None:
    await anyio.sleep(0.5)
    world.stop["tier-executor"].set()


async def _stop_reaper(world: World, ids: list[str]) -> None:
    await anyio.sleep(0.5)
    world.stop["dlq-reaper"].set()
    await anyio.sleep(1)


async def _cut(world: World, ids: list[str]) -> None:
    world.cut = world.was_cut = True
    await anyio.sleep(5)
    world.cut = False


async def _disconnect(world: World, ids: list[str]) -> None:
    await anyio.sleep(0.5)
    world.broker.kill_connection("tier-executor-light", "cut, and its process lives")


async def _no_result(world: World, ids: list[str]) -> None:
    message = Message(f"garbage {ids[0]}".encode(), type="result")
    with suppress(QueueFull):
        return await world.bus.publish(RESULTS, RESULTS_PENDING, message)
    return await _no_result(world, ids)


async def _lose_queues(world: World, ids: list[str]) -> None:
    """Empty ones: what is in a queue goes with it."""
    await anyio.sleep(0.5)
    for queue in ("tasks.low_priority", RESULTS_PENDING):
        depth = world.broker.depths()[queue]
        if not (depth.ready or depth.unsettled):
            world.broker.delete_queue(queue)
    world.broker.declare(topology())


async def _await_purge(world: World, ids: list[str]) -> None:
    while not {each.id for each in (await world.parked())[1] if each.state == "purged"}.issuperset(ids):  # noqa: ASYNC110
        await anyio.sleep(5)


LATER = {"not_before": EPOCH + timedelta(seconds=6)}
TOO_LARGE = {"more": "x" * 1500}
CAP = tasks.CAP

SCENES: dict[str, Scene] = {
    "works": Scene(tasks.works, count=2),
    "retried": Scene(tasks.flaky, most=CAP),
    "gives_up": Scene(tasks.fails, ("failed",), most=CAP),
    "expired": Scene(tasks.works, ("expired",), fields={"deadline": EPOCH - timedelta(seconds=1)}),
    "unknown": Scene(None, ("failed",), fields={"name": "nobody.knows"}),
    "too_large": Scene(None, ("failed",), fields={"name": "nobody.knows"}, args=TOO_LARGE),
    "purged": Scene(tasks.works, ("failed",), args={"more": 1}, during=_await_purge),
    "garbage": Scene(None, ()),
    "child_died": Scene(tasks.dies_once, setbacks=1),
    "children_die": Scene(tasks.dies, ("worker_lost",), setbacks=4),
    "put_off": Scene(tasks.works, fields=LATER),
    "cancelled": Scene(tasks.stays, ("cancelled",), during=_cancel),
    "cancelled_here": Scene(tasks.stays, ("cancelled",), during=_cancel_by_order),
    "cancelled_late": Scene(tasks.works, ("cancelled",), most=1, fields=LATER, during=_cancel),
    "paused": Scene(tasks.lasts, count=4, args={"seconds": 1.0}, during=_pause),
    "drained": Scene(tasks.lasts, count=4, args={"seconds": 5.0}, setbacks=1, during=_drain),
    "disconnected": Scene(tasks.lasts, args={"seconds": 1.0}, fields={"hops": 1}, setbacks=1, during=_disconnect),
    "alone": Scene(tasks.lasts, ("succeeded", "worker_lost"), count=4, args={"seconds": 1.0}, fields={"crashes": 2}),
    "reaper_stopped": Scene(tasks.fails, ("failed",), during=_stop_reaper),
    "store_away": Scene(tasks.works, count=2, during=_cut),
    "store_away_gives_up": Scene(tasks.fails, ("failed",), during=_cut),
    "store_away_worker_lost": Scene(tasks.dies, ("worker_lost",), setbacks=4, during=_cut),
    "retry_refused": Scene(tasks.flaky, most=CAP, setbacks=1, refused=("retry.1",)),
    "retry_refused_for_long": Scene(tasks.flaky, most=CAP, setbacks=2, refused=("retry.1",), refusals=8),
    "put_off_refused": Scene(tasks.works, setbacks=1, fields=LATER, refused=("retry.4",)),
    "letter_refused": Scene(tasks.fails, ("failed",), setbacks=1, refused=(DLX,)),
    "broker_gives_up": Scene(tasks.dies, ("worker_lost",), setbacks=MOST_DELIVERIES, refused=(DLX,), refusals=40),
    "refusal_refused": Scene(None, ("failed",), fields={"name": "nobody.knows"}, setbacks=1, refused=(DLX,)),
    "parking_refused": Scene(tasks.fails, ("failed",), setbacks=1, refused=(PARKED,)),
    "pending_refused": Scene(tasks.works, setbacks=1, refused=(RESULTS_PENDING,), during=_cut),
    "redelivered": Scene(tasks.works, setbacks=1),
    "no_result": Scene(None, (), during=_no_result),
    "queues_lost": Scene(tasks.works, during=_lose_queues),
    "replayed": Scene(tasks.stays, ("failed",), most=2, generations=2, fields={"time_limit": 0.5}),
}

GIVEN_UP = frozenset({"failed", "expired", "worker_lost"})


class Play:
    """One schedule: its tasks, and what must be true of them at the end."""

    def __init__(self, schedule: Schedule) -> None:
        self.world = World(schedule, dlq=DLQ)
        self.scenes = [
            (SCENES[name], [f"{name}-{n}-{i}" for i in range(SCENES[name].count)])
            for n, name in enumerate(schedule.scenes)
        ]
        self.letters: Counter[str] = Counter()
        """How often the stream has one, by the task or the bytes."""
        self.unknown: set[str] = set()
        """Letters that the index ought to show and does not."""

    def run(self) -> list[str]:
        """Play it; what is not as it must be, a line each."""
        faults: list[str] = []

        async def play() -> None:
            async with self.world.open():
                with anyio.move_on_after(DEADLINE_S):
                    await self._act(self.world)
                    while not (await self._done() and self.world.quiet()):  # noqa: ASYNC110 - costs nothing
                        await anyio.sleep(0.5)
                faults.extend(self._faults())

        run_virtual(play())
        return faults

    async def _act(self, world: World) -> None:
        for scene, ids in self.scenes:
            world.setbacks += scene.setbacks
            for queue in scene.refused:
                world.broker.faults.refuse(queue, scene.refusals)
            for id_ in ids:
                await world.publish(scene.body(id_))
        if "redelivered" in world.schedule.scenes:
            world.broker.faults.redeliver("tasks.normal")
        async with anyio.create_task_group() as operators:
            for scene, ids in self.scenes:
                operators.start_soon(scene.during, world, ids)

    async def _done(self) -> bool:
        letters, fates = await self.world.parked()
        self.letters = Counter(each.task_id or each.body.decode() for each in letters)
        shown = {entry.id async for batch in MemoryCoord(self.world.store).letters.scan() for entry in batch}
        purged = {each.id for each in fates if each.state == "purged"}
        self.unknown = {each.id for each in letters} - shown - purged
        return not self.unknown and all(self._ended(scene, id_) for scene, ids in self.scenes for id_ in ids)

    def _ended(self, scene: Scene, id_: str) -> bool:
        if not scene.ends:
            return self.letters[f"garbage {id_}"] > 0
        record = self.world.store.result(id_)
        return record is not None and record.generation == scene.generations - 1

    def _faults(self) -> list[str]:
        world = self.world
        left = [depth for depth in world.broker.depths().values() if depth.ready or depth.unsettled]
        lines = [] if world.quiet() else [f"not all is settled: {left}"]
        lines += [f"the index does not show {id_}" for id_ in self.unknown]
        for scene, ids in self.scenes:
            lines += [line for id_ in ids for line in self._faults_of(scene, id_)]
        return lines

    def _faults_of(self, scene: Scene, id_: str) -> list[str]:
        world = self.world
        if not self._ended(scene, id_):
            return [f"{id_} is lost"]
        record = world.store.result(id_)
        if record is None:
            return []
        lines = []
        written, runs, attempt = world.store.written[id_], world.runs[id_], world.attempts.get(id_, 0)
        if record.state not in scene.ends and not (
            record.state == "worker_lost" and world.crashes + world.setbacks > 3
        ):
            lines.append(f"{id_} ended as {record.state}")
        if not 1 <= written <= scene.generations:
            lines.append(f"{id_} was recorded {written} times")
        if attempt > scene.most:
            lines.append(f"{id_} came to attempt {attempt} of {scene.most}")
        # Without the store nobody can tell the copies of a retry apart, nor a worker that died from a connection.
        tells_copies = scene.most == 1 or not world.was_cut
        setbacks = world.setbacks + (MOST_DELIVERIES if world.was_cut and "worker_lost" in scene.ends else 0)
        if tells_copies and runs > scene.most + world.crashes + setbacks:
            lines.append(f"{id_} ran {runs} times, with {world.crashes} crashes and {world.setbacks} setbacks")
        if record.state in GIVEN_UP and not self.letters[id_]:
            lines.append(f"{id_} {record.state}, and there is no dead letter of it")
        return lines

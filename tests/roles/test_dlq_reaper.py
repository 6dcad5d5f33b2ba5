"""Every dead letter gets its end and its place in the stream, whatever happens to the reaper between two steps."""

from datetime import UTC, datetime, timedelta

import anyio
import pytest

from fogactors.bus import Message
from fogactors.bus.embedded.channel import MemoryDelivery
from fogactors.coord import MemoryCoord
from fogactors.core import ActorExited, ActorStarted
from fogactors.errors import TaskFailed, WorkerLost
from fogactors.messages import DeadLetter, DeadLetterFate, Task, TaskResult
from fogactors.roles import dlq_reaper
from fogactors.roles.dlq_reaper import DLQReaper
from fogactors.tasks.deadletter import FATE_TYPE, publish_letter
from fogactors.tasks.events import DeadLetterReplayed, DuplicateResult, TaskDeadLettered
from fogactors.tasks.replay import DlqConfig, DlqPolicy
from fogactors.testing.kit import eventually
from fogactors.wire import decode, encode
from fogactors.wire.topology import DLX, RESULTS, RESULTS_PENDING, TASK_DELIVERY_LIMIT
from tests.tasks import fog_tasks as tasks
from tests.tasks.harness import Hanging, fog, nothing_in_hand

pytestmark = pytest.mark.asyncio

REAPER = "fogactors/dlq-reaper/reaper"
NOW = datetime(2030, 1, 1, tzinfo=UTC)


def reaper_alone(**options):
    return fog(roles=("dlq-reaper",), **options)


async def lost_task(system):
    """A task that its consumers took and gave back until the broker had enough of it."""
    handle = await system.submit(tasks.add, 1, 2)
    got = []
    consumer = await system.bus.consume("tasks.normal", got.append, prefetch=1)
    for n in range(TASK_DELIVERY_LIMIT + 1):
        await eventually(lambda n=n: len(got) == n + 1, "a delivery")
        await got[-1].requeue()
    await consumer.close()
    return handle


async def all_done(system):
    await nothing_in_hand(system)
    assert (system.ready("dlq"), system.ready(RESULTS_PENDING)) == (0, 0)


async def test_a_task_whose_workers_died_ends_as_lost_and_is_parked():
    async with reaper_alone() as system:
        handle = await lost_task(system)
        with pytest.raises(WorkerLost, match="was given up"):
            await handle.result(5)
        event = await system.recorder.wait_for(TaskDeadLettered, task_id=handle.id)
        assert (event.reason, event.worker, event.origin) == ("worker_lost", "node/dlq-reaper", "tasks.normal")
        [letter] = system.dead_letters
        assert (letter.reason, letter.task_id, letter.origin) == ("worker_lost", handle.id, "tasks.normal")
        assert system.ready("results.failed") == 1
        await all_done(system)


async def test_a_record_that_is_there_stays():
    async with reaper_alone() as system:
        handle = await system.submit(tasks.add, 1, 2)
        done = TaskResult(task_id=handle.id, name="t", state="succeeded", finished=NOW)
        await MemoryCoord(system.store).record(done)
        got = []
        consumer = await system.bus.consume("tasks.normal", got.append, prefetch=1)
        for n in range(TASK_DELIVERY_LIMIT + 1):
            await got[n].requeue()
        await consumer.close()
        await system.recorder.wait_for(TaskDeadLettered)
        assert (await handle.outcome(1)).state == "succeeded"
        assert system.ready("results.failed") == 0


async def test_what_an_executor_gave_up_on_is_parked_and_its_end_left_to_the_executor():
    async with reaper_alone() as system:
        letter = DeadLetter(id="a-1", task_id="a-1", reason="failed", body=b"x", first=NOW, last=NOW)
        await publish_letter(system.bus, DLX, letter, timeout=1)
        await eventually(lambda: system.ready("dlq.parked") == 1, "parked")
        assert list(system.dead_letters) == [letter]
        assert system.store.sizes()["results"] == 0
        assert not system.recorder.of(TaskDeadLettered)
        await all_done(system)


@pytest.mark.parametrize(
    ("owner", "step"),
    [
        (DLQReaper, "_reap"),
        (DLQReaper, "_record"),
        (DLQReaper, "_publish"),
        (MemoryDelivery, "ack"),
    ],
)
@pytest.mark.parametrize("when", ["before", "after"])
async def test_a_crash_at_any_step_loses_neither_the_end_nor_the_letter(monkeypatch, owner, step, when):
    real, failed = getattr(owner, step), []

    async def fails_once(self, *args, **kwargs):
        if failed or getattr(self, "queue", "dlq") != "dlq":  # an ack of the indexer's
            return await real(self, *args, **kwargs)
        failed.append(step)
        if when == "after":
            await real(self, *args, **kwargs)
        raise RuntimeError(f"{when} {step}")

    async with reaper_alone() as system:
        monkeypatch.setattr(owner, step, fails_once)
        handle = await lost_task(system)
        assert (await handle.outcome(5)).state == "worker_lost"
        event = await system.recorder.wait_for(ActorExited, path=REAPER)
        assert str(event.exit.error) == f"{when} {step}"
        await system.recorder.wait_for(ActorStarted, path=REAPER, incarnation=2)
        await eventually(lambda: system.ready("dlq") == 0, "reaped")
        await all_done(system)
        assert {letter.task_id for letter in system.dead_letters} == {handle.id}
        assert system.ready("dlq.parked") in (1, 2)
        assert system.ready("results.failed") <= 1


async def test_a_reaper_that_is_killed_while_it_records_begins_again(monkeypatch):
    monkeypatch.setattr(dlq_reaper, "COORD_TIMEOUT_S", 60)
    hanging = []

    def wrap(coord):
        hanging.append(Hanging(coord, "record"))
        return hanging[0]

    async with reaper_alone(wrap_coord=wrap) as system:
        handle = await lost_task(system)
        await eventually(lambda: hanging[0].asked == 1, "it records")
        hanging[0].hangs = False
        system.actors.ref(REAPER).kill()
        assert (await handle.outcome(5)).state == "worker_lost"
        await eventually(lambda: system.ready("dlq.parked") == 1, "parked")
        await all_done(system)


async def test_a_result_that_comes_home_late_is_counted_as_a_duplicate():
    async with reaper_alone() as system:
        done = TaskResult(task_id="b-1", name="t", state="succeeded", finished=NOW, attempts=1, worker="edge-1")
        await MemoryCoord(system.store).record(done)
        late = TaskResult(task_id="b-1", name="t", state="failed", finished=NOW, attempts=2, worker="edge-2")
        await system.bus.publish(RESULTS, RESULTS_PENDING, Message(encode(late), type="result"))
        event = await system.recorder.wait_for(DuplicateResult, task_id="b-1")
        assert (event.worker, event.name, event.attempt) == ("edge-2", "t", 2)
        assert (await MemoryCoord(system.store).result("b-1")).worker == "edge-1"
        await all_done(system)


async def test_a_stream_that_refuses_is_tried_again_later_and_not_at_once():
    async with reaper_alone() as system:
        system.broker.faults.refuse("dlq.parked", 3)
        began = anyio.current_time()
        await lost_task(system)
        await eventually(lambda: system.ready("dlq.parked") == 1, "parked")
        await all_done(system)
        assert not system.recorder.of(ActorExited)
        assert anyio.current_time() - began > 2.5 * dlq_reaper.LATER_S


async def test_a_letter_that_no_publish_takes_does_not_come_round_for_ever():
    async with reaper_alone(max_body=2_000) as system:
        body = b"x" * 3_000
        await system.bus.publish(DLX, "task.failed", Message(body, message_id="m-1"))
        await eventually(lambda: system.ready("dlq.parked") == 1, "parked")
        [letter] = system.dead_letters
        assert (letter.id, letter.reason, letter.body) == ("m-1", "malformed", b"")
        await all_done(system)


async def test_a_pending_result_that_is_none_becomes_a_dead_letter():
    async with reaper_alone() as system:
        await system.bus.publish(RESULTS, RESULTS_PENDING, Message(b"garbage", type="result"))
        await eventually(lambda: system.ready("dlq.parked") == 1, "parked")
        [letter] = system.dead_letters
        assert (letter.reason, letter.body, letter.origin) == ("malformed", b"garbage", RESULTS_PENDING)
        await all_done(system)


async def test_a_lost_connection_costs_a_restart_and_nothing_else():
    async with fog(roles=("dlq-reaper", "tier-executor")) as system:
        system.kill("dlq-reaper")
        handle = await system.submit(tasks.bad, "raise")
        with pytest.raises(TaskFailed):
            await handle.result(5)
        await system.recorder.wait_for(ActorStarted, path=REAPER, incarnation=2)
        await eventually(lambda: system.ready("dlq.parked") == 1, "parked")
        assert [event.exit.kind for event in system.recorder.of(ActorExited, REAPER)] == ["stopped"]


# -- replay by policy


def policy(**policies):
    return {"dlq": DlqConfig(policies=policies)}


def fates(system):
    return [
        (fate.id, fate.generation, fate.state, fate.by)
        for message in system.broker.read("dlq.parked")
        if message.type == FATE_TYPE
        for fate in [decode(message.body, DeadLetterFate)]
    ]


def on_the_ladder(system):
    return sum(depth.ready for name, depth in system.broker.depths().items() if name.startswith("retry."))


async def given_up(system, **fields):
    """A letter as an executor writes it; its id."""
    task = Task(id="a-1", name="t", created=NOW, origin="tasks.normal")
    known = {"task_id": "a-1", "reason": "failed", "origin": "tasks.normal", "first": NOW, "last": NOW}
    letter = DeadLetter(id="a-1", **{"body": encode(task)} | known | fields)
    await publish_letter(system.bus, DLX, letter, timeout=1)
    return letter


async def test_a_policy_replays_as_often_as_it_says():
    async with fog(**policy(failed=DlqPolicy(replay_after_s=3600, max_replays=2))) as system:
        began = system.now()
        handle = await system.submit(tasks.bad, "raise")
        await system.dead_letters.wait_for(task_id=handle.id, count=3)
        await system.recorder.wait_for(DeadLetterReplayed, generation=2)
        assert [letter.generation for letter in system.dead_letters] == [0, 1, 2]
        assert fates(system) == [
            (handle.id, 0, "replayed", "node/dlq-reaper"),
            (handle.id, 1, "replayed", "node/dlq-reaper"),
        ]
        assert system.now() - began >= timedelta(hours=2, seconds=-2)
        await system.wait_idle()
        result = await handle.outcome(5)
        assert (result.state, result.generation) == ("failed", 2)
        await all_done(system)


async def test_without_a_policy_for_its_reason_it_stays_parked():
    async with reaper_alone(skip_delays=False, **policy(expired=DlqPolicy(replay_after_s=60))) as system:
        await given_up(system)
        await system.dead_letters.wait_for(task_id="a-1")
        await all_done(system)
        assert (fates(system), on_the_ladder(system)) == ([], 0)


@pytest.mark.parametrize("fields", [{"body": b"\xff", "task_id": None}, {"body": b""}, {"origin": None}])
async def test_what_cannot_be_counted_or_replayed_is_only_parked(fields):
    """Bytes that are no task would come back as a new letter each time, and be replayed for ever."""
    async with reaper_alone(skip_delays=False, **policy(failed=DlqPolicy(replay_after_s=60, max_replays=5))) as system:
        if fields.get("origin", "") is None:
            fields = {"body": encode(Task(id="a-1", name="t", created=NOW)), **fields}
        await given_up(system, **fields)
        await eventually(lambda: system.ready("dlq.parked") == 1, "parked")
        await all_done(system)
        assert (fates(system), on_the_ladder(system)) == ([], 0)


STEPS = [
    (dlq_reaper, "publish_letter"),
    (DLQReaper, "_known"),
    (DLQReaper, "_recorded"),
    (DLQReaper, "_send_again"),
    (DLQReaper, "_mark"),
    (dlq_reaper, "publish_fate"),
    (MemoryDelivery, "ack"),
]


@pytest.mark.parametrize(("owner", "step"), STEPS)
@pytest.mark.parametrize("when", ["before", "after"])
async def test_a_crash_at_any_step_of_a_replay_neither_loses_it_nor_repeats_it_without_end(
    monkeypatch, owner, step, when
):
    real, failed = getattr(owner, step), []

    async def fails_once(*args, **kwargs):
        # Not the letter that the test itself writes, and not an ack of the indexer's.
        if failed or args[1:2] == (DLX,) or getattr(args[0], "queue", "dlq") != "dlq":
            return await real(*args, **kwargs)
        failed.append(step)
        if when == "after":
            await real(*args, **kwargs)
        raise RuntimeError(f"{when} {step}")

    async with reaper_alone(skip_delays=False, **policy(failed=DlqPolicy(replay_after_s=60))) as system:
        monkeypatch.setattr(owner, step, fails_once)
        await given_up(system)
        await system.recorder.wait_for(ActorExited, path=REAPER)
        await system.recorder.wait_for(ActorStarted, path=REAPER, incarnation=2)
        await eventually(lambda: system.ready("dlq") == 0, "reaped")
        await all_done(system)
        assert len(system.dead_letters) == 1
        between = (step, when) in {("_send_again", "after"), ("_mark", "before")}
        assert on_the_ladder(system) == (2 if between else 1)
        assert set(fates(system)) == {("a-1", 0, "replayed", "node/dlq-reaper")}
        entry = await MemoryCoord(system.store).letters.get("a-1")
        assert (entry.state, entry.by) == ("replayed", "node/dlq-reaper")


async def test_a_letter_that_comes_twice_is_replayed_once():
    """As it does when an executor dies between its publish and its ack."""
    async with reaper_alone(skip_delays=False, **policy(failed=DlqPolicy(replay_after_s=60))) as system:
        await given_up(system)
        await given_up(system)
        await eventually(lambda: system.ready("dlq") == 0, "reaped")
        await all_done(system)
        assert (len(set(fates(system))), on_the_ladder(system)) == (1, 1)


@pytest.mark.parametrize(
    ("state", "generation", "marks", "replays"), [("succeeded", 0, 0, 0), ("succeeded", 1, 1, 0), ("failed", 0, 1, 1)]
)
async def test_what_has_succeeded_after_all_is_not_replayed(state, generation, marks, replays):
    """An executor that dies between letter and record leaves the task to another, where it may succeed; and a reaper
    that dies between a replay and its mark leaves the mark to another, when the replay may have ended."""
    async with reaper_alone(skip_delays=False, **policy(failed=DlqPolicy(replay_after_s=60))) as system:
        done = TaskResult(task_id="a-1", name="t", state=state, generation=generation, finished=NOW)
        await MemoryCoord(system.store).record(done)
        await given_up(system)
        await system.dead_letters.wait_for(task_id="a-1")
        await all_done(system)
        assert (len(fates(system)), on_the_ladder(system)) == (marks, replays)


async def test_a_replay_that_succeeded_lets_the_next_letter_be_replayed():
    async with reaper_alone(skip_delays=False, **policy(failed=DlqPolicy(replay_after_s=60, max_replays=3))) as system:
        done = TaskResult(task_id="a-1", name="t", state="succeeded", generation=0, finished=NOW)
        await MemoryCoord(system.store).record(done)
        await given_up(system, generation=1)
        await eventually(lambda: len(fates(system)) == 1, "its fate is in the stream")
        assert on_the_ladder(system) == 1


@pytest.mark.parametrize("how", ["away", "hangs"])
async def test_without_the_store_a_replay_goes_on(monkeypatch, how):
    monkeypatch.setattr(dlq_reaper, "COORD_TIMEOUT_S", 0.05)

    class Letters(Hanging):
        def __init__(self, coord):
            super().__init__(coord, *(("result",) if how == "hangs" else ()))

        letters = property(lambda self: Hanging(self._coord.letters, *(("get", "mark") if how == "hangs" else ())))

    async with reaper_alone(
        skip_delays=False, wrap_coord=Letters, **policy(failed=DlqPolicy(replay_after_s=60))
    ) as system:
        system.store.away = how == "away"
        await given_up(system)
        await system.recorder.wait_for(DeadLetterReplayed, task_id="a-1", reason="failed", delay_s=60)
        await eventually(lambda: len(fates(system)) == 1, "its fate is in the stream")
        await all_done_but_the_index(system)
        assert on_the_ladder(system) == 1
        assert not system.recorder.of(ActorExited)


async def all_done_but_the_index(system):
    await eventually(lambda: system.broker.depths()["dlq"].unsettled == 0, "acked")


async def test_a_ladder_that_refuses_costs_neither_a_second_letter_nor_a_second_replay():
    async with reaper_alone(skip_delays=False, **policy(failed=DlqPolicy(replay_after_s=60))) as system:
        system.broker.faults.refuse("retry.16", 2)
        await given_up(system)
        await eventually(lambda: len(fates(system)) == 1, "its fate is in the stream")
        await all_done(system)
        assert (system.ready("dlq.parked"), on_the_ladder(system)) == (2, 1)  # the letter and its fate

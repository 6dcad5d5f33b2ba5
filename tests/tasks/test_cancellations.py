"""A task that was cancelled is not run, wherever it lay when that was said."""

from datetime import UTC, datetime

import anyio
import pytest

from fogactors.coord import MemoryCoord
from fogactors.core import ActorStarted
from fogactors.errors import CoordUnavailable
from fogactors.messages import Task, TaskResult
from fogactors.tasks import cancellations
from fogactors.tasks.cancellations import Cancellations
from fogactors.tasks.events import DuplicateResult, TaskEnded
from fogactors.tasks.requests import Cancel, Pause, Resume, Where
from fogactors.testing.kit import eventually
from tests.tasks import fog_tasks as tasks
from tests.tasks.harness import Hanging, fog, message, nothing_in_hand, publish

pytestmark = pytest.mark.asyncio

EXECUTOR = "fogactors/tier-executor-light/executor"


async def cancel(system, task_id, generation=0):
    """What a submitter does, but for the broadcast. Returns the state that is recorded."""
    result = TaskResult(task_id=task_id, name="", state="cancelled", generation=generation, finished=datetime.now(UTC))
    return (await MemoryCoord(system.store).cancel(result)).state


class Recorded:
    """A store that knows these."""

    def __init__(self, found):
        self.found, self.away, self.refused = found, False, 0

    async def cancelled(self):
        if self.away:
            self.refused += 1
            raise CoordUnavailable("away")
        return dict(self.found)


def of(task_id, generation):
    return Task(id=task_id, name="t", generation=generation, created=datetime.now(UTC))


async def paused(system, *submits):
    await system.executor().ask(Pause())
    return [await system.submit(*each) for each in submits]


async def test_an_executor_that_connects_knows_what_was_cancelled_before():
    async with fog() as system:
        (pending,) = await paused(system, (tasks.note, "pending"))
        assert await cancel(system, pending.id) == "cancelled"
        system.kill("tier-executor-light")
        await system.recorder.wait_for(ActorStarted, path=EXECUTOR, incarnation=2)
        await system.executor().ask(Resume())
        ended = await system.recorder.wait_for(TaskEnded, task_id=pending.id)
        assert (ended.state, tasks.runs["pending"]) == ("cancelled", 0)
        assert not system.recorder.of(DuplicateResult)
        await nothing_in_hand(system)


async def test_one_that_runs_already_keeps_in_mind_what_it_is_told():
    async with fog() as system:
        pending, other = await paused(system, (tasks.note, "pending"), (tasks.note, "other"))
        await cancel(system, pending.id)
        assert await system.executor().ask(Cancel(pending.id)) is None
        system.store.expire_now("results", pending.id)  # long ago, as far as results are concerned
        await system.executor().ask(Resume())
        assert await other.result(5) == "other"
        assert (await pending.outcome(5)).state == "cancelled"
        assert tasks.runs["pending"] == 0


async def test_a_replay_of_a_cancelled_task_runs():
    async with fog() as system:
        await cancel(system, "foreign-1")
        await system.executor().ask(Cancel("foreign-1"))
        await publish(system, message(tasks.note, b'{"name": "again"}', generation=1, hops=1))
        await eventually(lambda: tasks.runs["again"] == 1, "it runs")
        await system.recorder.wait_for(TaskEnded, state="succeeded")


async def test_what_runs_is_ended_and_told_as_cancelled_though_the_submitter_has_recorded_it():
    async with fog() as system:
        handle = await system.submit(tasks.hold, "a")
        await eventually(lambda: tasks.runs["a"] == 1, "it runs")
        await cancel(system, handle.id)
        where = await system.executor().ask(Cancel(handle.id))
        assert (where.state, where.attempt, where.mode, where.worker) == ("running", 1, "async", "node/light")
        ended = await system.recorder.wait_for(TaskEnded, task_id=handle.id)
        assert ended.state == "cancelled"
        assert not system.recorder.of(DuplicateResult)
        assert system.ready("results.failed") == 1  # told to who listens, once
        assert await system.executor().ask(Where(handle.id)) is None


async def test_what_has_succeeded_meanwhile_keeps_its_end():
    async with fog() as system:
        handle = await system.submit(tasks.note, "a")
        await handle.result(5)
        assert await cancel(system, handle.id) == "succeeded"
        await system.executor().ask(Cancel(handle.id))
        assert (await handle.outcome(5)).state == "succeeded"


async def test_a_redelivery_of_a_cancelled_task_ends_as_cancelled_also_when_nobody_told():
    async with fog() as system:
        await cancel(system, "foreign-1")
        await publish(system, message(tasks.note, b'{"name": "a"}', hops=1))
        ended = await system.recorder.wait_for(TaskEnded)
        assert (ended.state, tasks.runs["a"]) == ("cancelled", 0)


async def test_what_was_cancelled_while_an_executor_was_starting_is_learnt_when_it_hears_orders():
    asked = []

    class Early:
        """A store that was asked just before the cancellation came."""

        def __init__(self, coord):
            self._coord = coord

        def __getattr__(self, name):
            return getattr(self._coord, name)

        async def cancelled(self):
            asked.append("cancelled")
            return {} if len(asked) == 1 else {"foreign-1": 0}

    async with fog(wrap_coord=Early) as system:
        await eventually(lambda: len(asked) == 2, "it asks again")
        await publish(system, message(tasks.note, b'{"name": "a"}'))
        ended = await system.recorder.wait_for(TaskEnded)
        assert (ended.state, tasks.runs["a"]) == ("cancelled", 0)


async def test_a_delivery_right_behind_the_order_is_cancelled_as_well():
    async with fog() as system:
        await cancel(system, "foreign-1")
        executor = system.executor()
        executor.tell_nowait(Cancel("foreign-1"))
        await publish(system, message(tasks.note, b'{"name": "a"}'))
        ended = await system.recorder.wait_for(TaskEnded)
        assert (ended.state, tasks.runs["a"]) == ("cancelled", 0)


async def test_what_is_known_of_a_newer_generation_is_not_forgotten_for_an_older_one():
    known = Cancellations(Recorded({"a": 1, "b": 0}), lambda: None)
    known.hear("a")
    known.hear("c")
    async with anyio.create_task_group() as group:
        group.start_soon(known.run)
        await known.wait_loaded()
        group.cancel_scope.cancel()
    assert of("a", 1) in known
    assert of("c", 0) in known
    assert of("a", 2) not in known
    assert of("b", 1) not in known


async def test_orders_do_not_push_out_what_the_store_knew(monkeypatch):
    monkeypatch.setattr(cancellations, "MOST_TOLD", 3)
    known = Cancellations(Recorded({f"r{n}": 0 for n in range(10)}), lambda: None)
    async with anyio.create_task_group() as group:
        group.start_soon(known.run)
        await known.wait_loaded()
        group.cancel_scope.cancel()
    for n in range(5):
        known.hear(f"t{n}")
    assert all(of(f"r{n}", 0) in known for n in range(10))
    assert [of(f"t{n}", 0) in known for n in range(5)] == [False, False, True, True, True]


async def test_a_refresh_that_meets_a_silent_store_is_made_up_for():
    store = Recorded({})
    known = Cancellations(store, lambda: None)
    async with anyio.create_task_group() as group:
        group.start_soon(known.run)
        await known.wait_loaded()
        store.away = True
        known.refresh()
        await eventually(lambda: store.refused > 0, "it is asked while it is away")
        store.away, store.found = False, {"a": 0}
        await eventually(lambda: of("a", 0) in known, "it is asked again")
        group.cancel_scope.cancel()


async def test_while_the_store_is_away_work_goes_on_and_what_it_knew_is_learnt_later():
    hanging = []

    def hang(coord):
        hanging.append(Hanging(coord, "cancelled"))
        return hanging[-1]

    async with fog(wrap_coord=hang, roles=("tier-executor",)) as system:
        held = [await system.submit(tasks.hold, name, "all") for name in "abcd"]
        await eventually(lambda: sum(tasks.runs.values()) == 4, "four run, though the store does not say")
        waiting = await system.submit(tasks.note, "waiting")
        await eventually(lambda: system.ready("tasks.normal") == 0, "it waits in hand")
        await cancel(system, waiting.id)
        hanging[-1].hangs = False
        ended = await system.recorder.wait_for(TaskEnded, task_id=waiting.id)
        assert (ended.state, tasks.runs["waiting"]) == ("cancelled", 0)
        tasks.gate("all").set()
        assert [await each.result(5) for each in held] == list("abcd")

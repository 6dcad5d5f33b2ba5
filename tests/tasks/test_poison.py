"""A task that kills its executors takes nobody with it."""

import pytest

from fogactors.errors import WorkerLost
from fogactors.messages import DeadLetter, Task
from fogactors.tasks.deadletter import DEAD_LETTER_TYPE
from fogactors.tasks.events import TaskHandedBack, TaskIsolated, TaskStarted
from fogactors.tasks.settle import DEATHS_ALLOWED
from fogactors.testing.kit import eventually
from fogactors.wire import decode
from fogactors.wire.topology import PARKED, TASK_DELIVERY_LIMIT
from tests.tasks import fog_tasks as tasks
from tests.tasks.harness import fog, message, nothing_in_hand, publish

pytestmark = pytest.mark.asyncio

EXECUTOR = "tier-executor-light"


async def letters(system):
    parked = [each for each in await system.peek(PARKED) if each.type == DEAD_LETTER_TYPE]
    return [decode(each.body, DeadLetter) for each in parked]


async def test_one_poisoned_task_among_fifty_is_the_only_one_that_is_given_up():
    async with fog() as system:
        poison = await system.submit(tasks.hold, "poison")  # each time that it runs, its executor is killed
        innocents = [await system.submit(tasks.doze, f"innocent-{n}", 0.05) for n in range(50)]
        killed = 0
        while True:
            await eventually(
                lambda n=killed: tasks.runs["poison"] > n or system.ready(PARKED) > 0, "its next run or its end"
            )
            if tasks.runs["poison"] == killed:
                break
            killed += 1
            system.kill(EXECUTOR)
        with pytest.raises(WorkerLost):
            await poison.result(5)
        assert [await each.result(5) for each in innocents] == [f"innocent-{n}" for n in range(50)]
        assert killed == DEATHS_ALLOWED + 1
        assert [letter.task_id for letter in await letters(system)] == [poison.id]


async def test_connections_that_are_lost_are_no_workers_that_died():
    async with fog() as system:
        held = [await system.submit(tasks.hold, name, "all") for name in "abc"]
        for runs in range(1, DEATHS_ALLOWED + 4):
            await eventually(lambda n=runs: all(tasks.runs[name] == n for name in "abc"), "they run")
            system.cut(EXECUTOR)
        tasks.gate("all").set()
        assert [await each.result(5) for each in held] == list("abc")
        assert not system.recorder.of(TaskIsolated)


async def test_what_loses_its_connection_again_and_again_is_run_alone():
    async with fog() as system:
        handle = await system.submit(tasks.hold, "a")
        for runs in range(1, TASK_DELIVERY_LIMIT // 2 + 1):
            await eventually(lambda n=runs: tasks.runs["a"] == n, "it runs")
            assert not system.recorder.of(TaskIsolated)
            system.cut(EXECUTOR)
        await system.recorder.wait_for(TaskIsolated, task_id=handle.id)
        tasks.gate("a").set()
        assert await handle.result(5) == "a"


async def test_where_the_store_does_not_answer_lost_connections_make_a_suspect_and_no_dead_letter():
    async with fog() as system:
        system.store.away = True
        handle = await system.submit(tasks.hold, "a")
        for runs in range(1, DEATHS_ALLOWED + 4):
            await eventually(lambda n=runs: tasks.runs["a"] == n, "it runs")
            system.cut(EXECUTOR)
        await system.recorder.wait_for(TaskIsolated)
        system.store.away = False
        tasks.gate("a").set()
        assert await handle.result(5) == "a"


async def test_a_delayed_task_that_runs_once_has_run_once():
    async with fog() as system:
        handle = await system.submit(tasks.note.options(delay_s=1.0), "a")
        assert (await handle.outcome(5)).attempts == 1
        assert not system.recorder.of(TaskIsolated)


async def test_lost_connections_are_not_carried_on_as_deaths_when_a_task_is_handed_back():
    async with fog(drain_s=0.1) as system:
        handle = await system.submit(tasks.hold, "a")
        for runs in range(1, DEATHS_ALLOWED + 2):
            await eventually(lambda n=runs: tasks.runs["a"] == n, "it runs")
            system.cut(EXECUTOR)
        await eventually(lambda: tasks.runs["a"] == DEATHS_ALLOWED + 2, "it runs again")
        await system.stop()  # it does not end within the drain, so it goes back
        await eventually(lambda: system.ready("tasks.normal") == 1, "it is back")
        (delivery,) = await system.peek("tasks.normal")
        task = decode(delivery.body, Task)
        assert (task.id, task.crashes) == (handle.id, 1)


async def test_a_suspect_runs_when_nothing_else_is_in_hand():
    async with fog() as system:
        others = [await system.submit(tasks.hold, name, "others") for name in "abc"]
        await eventually(lambda: all(tasks.runs[name] for name in "abc"), "the others run")
        await publish(system, message(tasks.hold, b'{"name": "suspect"}', crashes=2, hops=1))
        isolated = await system.recorder.wait_for(TaskIsolated)
        assert isolated.crashes == 2
        later = await system.submit(tasks.note, "later")
        load = await system.load()
        assert (load.running, load.waiting) == (3, 1)
        assert not tasks.runs["suspect"]  # the others have not ended
        tasks.gate("others").set()
        assert [await each.result(5) for each in others] == list("abc")
        await eventually(lambda: tasks.runs["suspect"] == 1, "the suspect runs")
        load = await system.load()
        assert (load.running, load.waiting) == (1, 0)
        assert not tasks.runs["later"]
        tasks.gate("suspect").set()
        assert await later.result(5) == "later"
        assert (await system.submitter.handle("foreign-1").outcome(5)).state == "succeeded"
        await nothing_in_hand(system)


async def test_what_waits_goes_back_and_loses_nothing_by_it():
    async with fog(look_ahead=4) as system:
        for name in "abcdefgh":
            await system.submit(tasks.hold, name, "all")
        await eventually(lambda: sum(tasks.runs.values()) == 4, "four run, and four wait")
        await publish(system, message(tasks.note, b'{"name": "suspect"}', crashes=2, hops=1), key="high_priority")
        await system.recorder.wait_for(TaskIsolated)
        back = await system.recorder.wait_for(TaskHandedBack, count=4)
        assert "alone" in back.why
        tasks.gate("all").set()
        await eventually(lambda: all(tasks.runs[name] == 1 for name in "abcdefgh"), "all have run")
        await system.wait_idle()
        assert {event.attempt for event in system.recorder.of(TaskStarted)} == {1}


async def test_a_crash_is_not_forgotten_when_a_task_is_handed_back():
    async with fog(drain_s=0.1) as system:
        handle = await system.submit(tasks.hold, "a")
        for runs in (1, 2):
            await eventually(lambda n=runs: tasks.runs["a"] == n, "it runs")
            system.kill(EXECUTOR)
        await eventually(lambda: tasks.runs["a"] == 3, "it runs alone")
        await system.stop()  # it does not end within the drain, so it goes back
        await eventually(lambda: system.ready("tasks.normal") == 1, "it is back")
        (delivery,) = await system.peek("tasks.normal")
        task = decode(delivery.body, Task)
        assert (task.id, task.crashes, task.attempt) == (handle.id, 2, 1)


async def test_what_crashed_too_often_before_it_was_handed_back_is_given_up_unrun():
    async with fog() as system:
        await publish(system, message(tasks.note, b'{"name": "a"}', crashes=DEATHS_ALLOWED + 1, hops=1))
        with pytest.raises(WorkerLost):
            await system.submitter.handle("foreign-1").result(5)
        assert not tasks.runs["a"]
        (letter,) = await letters(system)
        assert (letter.reason, letter.attempts) == ("worker_lost", DEATHS_ALLOWED + 1)


async def test_a_worker_process_dies_alone_so_its_task_needs_no_isolation():
    async with fog() as system:
        await publish(system, message(tasks.die, crashes=2, hops=1))
        with pytest.raises(WorkerLost):
            await system.submitter.handle("foreign-1").result(20)
        assert len(system.recorder.of(TaskStarted)) == 2
        assert not system.recorder.of(TaskIsolated)

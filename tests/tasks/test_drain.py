"""A stop: nothing new is taken, what waits goes back uncounted, what fits finishes, the rest is cancelled and goes
back."""

import anyio
import anyio.lowlevel
import psutil
import pytest

from fogactors.core import ActorExited, StopChild
from fogactors.errors import ActorDead
from fogactors.messages import Task
from fogactors.tasks.events import TaskEnded, TaskHandedBack, TaskStarted
from fogactors.tasks.executor import GetLoad
from fogactors.tasks.requests import Cancel, Where
from fogactors.testing.kit import eventually
from fogactors.wire import decode
from tests.tasks import fog_tasks as tasks
from tests.tasks.harness import Hanging, fog, nothing_in_hand, publish

pytestmark = pytest.mark.asyncio


async def back_in_its_queue(system, queue="tasks.normal"):
    """The tasks that went back, by id; each as if it had never been delivered."""
    await eventually(lambda: not system.ready("retry.1"), "the ladder is empty")
    deliveries = await system.peek(queue)
    assert {delivery.delivery_count for delivery in deliveries} <= {0}
    found = {task.id: task for task in (decode(delivery.body, Task) for delivery in deliveries)}
    assert {task.attempt for task in found.values()} <= {1}
    assert len(found) == len(deliveries)
    return found


async def test_what_fits_finishes_and_everything_else_goes_back_uncounted():
    async with fog(drain_s=0.3) as system:
        handles = [await system.submit(tasks.hold, name, "quick" if name in "ab" else "never") for name in "abcdefgh"]
        await eventually(lambda: all(tasks.runs[name] for name in "abcd"), "four run")
        async with anyio.create_task_group() as group:
            group.start_soon(system.stop)
            await system.recorder.wait_for(TaskHandedBack, why="draining")
            tasks.gate("quick").set()
            await system.recorder.wait_for(TaskEnded, count=2)
            # Neither the room that they left nor the queue is used any more.
        assert [tasks.runs[name] for name in "abcdefgh"] == [1, 1, 1, 1, 0, 0, 0, 0]
        assert [await handle.result(1) for handle in handles[:2]] == ["a", "b"]
        found = await back_in_its_queue(system)
        assert set(found) == {handle.id for handle in handles[2:]}
        handed_back = {event.task_id: event.why for event in system.recorder.of(TaskHandedBack)}
        assert handed_back == {
            handles[2].id: "it did not finish within the drain",
            handles[3].id: "it did not finish within the drain",
            handles[4].id: "draining",
        }
        assert [found[handle.id].hops for handle in handles[2:]] == [1, 1, 1, 0, 0, 0]


async def test_what_was_delivered_and_not_yet_read_goes_back_as_well():
    async with fog() as system:
        for _ in range(2):
            await anyio.lowlevel.checkpoint()
        handles = [await system.submit(tasks.note, name) for name in "abcde"]
        system.executor().stop()  # in the same turn of the loop, so the executor has read none of them
        for handle in handles:
            assert (await handle.outcome(5)).attempts == 1  # by its next incarnation; a counted delivery would say 2
        assert [event.why for event in system.recorder.of(TaskHandedBack)] == ["draining"] * 5


async def test_a_thread_and_a_process_are_let_go_and_no_process_stays(tmp_path):
    before = set(psutil.Process().children())  # servers of other tests
    async with fog(drain_s=0.05) as system:
        thread = await system.submit(tasks.block, "thread")
        process = await system.submit(tasks.stay, tmp_path)
        await eventually((tmp_path / "pid").exists, "the process runs", timeout=10)
        await system.stop()
        assert not psutil.pid_exists(int((tmp_path / "pid").read_text()))
        assert set(await back_in_its_queue(system)) == {thread.id, process.id}
        assert set(psutil.Process().children()) <= before


async def test_a_task_that_fails_because_it_is_cancelled_is_not_to_blame():
    async with fog(drain_s=0.05) as system:
        handle = await system.submit(tasks.stubborn, "a")
        await eventually(lambda: tasks.runs["a"] == 1, "it runs")
        await system.stop()
        assert set(await back_in_its_queue(system)) == {handle.id}
        assert not system.recorder.of(TaskEnded)


async def test_what_is_being_looked_up_goes_back_too():
    async with fog(wrap_coord=lambda coord: Hanging(coord, "result"), roles=("tier-executor",)) as system:
        system.broker.faults.redeliver("tasks.normal")
        await system.submit(tasks.note, "a")
        await system.recorder.wait_for(TaskEnded)
        await eventually(lambda: system.broker.depths()["tasks.normal"].unsettled == 1, "the second delivery")
        await system.stop()
        assert len(await back_in_its_queue(system)) == 1


async def test_a_settling_that_has_begun_is_not_cut_in_two():
    """A retry that was published and not acked, cancelled, would be handed back as well: two copies."""
    async with fog(drain_s=0.05) as system:
        await system.submit(tasks.flaky, "a", 1)
        system.broker.faults.confirm_delay_s = 0.3
        await eventually(lambda: system.ready("retry.1") > 0, "the retry is on its way")
        await system.stop()
        system.broker.faults.confirm_delay_s = 0
        await nothing_in_hand(system)
        await eventually(lambda: not system.ready("retry.1"), "the ladder is empty")
        copies = [decode(delivery.body, Task) for delivery in await system.peek("tasks.normal")]
        assert [task.attempt for task in copies] == [2]


async def test_every_priority_goes_back_to_its_own_queue():
    async with fog(drain_s=0.05) as system:
        for priority in ("high", "normal", "low"):
            await system.submit(tasks.hold.options(priority=priority), priority, "never")
        await system.recorder.wait_for(TaskStarted, count=3)
        await system.stop()
        for queue in ("tasks.high_priority", "tasks.normal", "tasks.low_priority"):
            assert len(await back_in_its_queue(system, queue)) == 1


async def test_a_refused_hand_back_costs_a_delivery_but_loses_nothing():
    async with fog(drain_s=0.05, publish_timeout_s=0.05) as system:
        handle = await system.submit(tasks.hold, "a", "never")
        await system.recorder.wait_for(TaskStarted)
        system.broker.faults.refuse("retry.1")
        await system.stop()
        delivery = (await system.peek("tasks.normal"))[0]
        assert (decode(delivery.body, Task).id, delivery.delivery_count) == (handle.id, 1)


async def test_who_drains_can_be_asked_and_told_to_cancel():
    async with fog(drain_s=30) as system, anyio.create_task_group() as stopping:
        handle = await system.submit(tasks.hold, "a", "never")
        await system.recorder.wait_for(TaskStarted)
        waiting = [await system.submit(tasks.hold, name, "never") for name in "bcdef"]
        stopping.start_soon(system.actors.ref("fogactors/tier-executor-light").ask, StopChild("executor"), 40)
        await system.recorder.wait_for(TaskHandedBack)
        assert (await system.executor().ask(Where(handle.id))).state == "running"
        for each in (handle, *waiting[:3]):
            await system.executor().ask(Cancel(each.id))
        ended = await system.recorder.wait_for(TaskEnded, task_id=handle.id)
        assert ended.state == "cancelled"
    assert system.recorder.of(ActorExited, "fogactors/tier-executor-light/executor")[0].exit.kind == "stopped"


async def test_without_a_connection_a_stop_is_quick():
    async with fog(drain_s=30) as system:
        for name in "abcdef":
            await system.submit(tasks.hold, name, "never")
        await system.recorder.wait_for(TaskStarted, count=4)
        system.broker.faults.down()
        with anyio.fail_after(2):
            await system.stop()
        await nothing_in_hand(system)
        assert system.ready("tasks.normal") == 6


async def test_a_connection_that_goes_in_the_midst_of_a_drain_ends_it():
    async with fog(drain_s=30) as system:
        for name in "abcdef":
            await system.submit(tasks.hold, name, "never")
        await system.recorder.wait_for(TaskStarted, count=4)
        with anyio.fail_after(2):
            async with anyio.create_task_group() as group:
                group.start_soon(system.stop)
                await system.recorder.wait_for(TaskHandedBack)
                system.broker.faults.down()
        await nothing_in_hand(system)


async def test_nobody_who_asks_a_draining_executor_is_left_without_an_answer():
    async with fog(drain_s=30) as system:
        for name in "abcdef":
            await system.submit(tasks.hold, name, "the end of the drain")
        await system.recorder.wait_for(TaskStarted, count=4)
        async with anyio.create_task_group() as group:
            group.start_soon(system.stop)
            await system.recorder.wait_for(TaskHandedBack)
            assert (await system.executor().ask(GetLoad(), timeout=5)).running == 4
            tasks.gate("the end of the drain").set()
        with pytest.raises(ActorDead):
            await system.executor().ask(GetLoad(), timeout=5)


async def test_a_drained_executor_refuses_what_it_must_and_hands_back_the_rest():
    async with fog() as system:
        await publish(system, b"garbage")
        await system.submit(tasks.note, "a")
        await system.stop()
        assert system.ready("dlq") + system.ready("dlq.parked") == 1
        await nothing_in_hand(system)

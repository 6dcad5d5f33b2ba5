"""A consumer that the broker has forgotten is noticed, and another one takes its place."""

import anyio
import pytest

from fogactors.core import ActorExited
from fogactors.tasks.events import ConsumerStalled, TaskEnded
from fogactors.tasks.watchdog import Quiet, answered, look
from fogactors.testing.kit import eventually
from tests.tasks import fog_tasks as tasks
from tests.tasks.harness import fog, settled

LIMIT_S = 10.0


@pytest.mark.parametrize(
    ("now", "received", "has_room", "seen", "remembered", "asks"),
    [
        pytest.param(5, 3, True, None, Quiet(3, 5), False, id="seen for the first time"),
        pytest.param(9, 4, True, Quiet(3, 5), Quiet(4, 9), False, id="something came"),
        pytest.param(14.9, 3, True, Quiet(3, 5), Quiet(3, 5), False, id="not quiet for long enough"),
        pytest.param(15, 3, True, Quiet(3, 5), Quiet(3, 5), True, id="quiet for long"),
        pytest.param(99, 3, False, Quiet(3, 5), Quiet(3, 99), False, id="no room, so nothing is due"),
        pytest.param(7, 3, True, Quiet(3, 5, suspect=True), Quiet(3, 5, suspect=True), True, id="suspected"),
        pytest.param(7, 4, True, Quiet(3, 5, suspect=True), Quiet(4, 7), False, id="wrongly suspected"),
    ],
)
def test_when_the_broker_is_asked(now, received, has_room, seen, remembered, asks):
    assert look(now, received, has_room, seen, LIMIT_S) == (remembered, asks)


@pytest.mark.parametrize(
    ("ready", "seen", "remembered", "stalled"),
    [
        pytest.param(0, Quiet(3, 5), Quiet(3, 20), False, id="nothing to deliver"),
        pytest.param(2, Quiet(3, 5), Quiet(3, 5, suspect=True), False, id="it may be on its way"),
        pytest.param(2, Quiet(3, 5, suspect=True), Quiet(3, 5, suspect=True), True, id="and it still is not here"),
        pytest.param(0, Quiet(3, 5, suspect=True), Quiet(3, 20), False, id="somebody else took it"),
    ],
)
def test_what_a_look_at_the_queue_means(ready, seen, remembered, stalled):
    assert answered(20, ready, seen) == (remembered, stalled)


def subscriptions(system, queue):
    """How many channels are open for it, whether something comes on them or not."""
    return sum(each.queue == queue for client in system.broker._connections for each in client.subscriptions)


def forget(system, queue):
    """What a broker does that loses a consumer: its place is empty, and nobody is told."""
    [consumer] = list(system.broker._queues[queue]._consumers)
    consumer.stop()


@pytest.mark.asyncio
async def test_a_forgotten_consumer_is_replaced_and_what_it_had_delivered_runs_on():
    async with fog(watchdog_s=0.1) as system:
        held = await system.submit(tasks.hold, "held")
        await eventually(lambda: tasks.runs["held"] == 1, "it runs")
        forget(system, "tasks.normal")
        later = [await system.submit(tasks.note, f"later {n}") for n in range(3)]
        event = await system.recorder.wait_for(ConsumerStalled)
        assert (event.queue, event.ready, event.worker) == ("tasks.normal", 3, "node/light")
        assert 0.1 <= event.silent_s < 2
        assert [await handle.result(5) for handle in later] == ["later 0", "later 1", "later 2"]
        tasks.gate("held").set()
        assert await held.result(5) == "held"
        assert tasks.runs["held"] == 1
        await settled(system)
        await eventually(lambda: subscriptions(system, "tasks.normal") == 1, "the old one is closed")
        assert len(system.recorder.of(ConsumerStalled)) == 1


@pytest.mark.asyncio
async def test_an_idle_executor_and_a_busy_one_are_left_alone():
    async with fog(watchdog_s=0.05) as system:
        await anyio.sleep(0.2)
        for n in range(8):  # all its slots are taken and its look-ahead is full, while work waits
            await system.submit(tasks.hold, f"{n}", "all")
        await eventually(lambda: system.ready("tasks.normal") > 0, "more than it may hold")
        await anyio.sleep(0.2)
        tasks.gate("all").set()
        await system.recorder.wait_for(TaskEnded, count=8)
        assert not system.recorder.of(ConsumerStalled)
        assert not system.recorder.of(ActorExited)

"""Behaviour 2: what a restart of the broker costs, and a consumer that the broker forgets."""

from __future__ import annotations

import time
from statistics import median

import anyio
import pytest

from fogactors.core import ActorExited
from fogactors.tasks.events import ConsumerStalled, TaskEnded, TaskStarted
from fogactors.tasks.registry import Registry
from fogactors.tasks.task import task
from fogactors.wire.topology import DLQ, RESULTS_PENDING
from tests.integration.fog import until
from tests.integration.own import Own, consumers, monotonic, running

pytestmark = [pytest.mark.services, pytest.mark.asyncio]

QUEUES = ("tasks.high_priority", "tasks.normal", "tasks.low_priority", DLQ, RESULTS_PENDING)
BACK_S = 15.0
FIRST_DELIVERY_S = 0.5

registry = Registry()


@task(registry=registry)
async def hold(number: int) -> int:
    """Ends with its round."""
    await rounds[number].wait()
    return number


rounds: list[anyio.Event] = []


@pytest.fixture(scope="module")
def own(request):
    with Own.open(request.param) as own:
        yield own


@pytest.mark.parametrize("own", ["4.3"], indirect=True)
async def test_the_first_delivery_comes_soon_after_the_port_of_a_killed_broker_opens_again(own, record_property):
    took: list[float] = []
    async with running(own.services, registry, "tier-executor") as system:
        for number in range(5):
            rounds.append(anyio.Event())
            handles = [await system.submitter.submit(hold, number) for _ in range(8)]
            await system.recorder.wait_for(TaskStarted, count=4)
            boot = await own.restart_broker(kill=True)
            opened = boot.port_open_at - 0.1
            # Those that ran lost their connection and were cancelled; now they start again.
            again = await system.recorder.wait_for(
                TaskStarted, where=lambda event, opened=opened: monotonic(event.at) > opened, timeout=BACK_S
            )
            took.append(monotonic(again.at) - boot.port_open_at)
            rounds[number].set()
            assert [await handle.result(BACK_S) for handle in handles] == [number] * 8
            system.recorder.clear()
    record_property("seconds_to_first_delivery", sorted(round(each, 3) for each in took))
    assert median(took) < FIRST_DELIVERY_S, sorted(took)


@pytest.mark.parametrize(
    ("own", "times"),
    [("4.3", 3), ("4.0", 3), pytest.param("4.3", 20, marks=pytest.mark.slow)],
    indirect=["own"],
)
async def test_each_time_the_broker_restarts_every_consumer_is_back(own, times, record_property):
    took: list[float] = []
    async with running(own.services, registry, "dlq-reaper", "tier-executor") as system:
        for number in range(times):
            boot = await own.restart_broker(kill=number % 2 == 0)
            while (seen := await consumers(own.services, *QUEUES)) != dict.fromkeys(QUEUES, 1):
                assert time.monotonic() - boot.port_open_at < BACK_S, seen
                await anyio.sleep(0.1)
            took.append(time.monotonic() - boot.port_open_at)
            rounds.append(anyio.Event())
            rounds[-1].set()
            assert await (await system.submitter.submit(hold, len(rounds) - 1)).result(BACK_S) == len(rounds) - 1
        assert len(system.recorder.of(ActorExited, "fogactors/tier-executor-light/link")) >= times
        assert len(system.recorder.of(TaskEnded)) == times
    record_property("seconds_until_all_are_back", sorted(round(each, 2) for each in took))


FORGET = """
{ok, Queue} = rabbit_amqqueue:lookup(rabbit_misc:r(<<"/fog">>, queue, <<"tasks.normal">>)),
[{ok, _, _} = ra:process_command(
    amqqueue:get_pid(Queue),
    rabbit_fifo:make_checkout({element(2, Consumer), element(1, Consumer)}, cancel, #{})
) || Consumer <- rabbit_amqqueue:consumers(Queue)], ok.
"""
"""Takes the consumers out of the queue without a word to their channels, as a leader that forgot them would."""


@pytest.mark.parametrize("own", ["4.3", "4.0"], indirect=True)
async def test_a_consumer_that_the_broker_has_forgotten_is_replaced(own, record_property):
    async with running(own.services, registry, "tier-executor") as system:
        rounds.append(anyio.Event())
        held = await system.submitter.submit(hold, len(rounds) - 1)
        await system.recorder.wait_for(TaskStarted)
        assert "ok" in await own.broker.ctl("eval", FORGET)
        forgotten = time.monotonic()
        rounds.append(anyio.Event())
        rounds[-1].set()
        later = await system.submitter.submit(hold, len(rounds) - 1)
        assert await later.result(BACK_S) == len(rounds) - 1
        record_property("seconds_until_replaced", round(time.monotonic() - forgotten, 1))
        assert [event.queue for event in system.recorder.of(ConsumerStalled)] == ["tasks.normal"]
        rounds[-2].set()
        assert await held.result(BACK_S) == len(rounds) - 2

        async def one_is_left() -> bool:
            return await consumers(own.services, "tasks.normal") == {"tasks.normal": 1}

        await until(one_is_left, "the old channel is closed")
        assert not system.recorder.of(ActorExited)

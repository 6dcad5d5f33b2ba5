"""Behaviour 7: a broker that takes the consumer away because a task holds its delivery for too long.

What is set here to a few seconds is half an hour by default, and a task of which that is to be feared is refused where
it is registered. 4.3 takes the consumer away when the time is over, 4.0 closes the channel when it next looks.
"""

from __future__ import annotations

import time

import anyio
import pytest

from fogactors.core import ActorExited
from fogactors.messages import PRIORITIES
from fogactors.tasks.events import DuplicateResult, TaskEnded, TaskStarted
from fogactors.tasks.registry import Registry
from fogactors.tasks.task import task
from tests.integration.own import Own, consumers, running

pytestmark = [pytest.mark.services, pytest.mark.asyncio]

TIMEOUT_S = 3.0
LONG_S = 5.0
AGAIN_S = 15.0
registry = Registry()


@task(registry=registry)
async def sleep(seconds: float) -> float:
    await anyio.sleep(seconds)
    return seconds


@pytest.fixture(params=["4.3", "4.0"])
def own(request):
    with Own.open(request.param, consumer_timeout_ms=int(TIMEOUT_S * 1000)) as own:
        yield own


async def test_a_consumer_that_the_broker_took_away_is_back_and_the_long_task_is_recorded_once(own, record_property):
    async with running(own.services, registry, "tier-executor") as system:
        began = time.monotonic()
        held = await system.submitter.submit(sleep, LONG_S)
        # Nobody else takes tasks, so that it starts again while it runs says both: it was taken away, and the executor
        # consumes again.
        await system.recorder.wait_for(TaskStarted, count=2, timeout=TIMEOUT_S + AGAIN_S)
        record_property("seconds_until_it_consumed_again", round(time.monotonic() - began - TIMEOUT_S, 2))
        assert not system.recorder.of(TaskEnded)
        others = [await system.submitter.submit(sleep.options(priority=each), 0) for each in PRIORITIES]
        assert [await other.result(AGAIN_S) for other in others] == [0, 0, 0]
        assert await held.result(AGAIN_S) == LONG_S
        # Its second run is taken away as well: what comes then is known to be recorded, and so is the run's own end.
        await system.recorder.wait_for(DuplicateResult, count=2, where=lambda event: event.task_id == held.id)
        assert [event.task_id for event in system.recorder.of(TaskEnded)].count(held.id) == 1
        assert not system.recorder.of(ActorExited)
        assert await consumers(own.services, "tasks.normal") == {"tasks.normal": 1}

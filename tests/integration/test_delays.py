"""Behaviour 8: delays by the ten thousand, and through restarts of the broker."""

from __future__ import annotations

import random
import time
from collections import Counter
from pathlib import Path

import anyio
import psutil
import pytest

from fogactors.tasks.client import Handle, Submitter
from fogactors.tasks.retry import step_for
from fogactors.wire.topology import RETRY_STEPS_S, retry_exchange
from tests.integration import worker_tasks as tasks
from tests.integration.fog import Fog, Services, connected, submitting
from tests.integration.own import Own

pytestmark = [pytest.mark.services, pytest.mark.asyncio]

VERSIONS = ("4.3", "4.0")
DAY_S = 24 * 3600.0
LONG_S = 1024
"""Steps from here on give nothing back while a test runs."""
GROWTH_MB = 20
LATE_S = 3.0
"""By how much a short delay may end later than asked for."""


@pytest.fixture(params=VERSIONS)
def own(request):
    with Own.open(request.param) as own:
        yield own


@pytest.fixture
def fog(own, tmp_path, monkeypatch):
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parents[2]))
    fog = Fog(own.services, tmp_path)
    fog.module = tasks.__name__
    yield fog
    fog.clean_up()


async def submit_many(submitter: Submitter, delays_s: list[float]) -> Counter[int]:
    """How many went to each step."""
    rest = iter(delays_s)

    async def some() -> None:
        for delay_s in rest:
            await submitter.submit(tasks.nap.options(delay_s=delay_s), 0)

    async with anyio.create_task_group() as group:
        for _ in range(200):
            group.start_soon(some)
    return Counter(step_for(delay_s, RETRY_STEPS_S) for delay_s in delays_s)


async def submit_short(submitter: Submitter, delay_s: float) -> list[Handle[float]]:
    return [await submitter.submit(tasks.nap.options(delay_s=delay_s), 0) for _ in range(10)]


async def all_on_time(handles: list[Handle[float]], delay_s: float) -> None:
    for handle in handles:
        outcome = await handle.outcome(delay_s + LATE_S)
        took = (outcome.started - outcome.created).total_seconds()
        # A step is the largest that is not longer, and what is early by a second may start.
        assert delay_s - 1 <= took < delay_s + LATE_S, handle


async def long_steps(services: Services) -> Counter[int]:
    async with connected(services) as bus:
        long = [step for step in RETRY_STEPS_S if step >= LONG_S]
        return Counter({step: (await bus.inspect(retry_exchange(step))).ready for step in long})


def only_long(steps: Counter[int]) -> Counter[int]:
    return Counter({step: count for step, count in steps.items() if step >= LONG_S})


@pytest.mark.parametrize("count", [10_000, pytest.param(100_000, marks=pytest.mark.slow)])
async def test_many_delays_cost_an_executor_no_memory_and_hold_up_no_short_one(own, fog, count, record_property):
    executor = await fog.executor()
    memory = psutil.Process(executor.process.pid).memory_info
    rng = random.Random(8)
    async with submitting(own.services) as submitter:
        await all_on_time(await submit_short(submitter, 1.0), 1.0)  # so that all is imported and connected
        before = memory().rss
        began = time.monotonic()
        steps = await submit_many(submitter, [rng.uniform(1, DAY_S) for _ in range(count)])
        record_property("seconds_to_publish", round(time.monotonic() - began, 1))
        await all_on_time(await submit_short(submitter, 1.0), 1.0)
        grown = (memory().rss - before) / 2**20
    record_property("grown_mb", round(grown, 1))
    assert grown < GROWTH_MB
    assert await long_steps(own.services) == only_long(steps)


async def test_delays_survive_restarts_of_the_broker(own, fog):
    await fog.executor()
    rng = random.Random(9)
    steps: Counter[int] = Counter()
    for kill in (True, False):
        async with submitting(own.services) as submitter:
            steps += await submit_many(submitter, [rng.uniform(LONG_S, DAY_S) for _ in range(1_000)])
            short = await submit_short(submitter, 4.0)
        boot = await own.restart_broker(kill=kill)
        async with submitting(own.services) as submitter:
            for handle in short:
                outcome = await submitter.handle(handle.id).outcome(4.0 + LATE_S)
                assert outcome.state == "succeeded"
                assert outcome.started.timestamp() < time.time() - time.monotonic() + boot.port_open_at + 4.0 + LATE_S
        assert await long_steps(own.services) == steps

"""Executors and reapers that kill themselves with SIGKILL between "delivered" and "settled", on a real RabbitMQ.

A failing schedule is printed with its seed. To play it again: FOGACTORS_TEST_CRASH_SEED=<seed> pytest <this file>.
"""

import os
from dataclasses import replace
from urllib.parse import urlsplit

import anyio
import pytest

from tests.integration.crash_play import Schedule, Stage, fast_topology
from tests.integration.fog import Services, apply_topology
from tests.tasks.crash_scenes import CAP

pytestmark = [pytest.mark.services, pytest.mark.versions]

SCENES = (
    *("works", "retried", "gives_up", "expired", "unknown", "garbage", "purged"),
    *("child_died", "children_die", "put_off"),
)
"""Those in which nobody has to do anything meanwhile."""
SEEDS = int(os.environ.get("FOGACTORS_TEST_CRASH_SEED", "0"))
BATCH = 13
FIRST = (*range(14, 53, BATCH), pytest.param(1, marks=pytest.mark.slow))
"""The thirteen from 1 take as long as the others together."""


@pytest.fixture
def services(bare: Services) -> Services:
    """A virtual host and a Redis database of its own: the index of dead letters is of one stream."""
    anyio.run(apply_topology, bare, fast_topology())
    return replace(bare, redis_url=urlsplit(bare.redis_url)._replace(path="/9").geturl())


async def play(services, folder, *schedules):
    async with Stage.open(services, folder) as stage:
        faults = [line for schedule in schedules for line in await stage.play(schedule)]
    assert not faults, "\n".join(faults)
    return stage


@pytest.mark.asyncio
@pytest.mark.parametrize("first", FIRST)
async def test_no_crash_loses_a_task_or_ends_one_twice(services, tmp_path, first):
    schedules = [Schedule.random(seed, SCENES) for seed in range(first, first + BATCH)]
    stage = await play(services, tmp_path, *schedules)
    assert stage.crashes > 0


@pytest.mark.asyncio
async def test_behaviour_9_a_chain_of_retries_stays_within_its_cap_when_each_is_published_and_not_acked(
    services, tmp_path
):
    """The first ack of each process follows the publish of a retry."""
    deaths = [{"name": "delivery.ack", "number": 1, "when": "before"}] * (CAP - 1)
    schedule = Schedule(0, ("gives_up",), {"tier-executor": deaths})
    stage = await play(services, tmp_path, schedule)
    assert stage.crashes == CAP - 1


@pytest.mark.asyncio
@pytest.mark.slow
async def test_hundreds_of_crashes(services, tmp_path):
    await play(services, tmp_path, *(Schedule.random(seed, SCENES) for seed in range(1_000, 1_300)))


@pytest.mark.asyncio
@pytest.mark.skipif(not SEEDS, reason="no FOGACTORS_TEST_CRASH_SEED to play again")
async def test_the_seed_of_the_environment(services, tmp_path):
    await play(services, tmp_path, Schedule.random(SEEDS, SCENES))

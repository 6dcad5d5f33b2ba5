"""Which of several copies of a task may run its attempt: the same on memory and on Redis."""

from dataclasses import replace

import pytest

from fogactors.coord import Copy

pytestmark = pytest.mark.asyncio

COPY = Copy("me-1", generation=0, attempt=2, mark="12:00:01", hops=1)


async def test_the_first_copy_of_an_attempt_begins_and_the_others_do_not(coord, other):
    assert await coord.begin(COPY, ttl_s=60)
    assert not await other.begin(replace(COPY, mark="12:00:02"), ttl_s=60)
    assert not await other.begin(replace(COPY, mark=""), ttl_s=60)


async def test_one_that_is_delivered_again_begins_again(coord, other):
    assert await coord.begin(COPY, ttl_s=60)
    assert await other.begin(COPY, ttl_s=60)


async def test_a_republish_takes_the_place_of_what_it_came_from(coord, other):
    assert await coord.begin(COPY, ttl_s=60)
    assert await other.begin(replace(COPY, hops=2), ttl_s=60)
    assert not await coord.begin(COPY, ttl_s=60)
    assert not await coord.begin(replace(COPY, hops=3, mark="12:00:02"), ttl_s=60)


async def test_a_later_attempt_ends_the_earlier_ones(coord, other):
    later = replace(COPY, attempt=3, mark="12:00:09", hops=2)
    assert await coord.begin(COPY, ttl_s=60)
    assert await coord.begin(later, ttl_s=60)
    assert not await other.begin(COPY, ttl_s=60)
    assert not await other.begin(replace(COPY, hops=7), ttl_s=60)
    assert await other.begin(later, ttl_s=60)


async def test_attempts_are_of_one_task_and_one_generation(coord):
    assert await coord.begin(replace(COPY, attempt=3), ttl_s=60)
    assert await coord.begin(replace(COPY, generation=1, attempt=1, mark=""), ttl_s=60)
    assert await coord.begin(replace(COPY, task_id="me-2", attempt=1, mark=""), ttl_s=60)


async def test_it_is_forgotten_after_its_time(coord, harness):
    assert await coord.begin(COPY, ttl_s=0.3)
    await harness.advance(0.4)
    assert await coord.begin(replace(COPY, mark="12:00:02"), ttl_s=60)

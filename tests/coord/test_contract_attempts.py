"""Which of several copies of a task may run its attempt: the same on memory and on Redis."""

from dataclasses import replace
from functools import partial

import anyio
import pytest

from fogactors.coord import Copy
from tests.coord.test_contract import result

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


# -- with the record: the same id may be submitted again, and it must not be taken for a copy of what has ended

AGAIN = replace(COPY, attempt=1, mark="", hops=0)


async def record(coord):
    assert await coord.record(result(state="failed"), ttl_s=0.3) == "recorded"


async def record_with_others(coord):
    """In one request with another generation of it and with another task."""
    async with anyio.create_task_group() as group:
        group.start_soon(partial(coord.record, result("me-2", generation=1), ttl_s=60))
        group.start_soon(record, coord)
        group.start_soon(partial(coord.record, result("me-3"), ttl_s=60))


async def record_behind_its_end(coord):
    """Begun between another's look-up and its record, it comes to a second end."""
    await coord.record(result(), ttl_s=0.3)
    assert await coord.begin(COPY, ttl_s=60)
    assert await coord.record(result(state="failed"), ttl_s=60) == "duplicate"


async def begin_behind_its_end(coord):
    """And die before another end is recorded."""
    await coord.record(result(), ttl_s=0.3)
    assert await coord.begin(COPY, ttl_s=60)


async def cancel(coord):
    await coord.cancel(result(state="cancelled"), ttl_s=0.3)


@pytest.mark.parametrize("end", [record, record_with_others, record_behind_its_end, begin_behind_its_end, cancel])
async def test_it_is_forgotten_with_the_record_of_the_task(coord, other, harness, end):
    others = [replace(COPY, task_id="me-2", generation=1), replace(COPY, task_id="me-2"), replace(COPY, task_id="me-3")]
    for each in (COPY, replace(COPY, generation=1), *others):
        assert await coord.begin(each, ttl_s=60)
    await end(coord)
    assert not await other.begin(AGAIN, ttl_s=60)
    await harness.advance(0.4)
    assert await other.begin(AGAIN, ttl_s=60)
    for each in (replace(COPY, generation=1), *others):
        assert not await other.begin(replace(each, attempt=1, mark=""), ttl_s=60)


async def test_the_record_of_an_older_generation_does_not_make_it_forgotten(coord, harness):
    await record(coord)
    assert await coord.begin(replace(COPY, generation=1), ttl_s=60)
    await harness.advance(0.4)
    assert not await coord.begin(replace(AGAIN, generation=1), ttl_s=60)


async def test_no_record_of_another_generation_makes_it_forgotten(coord, harness):
    assert await coord.begin(replace(COPY, generation=1), ttl_s=60)
    await record(coord)
    await harness.advance(0.4)
    assert not await coord.begin(replace(AGAIN, generation=1), ttl_s=60)


# -- starts: whose process has died, and whose has said that it lives


def start(name, copy=COPY):
    return replace(copy, start=name)


async def test_each_start_of_a_copy_counts_until_it_is_taken_back(coord, other):
    assert [await coord.begin(start(name), ttl_s=60) for name in ("n1:a", "n2:b", "n3:c")] == [1, 2, 3]
    await other.take_back(start("n2:b"))
    assert await other.begin(start("n4:d"), ttl_s=60) == 3


async def test_a_start_that_is_told_or_taken_back_twice_is_one(coord):
    assert [await coord.begin(start("n1:a"), ttl_s=60) for _ in range(2)] == [1, 1]
    for _ in range(2):
        await coord.take_back(start("n1:a"))
    assert await coord.begin(start("n2:b"), ttl_s=60) == 1


async def test_one_that_is_taken_back_and_was_never_told_is_nothing(coord):
    await coord.take_back(start("n1:a"))
    assert await coord.begin(start("n2:b"), ttl_s=60) == 1


async def test_a_start_that_is_taken_back_behind_another_publish_is_no_trouble(coord, other):
    assert await coord.begin(start("n1:a"), ttl_s=60) == 1
    assert await other.begin(start("n2:b", replace(COPY, hops=2)), ttl_s=60) == 1
    await coord.take_back(start("n1:a"))
    await other.take_back(start("n2:b", replace(COPY, hops=2)))
    assert await other.begin(start("n3:c", replace(COPY, hops=2)), ttl_s=60) == 1


@pytest.mark.parametrize(
    "later", [replace(COPY, hops=2), replace(COPY, attempt=3, mark="12:00:09"), replace(COPY, generation=1)]
)
async def test_the_starts_of_an_earlier_publish_do_not_count_for_the_next(coord, later):
    assert await coord.begin(start("n1:a"), ttl_s=60) == 1
    assert await coord.begin(start("n2:b", later), ttl_s=60) == 1
    await coord.take_back(start("n1:a"))
    assert await coord.begin(start("n3:c", later), ttl_s=60) == 2


async def test_starts_are_forgotten_with_the_record(coord, harness):
    assert await coord.begin(start("n1:a", AGAIN), ttl_s=60) == 1
    await record(coord)
    await harness.advance(0.4)
    assert await coord.begin(start("n2:b", AGAIN), ttl_s=60) == 1

"""What every coordination store does for cancellations and idempotency keys."""

import anyio
import pytest

from fogactors.coord import Claim, Coord, done_channel
from tests.coord.test_contract import result, take

pytestmark = pytest.mark.asyncio


def cancellation(task_id: str = "me-1", **fields):
    return result(task_id, **{"state": "cancelled"} | fields)


# -- cancellations


async def test_a_cancelled_task_is_recorded_remembered_and_told(coord, other):
    async with other.listen(done_channel("me-1")) as notices:
        assert await coord.cancel(cancellation()) == cancellation()
        assert await take(notices, 1) == ["me-1"]
    assert await other.result("me-1") == cancellation()
    assert await other.cancelled() == {"me-1": 0}
    assert await other.record(result()) == "duplicate"  # it ended before it could be stopped


async def test_asking_again_for_a_lost_answer_tells_nobody_again(coord, other):
    async with other.listen(done_channel("me-1")) as notices:
        for _ in range(3):
            assert await coord.cancel(cancellation()) == cancellation()
        await coord.notify(done_channel("me-1"), "next")
        assert await take(notices, 2) == ["me-1", "next"]
    assert await coord.cancelled() == {"me-1": 0}


@pytest.mark.parametrize("state", ["succeeded", "failed", "expired", "worker_lost"])
async def test_what_ended_otherwise_stays_and_nothing_is_remembered(coord, other, state):
    await coord.record(result(state=state))
    assert await other.cancel(cancellation()) == result(state=state)
    assert await other.result("me-1") == result(state=state)
    assert await other.cancelled() == {}


async def test_the_first_cancellation_stands(coord, other):
    await coord.cancel(cancellation(worker="first"))
    assert (await other.cancel(cancellation(worker="second"))).worker == "first"


async def test_what_a_worker_recorded_as_cancelled_is_remembered_too(coord):
    """The broker may deliver it once more, to another worker, when its record has run out."""
    await coord.record(cancellation(worker="w1"))
    assert (await coord.cancel(cancellation(worker="me"))).worker == "w1"
    assert await coord.cancelled() == {"me-1": 0}


async def test_a_replay_is_cancelled_although_the_first_run_failed(coord):
    await coord.record(result(state="failed", generation=0))
    assert await coord.cancel(cancellation(generation=1)) == cancellation(generation=1)
    assert await coord.result("me-1") == cancellation(generation=1)
    assert await coord.cancelled() == {"me-1": 1}


@pytest.mark.parametrize("state", ["succeeded", "cancelled"])
async def test_a_cancellation_of_what_was_replayed_comes_too_late(coord, state):
    replay = result(generation=1, state=state)
    await coord.record(replay)
    assert await coord.cancel(cancellation(generation=0)) == replay
    assert await coord.cancelled() == {}


async def test_the_newest_generation_of_each_task_is_what_is_not_to_be_run(coord, other, harness):
    for generation in (0, 1, 10):
        await coord.cancel(cancellation(generation=generation), ttl_s=1)
    await harness.advance(1.1)  # the record is gone, and an old worker cancels what it still holds
    await other.cancel(cancellation(generation=2))
    await other.cancel(cancellation("you:2-7"))
    assert await coord.cancelled() == {"me-1": 10, "you:2-7": 0}


async def test_a_cancellation_outlives_its_record_and_is_forgotten_after_its_time(coord, harness):
    await coord.cancel(cancellation("me-1"), ttl_s=1, keep_s=60)
    await coord.cancel(cancellation("me-2"), ttl_s=60, keep_s=1)
    await harness.advance(1.1)
    assert await coord.result("me-1") is None
    assert await coord.cancelled() == {"me-1": 0}
    await coord.cancel(cancellation("me-3"))
    assert await coord.cancelled() == {"me-1": 0, "me-3": 0}


async def test_many_cancellations_are_all_read(coord):
    """More than one request of them."""

    async def cancel(numbers: range) -> None:
        for n in numbers:
            await coord.cancel(cancellation(f"me-{n}"))

    async with anyio.create_task_group() as group:
        for start in range(10):
            group.start_soon(cancel, range(start, 2500, 10))
    assert await coord.cancelled() == {f"me-{n}": 0 for n in range(2500)}


# -- idempotency keys


async def test_the_first_task_has_the_key(coord, other):
    assert await coord.claim("k", "me-1", ttl_s=60) == Claim("me-1", confirmed=False)
    assert await other.claim("k", "you-1", ttl_s=60) == Claim("me-1", confirmed=False)
    assert await coord.claim("k", "me-1", ttl_s=60) == Claim("me-1", confirmed=False)
    assert await other.claim("another", "you-1", ttl_s=60) == Claim("you-1", confirmed=False)


async def test_a_confirmed_claim_says_so_to_everybody(coord, other):
    await coord.claim("k", "me-1", ttl_s=60)
    for _ in range(2):
        await coord.confirm("k", "me-1", ttl_s=60)
    for client in (coord, other):
        assert await client.claim("k", "you-1", ttl_s=60) == Claim("me-1", confirmed=True)


async def test_another_confirms_nothing(coord, other):
    await coord.claim("k", "me-1", ttl_s=60)
    await other.confirm("k", "you-1", ttl_s=60)
    assert await coord.claim("k", "me-1", ttl_s=60) == Claim("me-1", confirmed=False)


async def test_a_claim_runs_out_and_asking_does_not_prolong_it(coord, other, harness):
    await coord.claim("k", "me-1", ttl_s=1)
    await other.claim("k", "you-1", ttl_s=60)
    await harness.advance(1.1)
    assert await other.claim("k", "you-1", ttl_s=60) == Claim("you-1", confirmed=False)


async def test_a_confirmation_counts_from_itself(coord, other, harness):
    await coord.claim("k", "me-1", ttl_s=1)
    await coord.confirm("k", "me-1", ttl_s=60)
    await harness.advance(1.1)
    assert await other.claim("k", "you-1", ttl_s=60) == Claim("me-1", confirmed=True)


async def test_a_confirmation_after_its_claim_ran_out_takes_the_key_if_it_is_free(coord, other, harness):
    for key in ("free", "taken"):
        await coord.claim(key, "me-1", ttl_s=1)
    await harness.advance(1.1)
    await other.claim("taken", "you-1", ttl_s=60)
    for key in ("free", "taken"):
        await coord.confirm(key, "me-1", ttl_s=60)
    assert await other.claim("free", "you-2", ttl_s=60) == Claim("me-1", confirmed=True)
    assert await other.claim("taken", "you-2", ttl_s=60) == Claim("you-1", confirmed=False)


async def test_of_many_who_race_for_a_key_one_has_it_and_all_know(coord, other):
    claims: list[Claim] = []

    async def claim(client: Coord, task_id: str) -> None:
        claims.append(await client.claim("k", task_id, ttl_s=60))

    async with anyio.create_task_group() as group:
        for n in range(10):
            group.start_soon(claim, (coord, other)[n % 2], f"me-{n}")
    assert len(claims) == 10
    assert len({each.task_id for each in claims}) == 1

"""What every coordination store does. Only methods of `Coord`; time passes by `harness.advance`."""

import sys
import threading
from datetime import UTC, datetime

import anyio
import msgspec
import pytest

from fogactors.coord import Coord, done_channel
from fogactors.errors import CoordUnavailable, LeaseLost
from fogactors.messages import Beat, ErrorInfo, TaskResult

pytestmark = pytest.mark.asyncio

AT = datetime(2026, 3, 1, 12, 30, 15, 250_000, tzinfo=UTC)


def result(task_id: str = "me-1", **fields) -> TaskResult:
    return TaskResult(
        **{"task_id": task_id, "name": "t", "state": "succeeded", "finished": AT, "worker": "w1"} | fields
    )


def beat(node: str, role: str = "executor", **fields) -> Beat:
    return Beat(node=node, role=role, at=AT, **fields)


async def take(notices, count: int) -> list[str]:
    with anyio.fail_after(5):
        return [await anext(notices) for _ in range(count)]


async def test_is_a_coord(coord):
    assert isinstance(coord, Coord)
    await coord.open(timeout=5)
    await coord.close()
    await coord.close()


async def test_closed_client_is_unavailable_and_others_are_not(coord, other):
    await coord.close()
    with pytest.raises(CoordUnavailable):
        await coord.result("me-1")
    assert await other.result("me-1") is None


# -- results


@pytest.mark.parametrize(
    "given",
    [
        result(value=msgspec.Raw(b'{"a":[1,2]}'), created=AT, started=AT, attempts=2, correlation_id="c"),
        result(state="failed", error=ErrorInfo(type="ValueError", message="no", traceback="...")),
    ],
)
async def test_result_comes_back_as_it_was(coord, other, given):
    assert await coord.record(given) == "recorded"
    assert await other.result("me-1") == given


async def test_unknown_result_is_none(coord):
    assert await coord.result("me-404") is None


async def test_first_result_stays(coord, other):
    await coord.record(result(worker="first"))
    assert await other.record(result(worker="second", state="worker_lost")) == "duplicate"
    assert await coord.record(result(worker="first", attempts=2)) == "duplicate"
    assert (await other.result("me-1")).worker == "first"


async def test_asking_again_for_a_lost_answer_is_no_duplicate(coord):
    assert [await coord.record(result()) for _ in range(3)] == ["recorded"] * 3


@pytest.mark.parametrize(
    ("known", "new", "outcome", "kept"),
    [(0, 1, "recorded", 1), (1, 1, "duplicate", 1), (2, 1, "duplicate", 2), (9, 10, "recorded", 10)],
)
async def test_only_a_newer_generation_replaces(coord, known, new, outcome, kept):
    await coord.record(result(generation=known))
    assert await coord.record(result(generation=new, worker="second")) == outcome
    assert (await coord.result("me-1")).generation == kept


async def test_concurrent_records_are_one(coord, other):
    outcomes: list[str] = []

    async def record(client: Coord, worker: str) -> None:
        outcomes.append(await client.record(result(worker=worker)))

    async with anyio.create_task_group() as group:
        for n in range(10):
            group.start_soon(record, (coord, other)[n % 2], f"w{n}")
    assert sorted(outcomes) == ["duplicate"] * 9 + ["recorded"]


async def test_result_runs_out_and_can_be_recorded_again(coord, harness):
    await coord.record(result("me-1"), ttl_s=1)
    await coord.record(result("me-2"), ttl_s=60)
    await harness.advance(1.1)
    assert await coord.result("me-1") is None
    assert await coord.result("me-2") is not None
    assert await coord.record(result("me-1")) == "recorded"


async def test_duplicate_does_not_prolong(coord, harness):
    await coord.record(result(), ttl_s=1)
    await coord.record(result(), ttl_s=60)
    await harness.advance(1.1)
    assert await coord.result("me-1") is None


async def test_what_is_read_is_a_copy(coord):
    given = result()
    await coord.record(given)
    given.state = "failed"
    (await coord.result("me-1")).state = "expired"
    assert (await coord.result("me-1")).state == "succeeded"


# -- notices


async def test_record_notifies_its_submitter_once(coord, other):
    async with other.listen(done_channel("me-1")) as notices:
        await coord.record(result("me-1"))
        await coord.record(result("me-1"))  # a duplicate is no news
        await coord.record(result("you-1"))  # another submitter
        await coord.record(result("me-2"))
        assert await take(notices, 2) == ["me-1", "me-2"]


async def test_subscription_stands_on_entering_and_replays_nothing(coord, other):
    await coord.notify("c", "before")
    async with other.listen("c") as notices:
        await coord.notify("c", "after")
        assert await take(notices, 1) == ["after"]


async def test_every_listener_of_the_channel_and_no_other(coord, other):
    async with other.listen("a") as one, coord.listen("a") as two, coord.listen("b") as three:
        await coord.notify("a", "1")
        await coord.notify("b", "2")
        assert [await take(each, 1) for each in (one, two, three)] == [["1"], ["1"], ["2"]]


async def test_notices_end_when_their_client_closes(coord, other):
    async with other.listen("a") as notices:
        await coord.notify("a", "last")
        assert await take(notices, 1) == ["last"]
        await other.close()
        with anyio.fail_after(5):
            assert [each async for each in notices] == []


async def test_leaving_the_subscription_ends_it(coord):
    async with coord.listen("a") as notices:
        pass
    await coord.notify("a", "nobody hears it")
    with anyio.fail_after(5):
        assert [each async for each in notices] == []


# -- leases


async def test_one_holder_at_a_time(coord, other):
    lease = await coord.acquire("master", "n1", 30)
    assert (lease.name, lease.owner, lease.ttl_s) == ("master", "n1", 30)
    assert await other.acquire("master", "n2", 30) is None
    assert await other.acquire("another", "n2", 30) is not None
    assert await other.holder("master") == "n1"
    assert await coord.holder("nothing") is None


async def test_own_lease_again_keeps_its_token_and_is_prolonged(coord, harness):
    first = await coord.acquire("master", "n1", 1)
    again = await coord.acquire("master", "n1", 60)
    assert again.token == first.token
    await harness.advance(1.1)
    assert await coord.holder("master") == "n1"


@pytest.mark.parametrize("how", ["released", "run out"])
@pytest.mark.parametrize("next_owner", ["n1", "n2"])
async def test_token_grows_with_every_new_holder(coord, other, harness, how, next_owner):
    tokens = []
    for owner in ("n1", next_owner, "n3"):
        lease = await other.acquire("master", owner, 1)
        tokens.append(lease.token)
        if how == "released":
            await other.release(lease)
        else:
            await harness.advance(1.1)
        assert await coord.holder("master") is None
    assert tokens == sorted(set(tokens))


async def test_renewed_lease_holds(coord, other, harness):
    lease = await coord.acquire("master", "n1", 2)
    for _ in range(2):
        await harness.advance(1.2)
        await coord.renew(lease)
    assert await other.acquire("master", "n2", 2) is None
    await harness.advance(2.1)
    with pytest.raises(LeaseLost):
        await coord.renew(lease)
    assert await coord.holder("master") is None


async def test_old_lease_renews_and_releases_nothing(coord, other, harness):
    old = await coord.acquire("master", "n1", 1)
    await harness.advance(1.1)
    new = await other.acquire("master", "n1", 30)  # the same name, restarted: the token tells them apart
    with pytest.raises(LeaseLost):
        await coord.renew(old)
    await coord.release(old)
    await other.renew(new)
    await other.release(new)
    await other.release(new)
    assert await coord.holder("master") is None


# -- membership


async def test_members(coord, other):
    assert await coord.members("g") == frozenset()
    for member in ("a", "b", "a"):
        await coord.join("g", member)
    await other.join("h", "c")
    assert await other.members("g") == {"a", "b"}
    await other.leave("g", "a")
    await other.leave("g", "nobody")
    await other.leave("no such group", "a")
    assert await coord.members("g") == {"b"}


async def test_leave_with_a_lease_checks_its_token(coord, other, harness):
    for member in ("a", "b"):
        await coord.join("g", member)
    old = await coord.acquire("master", "n1", 1)
    await coord.leave("g", "a", lease=old)
    await harness.advance(1.1)
    with pytest.raises(LeaseLost):
        await coord.leave("g", "b", lease=old)
    new = await other.acquire("master", "n1", 30)
    with pytest.raises(LeaseLost):
        await coord.leave("g", "b", lease=old)
    assert await coord.members("g") == {"b"}
    await other.leave("g", "b", lease=new)
    assert await coord.members("g") == frozenset()


# -- heartbeats


async def test_beats_are_the_last_of_each_node_and_role_in_order(coord, other):
    await coord.beat(beat("n2", "sentinel", lag_s=0.5), 60)
    await coord.beat(beat("n2", running=1), 60)
    await other.beat(beat("n1", "sentinel"), 60)
    await other.beat(beat("n2", running=2, tier="heavy", cpu=1.0), 60)
    assert await coord.beats() == [
        beat("n1", "sentinel"),
        beat("n2", running=2, tier="heavy", cpu=1.0),
        beat("n2", "sentinel", lag_s=0.5),
    ]


async def test_beat_runs_out_unless_renewed(coord, harness):
    await coord.beat(beat("n1"), 1)
    await coord.beat(beat("n2"), 1)
    await coord.beat(beat("n2"), 60)
    await harness.advance(1.1)
    assert [each.node for each in await coord.beats()] == ["n2"]


@pytest.fixture
def eager_threads():
    """Threads take turns so often that a missing lock shows."""
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    yield
    sys.setswitchinterval(before)


@pytest.mark.usefixtures("eager_threads")
async def test_beat_writer_writes_from_threads(coord):
    def write(node: str) -> None:
        writer = coord.beat_writer()
        for n in range(1000):
            writer.write(beat(f"{node}-{n}", running=n), 60)
        writer.close()

    threads = [threading.Thread(target=write, args=(f"n{n}",)) for n in range(3)]
    for thread in threads:
        thread.start()
    with anyio.fail_after(10):
        while any(thread.is_alive() for thread in threads):
            await coord.beats()  # a reader meanwhile must not stumble over the writers
    assert len(await coord.beats()) == 3000


async def test_closed_beat_writer_writes_no_more(coord):
    writer = coord.beat_writer()
    writer.close()
    with pytest.raises(CoordUnavailable):
        writer.write(beat("n1"), 60)
    assert await coord.beats() == []

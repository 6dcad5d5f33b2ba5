"""What only the store in memory has: its faults, its clock and what it keeps."""

from datetime import UTC, datetime

import anyio
import pytest
from msgspec import structs

from fogactors.coord import Claim, Lease, MemoryCoord, MemoryStore, ParkedLetter, done_channel
from fogactors.coord.memory_store import NOTICES_BUFFERED
from fogactors.errors import CoordUnavailable
from fogactors.messages import Beat, DeadLetterFate, TaskResult

pytestmark = pytest.mark.asyncio

AT = datetime(2026, 3, 1, tzinfo=UTC)
BEAT = Beat(node="n1", role="executor", at=AT)
RESULT = TaskResult(task_id="me-1", name="t", state="succeeded", finished=AT)
CANCELLED = TaskResult(task_id="me-2", name="t", state="cancelled", finished=AT)
LETTER = ParkedLetter(id="a", offset=0, reason="failed", first=AT, last=AT)
FATE = DeadLetterFate(id="a", state="replayed", at=AT)
LEASE = Lease("master", "n1", 1, 30.0)

STORING = {
    "record": lambda c: c.record(RESULT),
    "acquire": lambda c: c.acquire("other", "n1", 30),
    "join": lambda c: c.join("g", "a"),
    "beat": lambda c: c.beat(BEAT, 90),
    "broker_beat": lambda c: c.broker_beat("rabbit@n1", 90),
    "cluster_join": lambda c: c.cluster_join("rabbit@n1"),
    "cancel": lambda c: c.cancel(CANCELLED),
    "claim": lambda c: c.claim("k", "me-1", ttl_s=60),
    "confirm": lambda c: c.confirm("k", "me-1", ttl_s=60),
    "apply": lambda c: c.letters.apply(None, [LETTER], 0),
    "mark": lambda c: c.letters.mark(FATE),
}
THE_REST = {
    "result": lambda c: c.result("me-1"),
    "notify": lambda c: c.notify("c", "p"),
    "renew": lambda c: c.renew(LEASE),
    "release": lambda c: c.release(LEASE),
    "holder": lambda c: c.holder("master"),
    "leave": lambda c: c.leave("g", "a", lease=LEASE),
    "members": lambda c: c.members("g"),
    "beats": lambda c: c.beats(),
    "broker_beats": lambda c: c.broker_beats(),
    "cluster_members": lambda c: c.cluster_members(),
    "expire_members": lambda c: c.expire_members(LEASE, 0),
    "cancelled": lambda c: c.cancelled(),
    "position": lambda c: c.letters.position(),
    "get": lambda c: c.letters.get("a"),
    "scan": lambda c: anext(c.letters.scan(), None),
    "count": lambda c: c.letters.count(),
    "sweep": lambda c: c.letters.sweep(AT),
}


async def listen_once(coord):
    async with coord.listen("c"):
        pass


@pytest.fixture
def store() -> MemoryStore:
    return MemoryStore()


@pytest.fixture
def coord(store) -> MemoryCoord:
    return MemoryCoord(store)


@pytest.mark.parametrize(
    "call", [*STORING.values(), *THE_REST.values(), listen_once, MemoryCoord.open], ids=lambda call: None
)
async def test_away_every_method_raises_and_the_state_survives(store, coord, call):
    assert await coord.acquire("master", "n1", 30.0) == LEASE
    store.away = True
    with pytest.raises(CoordUnavailable, match="cannot be reached"):
        await call(coord)
    with pytest.raises(CoordUnavailable):
        coord.beat_writer().write(BEAT, 90)
    store.away = False
    await call(coord)


async def test_listener_outlives_an_outage(store, coord):
    async with coord.listen("c") as notices:
        store.away = True
        with pytest.raises(CoordUnavailable):
            await coord.notify("c", "lost")
        store.away = False
        await coord.notify("c", "heard")
        with anyio.fail_after(5):
            assert await anext(notices) == "heard"


@pytest.mark.parametrize("name", STORING)
async def test_full_refuses_what_it_would_have_to_store(store, coord, name):
    store.full = True
    with pytest.raises(CoordUnavailable, match="full"):
        await STORING[name](coord)
    with pytest.raises(CoordUnavailable, match="full"):
        coord.beat_writer().write(BEAT, 90)
    assert await coord.result("me-1") is None
    assert await coord.members("g") == frozenset()
    assert await coord.beats() == []
    assert await coord.holder("other") is None
    assert await coord.cancelled() == {}
    assert await coord.letters.position() is None


@pytest.mark.parametrize("name", THE_REST)
async def test_full_still_does_the_rest(store, coord, name):
    assert await coord.acquire("master", "n1", 30.0) == LEASE
    store.full = True
    await THE_REST[name](coord)


async def test_dropped_notices_lose_the_notice_not_the_result(store, coord):
    async with coord.listen(done_channel("me-1")) as notices:
        store.drop_notices = True
        assert await coord.record(RESULT) == "recorded"
        store.drop_notices = False
        await coord.notify(done_channel("me-1"), "next")
        with anyio.fail_after(5):
            assert await anext(notices) == "next"
    assert await coord.result("me-1") == RESULT
    assert store.notices_lost == 1


async def test_listener_that_does_not_read_is_bounded(store, coord):
    async with coord.listen("c") as notices:
        for n in range(NOTICES_BUFFERED + 3):
            store.publish("c", str(n))
        with anyio.fail_after(5):
            assert [await anext(notices) for _ in range(2)] == ["0", "1"]
    assert store.notices_lost == 3


async def test_expire_now(store, coord):
    await coord.record(RESULT)
    await coord.beat(BEAT, 90)
    first = await coord.acquire("master", "n1", 30)
    await coord.acquire("other", "n1", 30)

    store.expire_now("leases", "master")
    assert (await coord.holder("master"), await coord.holder("other")) == (None, "n1")
    assert (await coord.acquire("master", "n2", 30)).token > first.token
    assert await coord.beats() == [BEAT]
    assert await coord.result("me-1") == RESULT

    store.expire_now("leases")
    store.expire_now("beats", "n1/executor")
    store.expire_now("results", "me-1")
    assert await coord.holder("other") is None
    assert await coord.beats() == []
    assert await coord.result("me-1") is None


async def test_expire_now_for_keys_and_cancellations(store, coord):
    await coord.claim("k", "me-1", ttl_s=60)
    await coord.cancel(CANCELLED)
    await coord.cancel(structs.replace(CANCELLED, generation=1))
    await coord.letters.apply(None, [LETTER], 0)
    kinds = ("results", "claims", "cancelled", "letters")
    assert [store.sizes()[kind] for kind in kinds] == [1, 1, 2, 1]
    store.expire_now("claims", "k")
    store.expire_now("cancelled", "1:me-2")
    assert await coord.claim("k", "me-9", ttl_s=60) == Claim("me-9", confirmed=False)
    assert await coord.cancelled() == {"me-2": 0}


async def test_results_that_ran_out_are_not_kept():
    now = 0.0
    store = MemoryStore(lambda: now)
    for n in range(1000):
        store.record(TaskResult(task_id=f"me-{n}", name="t", state="succeeded", finished=AT), ttl_s=10)
        now += 1
    assert store.sizes()["results"] == 10


async def test_every_call_lets_others_run(coord):
    """A loop that polls the store must not hold up the task that it waits for."""
    seen: list[object] = []

    async def poll() -> None:
        for _ in range(100):
            seen.append(await coord.result("me-1"))

    async with anyio.create_task_group() as group:
        group.start_soon(poll)
        group.start_soon(coord.record, RESULT)
    assert seen[0] is None
    assert seen[-1] == RESULT

"""The store on Redis when the network, the server or its owner has a bad day: every method ends in time."""

from __future__ import annotations

from datetime import UTC, datetime
from uuid import uuid4

import anyio
import anyio.to_thread
import pytest
from msgspec import structs

from fogactors.coord.base import done_channel
from fogactors.coord.letters import ParkedLetter
from fogactors.coord.redis import RedisCoord
from fogactors.errors import CoordRefused, CoordUnavailable
from fogactors.messages import Beat, DeadLetterFate, TaskResult
from tests.coord.far import client, far, lose_the_answer
from tests.services import RedisServer

pytestmark = [pytest.mark.services, pytest.mark.asyncio]

AT = datetime(2026, 1, 1, tzinfo=UTC)
BEAT = Beat(node="n1", role="heartbeat", at=AT)
LETTER = ParkedLetter(id="a", offset=0, reason="failed", first=AT, last=AT)
FATE = DeadLetterFate(id="a", state="replayed", at=AT)
BOUND_S = 3.3
"""What any method may take when Redis says nothing."""


def result(task_id: str = "") -> TaskResult:
    return TaskResult(task_id=task_id or f"me{uuid4().hex[:6]}-1", name="t", state="succeeded", finished=AT)


def everything(coord: RedisCoord) -> dict:
    async def listen() -> None:
        async with coord.listen("c"):
            pass

    async def scan() -> None:
        async for _ in coord.letters.scan():
            pass

    return {
        "open": lambda: coord.open(30),
        "record": lambda: coord.record(result()),
        "result": lambda: coord.result("me-1"),
        "notify": lambda: coord.notify("c", "1"),
        "listen": listen,
        "cancel": lambda: coord.cancel(structs.replace(result(), state="cancelled")),
        "cancelled": coord.cancelled,
        "claim": lambda: coord.claim(uuid4().hex, "me-1", ttl_s=1),
        "confirm": lambda: coord.confirm(uuid4().hex, "me-1", ttl_s=1),
        "position": coord.letters.position,
        "apply": lambda: coord.letters.apply(None, [LETTER], 0),
        "mark": lambda: coord.letters.mark(FATE),
        "get": lambda: coord.letters.get("a"),
        "scan": scan,
        "count": coord.letters.count,
        "sweep": lambda: coord.letters.sweep(AT),
        "acquire": lambda: coord.acquire(f"l-{uuid4().hex}", "n1", 1),
        "holder": lambda: coord.holder("l"),
        "join": lambda: coord.join("g", "n1"),
        "leave": lambda: coord.leave("g", "n1"),
        "members": lambda: coord.members("g"),
        "beat": lambda: coord.beat(BEAT, 1),
        "beats": coord.beats,
        "broker_beat": lambda: coord.broker_beat("rabbit@n1", 1),
        "broker_beats": coord.broker_beats,
        "writer": lambda: anyio.to_thread.run_sync(write_beat, coord),
    }


def write_beat(coord: RedisCoord) -> None:
    writer = coord.beat_writer()
    try:
        writer.write(BEAT, 1)
    finally:
        writer.close()


async def all_fail(coord: RedisCoord, error: type[Exception], within_s: float) -> dict[str, str]:
    """Every method at once; what each said."""
    said: dict[str, str] = {}

    async def one(name: str, call) -> None:
        began = anyio.current_time()
        with pytest.raises(error) as caught:
            await call()
        assert anyio.current_time() - began < within_s, name
        said[name] = str(caught.value)

    async with anyio.create_task_group() as tasks:
        for name, call in everything(coord).items():
            tasks.start_soon(one, name, call)
    return said


async def all_work(coord: RedisCoord) -> None:
    for call in everything(coord).values():
        await call()


# -- the network


@pytest.mark.parametrize("how", ["stall", "half_open"])
async def test_every_method_ends_in_time_when_redis_is_silent_and_works_again_after(server: RedisServer, how: str):
    async with far(server) as (coord, proxy):
        await all_work(coord)
        getattr(proxy, how)()
        await all_fail(coord, CoordUnavailable, BOUND_S)
        proxy.cut()
        proxy.resume()
        await all_work(coord)


async def test_more_calls_than_connections_end_in_time_too(server: RedisServer):
    async with far(server) as (coord, proxy):
        answers = []

        async def ask() -> None:
            answers.append(await coord.result("me-1"))

        async with anyio.create_task_group() as tasks:
            for _ in range(300):
                tasks.start_soon(ask)
        assert answers == [None] * 300
        assert proxy.connections <= 17
        proxy.stall()
        began, failed = anyio.current_time(), []

        async def fail() -> None:
            with pytest.raises(CoordUnavailable):
                await coord.result("me-1")
            failed.append(anyio.current_time() - began)

        async with anyio.create_task_group() as tasks:
            for _ in range(300):
                tasks.start_soon(fail)
        assert max(failed) < BOUND_S + 0.3
        proxy.resume()
        for _ in range(40):  # no place was lost by those that gave up
            assert await coord.result("me-1") is None


async def test_a_cut_connection_is_mended_within_the_call(server: RedisServer):
    async with far(server) as (coord, proxy):
        for _ in range(3):
            await all_work(coord)
            assert proxy.cut() > 0
            await all_work(coord)


async def test_a_closed_port_is_told_at_once():
    async with client("redis://127.0.0.1:1/0") as coord:
        said = await all_fail(coord, CoordUnavailable, 1.0)
    assert "record a result: ConnectionError" in said["record"]


async def test_a_call_that_is_cancelled_does_not_mix_up_the_answers(server: RedisServer):
    async with far(server) as (coord, proxy):
        ids = [f"mix{uuid4().hex[:6]}-{number}" for number in range(30)]
        for task_id in ids:
            await coord.record(result(task_id))
        proxy.delay_s = 0.01
        for number, task_id in enumerate(ids):
            with anyio.move_on_after(number * 0.002):
                await coord.result(task_id)
            found = await coord.result(task_id)
            assert found is not None
            assert found.task_id == task_id


# -- answers that are lost: redis-py asks again


async def test_a_lost_answer_leaves_one_record_one_token_and_the_same_words(server: RedisServer):
    async with far(server) as (coord, proxy), client(server.url) as other:
        mine = result()

        async with other.listen(done_channel(mine.task_id)) as notices:
            assert await lose_the_answer(proxy, coord.record(mine)) == "recorded"
            assert await coord.record(mine) == "recorded"
            assert await other.record(result(mine.task_id)) == "recorded"  # equal: it may be the same one
            with anyio.fail_after(5):
                assert await anext(notices) == mine.task_id
        name = f"lease-{uuid4().hex}"
        lease = await lose_the_answer(proxy, coord.acquire(name, "n1", 30))
        assert lease is not None
        assert (await coord.acquire(name, "n1", 30)).token == lease.token
        await lose_the_answer(proxy, coord.renew(lease))
        await coord.join("g", "n1")
        await lose_the_answer(proxy, coord.leave("g", "n1", lease=lease))
        await lose_the_answer(proxy, coord.release(lease))
        assert await coord.holder(name) is None
        assert (await coord.acquire(name, "n2", 30)).token == lease.token + 1


# -- listening


async def test_a_listener_outlives_a_cut(server: RedisServer):
    async with far(server) as (coord, proxy), coord.listen("cut") as notices:
        heard: list[str] = []

        async def listen() -> None:
            async for notice in notices:
                heard.append(notice)

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(listen)
            with anyio.fail_after(5):
                for _ in range(2):
                    proxy.cut()
                    heard.clear()
                    while not heard:
                        await coord.notify("cut", "here")
                        await anyio.sleep(0.02)
            tasks.cancel_scope.cancel()


@pytest.mark.parametrize("how", ["stall", "half_open"])
async def test_a_listener_on_a_dead_line_is_told(server: RedisServer, how: str):
    async with far(server) as (coord, proxy), coord.listen("dead") as notices:
        await coord.notify("dead", "before")
        assert await anext(notices) == "before"
        getattr(proxy, how)()
        began = anyio.current_time()
        with pytest.raises(CoordUnavailable):
            await anext(notices)
        assert anyio.current_time() - began < 6
        proxy.cut()
        proxy.resume()
        async with coord.listen("dead") as again:
            await coord.notify("dead", "after")
            assert await anext(again) == "after"


async def test_a_listener_that_hears_nothing_because_nothing_is_said_waits_on(server: RedisServer):
    async with far(server) as (coord, _), coord.listen("still") as notices:
        with anyio.move_on_after(5) as scope:
            await anext(notices)
        assert scope.cancelled_caught
        await coord.notify("still", "now")
        with anyio.fail_after(2):
            assert await anext(notices) == "now"


async def test_a_wait_for_a_notice_that_is_given_up_loses_none(server: RedisServer):
    async with far(server) as (coord, _), coord.listen("slow") as notices:
        heard: list[str] = []
        for number in range(20):
            with anyio.move_on_after(0.01):
                heard.append(await anext(notices))
            await coord.notify("slow", str(number))
        with anyio.fail_after(5):
            while len(heard) < 20:
                heard.append(await anext(notices))
        assert heard == [str(number) for number in range(20)]


# -- the server


async def test_kill_9_and_restart(server: RedisServer):
    async with far(server) as (coord, _):
        mine, name = result(), f"lease-{uuid4().hex}"
        await coord.record(mine)
        lease = await coord.acquire(name, "n1", 60)
        await anyio.sleep(1.1)  # an append-only file is written to disk once a second
        async with coord.listen("kill") as notices:
            await server.kill9()
            await all_fail(coord, CoordUnavailable, 1.0)
            with anyio.fail_after(6), pytest.raises(CoordUnavailable):
                await anext(notices)
        await server.restart()
        assert await coord.result(mine.task_id) == mine
        assert await coord.record(mine) == "recorded"
        await coord.renew(lease)
        await all_work(coord)


async def test_a_wrong_password_is_refused_at_once(server: RedisServer):
    for login in (":wrong@", "nobody:wrong@", ""):
        async with client(f"redis://{login}127.0.0.1:{server.port}/0") as coord:
            said = await all_fail(coord, CoordRefused, 1.0)
            assert "Redis refuses" in said["open"]


async def test_a_missing_permission_is_refused(server: RedisServer):
    async with client(server.url_for("other", "secret")) as coord:
        await coord.open()
        calls = everything(coord)
        del calls["open"]
        for call in calls.values():
            with pytest.raises(CoordRefused, match="Redis refuses"):
                await call()
    async with client(server.url_for("results", "secret")) as coord:
        with pytest.raises(CoordRefused):
            await coord.record(result())


async def test_a_full_store_takes_no_writes_and_gives_what_it_has(server: RedisServer):
    async with far(server) as (coord, _):
        mine, name = result(), f"lease-{uuid4().hex}"
        await coord.record(mine)
        lease = await coord.acquire(name, "n1", 60)
        await coord._client.config_set("maxmemory", "1kb")
        try:
            for write in ("record", "cancel", "claim", "confirm", "mark", "acquire", "join", "beat", "writer"):
                with pytest.raises(CoordUnavailable, match="maxmemory"):
                    await everything(coord)[write]()
            assert await coord.result(mine.task_id) == mine
            assert await coord.record(mine) == "recorded"
            await coord.renew(lease)
            await coord.leave("g", "n1", lease=lease)
            await coord.notify("c", "1")
            await coord.release(lease)
            assert await coord.beats() == []
        finally:
            await coord._client.config_set("maxmemory", "0")
        await all_work(coord)

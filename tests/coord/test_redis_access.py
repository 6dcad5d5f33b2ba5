"""What each role's user may do in a Redis that has the ACL file of ours, and that it may do no more."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterator
from datetime import UTC, datetime
from secrets import token_urlsafe

import anyio
import anyio.to_thread
import pytest
import redis.asyncio
from redis.exceptions import NoPermissionError

from fogactors.coord import CLUSTER_MASTER, CLUSTER_STOPPING, Copy, Lease, ParkedLetter, done_channel
from fogactors.coord.redis import RedisCoord
from fogactors.errors import CoordRefused, LeaseLost
from fogactors.messages import Beat, DeadLetterFate, TaskResult
from fogactors.roles.sentinel.incarnation import incarnation_key
from fogactors.wire.access import ACCESS_ROLES, User
from tests.coord.far import client
from tests.coord.walled import AclRedis
from tests.services import ServiceUnavailable, skip_or_fail

pytestmark = [pytest.mark.services, pytest.mark.asyncio]

AT = datetime(2026, 1, 1, tzinfo=UTC)
BEAT = Beat(node="n1", role="heartbeat", at=AT)
LETTER = ParkedLetter(id="a", offset=0, reason="failed", first=AT, last=AT)
FATE = DeadLetterFate(id="a", state="replayed", at=AT)
RESULT = TaskResult(task_id="me-1", name="t", state="succeeded", finished=AT)
CANCELLED = TaskResult(task_id="me-2", name="t", state="cancelled", finished=AT)
NODE = "rabbit@rabbitmq1"
EVENTS = "fog:cluster:events"
INCARNATION = incarnation_key(NODE)

BEATS = {"beat", "beats", "writer"}
ENDS = {"record", "result", "cancel", "begin", "take_back", "notify_done", "listen_done"}
LETTERS = {"position", "apply", "mark", "get", "scan", "count", "sweep"}
NOTICES = {"notify_events", "listen_events"}
SUBMITS = ENDS | LETTERS | {"cancelled", "claim", "confirm"}
LOOKS = {"cluster_members", "broker_beats", "holder", "holder_stopping", "incarnation"}
CLUSTER = LOOKS | {
    *("acquire", "acquire_stopping", "renew", "release", "cluster_join", "cluster_leave", "expire_members"),
    *("broker_beat", "broker_writer", "incarnation_join", "incarnation_leave"),
}

MAY = {
    "tier-executor": BEATS | ENDS | {"cancelled"},
    "dlq-reaper": BEATS | (ENDS - {"cancel"}) | LETTERS,
    "metrics-sink": BEATS,
    "node-sentinel": BEATS | CLUSTER | NOTICES,
    "heartbeat": BEATS,
    "submitter": SUBMITS,
    "task-submitter": SUBMITS,
    "task-worker": ENDS | {"cancelled"},
    "event-publisher": set(),
    "event-subscriber": {"claim", "confirm"},
    "rpc-caller": set(),
    "rpc-server": set(),
    "operator": SUBMITS | BEATS | LOOKS | NOTICES,
    "admin": SUBMITS | BEATS | CLUSTER | NOTICES,
    "redis-admin": SUBMITS | BEATS | CLUSTER | NOTICES,
}


def operations(coord: RedisCoord) -> dict[str, Callable[[], Awaitable[object]]]:
    lease = Lease(CLUSTER_MASTER, NODE, 99, 1.0)  # a lost one, which is as good for permissions

    async def listen(channel: str) -> None:
        async with coord.listen(channel):
            pass

    async def scan() -> None:
        async for _ in coord.letters.scan():
            pass

    async def lost(call: Awaitable[object]) -> None:
        with pytest.raises(LeaseLost):
            await call

    def write(broker: bool) -> None:
        writer = coord.beat_writer()
        try:
            writer.broker_beat(NODE, 1) if broker else writer.write(BEAT, 1)
        finally:
            writer.close()

    return {
        "record": lambda: coord.record(RESULT),
        "result": lambda: coord.result("me-1"),
        "cancel": lambda: coord.cancel(CANCELLED),
        "cancelled": coord.cancelled,
        "take_back": lambda: coord.take_back(Copy("me-3", 0, 1, "m", 0, "n:a")),
        "begin": lambda: coord.begin(Copy("me-3", 0, 1, "m", 0), ttl_s=60),
        "claim": lambda: coord.claim("k", "me-1", ttl_s=60),
        "confirm": lambda: coord.confirm("k", "me-1", ttl_s=60),
        "notify_done": lambda: coord.notify(done_channel("me-1"), "me-1"),
        "listen_done": lambda: listen(done_channel("me-1")),
        "notify_events": lambda: coord.notify(EVENTS, "{}"),
        "listen_events": lambda: listen(EVENTS),
        "position": coord.letters.position,
        "apply": lambda: coord.letters.apply(None, [LETTER], 0),
        "mark": lambda: coord.letters.mark(FATE),
        "get": lambda: coord.letters.get("a"),
        "scan": scan,
        "count": coord.letters.count,
        "sweep": lambda: coord.letters.sweep(AT),
        "acquire": lambda: coord.acquire(CLUSTER_MASTER, NODE, 1),
        "acquire_stopping": lambda: coord.acquire(CLUSTER_STOPPING, NODE, 1),
        "renew": lambda: lost(coord.renew(lease)),
        "release": lambda: coord.release(lease),
        "holder": lambda: coord.holder(CLUSTER_MASTER),
        "holder_stopping": lambda: coord.holder(CLUSTER_STOPPING),
        "cluster_join": lambda: coord.cluster_join(NODE),
        "cluster_leave": lambda: lost(coord.cluster_leave(NODE, lease=lease)),
        "cluster_members": coord.cluster_members,
        "incarnation": lambda: coord.members(INCARNATION),
        "incarnation_join": lambda: coord.join(INCARNATION, "1"),
        "incarnation_leave": lambda: coord.leave(INCARNATION, "1"),
        "expire_members": lambda: lost(coord.expire_members(lease, 0)),
        "broker_beat": lambda: coord.broker_beat(NODE, 1),
        "broker_beats": coord.broker_beats,
        "broker_writer": lambda: anyio.to_thread.run_sync(write, True),
        "beat": lambda: coord.beat(BEAT, 1),
        "beats": coord.beats,
        "writer": lambda: anyio.to_thread.run_sync(write, False),
    }


@pytest.fixture(scope="module")
def walled() -> Iterator[AclRedis]:
    server = AclRedis({role: User(role, (role,), (), token_urlsafe(12)) for role in ACCESS_ROLES})
    try:
        anyio.run(server.start)
    except ServiceUnavailable as error:
        skip_or_fail(error)
    yield server
    anyio.run(server.stop, 0)


@pytest.mark.parametrize("role", ACCESS_ROLES)
async def test_a_role_may_do_what_it_needs_and_nothing_else(walled: AclRedis, role: str):
    async with client(walled.url_of(role)) as coord:
        await coord.open()
        allowed: set[str] = set()
        for name, call in operations(coord).items():
            try:
                await call()
            except CoordRefused:
                continue
            allowed.add(name)
        assert allowed == MAY[role]


async def test_nobody_gets_in_without_a_name_or_with_a_wrong_password(walled: AclRedis):
    for login in ("", f":{walled.password}@", "default:x@", "operator:wrong@"):
        async with client(f"redis://{login}127.0.0.1:{walled.port}/0") as coord:
            with pytest.raises(CoordRefused):
                await coord.open()


DANGEROUS = (
    ("FLUSHALL",),
    ("FLUSHDB",),
    ("CONFIG", "GET", "*"),
    ("CONFIG", "SET", "maxmemory", "1"),
    ("ACL", "LIST"),
    ("REPLICAOF", "NO", "ONE"),
    ("MODULE", "LIST"),
    ("SHUTDOWN", "NOSAVE"),
    ("SCRIPT", "FLUSH"),
)


@pytest.mark.parametrize("role", ACCESS_ROLES)
async def test_what_can_ruin_it_is_refused(walled: AclRedis, role: str):
    async with redis.asyncio.from_url(walled.url_of(role)) as raw:
        for words in DANGEROUS:
            if words[0] != "SCRIPT" or not role.endswith("admin"):
                with pytest.raises(NoPermissionError):
                    await raw.execute_command(*words)
        for words in (("KEYS", "*"), ("SCAN", "0"), ("INFO",), ("CLIENT", "LIST"), ("BGSAVE",)):
            if not role.endswith("admin"):
                with pytest.raises(NoPermissionError):
                    await raw.execute_command(*words)


async def test_who_looks_after_redis_may_save_and_see_who_is_connected(walled: AclRedis):
    async with redis.asyncio.from_url(walled.url_of("redis-admin")) as raw:
        assert (await raw.info("server"))["redis_version"]
        assert await raw.client_list()
        assert await raw.bgrewriteaof()


async def test_keys_of_others_are_closed_also_to_a_script(walled: AclRedis):
    async with redis.asyncio.from_url(walled.url_of("tier-executor")) as raw:
        for key in ("rabbitmq:cluster:master", "fog:once:k", "fog:dlq:letters", "other"):
            for words in (("SET", key, "x"), ("GET", key), ("EVAL", "return redis.call('GET', ARGV[1])", 0, key)):
                with pytest.raises(redis.exceptions.ResponseError, match=r"[Pp]ermission|ACL"):
                    await raw.execute_command(*words)

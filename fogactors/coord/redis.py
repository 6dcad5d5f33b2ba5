"""The coordination store on Redis 8.

What each thing is there: a result is the JSON of a `TaskResult` under `fog:result:<id>`; a lease is a string (its
owner) under its own name, with its fencing counter under `fog:fence:<name>`; a group is a set; a beat is JSON under
`fog:beat:<node>:<role>`, listed in the set `fog:beats`; an idempotency key is a string under `fog:once:<key>`;
`fog:cancelled` is a sorted set; a broker node's heartbeat is a string under `rabbitmq:node:<node>:heartbeat`, listed
in the set `fog:brokers`; the dead letters' index is described in `scripts_letters.py`. Redis must not evict
(`maxmemory-policy noeviction`).
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Awaitable, Callable, Generator
from contextlib import asynccontextmanager, contextmanager
from typing import Any, Final, cast

import anyio
import redis
import redis.asyncio
from redis.asyncio.retry import Retry as AsyncRetry
from redis.backoff import ExponentialBackoff
from redis.exceptions import ConnectionError  # noqa: A004
from redis.retry import Retry

from fogactors.coord import scripts
from fogactors.coord.base import (
    CANCEL_KEEP_S,
    RESULT_TTL_S,
    BeatWriter,
    Claim,
    Copy,
    Lease,
    Notices,
    Recorded,
    done_channel,
)
from fogactors.coord.cluster import CLUSTER_MEMBERS, CLUSTER_WATCH, ClusterMembers
from fogactors.coord.group_commit import GroupCommit
from fogactors.coord.letters import LetterIndex
from fogactors.coord.redis_bounds import ANSWER_TIMEOUT_S, CONNECT_TIMEOUT_S, in_time, quietly, translated
from fogactors.coord.redis_letters import RedisLetters
from fogactors.coord.redis_notices import RedisNotices, wait_subscribed
from fogactors.errors import CoordUnavailable, LeaseLost, WireError
from fogactors.messages import Beat, TaskResult
from fogactors.wire.codec import decode, encode

__all__ = ["RedisCoord"]

RETRIES: Final = 1
"""Of redis-py's own, because a pooled connection may be dead without knowing. Only after a broken connection: to ask
a store again that does not answer would make one that is away look slow instead (redis-py's default is 10)."""
CONNECTIONS: Final = 16
"""At once, beside those that listen. Redis does one thing at a time, so more of them wait there instead of here; and at
100 redis-py raises."""
BEATS: Final = "fog:beats"
BROKERS: Final = "fog:brokers"
CANCELLED: Final = "fog:cancelled"
CANCELLED_BATCH: Final = 2000
"""Cancellations that one request reads, so that none holds up the store."""


class RedisCoord(ClusterMembers):
    """One client of the store; implements `Coord`. `url`: `redis://user:password@host:6379/0`. Raises
    `CoordRefused` for what no waiting will mend: a wrong password, a missing permission."""

    def __init__(self, url: str, *, name: str = "fogactors") -> None:
        self._url = url
        self._name = name
        self._client = self._connect()
        self._slots = anyio.Semaphore(CONNECTIONS)
        self._closed = False
        self._subscriptions: set[RedisNotices] = set()
        self._recording: GroupCommit[tuple[list[str], list[Any]], int] = GroupCommit(self._record_all)
        self._letters = RedisLetters(self._script)

    def _connect(self) -> redis.asyncio.Redis:
        return redis.asyncio.Redis.from_url(  # pyright: ignore[reportUnknownMemberType]
            self._url,
            client_name=self._name,
            socket_connect_timeout=CONNECT_TIMEOUT_S,
            socket_timeout=ANSWER_TIMEOUT_S,
            retry=AsyncRetry(ExponentialBackoff(cap=0.1, base=0.05), RETRIES, supported_errors=(ConnectionError,)),
        )

    async def open(self, timeout: float = 10.0) -> None:
        self._closed = False
        try:
            with anyio.fail_after(timeout):
                async with self._reach("connect to Redis"):
                    await cast("Awaitable[Any]", self._client.ping())  # pyright: ignore[reportUnknownMemberType]
        except TimeoutError:
            raise CoordUnavailable(f"Redis did not answer within {timeout:g} s") from None

    async def close(self) -> None:
        self._closed = True
        for notices in self._subscriptions:
            notices.closed = True
        with anyio.move_on_after(ANSWER_TIMEOUT_S), translated("disconnect from Redis"):
            await self._client.aclose()

    # -- results

    async def record(self, result: TaskResult, *, ttl_s: float = RESULT_TTL_S) -> Recorded:
        write = (
            [_result_key(result.task_id), _attempt_key(result.generation, result.task_id)],
            [encode(result), result.generation, _ms(ttl_s), done_channel(result.task_id), result.task_id],
        )
        with self._bounded("record a result"):
            recorded = await self._recording(write)
        return "recorded" if recorded else "duplicate"

    async def _record_all(self, writes: list[tuple[list[str], list[Any]]]) -> list[int | Exception]:
        keys = [key for keys, _ in writes for key in keys]
        args = [arg for _, args in writes for arg in args]
        async with self._slots:
            return await cast("Awaitable[list[int | Exception]]", self._run(scripts.RECORD)(keys=keys, args=args))

    async def result(self, task_id: str) -> TaskResult | None:
        async with self._reach("read a result"):
            body = cast("bytes | None", await self._client.get(_result_key(task_id)))
        return None if body is None else decode(body, TaskResult)

    # -- cancellations

    async def cancel(
        self, result: TaskResult, *, ttl_s: float = RESULT_TTL_S, keep_s: float = CANCEL_KEEP_S
    ) -> TaskResult:
        task_id = result.task_id
        standing = await self._script(
            "cancel a task",
            scripts.CANCEL,
            [_result_key(task_id), CANCELLED, _attempt_key(result.generation, task_id)],
            [encode(result), result.generation, _ms(ttl_s), done_channel(task_id), task_id, _ms(keep_s)],
        )
        return decode(standing, TaskResult)

    async def cancelled(self) -> dict[str, int]:
        found: dict[str, int] = {}
        cursor = "0"
        while True:
            cursor, members = await self._script(
                "read the cancellations", scripts.CANCELLED, [CANCELLED], [cursor, CANCELLED_BATCH]
            )
            for member in members:
                generation, _, task_id = member.decode(errors="replace").partition(":")
                if generation.isdecimal() and task_id:
                    found[task_id] = max(int(generation), found.get(task_id, 0))
            if int(cursor) == 0:
                return found

    # -- idempotency keys

    async def claim(self, key: str, task_id: str, *, ttl_s: float) -> Claim:
        held = await self._script("claim an idempotency key", scripts.CLAIM, [_once(key)], [task_id, _ms(ttl_s)])
        state, _, holder = held.decode().partition(":")
        return Claim(holder, confirmed=state == "c")

    async def confirm(self, key: str, task_id: str, *, ttl_s: float) -> None:
        await self._script("confirm an idempotency key", scripts.CONFIRM, [_once(key)], [task_id, _ms(ttl_s)])

    # -- attempts

    async def begin(self, copy: Copy, *, ttl_s: float) -> int:
        keys = [_attempt_key(copy.generation, copy.task_id), _result_key(copy.task_id), _starts_key(copy)]
        args = [copy.attempt, copy.mark, copy.hops, _ms(ttl_s), copy.generation, copy.start]
        return int(await self._script("begin an attempt", scripts.BEGIN, keys, args))

    async def take_back(self, copy: Copy) -> None:
        async with self._reach("take a start back"):
            await cast("Awaitable[Any]", self._client.srem(_starts_key(copy), copy.start))

    # -- dead letters

    @property
    def letters(self) -> LetterIndex:
        return self._letters

    # -- notices

    async def notify(self, channel: str, payload: str) -> None:
        async with self._reach("notify"):
            await cast("Awaitable[Any]", self._client.publish(channel, payload))  # pyright: ignore[reportUnknownMemberType]

    @asynccontextmanager
    async def listen(self, channel: str) -> AsyncGenerator[Notices]:
        pubsub = self._client.pubsub()  # pyright: ignore[reportUnknownMemberType]
        notices = RedisNotices(pubsub)
        self._subscriptions.add(notices)
        try:
            async with self._reach("listen"):
                await pubsub.subscribe(channel)  # pyright: ignore[reportUnknownMemberType]
                await wait_subscribed(pubsub)
            yield notices
        finally:
            self._subscriptions.discard(notices)
            notices.closed = True
            with anyio.move_on_after(ANSWER_TIMEOUT_S, shield=True), quietly():
                await pubsub.aclose()

    # -- leases

    async def acquire(self, name: str, owner: str, ttl_s: float) -> Lease | None:
        token = await self._script("acquire a lease", scripts.ACQUIRE, [name, _fence(name)], [owner, _ms(ttl_s)])
        return Lease(name, owner, int(token), ttl_s) if token else None

    async def renew(self, lease: Lease) -> None:
        renewed = await self._script(
            "renew a lease",
            scripts.RENEW,
            [lease.name, _fence(lease.name)],
            [lease.owner, lease.token, _ms(lease.ttl_s)],
        )
        if not renewed:
            raise _lost(lease)

    async def release(self, lease: Lease) -> None:
        await self._script(
            "release a lease", scripts.RELEASE, [lease.name, _fence(lease.name)], [lease.owner, lease.token]
        )

    async def holder(self, name: str) -> str | None:
        async with self._reach("read a lease"):
            owner = cast("bytes | None", await self._client.get(name))
        return None if owner is None else owner.decode()

    # -- membership and heartbeats

    async def join(self, group: str, member: str) -> None:
        async with self._reach("join a group"):
            await cast("Awaitable[Any]", self._client.sadd(group, member))

    async def leave(self, group: str, member: str, *, lease: Lease | None = None) -> None:
        if lease is None:
            async with self._reach("leave a group"):
                await cast("Awaitable[Any]", self._client.srem(group, member))
            return
        keys = [group, lease.name, _fence(lease.name)]
        if not await self._script("leave a group", scripts.LEAVE, keys, [member, lease.owner, lease.token]):
            raise _lost(lease)

    async def members(self, group: str) -> frozenset[str]:
        async with self._reach("read a group"):
            found = await cast("Awaitable[set[bytes]]", self._client.smembers(group))
        return frozenset(member.decode() for member in found)

    async def beat(self, beat: Beat, ttl_s: float) -> None:
        key = _beat_key(beat)
        async with self._reach("write a beat"), self._client.pipeline(transaction=True) as pipe:
            pipe.set(key, encode(beat), px=_ms(ttl_s))
            pipe.sadd(BEATS, key)
            await pipe.execute()

    async def beats(self) -> list[Beat]:
        async with self._reach("read the beats"):
            keys = sorted(await cast("Awaitable[set[bytes]]", self._client.smembers(BEATS)))
            bodies = cast("list[bytes | None]", await self._client.mget(keys)) if keys else []
            gone = [key for key, body in zip(keys, bodies, strict=True) if body is None]
            if gone:
                await cast("Awaitable[Any]", self._client.srem(BEATS, *gone))
        found: list[Beat] = []
        for body in bodies:
            try:
                if body is not None:
                    found.append(decode(body, Beat))
            except WireError:
                continue  # somebody else's key; a node that cannot be read is a node that does not beat
        return sorted(found, key=lambda beat: (beat.node, beat.role))

    def beat_writer(self) -> BeatWriter:
        return _BeatWriter(self._url, self._name)

    # -- the broker cluster

    async def broker_beat(self, node: str, ttl_s: float) -> None:
        await self._script(
            "write a broker's beat", scripts.BROKER_BEAT, [_broker_key(node), BROKERS], [node, _ms(ttl_s)]
        )

    async def broker_beats(self) -> frozenset[str]:
        async with self._reach("read the brokers' beats"):
            # The members too, because one that beats by a script of its own is in no list of ours.
            lists = self._client.sunion([BROKERS, CLUSTER_MEMBERS])  # pyright: ignore[reportUnknownMemberType]
            nodes = sorted(node.decode() for node in await cast("Awaitable[set[bytes]]", lists))
            beats = cast("list[Any]", await self._client.mget([_broker_key(node) for node in nodes])) if nodes else []
        return frozenset(node for node, beat in zip(nodes, beats, strict=True) if beat is not None)

    async def expire_members(self, lease: Lease, looked_s: float) -> list[str]:
        keys = [CLUSTER_MEMBERS, BROKERS, lease.name, _fence(lease.name), CLUSTER_WATCH]
        args = [lease.owner, lease.token, round(looked_s * 1000)]
        gone = await self._script("expire members", scripts.EXPIRE_MEMBERS, keys, args)
        if gone is None:
            raise _lost(lease)
        return sorted(node.decode() for node in gone)

    @asynccontextmanager
    async def _reach(self, what: str) -> AsyncGenerator[None]:
        with self._bounded(what):
            async with self._slots:
                yield

    @contextmanager
    def _bounded(self, what: str) -> Generator[None]:
        if self._closed:  # redis-py would connect again
            raise CoordUnavailable(f"{what}: this client is closed")
        with in_time(what), translated(what):
            yield

    async def _script(self, what: str, script: str, keys: list[str], args: list[Any]) -> Any:
        async with self._reach(what):
            return await cast("Awaitable[Any]", self._run(script)(keys=keys, args=args))

    def _run(self, script: str) -> Callable[..., Any]:
        return self._client.register_script(script)


class _BeatWriter:
    """A blocking client of its own, for the thread that beats."""

    def __init__(self, url: str, name: str) -> None:
        self._closed = False
        self._client = redis.Redis.from_url(  # pyright: ignore[reportUnknownMemberType]
            url,
            client_name=f"{name}-beat",
            socket_connect_timeout=CONNECT_TIMEOUT_S,
            socket_timeout=ANSWER_TIMEOUT_S,
            retry=Retry(ExponentialBackoff(cap=0.1, base=0.05), RETRIES, supported_errors=(ConnectionError,)),
        )

    def write(self, beat: Beat, ttl_s: float) -> None:
        if self._closed:  # redis-py would connect again
            raise CoordUnavailable("write a beat: this writer is closed")
        key = _beat_key(beat)
        with translated("write a beat"), self._client.pipeline(transaction=True) as pipe:  # pyright: ignore[reportUnknownMemberType]
            pipe.set(key, encode(beat), px=_ms(ttl_s))
            pipe.sadd(BEATS, key)
            pipe.execute()

    def broker_beat(self, node: str, ttl_s: float) -> None:
        if self._closed:
            raise CoordUnavailable("write a broker's beat: this writer is closed")
        with translated("write a broker's beat"):
            beat = self._client.register_script(scripts.BROKER_BEAT)
            beat(keys=[_broker_key(node), BROKERS], args=[node, _ms(ttl_s)])

    def close(self) -> None:
        self._closed = True
        self._client.close()


def _result_key(task_id: str) -> str:
    return f"fog:result:{task_id}"


def _attempt_key(generation: int, task_id: str) -> str:
    return f"fog:attempt:{generation}:{task_id}"


def _starts_key(copy: Copy) -> str:
    return f"fog:attempt:starts:{copy.generation}:{copy.task_id}"


def _beat_key(beat: Beat) -> str:
    return f"fog:beat:{beat.node}:{beat.role}"


def _broker_key(node: str) -> str:
    return f"rabbitmq:node:{node}:heartbeat"


def _once(key: str) -> str:
    return f"fog:once:{key}"


def _fence(name: str) -> str:
    return f"fog:fence:{name}"


def _ms(seconds: float) -> int:
    return max(1, int(seconds * 1000))


def _lost(lease: Lease) -> LeaseLost:
    return LeaseLost(f"lease {lease.name!r} of {lease.owner!r} is held by another, or it has run out")

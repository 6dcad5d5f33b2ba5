"""The coordination store on Redis 8.

What each thing is there: a result is the JSON of a `TaskResult` under `fog:result:<id>`; a lease is a string (its
owner) under its own name, with its fencing counter beside it; a group is a set; a beat is JSON under
`fog:beat:<node>:<role>`, listed in the set `fog:beats`. Redis must not evict (`maxmemory-policy noeviction`).
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Awaitable, Callable, Generator
from contextlib import asynccontextmanager, contextmanager
from typing import Any, Final, TypeVar, cast

import anyio
import redis
import redis.asyncio
from redis.asyncio.client import PubSub
from redis.asyncio.retry import Retry as AsyncRetry
from redis.backoff import ExponentialBackoff
from redis.exceptions import AuthenticationError, NoPermissionError, RedisError
from redis.retry import Retry

from fogactors.coord import scripts
from fogactors.coord.base import RESULT_TTL_S, BeatWriter, Lease, Notices, Recorded, done_channel
from fogactors.errors import CoordRefused, CoordUnavailable, LeaseLost, WireError
from fogactors.messages import Beat, TaskResult
from fogactors.wire.codec import decode, encode

__all__ = ["RedisCoord"]

CONNECT_TIMEOUT_S: Final = 1.0
ANSWER_TIMEOUT_S: Final = 2.0
RETRIES: Final = 2
"""Of redis-py's own; its default of 10 would make a store that is away look slow instead."""
POLL_S: Final = 1.0
"""How long a listener waits in one go, so that a closed one is noticed."""

BEATS: Final = "fog:beats"

T = TypeVar("T")


@contextmanager
def _translated(what: str) -> Generator[None]:
    try:
        yield
    except (AuthenticationError, NoPermissionError) as error:
        raise CoordRefused(f"{what}: Redis refuses: {error}") from error
    except (RedisError, OSError) as error:
        if "NOPERM" in str(error):  # inside a script it is a plain ResponseError
            raise CoordRefused(f"{what}: Redis refuses: {error}") from error
        raise CoordUnavailable(f"{what}: {type(error).__name__}: {error}") from error


class RedisCoord:
    """One client of the store; implements `Coord`. `url`: `redis://user:password@host:6379/0`. Raises
    `CoordRefused` for what no waiting will mend: a wrong password, a missing permission."""

    def __init__(self, url: str, *, name: str = "fogactors") -> None:
        self._url = url
        self._name = name
        self._client = self._connect()
        self._closed = False
        self._subscriptions: set[_Notices] = set()

    def _connect(self) -> redis.asyncio.Redis:
        return redis.asyncio.Redis.from_url(  # pyright: ignore[reportUnknownMemberType]
            self._url,
            client_name=self._name,
            socket_connect_timeout=CONNECT_TIMEOUT_S,
            socket_timeout=ANSWER_TIMEOUT_S,
            retry=AsyncRetry(ExponentialBackoff(cap=0.5, base=0.05), RETRIES),
        )

    async def open(self, timeout: float = 10.0) -> None:
        self._closed = False
        try:
            with anyio.fail_after(timeout), self._reach("connect to Redis"):
                await cast("Awaitable[Any]", self._client.ping())  # pyright: ignore[reportUnknownMemberType]
        except TimeoutError:
            raise CoordUnavailable(f"Redis did not answer within {timeout:g} s") from None

    async def close(self) -> None:
        self._closed = True
        for notices in self._subscriptions:
            notices.closed = True
        with anyio.move_on_after(ANSWER_TIMEOUT_S), _translated("disconnect from Redis"):
            await self._client.aclose()

    # -- results

    async def record(self, result: TaskResult, *, ttl_s: float = RESULT_TTL_S) -> Recorded:
        recorded = await self._script(
            "record a result",
            scripts.RECORD,
            [_result_key(result.task_id)],
            [encode(result), result.generation, _ms(ttl_s), done_channel(result.task_id), result.task_id],
        )
        return "recorded" if recorded else "duplicate"

    async def result(self, task_id: str) -> TaskResult | None:
        with self._reach("read a result"):
            body = cast("bytes | None", await self._client.get(_result_key(task_id)))
        return None if body is None else decode(body, TaskResult)

    # -- notices

    async def notify(self, channel: str, payload: str) -> None:
        with self._reach("notify"):
            await cast("Awaitable[Any]", self._client.publish(channel, payload))  # pyright: ignore[reportUnknownMemberType]

    @asynccontextmanager
    async def listen(self, channel: str) -> AsyncGenerator[Notices]:
        pubsub = self._client.pubsub()  # pyright: ignore[reportUnknownMemberType]
        notices = _Notices(pubsub)
        self._subscriptions.add(notices)
        try:
            with self._reach("listen"):
                await pubsub.subscribe(channel)  # pyright: ignore[reportUnknownMemberType]
                await _answer(pubsub, "subscribe")
            yield notices
        finally:
            self._subscriptions.discard(notices)
            notices.closed = True
            with anyio.move_on_after(ANSWER_TIMEOUT_S, shield=True), _quietly():
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
        with self._reach("read a lease"):
            owner = cast("bytes | None", await self._client.get(name))
        return None if owner is None else owner.decode()

    # -- membership and heartbeats

    async def join(self, group: str, member: str) -> None:
        with self._reach("join a group"):
            await cast("Awaitable[Any]", self._client.sadd(group, member))

    async def leave(self, group: str, member: str, *, lease: Lease | None = None) -> None:
        if lease is None:
            with self._reach("leave a group"):
                await cast("Awaitable[Any]", self._client.srem(group, member))
            return
        keys = [group, lease.name, _fence(lease.name)]
        if not await self._script("leave a group", scripts.LEAVE, keys, [member, lease.owner, lease.token]):
            raise _lost(lease)

    async def members(self, group: str) -> frozenset[str]:
        with self._reach("read a group"):
            found = await cast("Awaitable[set[bytes]]", self._client.smembers(group))
        return frozenset(member.decode() for member in found)

    async def beat(self, beat: Beat, ttl_s: float) -> None:
        key = _beat_key(beat)
        with self._reach("write a beat"):
            async with self._client.pipeline(transaction=True) as pipe:
                pipe.set(key, encode(beat), px=_ms(ttl_s))
                pipe.sadd(BEATS, key)
                await pipe.execute()

    async def beats(self) -> list[Beat]:
        with self._reach("read the beats"):
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

    @contextmanager
    def _reach(self, what: str) -> Generator[None]:
        if self._closed:  # redis-py would connect again
            raise CoordUnavailable(f"{what}: this client is closed")
        with _translated(what):
            yield

    async def _script(self, what: str, script: str, keys: list[str], args: list[Any]) -> Any:
        with self._reach(what):
            return await cast("Awaitable[Any]", self._run(script)(keys=keys, args=args))

    def _run(self, script: str) -> Callable[..., Any]:
        return self._client.register_script(script)


class _Notices:
    """One subscription. redis-py subscribes again by itself after a break; what was sent meanwhile is gone."""

    def __init__(self, pubsub: PubSub) -> None:
        self.closed = False
        self._pubsub = pubsub

    def __aiter__(self) -> _Notices:
        return self

    async def __anext__(self) -> str:
        while not self.closed:
            with _translated("listen"):
                message = await _next(self._pubsub)
            if message is not None and message["type"] == "message":
                return cast("bytes", message["data"]).decode()
        raise StopAsyncIteration


class _BeatWriter:
    """A blocking client of its own, for the thread that beats."""

    def __init__(self, url: str, name: str) -> None:
        self._closed = False
        self._client = redis.Redis.from_url(  # pyright: ignore[reportUnknownMemberType]
            url,
            client_name=f"{name}-beat",
            socket_connect_timeout=CONNECT_TIMEOUT_S,
            socket_timeout=ANSWER_TIMEOUT_S,
            retry=Retry(ExponentialBackoff(cap=0.5, base=0.05), RETRIES),
        )

    def write(self, beat: Beat, ttl_s: float) -> None:
        if self._closed:  # redis-py would connect again
            raise CoordUnavailable("write a beat: this writer is closed")
        key = _beat_key(beat)
        with _translated("write a beat"), self._client.pipeline(transaction=True) as pipe:  # pyright: ignore[reportUnknownMemberType]
            pipe.set(key, encode(beat), px=_ms(ttl_s))
            pipe.sadd(BEATS, key)
            pipe.execute()

    def close(self) -> None:
        self._closed = True
        self._client.close()


async def _next(pubsub: PubSub) -> dict[str, Any] | None:
    return await pubsub.get_message(timeout=POLL_S)  # pyright: ignore[reportUnknownMemberType, reportUnknownVariableType]


async def _answer(pubsub: PubSub, kind: str) -> None:
    """Wait until the subscription stands."""
    with anyio.fail_after(ANSWER_TIMEOUT_S):
        while True:
            message = await _next(pubsub)
            if message is not None and message["type"] == kind:
                return


@contextmanager
def _quietly() -> Generator[None]:
    try:
        yield
    except (RedisError, OSError):
        return


def _result_key(task_id: str) -> str:
    return f"fog:result:{task_id}"


def _beat_key(beat: Beat) -> str:
    return f"fog:beat:{beat.node}:{beat.role}"


def _fence(name: str) -> str:
    return f"{name}:fence"


def _ms(seconds: float) -> int:
    return max(1, int(seconds * 1000))


def _lost(lease: Lease) -> LeaseLost:
    return LeaseLost(f"lease {lease.name!r} of {lease.owner!r} is held by another, or it has run out")

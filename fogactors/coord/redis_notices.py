"""A subscription on Redis: `Notices`."""

from __future__ import annotations

from typing import Any, Final, cast

import anyio
from redis.asyncio.client import PubSub

from fogactors.coord.redis_bounds import ANSWER_TIMEOUT_S, in_time, translated
from fogactors.errors import CoordUnavailable

__all__ = ["RedisNotices", "wait_subscribed"]

POLL_S: Final = 1.0
"""How long a listener waits in one go, so that a closed one is noticed."""
SILENCE_S: Final = 3.0
"""A listener that hears nothing for so long, not even answers to its pings, has lost the store."""


class RedisNotices:
    """One subscription. After a break that it can mend redis-py subscribes again by itself; what was sent meanwhile
    is gone. A connection that died without a word it would not notice, so we ask."""

    def __init__(self, pubsub: PubSub) -> None:
        self.closed = False
        self._pubsub = pubsub
        self._heard_at = anyio.current_time()

    def __aiter__(self) -> RedisNotices:
        return self

    async def __anext__(self) -> str:
        self._heard_at = anyio.current_time()  # whoever did not ask for notices did not hear silence
        while not self.closed:
            with in_time("listen"), translated("listen"):
                message = await _next(self._pubsub)
                if message is None:
                    await self._ask()
            if message is not None:
                self._heard_at = anyio.current_time()
                if message["type"] == "message":
                    return cast("bytes", message["data"]).decode()
        raise StopAsyncIteration

    async def _ask(self) -> None:
        silent_s = anyio.current_time() - self._heard_at
        if silent_s > SILENCE_S:
            raise CoordUnavailable(f"listen: nothing came from Redis for {silent_s:.1f} s")
        await self._pubsub.ping()  # pyright: ignore[reportUnknownMemberType]


async def _next(pubsub: PubSub) -> dict[str, Any] | None:
    return await pubsub.get_message(timeout=POLL_S)  # pyright: ignore[reportUnknownMemberType, reportUnknownVariableType]


async def wait_subscribed(pubsub: PubSub) -> None:
    """Wait until the subscription stands."""
    with anyio.fail_after(ANSWER_TIMEOUT_S):
        while True:
            message = await _next(pubsub)
            if message is not None and message["type"] == "subscribe":
                return

"""A Redis at the other end of a line that breaks."""

from __future__ import annotations

import asyncio
import gc
from collections.abc import AsyncIterator, Awaitable
from contextlib import asynccontextmanager
from typing import TypeVar

import anyio

from fogactors.coord.redis import RedisCoord
from fogactors.testing.proxy import TcpProxy
from tests.services import RedisServer

T = TypeVar("T")


@asynccontextmanager
async def quiet() -> AsyncIterator[None]:
    complaints: list[str] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: complaints.append(str(context)))
    yield
    gc.collect()
    await asyncio.sleep(0.01)
    assert complaints == []


@asynccontextmanager
async def client(url: str) -> AsyncIterator[RedisCoord]:
    async with quiet():
        coord = RedisCoord(url)
        try:
            yield coord
        finally:
            await coord.close()


@asynccontextmanager
async def far(server: RedisServer) -> AsyncIterator[tuple[RedisCoord, TcpProxy]]:
    """A client, connected, and the way to its server."""
    async with (
        TcpProxy.to("127.0.0.1", server.port) as proxy,
        client(server.url.replace(str(server.port), str(proxy.port))) as coord,
    ):
        await coord.open()
        yield coord, proxy
        proxy.resume()


async def lose_the_answer(proxy: TcpProxy, operation: Awaitable[T]) -> T:
    """It is done there; its answer does not come, the connection breaks, and redis-py asks again."""
    answers: list[T] = []

    async def ask() -> None:
        answers.append(await operation)

    proxy.half_open()
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(ask)
        await anyio.sleep(0.2)  # until it is done there
        assert answers == []
        proxy.resume()
        assert proxy.cut() >= 1
    return answers[0]

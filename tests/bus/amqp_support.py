"""What the fault tests of the real bus share: a bus behind a proxy, and a loop that nobody complains in."""

from __future__ import annotations

import asyncio
import gc
from collections.abc import AsyncIterator, Awaitable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from urllib.parse import urlsplit

import anyio
import pytest

from fogactors.bus import Message
from fogactors.bus.amqp import AmqpBus
from fogactors.errors import BusUnavailable
from fogactors.testing.proxy import TcpProxy
from tests.services import RabbitMQ

from .support import Names, eventually, work


@dataclass
class Far:
    """A bus, and the way to its broker."""

    bus: AmqpBus
    proxy: TcpProxy

    async def left_nothing_behind(self) -> None:
        await eventually(lambda: self.proxy.connections == 0)


def through(proxy: TcpProxy, url: str) -> str:
    at = urlsplit(url)
    return url.replace(f"{at.hostname}:{at.port}", f"127.0.0.1:{proxy.port}")


@asynccontextmanager
async def far(rabbit: RabbitMQ, n: Names | None = None, **options) -> AsyncIterator[Far]:
    """Closed and silent at the end. With names: open, and the queue `q` is declared."""
    async with quiet(), TcpProxy.to("127.0.0.1", rabbit.port) as proxy:
        bus = AmqpBus(through(proxy, rabbit.amqp_url), **options)
        if n is not None:
            await bus.open()
            await bus.declare(work(n))
        try:
            yield Far(bus, proxy)
        finally:
            proxy.resume()
            await bus.close()


@asynccontextmanager
async def quiet() -> AsyncIterator[None]:
    """Fails when the loop was told of an exception that nobody retrieved, or of a task that was forgotten."""
    complaints: list[str] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: complaints.append(str(context)))
    yield
    for _ in range(3):
        gc.collect()
        await asyncio.sleep(0.01)
    assert complaints == []


async def failing(operation: Awaitable[object]) -> tuple[BusUnavailable, float]:
    """The error, and how long it took to come."""
    began = anyio.current_time()
    with pytest.raises(BusUnavailable) as caught:
        await operation
    return caught.value, anyio.current_time() - began


async def each_fails(bus: AmqpBus, n: Names, count: int, *, size: int = 100, timeout: float) -> list[tuple]:
    """So many publishes at once, that all raise `BusUnavailable`: for each its error, and after how many seconds."""
    outcomes: list[tuple] = []

    async def one(number: int) -> None:
        message = Message(number.to_bytes(4) * (size // 4))
        error, took = await failing(bus.publish(n("x"), "k", message, timeout=timeout))
        assert error.unsent is message
        outcomes.append((str(error), took))

    async with anyio.create_task_group() as tasks:
        for number in range(count):
            tasks.start_soon(one, number)
    return outcomes

"""The brokers that the contract suite runs against. Another one is another entry of `BROKERS`."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from typing import Protocol

import pytest

from fogactors.bus import Bus, MemoryBroker, MemoryBus

from .support import Names


class World(Protocol):
    """A broker, and what the contract needs beyond the Bus protocol. It must try refused dead letters again
    within `DEADLINE_S`."""

    async def client(self, *, max_body: int | None = None) -> Bus:
        """A new client, connected; closed when the world ends."""

    async def kill(self, bus: Bus) -> None:
        """End a client's connection from the broker's side."""

    async def delete(self, queue: str) -> None:
        """Delete a queue behind its consumers' backs."""


@dataclass
class MemoryWorld:
    broker: MemoryBroker
    stack: AsyncExitStack

    async def client(self, *, max_body: int | None = None) -> Bus:
        bus = MemoryBus(self.broker) if max_body is None else MemoryBus(self.broker, max_body=max_body)
        await bus.open()
        self.stack.push_async_callback(bus.close)
        return bus

    async def kill(self, bus: Bus) -> None:
        assert isinstance(bus, MemoryBus)
        assert self.broker.kill_connection(bus.name) == 1

    async def delete(self, queue: str) -> None:
        self.broker.delete_queue(queue)


@asynccontextmanager
async def memory_world() -> AsyncIterator[World]:
    async with MemoryBroker(dead_letter_retry_s=0.05) as broker, AsyncExitStack() as stack:
        yield MemoryWorld(broker, stack)


OpenWorld = Callable[[], AbstractAsyncContextManager[World]]
BROKERS: dict[str, OpenWorld] = {"memory": memory_world}


@pytest.fixture(params=BROKERS)
def open_world(request: pytest.FixtureRequest) -> OpenWorld:
    """`async with open_world() as world:` in the test itself: a task group must not span a fixture's
    `yield`."""
    return BROKERS[request.param]


@pytest.fixture
def n() -> Names:
    return Names()

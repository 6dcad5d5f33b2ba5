"""The brokers that the contract suite runs against. Another one is another entry of `BROKERS`."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from typing import Any, Protocol
from urllib.parse import urlsplit

import anyio
import pytest

from fogactors.bus import MAX_BODY, Bus, MemoryBroker, MemoryBus
from fogactors.bus.amqp import AmqpBus
from fogactors.bus.management import Management
from fogactors.testing.proxy import TcpProxy
from fogactors.wire import Topology
from tests.services import RabbitMQ, ServiceUnavailable, skip_or_fail

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


class PoliciesFirst:
    """A bus whose `declare` sets the policies as well, as `topology apply` does."""

    def __init__(self, bus: AmqpBus, management: Management) -> None:
        self._bus = bus
        self._management = management

    def __getattr__(self, name: str) -> Any:
        return getattr(self._bus, name)

    async def declare(self, topology: Topology) -> None:
        await self._management.apply_policies(topology)
        await self._bus.declare(topology)


@dataclass
class RabbitWorld:
    """A real RabbitMQ. Policies go over HTTP, everything else over AMQP and a proxy for each client, which can cut
    it."""

    url: str
    management: Management
    stack: AsyncExitStack
    proxies: dict[int, TcpProxy] = field(default_factory=dict)

    async def client(self, *, max_body: int | None = None) -> Bus:
        at = urlsplit(self.url)
        proxy = await self.stack.enter_async_context(TcpProxy.to(at.hostname, at.port))
        url = self.url.replace(f"{at.hostname}:{at.port}", f"127.0.0.1:{proxy.port}")
        bus = PoliciesFirst(AmqpBus(url, max_body=max_body or MAX_BODY), self.management)
        await bus.open()
        self.stack.push_async_callback(bus.close)
        self.proxies[id(bus)] = proxy
        return bus

    async def kill(self, bus: Bus) -> None:
        assert self.proxies[id(bus)].cut() == 2

    async def delete(self, queue: str) -> None:
        await self.management.delete_queue(queue)


@asynccontextmanager
async def rabbitmq_world() -> AsyncIterator[World]:
    url, http = os.environ.get("FOGACTORS_TEST_AMQP_URL"), os.environ.get("FOGACTORS_TEST_MANAGEMENT_URL")
    if not url or not http:
        skip_or_fail(ServiceUnavailable("FOGACTORS_TEST_AMQP_URL and FOGACTORS_TEST_MANAGEMENT_URL name no broker"))
    async with Management.open(http) as management, AsyncExitStack() as stack:
        yield RabbitWorld(url, management, stack)


OpenWorld = Callable[[], AbstractAsyncContextManager[World]]
BROKERS: dict[str, OpenWorld] = {"memory": memory_world, "rabbitmq": rabbitmq_world}


_REAL = pytest.param("rabbitmq", marks=[pytest.mark.services, pytest.mark.versions])


@pytest.fixture(params=["memory", _REAL])
def open_world(request: pytest.FixtureRequest) -> OpenWorld:
    """`async with open_world() as world:` in the test itself: a task group must not span a fixture's
    `yield`."""
    return BROKERS[request.param]


@pytest.fixture
def n() -> Names:
    return Names()


def _running(version: str) -> Iterator[RabbitMQ]:
    broker = RabbitMQ(version)
    try:
        anyio.run(broker.start)
    except ServiceUnavailable as error:
        skip_or_fail(error)
    yield broker
    anyio.run(broker.stop, 0)


@pytest.fixture(scope="session")
def rabbit() -> Iterator[RabbitMQ]:
    """A broker that the tests may kill, choke and reconfigure. Each leaves it running."""
    yield from _running("4.3")


@pytest.fixture(scope="session")
def rabbit40() -> Iterator[RabbitMQ]:
    yield from _running("4.0")

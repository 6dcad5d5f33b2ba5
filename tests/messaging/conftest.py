"""The brokers that every pattern of messaging runs against, by the same tests. Another one is another entry of
`PLACES`."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass
from functools import partial
from typing import Protocol
from urllib.parse import urlsplit
from uuid import uuid4

import pytest

from fogactors.bus import MemoryBroker
from fogactors.bus.management import Management
from fogactors.messaging import embedded_broker
from fogactors.testing.proxy import TcpProxy
from fogactors.wire import Queue, Topology
from tests.integration.conftest import services, shared_services
from tests.integration.fog import Services

__all__ = ["services", "shared_services"]  # fixtures


class Place(Protocol):
    """A broker with the system's topology, and what goes wrong with it."""

    url: str
    store: str
    """The URL of the coordination store beside it."""

    def cut(self) -> int:
        """Reset every connection; new ones are accepted. Returns how many there were."""
        ...

    async def limit(self, queue: Queue) -> None:
        """Let this queue, which somebody makes soon, have its policy."""

    def down(self) -> None:
        """Reset every connection, and accept none until `up`."""

    def up(self) -> None: ...


@dataclass
class MemoryPlace:
    url: str
    store: str
    broker: MemoryBroker

    async def limit(self, queue: Queue) -> None:
        self.broker.declare(Topology(queues=(queue,)))

    def cut(self) -> int:
        return self.broker.faults.drop_connections()

    def down(self) -> None:
        self.broker.faults.down()

    def up(self) -> None:
        self.broker.faults.up()


@dataclass
class RabbitPlace:
    """Through a proxy."""

    url: str
    services: Services
    proxy: TcpProxy

    @property
    def store(self) -> str:
        return self.services.redis_url

    async def limit(self, queue: Queue) -> None:
        async with Management.open(self.services.management_url, self.services.vhost) as management:
            await management.apply_policies(Topology(queues=(queue,)))

    def cut(self) -> int:
        return self.proxy.cut()

    def down(self) -> None:
        self.proxy.refusing = True
        self.proxy.cut()

    def up(self) -> None:
        self.proxy.refusing = False


@asynccontextmanager
async def memory_place() -> AsyncIterator[Place]:
    url = f"memory://{uuid4().hex[:8]}"
    yield MemoryPlace(url, url, embedded_broker(url))


@asynccontextmanager
async def rabbitmq_place(services: Services) -> AsyncIterator[Place]:
    at = urlsplit(services.amqp_url)
    async with TcpProxy.to(at.hostname or "", at.port or 0) as proxy:
        url = services.amqp_url.replace(services.address, f"127.0.0.1:{proxy.port}")
        yield RabbitPlace(url, services, proxy)


OpenPlace = Callable[[], AbstractAsyncContextManager[Place]]
_REAL = pytest.param("rabbitmq", marks=[pytest.mark.services, pytest.mark.versions])


@pytest.fixture(params=["memory", _REAL])
def open_place(request: pytest.FixtureRequest) -> OpenPlace:
    """`async with open_place() as place:` in the test itself: a task group must not span a fixture's `yield`."""
    if request.param == "memory":
        return memory_place
    return partial(rabbitmq_place, request.getfixturevalue("services"))

"""The blocking face against both brokers. Its tests are plain functions; what must be asynchronous in them, a proxy
that has bad days, runs in a loop of its own."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Protocol
from urllib.parse import urlsplit
from uuid import uuid4

import anyio
import pytest
from anyio.from_thread import BlockingPortal, start_blocking_portal

from fogactors.bus.management import Management
from fogactors.messaging import embedded_broker
from fogactors.messaging.blocking.loop import current
from fogactors.testing.proxy import TcpProxy
from fogactors.wire import Queue, Topology
from tests.integration.conftest import services, shared_services
from tests.integration.fog import Services, connected

from .programs import Programs

__all__ = ["services", "shared_services"]  # fixtures


class Place(Protocol):
    """A broker with the system's topology, and what goes wrong with it."""

    url: str

    @property
    def store(self) -> str:
        """The URL of the coordination store beside it."""
        ...

    def cut(self) -> None:
        """Reset every connection; new ones are accepted."""

    def down(self) -> None:
        """Reset every connection, and accept none until `up`."""

    def up(self) -> None: ...

    def limit(self, queue: Queue) -> None:
        """Make this queue, with its policy."""


@dataclass
class MemoryPlace:
    """In the loop of the blocking face itself."""

    url: str

    @property
    def store(self) -> str:
        return self.url

    def cut(self) -> None:
        self._do(lambda: embedded_broker(self.url).faults.drop_connections())

    def down(self) -> None:
        self._do(lambda: embedded_broker(self.url).faults.down())

    def up(self) -> None:
        self._do(lambda: embedded_broker(self.url).faults.up())

    def limit(self, queue: Queue) -> None:
        self._do(lambda: embedded_broker(self.url).declare(Topology(queues=(queue,))))

    def _do(self, what: Callable[[], Any]) -> None:
        async def act() -> None:
            what()

        current().call(act)


@dataclass
class RabbitPlace:
    """Through a proxy."""

    url: str
    services: Services
    proxy: TcpProxy
    portal: BlockingPortal

    @property
    def store(self) -> str:
        return self.services.redis_url

    def cut(self) -> None:
        self.portal.call(self.proxy.cut)

    def down(self) -> None:
        self.proxy.refusing = True
        self.cut()

    def up(self) -> None:
        self.proxy.refusing = False

    def limit(self, queue: Queue) -> None:
        async def make() -> None:
            topology = Topology(queues=(queue,))
            async with Management.open(self.services.management_url, self.services.vhost) as management:
                await management.apply_policies(topology)
            async with connected(self.services) as bus:
                await bus.declare(topology)

        anyio.run(make)


@contextmanager
def memory_place() -> Iterator[Place]:
    yield MemoryPlace(f"memory://{uuid4().hex[:8]}")


@contextmanager
def rabbitmq_place(services: Services) -> Iterator[Place]:
    at = urlsplit(services.amqp_url)
    with (
        start_blocking_portal() as portal,
        portal.wrap_async_context_manager(TcpProxy.to(at.hostname or "", at.port or 0)) as proxy,
    ):
        url = services.amqp_url.replace(services.address, f"127.0.0.1:{proxy.port}")
        yield RabbitPlace(url, services, proxy, portal)


OpenPlace = Callable[[], AbstractContextManager[Place]]
REAL = pytest.param("rabbitmq", marks=[pytest.mark.services, pytest.mark.versions])


@pytest.fixture(params=["memory", REAL])
def place(request: pytest.FixtureRequest) -> Iterator[Place]:
    opens = memory_place if request.param == "memory" else partial(rabbitmq_place, request.getfixturevalue("services"))
    with opens() as opened:
        yield opened


@pytest.fixture
def rabbit(services: Services) -> Iterator[RabbitPlace]:
    with rabbitmq_place(services) as opened:
        assert isinstance(opened, RabbitPlace)
        yield opened


@pytest.fixture
def programs(tmp_path: Path) -> Iterator[Programs]:
    """Starts programs of a user, and cleans up after them."""
    started = Programs(tmp_path)
    yield started
    started.clean_up()

"""The brokers behind `memory://`: one for each name in a process, or exactly, in an event loop.

It lives as long as its loop, and runs as long as anybody is connected to it: what a durable queue holds is still there
for the next who connects, as it is in a broker beside the process. `memory://` and `memory://shop` are two brokers.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from typing import Final

import anyio
from anyio.lowlevel import RunVar

from fogactors.bus.embedded import MemoryBroker
from fogactors.coord.memory import MemoryStore
from fogactors.wire.topology import fog_topology

__all__ = ["MEMORY", "attended", "embedded_broker", "embedded_store"]

MEMORY: Final = "memory://"

_brokers: RunVar[dict[str, MemoryBroker]] = RunVar("fogactors embedded brokers")
_stores: RunVar[dict[str, MemoryStore]] = RunVar("fogactors embedded stores")


def embedded_broker(url: str = MEMORY) -> MemoryBroker:
    """The broker of this `memory://` URL in the running event loop: for a test, its `faults`, `depths()` and
    `kill_connection(name)`."""
    brokers = _brokers.get(None)
    if brokers is None:
        brokers = dict[str, MemoryBroker]()
        _brokers.set(brokers)
    if url not in brokers:
        broker = brokers[url] = MemoryBroker()
        broker.declare(fog_topology())
    return brokers[url]


def embedded_store(url: str = MEMORY) -> MemoryStore:
    """The coordination store of this `memory://` URL in the running event loop."""
    stores = _stores.get(None)
    if stores is None:
        stores = dict[str, MemoryStore]()
        _stores.set(stores)
    return stores.setdefault(url, MemoryStore())


@asynccontextmanager
async def attended(broker: MemoryBroker) -> AsyncGenerator[None]:
    """The broker runs at least as long as this is entered."""
    error: Exception | None = None
    async with anyio.create_task_group() as tasks:
        await tasks.start(broker.attend)
        try:
            yield
        except Exception as raised:
            error = raised  # out of the group by hand, or it would come out wrapped in an ExceptionGroup
        tasks.cancel_scope.cancel()
    if error is not None:
        raise error

"""What a program stands on: a broker and a coordination store, embedded in this process or reached over the network."""

from __future__ import annotations

import random
import time
from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import replace
from typing import Final, Protocol

import anyio

from fogactors.app.reach import broker_error
from fogactors.app.settings import Settings, system_topology
from fogactors.app.settings_topology import declared_topology
from fogactors.bus import Bus, MemoryBroker, MemoryBus, QueueDepth
from fogactors.bus.amqp import AmqpBus
from fogactors.coord import Coord, MemoryCoord, MemoryStore
from fogactors.coord.redis import RedisCoord
from fogactors.core import Backoff
from fogactors.errors import (
    AccessRefused,
    BusError,
    BusUnavailable,
    CoordRefused,
    CoordUnavailable,
    FogError,
    StoppedAtBoot,
    TopologyMismatch,
)
from fogactors.wire import Topology
from fogactors.wire.access import ACCESS_ROLES, AccessRole, part_of

__all__ = ["Embedded", "Remote", "Services", "part_for", "topology_of"]

ENVELOPE_BYTES: Final = 65_536
LOOK_EVERY_S: Final = 1.0
"""How old the depths of a remote broker's queues may be: each costs it a passive declare."""


class Services(Protocol):
    """Makes clients. `max_body`: bytes; roles get a larger limit than submitters (`role_body`)."""

    @property
    def is_embedded(self) -> bool: ...

    def bus(self, name: str, *, max_body: int) -> Bus: ...
    def coord(self, name: str) -> Coord: ...

    async def depths(self) -> Mapping[str, QueueDepth]:
        """The queues with what waits in them, for a display."""
        ...


def topology_of(settings: Settings) -> Topology:
    """The system's, and what `[exchanges]`, `[queues]` and `[policies]` declare."""
    return system_topology(settings) + declared_topology(settings.exchanges, settings.queues, settings.policies)


def part_for(settings: Settings, roles: Sequence[str], tiers: Sequence[str] | None) -> Topology:
    """What these of the `ACCESS_ROLES` deal with, and so may look at; for none of them what a submitter does."""
    known: list[AccessRole] = [role for role in ACCESS_ROLES if role in roles]
    names = [tier.name for tier in settings.tiers]
    return part_of(topology_of(settings), known or ["submitter"], names, tiers or names)


def role_body(settings: Settings) -> int:
    """Roles publish again what the broker holds already, in an envelope and as base64 in a dead letter: the limit
    itself is for who publishes it first."""
    return 2 * settings.bus.max_body_bytes + ENVELOPE_BYTES


class Embedded:
    """A broker and a store that live in this process and end with it."""

    is_embedded = True

    def __init__(self, broker: MemoryBroker) -> None:
        self.broker = broker
        self.store = MemoryStore()

    @classmethod
    @asynccontextmanager
    async def open(cls, settings: Settings) -> AsyncGenerator[Embedded]:
        async with MemoryBroker() as broker:
            broker.declare(topology_of(settings))
            yield cls(broker)

    def bus(self, name: str, *, max_body: int) -> Bus:
        return MemoryBus(self.broker, name=name, max_body=max_body)

    def coord(self, name: str) -> Coord:
        return MemoryCoord(self.store)

    async def depths(self) -> Mapping[str, QueueDepth]:
        return self.broker.depths()


class Remote:
    """RabbitMQ and Redis."""

    is_embedded = False

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._hidden: set[str] = set()
        self._looker = AmqpBus(settings.bus.url, name="display")
        self._depths: dict[str, QueueDepth] = {}
        self._looked_at = float("-inf")

    @classmethod
    @asynccontextmanager
    async def open(
        cls, settings: Settings, wanted: Topology | None, stop: anyio.Event | None = None
    ) -> AsyncGenerator[Remote]:
        """Waits for the broker, and not for a Redis that is away: without it results take another road. `wanted` must
        be there; None: there is no broker before this program brings it up, so nothing is waited for, and Redis not
        even asked: whatever it says must not keep a broker from starting.

        Raises `BusUnavailable` when there is no broker within `boot_wait_s`, `StoppedAtBoot` when `stop` is set
        meanwhile, and, when it is still so after `setup_wait_s`, `AccessRefused` and `CoordRefused` for the login, and
        `TopologyMismatch` for what is not there.
        """
        refusal: FogError | None = None
        async with anyio.create_task_group() as waiting:

            async def watch(stop: anyio.Event) -> None:
                await stop.wait()
                waiting.cancel_scope.cancel()

            if stop is not None:
                waiting.start_soon(watch, stop)
            try:
                if wanted is not None:
                    await _await_broker(settings, wanted)
                    await _await_redis(settings)
            except FogError as error:
                refusal = error  # out of the group by hand, or it would come out wrapped in an ExceptionGroup
            waiting.cancel_scope.cancel()
        if stop is not None and stop.is_set():
            raise StoppedAtBoot
        if refusal is not None:
            raise refusal
        services = cls(settings)
        try:
            yield services
        finally:
            with anyio.move_on_after(3.0, shield=True):
                await services._looker.close()

    def bus(self, name: str, *, max_body: int) -> Bus:
        return AmqpBus(self._settings.bus.url, name=f"{self._settings.node.name}/{name}", max_body=max_body)

    def coord(self, name: str) -> Coord:
        return RedisCoord(self._settings.coord.url, name=f"{self._settings.node.name}-{name}")

    async def depths(self) -> Mapping[str, QueueDepth]:
        now = time.monotonic()
        if now - self._looked_at >= LOOK_EVERY_S:
            self._looked_at = now
            with suppress(BusError):  # the broker is away: what was there last is better than nothing
                await self._looker.open(timeout=1.0)
                for queue in topology_of(self._settings).queues:
                    if queue.type == "quorum" and queue.name not in self._hidden:
                        await self._look_at(queue.name)
        return self._depths

    async def _look_at(self, queue: str) -> None:
        try:
            info = await self._looker.inspect(queue)
        except AccessRefused:
            self._hidden.add(queue)  # not for this user to see
        else:
            self._depths[queue] = QueueDepth(info.name, info.ready, info.consumers, unsettled=0, stalled=0)


async def _await_broker(settings: Settings, wanted: Topology) -> None:
    """Wait for it, and see that it has what we need."""
    backoff, tries = Backoff(first_s=0.2, max_s=2.0, jitter=0.2), 0
    began = anyio.current_time()
    deadline, set_up = began + settings.bus.boot_wait_s, began + settings.bus.setup_wait_s
    while True:
        bus = AmqpBus(settings.bus.url, name=f"{settings.node.name}/boot")
        try:
            await bus.open(timeout=max(1.0, min(5.0, deadline - anyio.current_time())))
            await _see_topology(bus, wanted)
            return
        except BusUnavailable as error:
            if anyio.current_time() >= deadline:
                text = f"{broker_error(error)} (waited {settings.bus.boot_wait_s:g} s: [bus] boot_wait_s)"
                raise BusUnavailable(text) from error
        except AccessRefused as error:  # a user that is not there yet is refused as one with a wrong password is
            if anyio.current_time() >= set_up:
                raise broker_error(error) from error
        except _NotThereYet:
            if anyio.current_time() >= set_up:
                raise
        finally:
            with anyio.move_on_after(3.0, shield=True):
                await bus.close()
        await anyio.sleep(backoff.delay(tries, random.Random()))  # noqa: S311 - jitter
        tries += 1


class _NotThereYet(TopologyMismatch):
    """Missing, and not different: somebody may be about to make it."""


async def _see_topology(bus: Bus, wanted: Topology) -> None:
    """Raises `TopologyMismatch` for what is missing or of another type."""
    missing = await bus.check(wanted)
    if missing:
        more = f" (and {len(missing) - 1} more; `fogactors topology diff` lists them)" if len(missing) > 1 else ""
        raise _NotThereYet(f"{missing[0]}{more}; run `fogactors topology apply`")
    try:
        # All of it is there, so this creates nothing; but it is compared, which a passive declare is not. A role that
        # went on would lose its limits on a classic queue, and meet a stream with a refusal at each restart.
        await bus.declare(replace(wanted, bindings=()))
    except AccessRefused:
        return  # not for this user to see: a role needs no permission to configure
    except TopologyMismatch as error:
        text = f"the broker has another topology: {error}; `fogactors topology diff` lists all that is different"
        raise TopologyMismatch(text) from error


async def _await_redis(settings: Settings) -> None:
    """Not for one that is away, which is no reason not to start. Raises `CoordRefused` when it still refuses after
    `setup_wait_s`."""
    backoff, tries = Backoff(first_s=0.2, max_s=2.0, jitter=0.2), 0
    set_up = anyio.current_time() + settings.bus.setup_wait_s
    while True:
        coord = RedisCoord(settings.coord.url, name=f"{settings.node.name}-boot")
        try:
            with suppress(CoordUnavailable):
                await coord.open(timeout=2.0)
            return
        except CoordRefused:  # a user that is not there yet is refused as one with a wrong password is
            if anyio.current_time() >= set_up:
                raise
        finally:
            with anyio.move_on_after(1.0, shield=True), suppress(CoordUnavailable):
                await coord.close()
        await anyio.sleep(backoff.delay(tries, random.Random()))  # noqa: S311 - jitter
        tries += 1

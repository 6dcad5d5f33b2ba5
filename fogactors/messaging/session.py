"""What every pattern of messaging stands on: a connection that heals itself, and the actors that use it.

    async with Session.open("amqp://shop@rabbitmq1,rabbitmq2/%2Ffog", "shop") as session:
        await session.bus.publish(...)
        ref = await session.start(ChildSpec(id="reader", factory=lambda: Reader(session.bus)))

The tree is `rest_for_one` with the link first: when the connection is lost, all that stands on it goes, the link
connects again, and all comes back. Each child has a supervisor of its own that pauses, and that after a reconnect is up
at once, with or without its child: it promises to try, not to succeed. So what fails in one of them (a queue that
somebody deleted) reaches none of the others.
"""

from __future__ import annotations

import random
from collections.abc import AsyncGenerator
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from typing import Any, Final
from urllib.parse import unquote, urlsplit

import anyio

from fogactors.bus.base import MAX_BODY, Bus, Message
from fogactors.bus.link import link_spec
from fogactors.bus.memory import MemoryBus
from fogactors.core import (
    ActorSystem,
    Backoff,
    ChildSpec,
    Events,
    Intensity,
    Ref,
    RemoveChild,
    StartChild,
    SupervisorSpec,
)
from fogactors.errors import (
    AccessRefused,
    ActorError,
    AskTimeout,
    BusUnavailable,
    ConfigError,
    MessageTooLarge,
    StartFailed,
)
from fogactors.messaging.embedded import MEMORY, attended, embedded_broker

__all__ = ["Session"]

TRY_S: Final = 5.0
"""For one try to connect: a host that swallows packets must not take all of the time."""
RECONNECT: Final = Backoff(first_s=0.05, max_s=0.25)
"""As for roles: to knock at a closed port costs a millisecond."""
ENVELOPE_BYTES: Final = 65_536
"""The limit of a body is for who publishes it first. We publish it again, in a dead letter as base64."""
ORDER_S: Final = 30.0
"""For the tree to take an order: it may be in the middle of a reconnect."""


class Session:
    """A connection to a broker, under a name, and a tree of actors that use it. Made by `Session.open`.

    `name` is shown by the broker for the connection; on `memory://` it is what `kill_connection` takes. `user`: as whom
    it is logged in. `events`: every fact of its actors, for whoever wants to know.
    """

    def __init__(self, name: str, bus: Bus, actors: ActorSystem, max_body: int = MAX_BODY, user: str = "guest") -> None:
        self.name = name
        self.user = user
        self.bus = bus
        self.actors = actors
        self.max_body = max_body

    @property
    def events(self) -> Events:
        return self.actors.events

    def ref(self, id: str) -> Ref[Any]:  # noqa: A002
        """Of the child of this id, which need not be there yet."""
        return self.actors.ref(f"{self._root.path}/{id}/{id}")

    @classmethod
    @asynccontextmanager
    async def open(
        cls,
        url: str,
        name: str,
        *,
        timeout: float = 10.0,
        max_body: int = MAX_BODY,
        events: Events | None = None,
    ) -> AsyncGenerator[Session]:
        """Connect, and disconnect on leaving; children stop first, the last started first.

        `url`: `amqp://user:password@host1,host2/%2Ffog`, or `memory://`, `memory://<name>`: a broker in this process
        that all who name it share. `timeout`: seconds to wait for a broker that is not there yet. `max_body`: bytes
        that a message may have.

        Raises `BusUnavailable`, `AccessRefused` (at once), `ConfigError` for what is no URL.
        """
        async with AsyncExitStack() as stack:
            bus = await _bus(stack, url, name, 2 * max_body + ENVELOPE_BYTES)
            await _connect(bus, timeout)
            actors = await stack.enter_async_context(ActorSystem(events=events))
            await actors.start(_weather(_id(name), link_spec(bus, RECONNECT)))
            yield cls(name, bus, actors, max_body, unquote(urlsplit(url).username or "guest"))

    async def publish(
        self, exchange: str, key: str, message: Message, *, mandatory: bool = True, timeout: float = 10.0
    ) -> None:
        """As `Bus.publish`, for what an application publishes: a body over `max_body` is `MessageTooLarge`."""
        size = len(message.body)
        if size > self.max_body:
            text = f"publish to {exchange}, key {key}: the body has {size} bytes, more than {self.max_body}"
            raise MessageTooLarge(f"{text}; publish a reference to the data instead", unsent=message)
        await self.bus.publish(exchange, key, message, mandatory=mandatory, timeout=timeout)

    async def start(self, child: ChildSpec, *, timeout: float = 10.0) -> Ref[Any]:
        """Start an actor that uses the connection; it comes back with it. Returns its ref, which stays good.

        `timeout`: seconds to wait for the connection. Raises what its `on_start` raised the first time (then it is not
        started again), `BusUnavailable`, `SpecError` for an id that is taken. Cancelled, it has started nothing.
        """
        with anyio.move_on_after(timeout):
            await self.bus.wait_open()
        if not self.bus.is_open:
            raise BusUnavailable(f"{self.name}: {child.id} needs the broker, and there is none after {timeout:g} s")
        spec = _weather(child.id, child)
        try:
            await self._root.ask(StartChild(spec), timeout=ORDER_S)
        except StartFailed as failed:
            # The supervisor between us and the child says no more than that its child did not come up.
            raise _first_cause(failed) from None
        except (AskTimeout, anyio.get_cancelled_exc_class()):
            await self._take_back(spec)
            raise
        return self.actors.ref(f"{self._root.path}/{child.id}/{child.id}")

    async def stop(self, id: str, *, drain_s: float = 0.0) -> None:  # noqa: A002
        """Stop a child for good, within its `shutdown_s`: it does not come back, whatever happens to the connection
        meanwhile. Several can be stopped at the same time. `drain_s`: seconds of that which may well be used. Raises
        `NoSuchChild` for one that is not there."""
        await self._root.ask(RemoveChild(id), timeout=ORDER_S + drain_s)

    async def _take_back(self, spec: SupervisorSpec) -> None:
        """Nobody waits for this start any more, and so nobody would ever stop what comes of it."""
        supervisors = self.actors.supervisors
        root = supervisors.get(self._root.path)
        if root is None or all(each.spec is not spec for each in root.children):
            return  # it has not been read, and is not carried out when it is; or it was refused
        starting = supervisors.get(f"{self._root.path}/{spec.id}")
        if starting is not None:
            starting.give_up_start()
        with anyio.CancelScope(shield=True), suppress(ActorError):
            await self._root.ask(RemoveChild(spec.id, spec), timeout=ORDER_S)

    @property
    def _root(self) -> Ref[Any]:
        return self.actors.ref(_id(self.name))


def _id(name: str) -> str:
    return name.replace("/", "-")


def _weather(id: str, *children: ChildSpec) -> SupervisorSpec:  # noqa: A002
    """A broker that is away is waited for, and so is whatever fails because of it."""
    return SupervisorSpec(
        id=id,
        strategy="rest_for_one",
        exceeded="pause",
        intensity=Intensity(max_restarts=3, period_s=5.0),
        backoff=Backoff(first_s=0.2, max_s=10.0),
        comes_back="at_once",
        children=children,
    )


def _first_cause(error: BaseException) -> BaseException:
    while isinstance(error, StartFailed) and error.__cause__ is not None:
        error = error.__cause__
    return error


async def _bus(stack: AsyncExitStack, url: str, name: str, max_body: int) -> Bus:
    if url.startswith(MEMORY):
        broker = embedded_broker(url)
        await stack.enter_async_context(attended(broker))
        return MemoryBus(broker, name=name, max_body=max_body)
    if not url.startswith(("amqp://", "amqps://")):
        raise ConfigError("a broker's URL begins with amqp://, amqps:// or memory://")
    from fogactors.bus.amqp import AmqpBus  # here, because it costs a third of a second that memory:// need not pay

    return AmqpBus(url, name=name, max_body=max_body)


async def _connect(bus: Bus, timeout: float) -> None:
    rng, tries, deadline = random.Random(), 0, anyio.current_time() + timeout  # noqa: S311 - jitter
    while True:
        try:
            await bus.open(timeout=max(0.1, min(TRY_S, deadline - anyio.current_time())))
            return
        except AccessRefused:
            raise
        except BusUnavailable as error:
            if anyio.current_time() >= deadline:
                raise BusUnavailable(f"{error} (waited {timeout:g} s)") from error
        await anyio.sleep(min(RECONNECT.delay(tries, rng), max(0.0, deadline - anyio.current_time())))
        tries += 1

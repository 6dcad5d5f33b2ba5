"""Calls with an answer: who makes them.

    async with RPCClient("amqp://shop@rabbitmq1/%2Ffog") as client:
        total = await client.call("math.rpc", {"a": 5, "b": 3}, returns=int, timeout=2.0)

All calls of a client share one queue for their answers, which is its connection's own, and a table of who waits for
which. Whatever ends the way of the answers (the queue, the connection) is told to all of them at once.
"""

from __future__ import annotations

import math
import secrets
from contextlib import AsyncExitStack, suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from itertools import count
from types import TracebackType
from typing import Any, Final, TypeVar, cast, overload

import anyio
import msgspec
from msgspec import Raw

from fogactors.bus.base import Consumer, Delivery, Message
from fogactors.core import Actor, ChildSpec, Exit
from fogactors.core.timers import TIMED_OUT
from fogactors.core.waiter import Waiter
from fogactors.errors import (
    AccessRefused,
    ActorError,
    BusError,
    BusUnavailable,
    CallLost,
    CallTimeout,
    ConfigError,
    FogError,
    NoSuchService,
    QueueMissing,
    RemoteError,
    Unroutable,
    WireError,
)
from fogactors.messages import RpcReply, RpcRequest
from fogactors.messaging.context import causation_id, correlation_id
from fogactors.messaging.handlers import BAD_VALUE, to_json
from fogactors.messaging.rpc_serving import REPLY_PREFIX, check_exchange, check_service, service_queue
from fogactors.messaging.session import Session
from fogactors.wire.access import control_queue
from fogactors.wire.codec import decode, encode
from fogactors.wire.topology import RPC

__all__ = ["RPCClient"]

PREFETCH: Final = 1000
LOOK_AFTER_S: Final = 1.0
"""A call without an answer for so long: is anybody there?"""
LOOK_AGAIN_S: Final = 5.0
TICK_S: Final = 0.25
CLOSE_S: Final = 3.0

T = TypeVar("T")


@dataclass(slots=True)
class _Call:
    service: str
    waiter: Waiter
    look_at: float

    def end(self, outcome: Delivery | FogError) -> None:
        if not self.waiter.done():
            self.waiter.set_result(outcome)


@dataclass(slots=True)
class _Question:
    """Whether a service exists, asked by the first who calls it."""

    answered: anyio.Event = field(default_factory=anyio.Event)
    missing: str = ""


@dataclass(slots=True)
class _Line:
    """One connection's way for answers. `known`: services that were there when they were first called on it."""

    key: str
    known: set[str] = field(default_factory=set[str])
    asked: dict[str, _Question] = field(default_factory=dict[str, _Question])


@dataclass(frozen=True, slots=True)
class _Lost:
    reason: str


class _Replies(Actor[Any]):
    """Reads the queue of answers, and looks after calls that have none."""

    def __init__(self, session: Session, table: _Table, exchange: str) -> None:
        self._session = session
        self._table = table
        self._exchange = exchange
        self._consumer: Consumer | None = None

    async def on_start(self) -> None:
        bus = self._session.bus
        await check_exchange(bus, self._exchange)
        key = f"{REPLY_PREFIX}{secrets.token_hex(8)}"
        # Of the name of its user's own queues: the only ones that a user may make who has no more than it needs.
        queue = await bus.open_exclusive(control_queue(self._session.user, key), ((self._exchange, key),))
        self._consumer = await bus.consume(queue, self._take, prefetch=PREFETCH, on_lost=self._on_lost)
        self._table.open(_Line(key))

    async def run(self) -> None:
        end: Exception | None = None
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(self._look)
            try:
                await super().run()
            except Exception as error:
                end = error
            tasks.cancel_scope.cancel()
        if end is not None:
            raise end

    async def on_stop(self, exit: Exit) -> None:  # noqa: A002
        self._table.lose("the reader of its answers has ended")
        if self._consumer is not None:
            with anyio.move_on_after(CLOSE_S, shield=True):
                await self._consumer.close()

    async def handle(self, message: Any) -> None:
        match message:
            case _Lost(reason):
                raise BusUnavailable(f"{self.ctx.path}: the consumer of its answers was lost: {reason}")
            case _:
                await message.ack()

    def _take(self, delivery: Delivery) -> None:
        self._table.answer(delivery)  # here and now; only the ack may wait
        with suppress(ActorError):
            self.ctx.mailbox.put_nowait(delivery)

    def _on_lost(self, reason: str) -> None:
        self._table.lose(reason)
        self.ctx.mailbox.put_system(_Lost(reason))

    async def _look(self) -> None:
        while True:
            await anyio.sleep(TICK_S)
            now = self.ctx.now()
            for service in self._table.silent(now):
                missing = ""
                with suppress(BusError):
                    missing = await _missing(self._session, service)
                self._table.looked(service, missing, now)


async def _missing(session: Session, service: str) -> str:
    """Why nobody serves it; empty when somebody does, or when we may not look. Raises `BusError`."""
    try:
        info = await session.bus.inspect(service_queue(service))
    except QueueMissing:
        return "it has no queue"
    except AccessRefused:
        return ""
    return "" if info.consumers else "its queue has no consumer"


class _Table:
    """Who waits for which answer."""

    def __init__(self) -> None:
        self.calls: dict[str, _Call] = {}
        self.late = 0
        self._line: _Line | None = None
        self._opened = anyio.Event()

    def open(self, line: _Line) -> None:
        self._line = line
        opened, self._opened = self._opened, anyio.Event()
        opened.set()

    def lose(self, reason: str) -> None:
        self._line = None
        for call in self.calls.values():
            text = f"call of {call.service}: the way for its answer was lost: {reason}; it may have been carried out"
            call.end(CallLost(text))

    def answer(self, delivery: Delivery) -> None:
        call = self.calls.get(delivery.correlation_id or "")
        if call is None:
            self.late += 1
        else:
            call.end(delivery)

    def silent(self, now: float) -> set[str]:
        return {call.service for call in self.calls.values() if call.look_at <= now}

    def looked(self, service: str, missing: str, at: float) -> None:
        """At the calls that were due for it `at` that time; a younger one has its own look to come."""
        for call in self.calls.values():
            if call.service != service or call.look_at > at:
                continue
            if missing:
                call.end(NoSuchService(f"call of {service}: nobody serves it: {missing}; start a server for it"))
            call.look_at = at + LOOK_AGAIN_S

    def open_line(self, session: Session) -> _Line | None:
        return self._line if session.bus.is_open else None

    async def line(self, session: Session) -> _Line:
        """The caller bounds the wait."""
        while (line := self.open_line(session)) is None:
            if self._line is None:
                await self._opened.wait()
            else:  # the link has not told us yet
                await session.bus.wait_open()
        return line


class RPCClient:
    """Calls services; as many at a time as one likes. `async with` connects.

    `broker`: a URL (see `Session.open`), or a session that others use as well. `name`: of the connection. `exchange`: a
    direct exchange, which must exist; that of the servers.
    """

    def __init__(self, broker: str | Session, *, name: str = "rpc-client", exchange: str = RPC) -> None:
        self.exchange = exchange
        self._broker = broker
        self._name = name
        self._session: Session | None = None
        self._stack = AsyncExitStack()
        self._token = secrets.token_hex(6)
        self._numbers = count(1)
        self._table = _Table()

    async def __aenter__(self) -> RPCClient:
        """Raises what `Session.open` raises, and `TopologyMismatch` when there is no such exchange."""
        async with AsyncExitStack() as stack:
            session = self._broker
            if isinstance(session, str):
                session = await stack.enter_async_context(Session.open(session, self._name))
            table = self._table
            factory = lambda: _Replies(session, table, self.exchange)  # noqa: E731
            await session.start(ChildSpec(id=self._id, factory=factory, mailbox=PREFETCH + 1))
            self._session = session
            self._stack = stack.pop_all()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Calls that are under way raise `CallLost`."""
        session, self._session = self._session, None
        if session is not None:
            with suppress(ActorError), anyio.CancelScope(shield=True):
                await session.stop(self._id)
        await self._stack.__aexit__(kind, error, trace)

    @property
    def session(self) -> Session:
        """Its connection. Raises `ConfigError` outside of `async with`."""
        if self._session is None:
            raise ConfigError("use it inside `async with RPCClient(...)`")
        return self._session

    @property
    def late_replies(self) -> int:
        """Answers for which nobody waited any more."""
        return self._table.late

    @overload
    async def call(self, service: str, request: Any, *, timeout: float = 30.0) -> Any: ...
    @overload
    async def call(self, service: str, request: Any, *, timeout: float = 30.0, returns: type[T]) -> T: ...
    async def call(
        self, service: str, request: Any, *, timeout: float = 30.0, returns: type[T] | None = None
    ) -> T | Any:
        """The answer of a service. `request`: anything with a JSON form: dicts, dataclasses, msgspec structs.

        `timeout`: seconds in all, the wait for a connection included; a request that has not started by then is not
        run. `returns`: the answer's type; without it the answer is what JSON makes of it.

        Raises `RemoteError` (the service raised; `BadRequest`: the request does not fit it), `NoSuchService` (at the
        first call of a service, or a second after any: nobody serves it), `CallTimeout`, `CallLost` (the connection was
        lost in mid call), `BusUnavailable` (there was none, or the broker takes no messages), `QueueFull`,
        `MessageTooLarge`, `WireError` (a request or an answer that is not what it should be).
        """
        if not 0 < timeout < math.inf:
            raise ValueError(f"timeout must be a finite number of seconds above 0, not {timeout!r}")
        check_service(service)
        session = self.session
        clock, timers = session.actors.clock, session.actors.timers
        deadline = clock() + timeout
        try:
            args = Raw(to_json(request))
        except BAD_VALUE as error:
            raise WireError(f"call of {service}: the request has no JSON form: {error}") from error
        line = self._table.open_line(session)
        if line is None or service not in line.known:
            line = await self._known(service, deadline)
        id = f"{self._token}-{next(self._numbers):x}"  # noqa: A001
        left = max(deadline - clock(), 0.001)
        message = _message(id, service, args, left, line.key)
        waiter = session.actors.new_waiter()
        bucket = timers.expire_at(deadline, waiter)
        call = self._table.calls[id] = _Call(service, waiter, clock() + LOOK_AFTER_S)
        try:
            try:
                await session.publish(self.exchange, service, message, timeout=left)
            except Unroutable as error:
                raise NoSuchService(f"call of {service}: nobody serves it: it has no queue; start a server") from error
            outcome = await call.waiter
        finally:
            timers.forget(bucket, waiter)
            del self._table.calls[id]
        if outcome is TIMED_OUT:
            raise CallTimeout(f"call of {service}: no answer within {timeout:g} s; it may still have been carried out")
        if isinstance(outcome, FogError):
            raise outcome
        return _value(service, cast("Delivery", outcome), returns)

    async def _known(self, service: str, deadline: float) -> _Line:
        """The way for answers, once it is known that somebody serves. Asked by the first who calls it on a connection;
        those who come meanwhile wait with him."""
        table, session = self._table, self.session
        with anyio.CancelScope(deadline=deadline) as scope:
            line = await table.line(session)
            while service not in line.known:
                question = line.asked.get(service)
                if question is not None:
                    await question.answered.wait()
                else:
                    question = line.asked[service] = _Question()
                    try:
                        question.missing = await _missing(session, service)
                        if not question.missing:
                            line.known.add(service)
                    finally:
                        del line.asked[service]
                        question.answered.set()
                if question.missing:
                    text = f"call of {service}: nobody serves it: {question.missing}; start a server for it"
                    raise NoSuchService(text)
                line = await table.line(session)
            return line
        assert scope.cancelled_caught  # noqa: S101
        if not session.bus.is_open:
            raise BusUnavailable(f"call of {service}: there is no connection to the broker")
        raise CallTimeout(f"call of {service}: not sent in time: the broker did not say who serves it")

    @property
    def _id(self) -> str:
        return f"rpc-client-{self._token}"


def _message(id: str, service: str, args: Raw, left: float, reply_to: str) -> Message:  # noqa: A002
    request = RpcRequest(
        id=id,
        service=service,
        args=args,
        created=datetime.now(UTC),
        timeout_s=left,
        reply_to=reply_to,
        correlation_id=correlation_id(),
        causation_id=causation_id(),
    )
    return Message(encode(request), type="rpc_request", correlation_id=id, reply_to=reply_to, expiration=left)


def _value(service: str, delivery: Delivery, returns: type[T] | None) -> T | Any:
    reply = decode(delivery.body, RpcReply, delivery.content_type)
    if reply.error is not None:
        raise RemoteError(reply.error.type, reply.error.message, traceback=reply.error.traceback)
    if reply.value is None:
        raise WireError(f"call of {service}: the answer has neither a value nor an error")
    try:
        return msgspec.json.decode(reply.value, type=Any if returns is None else returns)
    except BAD_VALUE as error:
        raise WireError(f"call of {service}: the answer is not what `returns` says: {error}") from error

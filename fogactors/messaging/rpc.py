"""Calls with an answer: who serves them.

    async with RPCServer("amqp://shop@rabbitmq1/%2Ffog", "math.rpc") as server:

        @server.handler
        async def add(a: int, b: int) -> int:
            return a + b

        await server.run()

Requests wait in a quorum queue, `rpc.<service>`, which goes a minute after its last server. A request is acked after
its answer was sent, so one whose server dies is run again by the next, as long as its caller waits. The answer goes to
the caller's own queue on `rpc.direct`; why not direct reply-to: it needs write on the default exchange, which is write
on every queue.
"""

from __future__ import annotations

import math
import re
from collections import deque
from collections.abc import Callable
from contextlib import AsyncExitStack, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from types import TracebackType
from typing import Any, Final, Literal, TypeVar

import anyio
import msgspec
from msgspec import Raw

from fogactors.bus.base import Consumer, Delivery, Message
from fogactors.core import Actor, ChildSpec, Exit, StopRequested
from fogactors.errors import ActorError, BusError, BusUnavailable, ConfigError, MessageTooLarge, WireError
from fogactors.messages import ErrorInfo, RpcReply, RpcRequest
from fogactors.messaging.context import correlated
from fogactors.messaging.handlers import BAD_VALUE, Handler
from fogactors.messaging.session import Session
from fogactors.wire.codec import decode, encode
from fogactors.wire.topology import RPC, RPC_PREFIX, Binding, Queue, Topology

__all__ = [
    "BAD_REQUEST",
    "REPLY_PREFIX",
    "RPCServer",
    "RequestDropped",
    "RequestFailed",
    "check_service",
    "service_queue",
]

REPLY_PREFIX: Final = "reply."
"""What the key of every answer begins with, and no service's name: an answer must not become somebody's request."""
BAD_REQUEST: Final = "BadRequest"
"""The type of `RemoteError` for a request that does not fit its handler."""
CLOCKS_DIFFER_S: Final = 5.0
"""What the clocks of two machines may differ by. How long a request waited is told by the broker, which drops what is
over its time, and from its arrival by our own clock; the time at which it was made only catches what lay unread in the
socket of a process that was stopped for a while."""
CLOSE_S: Final = 3.0
LAST_WORD_S: Final = 1.0
"""At least, for an answer to be handed to the broker."""

_SERVICE: Final = re.compile(r"[A-Za-z0-9][\w.:-]{0,199}", re.ASCII)

F = TypeVar("F", bound=Callable[..., Any])


def check_service(name: str) -> str:
    """The name itself. Raises `ConfigError` for one that cannot be a service's."""
    if not _SERVICE.fullmatch(name) or name.startswith(REPLY_PREFIX):
        raise ConfigError(
            f"{name!r} cannot be a service: use letters, digits and . _ : - (at most 200), "
            f"and do not begin with {REPLY_PREFIX!r}"
        )
    return name


def service_queue(service: str) -> str:
    """Where the requests of a service wait."""
    return f"{RPC_PREFIX}{service}"


@dataclass(frozen=True, slots=True, kw_only=True)
class RequestFailed:
    """A handler raised, or its answer could not be sent; the caller has been told where there was a way to."""

    at: datetime
    path: str
    service: str
    request_id: str
    error: str


@dataclass(frozen=True, slots=True, kw_only=True)
class RequestDropped:
    """Nobody gets an answer. `expired`: its caller's time was over before it started; `late`: it was over before it was
    done; `malformed`: these bytes are no request, or it says no place for the answer; `unsent`: it was carried out and
    the broker did not take the answer."""

    at: datetime
    path: str
    service: str
    request_id: str
    reason: Literal["expired", "late", "malformed", "unsent"]


@dataclass(frozen=True, slots=True)
class _Got:
    """`at`: on the loop's clock."""

    delivery: Delivery
    at: float


@dataclass(frozen=True, slots=True)
class _Lost:
    reason: str


@dataclass(frozen=True, slots=True)
class _Service:
    name: str
    handler: Handler
    concurrency: int
    prefetch: int
    drain_s: float
    threads: anyio.CapacityLimiter


class _Server(Actor[Any]):
    """Takes requests, runs so many at once, answers. On a stop it takes no more, hands back what has not started, and
    what runs may finish within `drain_s`."""

    def __init__(self, session: Session, service: _Service) -> None:
        self._session = session
        self._service = service
        self._consumer: Consumer | None = None
        self._waiting: deque[_Got] = deque()
        self._running = 0
        self._idle = anyio.Event()
        self._lost = False

    async def on_start(self) -> None:
        queue, bus = service_queue(self._service.name), self._session.bus
        await bus.declare(Topology(queues=(Queue(queue),), bindings=(Binding(RPC, self._service.name, queue),)))
        self._consumer = await bus.consume(queue, self._take, prefetch=self._service.prefetch, on_lost=self._on_lost)

    async def run(self) -> None:
        end: Exception | None = None
        async with anyio.create_task_group() as tasks:
            self._tasks = tasks
            try:
                await super().run()
            except Exception as error:
                end = error
            if isinstance(end, StopRequested):
                await self._drain()
            tasks.cancel_scope.cancel()
        if end is not None:
            raise end

    async def on_stop(self, exit: Exit) -> None:  # noqa: A002
        if self._consumer is not None:
            with anyio.move_on_after(CLOSE_S, shield=True):
                await self._consumer.close()

    async def handle(self, message: Any) -> None:
        match message:
            case _Got():
                self._waiting.append(message)
                self._start()
            case _Lost(reason):
                raise BusUnavailable(f"{self.ctx.path}: the consumer of its requests was lost: {reason}")
            case _:
                await super().handle(message)

    def _take(self, delivery: Delivery) -> None:
        with suppress(ActorError):  # ending: it goes back with the channel
            self.ctx.mailbox.put_nowait(_Got(delivery, self.ctx.now()))

    def _on_lost(self, reason: str) -> None:
        self._lost = True
        self.ctx.mailbox.put_system(_Lost(reason))

    def _start(self) -> None:
        while self._waiting and self._running < self._service.concurrency:
            self._running += 1
            self._tasks.start_soon(self._serve, self._waiting.popleft())

    async def _drain(self) -> None:
        # Without its consumer what runs would be run again in any case, and the link waits for us to connect anew.
        if self._consumer is None or self._lost:
            return
        with anyio.move_on_after(self._service.drain_s):
            with suppress(BusError):
                await self._consumer.cancel()
            waiting = [*self._waiting, *(each for each in self.ctx.mailbox.items if isinstance(each, _Got))]
            self._waiting.clear()
            for each in waiting:
                await each.delivery.requeue()
            while self._running:
                self._idle = anyio.Event()
                await self._idle.wait()

    # -- one request

    async def _serve(self, got: _Got) -> None:
        try:
            await self._carry_out(got)
            await got.delivery.ack()
        finally:
            self._running -= 1
            self._idle.set()
            self._start()

    async def _carry_out(self, got: _Got) -> None:
        delivery = got.delivery
        try:
            request = decode(delivery.body, RpcRequest, delivery.content_type)
        except WireError as error:
            # Its properties may still say whom to tell.
            ours = RpcRequest(
                id=delivery.correlation_id or "",
                service=self._service.name,
                created=datetime.now(UTC),
                timeout_s=LAST_WORD_S,
                reply_to=delivery.reply_to or "",
            )
            await self._reply(ours, ErrorInfo(type=BAD_REQUEST, message=str(error)), LAST_WORD_S)
            return
        deadline = got.at + request.timeout_s
        left = deadline - self.ctx.now()
        age = (datetime.now(UTC) - request.created).total_seconds()
        if left <= 0 or age > request.timeout_s + CLOCKS_DIFFER_S:
            self._dropped(request, "expired")
            return
        try:
            call = self._service.handler.decode(request.args)
        except WireError as error:
            await self._reply(request, ErrorInfo(type=BAD_REQUEST, message=str(error)), left)
            return
        answer: Raw | ErrorInfo | None = None
        with anyio.move_on_after(left), correlated(request.correlation_id or request.id, request.id):
            answer = await self._run(request, call)
        if answer is None:
            self._dropped(request, "late")
            return
        await self._reply(request, answer, deadline - self.ctx.now())

    async def _run(self, request: RpcRequest, call: Callable[[], Any]) -> Raw | ErrorInfo:
        try:
            value = await self._service.handler.run(call, self._service.threads)
        except Exception as error:
            self._failed(request, f"{type(error).__name__}: {error}")
            return ErrorInfo(type=type(error).__name__, message=str(error))
        try:
            return Raw(msgspec.json.encode(value))
        except BAD_VALUE as error:
            text = f"what {self._service.handler.name} returned has no JSON form: {error}"
            self._failed(request, text)
            return ErrorInfo(type=type(error).__name__, message=text)

    async def _reply(self, request: RpcRequest, answer: Raw | ErrorInfo, left: float) -> None:
        # Any other key could be a service's: the answer would come to it as a request.
        if not request.reply_to.startswith(REPLY_PREFIX):
            self._dropped(request, "malformed")
            return
        reply = RpcReply(id=request.id, server=self._session.name, correlation_id=request.correlation_id)
        if isinstance(answer, ErrorInfo):
            reply.error = answer
        else:
            reply.value = answer
        reply.traceparent = request.traceparent
        try:
            await self._send(request, reply, left)
        except MessageTooLarge as error:
            self._failed(request, f"MessageTooLarge: {error}")
            short = RpcReply(id=request.id, error=ErrorInfo(type="MessageTooLarge", message="the answer is too large"))
            with suppress(BusError):
                await self._send(request, short, left)
        except BusError:
            self._dropped(request, "unsent")

    async def _send(self, request: RpcRequest, reply: RpcReply, left: float) -> None:
        message = Message(encode(reply), type="rpc_reply", correlation_id=request.id, persistent=False)
        timeout = max(left, LAST_WORD_S)
        # Not mandatory: a caller that has gone is no error.
        await self._session.publish(RPC, request.reply_to, message, mandatory=False, timeout=timeout)

    def _failed(self, request: RpcRequest, error: str) -> None:
        now, path, name = datetime.now(UTC), self.ctx.path, self._service.name
        self.ctx.emit(RequestFailed(at=now, path=path, service=name, request_id=request.id, error=error))

    def _dropped(self, request: RpcRequest, reason: Literal["expired", "late", "malformed", "unsent"]) -> None:
        now, path, name = datetime.now(UTC), self.ctx.path, self._service.name
        self.ctx.emit(RequestDropped(at=now, path=path, service=name, request_id=request.id, reason=reason))


class RPCServer:
    """One service, and the function behind it. `async with` connects, `run` or `start` serves.

    `broker`: a URL (see `Session.open`), or a session that others use as well. `service`: what callers name, such as
    `math.rpc`. `concurrency`: requests that are carried out at once, in the loop or, with a plain function, in so many
    threads. `prefetch`: requests that the broker hands over before they are answered (by default `concurrency`; more
    of them saves a round trip, and takes them from other servers). `drain_s`: seconds that what runs may take on a
    stop. `name`: of the connection, and what answers say who they are from.

    Raises `ConfigError` for what cannot be; on entering, what `Session.open` raises.
    """

    def __init__(
        self,
        broker: str | Session,
        service: str,
        *,
        concurrency: int = 100,
        prefetch: int | None = None,
        drain_s: float = 10.0,
        name: str = "",
    ) -> None:
        prefetch = concurrency if prefetch is None else prefetch
        if not 1 <= concurrency <= prefetch <= 65_535:
            raise ConfigError(f"{service}: 1 <= concurrency <= prefetch <= 65535, not {concurrency} and {prefetch}")
        if not 0 <= drain_s < math.inf:
            raise ConfigError(f"{service}: drain_s must be 0 or more and finite, not {drain_s}")
        self.service = check_service(service)
        self._broker = broker
        self._name = name or service
        self._concurrency, self._prefetch, self._drain_s = concurrency, prefetch, drain_s
        self._handler: Handler | None = None
        self._session: Session | None = None
        self._stack = AsyncExitStack()

    def handler(self, fn: F) -> F:
        """As a decorator: this function answers. Plain or `async`; see `fogactors.messaging.handlers` for its types.
        Raises `ConfigError` when it cannot, or there is one."""
        if self._handler is not None:
            raise ConfigError(f"{self.service} has a handler, {self._handler.name}; a service has one")
        self._handler = Handler(fn)
        return fn

    def register_handler(self, fn: Callable[..., Any]) -> None:
        """As `handler`, and no decorator."""
        self.handler(fn)

    async def __aenter__(self) -> RPCServer:
        broker = self._broker
        if isinstance(broker, str):
            broker = await self._stack.enter_async_context(Session.open(broker, self._name))
        self._session = broker
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with suppress(ActorError), anyio.CancelScope(shield=True):
            await self.stop()
        self._session = None
        await self._stack.__aexit__(kind, error, trace)

    @property
    def session(self) -> Session:
        """Its connection. Raises `ConfigError` outside of `async with`."""
        if self._session is None:
            raise ConfigError(f"{self.service}: use it inside `async with RPCServer(...)`")
        return self._session

    async def start(self) -> None:
        """Serve; returns when the broker knows of it. Raises `ConfigError` without a handler, and what
        `Session.start` raises."""
        if self._handler is None:
            raise ConfigError(f"{self.service} has no handler; give it one with @server.handler")
        threads = anyio.CapacityLimiter(self._concurrency)
        service = _Service(self.service, self._handler, self._concurrency, self._prefetch, self._drain_s, threads)
        session = self.session
        await session.start(
            ChildSpec(
                id=self._id,
                factory=lambda: _Server(session, service),
                shutdown_s=self._drain_s + CLOSE_S,
                mailbox=self._prefetch + 1,
            )
        )

    async def stop(self) -> None:
        """Serve no more: what runs may finish, what waits goes back to the queue. Raises `ActorError` when it does not
        serve."""
        await self.session.stop(self._id)

    async def run(self) -> None:
        """Serve until it is cancelled."""
        await self.start()
        await anyio.sleep_forever()

    @property
    def _id(self) -> str:
        return f"rpc-server-{self.service}"

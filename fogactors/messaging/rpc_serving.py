"""The actor behind an `RPCServer`: takes requests, runs so many at once, answers."""

from __future__ import annotations

import math
import re
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Final, Literal

import anyio
from msgspec import Raw

from fogactors.bus.base import Bus, Consumer, Delivery, Message
from fogactors.core import Actor, Exit, StopRequested
from fogactors.errors import (
    ActorError,
    BusError,
    BusUnavailable,
    ConfigError,
    MessageTooLarge,
    StrayCancellation,
    TopologyMismatch,
    WireError,
)
from fogactors.messages import ErrorInfo, RpcReply, RpcRequest
from fogactors.messaging.context import correlated
from fogactors.messaging.handlers import BAD_VALUE, Handler, to_json
from fogactors.messaging.session import Session
from fogactors.messaging.threads import Place, Threads
from fogactors.wire.codec import decode, encode
from fogactors.wire.topology import RPC, RPC_PREFIX, Binding, Exchange, Queue, Topology

__all__ = [
    "BAD_REQUEST",
    "CLOSE_S",
    "REPLY_PREFIX",
    "RequestDropped",
    "RequestFailed",
    "Service",
    "Serving",
    "check_exchange",
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
TEXT_LIMIT: Final = 4_000
"""Characters of an exception's text: one that quotes its input must not be too large to be sent."""
LAST_WORD_S: Final = 1.0
"""At least, for an answer to be handed to the broker."""

_SERVICE: Final = re.compile(r"[A-Za-z0-9][\w.:-]{0,199}", re.ASCII)


def check_service(name: str) -> str:
    """The name itself. Raises `ConfigError` for one that cannot be a service's."""
    if not _SERVICE.fullmatch(name) or name.startswith(REPLY_PREFIX) or service_queue(name) == RPC:
        raise ConfigError(
            f"{name!r} cannot be a service: use letters, digits and . _ : - (at most 200), "
            f"and do not begin with {REPLY_PREFIX!r}; 'direct' is taken"
        )
    return name


def service_queue(service: str) -> str:
    """Where the requests of a service wait."""
    return f"{RPC_PREFIX}{service}"


async def check_exchange(bus: Bus, exchange: str) -> None:
    """Raises `TopologyMismatch` when it is not there: to bind a queue to it says so as well, but not what to do."""
    if missing := await bus.check(Topology(exchanges=(Exchange(exchange, "direct"),))):
        raise TopologyMismatch(f"calls: {missing[0]}; run `fogactors topology apply`")


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
class Service:
    name: str
    handler: Handler
    concurrency: int
    prefetch: int
    drain_s: float
    threads: Threads
    exchange: str = RPC


class Serving(Actor[Any]):
    """Takes requests, runs so many at once, answers. On a stop it takes no more, hands back what has not started, and
    what runs may finish within `drain_s`."""

    def __init__(self, session: Session, service: Service) -> None:
        self._session = session
        self._service = service
        self._consumer: Consumer | None = None
        self._waiting: deque[_Got] = deque()
        self._running = 0
        self._line = service.threads.line()
        self._idle = anyio.Event()
        self._lost = False

    async def on_start(self) -> None:
        queue, bus = service_queue(self._service.name), self._session.bus
        await check_exchange(bus, self._service.exchange)
        binding = Binding(self._service.exchange, self._service.name, queue)
        await bus.declare(Topology(queues=(Queue(queue),), bindings=(binding,)))
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
        with anyio.move_on_after(self._service.drain_s) as drain:

            async def until_lost() -> None:
                await self._session.bus.wait_lost()
                drain.cancel()

            self._tasks.start_soon(until_lost)
            with suppress(BusError):
                await self._consumer.cancel()
            self._line.close()
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
            if await self._carry_out(got):
                await got.delivery.ack()
            else:
                await got.delivery.requeue()
        finally:
            self._running -= 1
            self._idle.set()
            self._start()

    async def _carry_out(self, got: _Got) -> bool:
        """False: it has not begun, and another server may have it."""
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
            return True
        deadline = got.at + request.timeout_s
        left = deadline - self.ctx.now()
        age = (datetime.now(UTC) - request.created).total_seconds()
        if left <= 0 or age > request.timeout_s + CLOCKS_DIFFER_S:
            self._dropped(request, "expired")
            return True
        try:
            call = self._service.handler.decode(request.args)
        except WireError as error:
            await self._reply(request, ErrorInfo(type=BAD_REQUEST, message=str(error)), left)
            return True
        place: Place | None = None
        if not self._service.handler.is_async:
            place = await self._line.wait_place(left)  # a thread that outlasted its caller may still have it
            if place is None:
                if self._line.is_closed:
                    return False
                self._dropped(request, "expired")
                return True
        left, answer = deadline - self.ctx.now(), None
        with anyio.move_on_after(left), correlated(request.correlation_id or request.id, request.id):
            answer = await self._run(request, call, place)
        if answer is None:
            self._dropped(request, "late")
        else:
            await self._reply(request, answer, deadline - self.ctx.now())
        return True

    async def _run(self, request: RpcRequest, call: Callable[[], Any], place: Place | None) -> Raw | ErrorInfo:
        try:
            value = await self._service.handler.run(call, place)
        except (Exception, SystemExit) as error:  # exit() is one request's end, not the server's
            self._failed(request, f"{type(error).__name__}: {_text(error)}")
            return ErrorInfo(type=type(error).__name__, message=_text(error))
        except anyio.get_cancelled_exc_class():
            if anyio.current_effective_deadline() == -math.inf:
                raise
            # A library cancelled it from inside. Let through, it would end this task without a word and without an ack.
            error = StrayCancellation()
            self._failed(request, f"{type(error).__name__}: {error}")
            return ErrorInfo(type=type(error).__name__, message=str(error))
        try:
            return Raw(to_json(value))
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
        exchange = self._service.exchange
        await self._session.publish(exchange, request.reply_to, message, mandatory=False, timeout=timeout)

    def _failed(self, request: RpcRequest, error: str) -> None:
        now, path, name = datetime.now(UTC), self.ctx.path, self._service.name
        self.ctx.emit(RequestFailed(at=now, path=path, service=name, request_id=request.id, error=error))

    def _dropped(self, request: RpcRequest, reason: Literal["expired", "late", "malformed", "unsent"]) -> None:
        now, path, name = datetime.now(UTC), self.ctx.path, self._service.name
        self.ctx.emit(RequestDropped(at=now, path=path, service=name, request_id=request.id, reason=reason))


def _text(error: BaseException) -> str:
    """What it says, as text that can be sent."""
    try:
        return str(error)[:TEXT_LIMIT].encode("utf-8", "backslashreplace").decode()
    except Exception as broken:
        return f"its text cannot be made: {type(broken).__name__}"

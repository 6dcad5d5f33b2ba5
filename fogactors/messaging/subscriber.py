"""The actor behind a subscription: takes events from its queue, hands them to the handler, and settles each once.

| what happens | then |
|---|---|
| the handler returns | remembered as handled, acked |
| it was handled before | counted, acked |
| the handler raises, or runs too long | published to the ladder for this queue alone, acked; at last dead-lettered |
| the bytes are no event, or its data is of another type | dead-lettered at once |
| its process died with it too often | dead-lettered, not run |

Killed between any two steps, the broker delivers it again. A retry waits at the broker and not here, so that what fails
keeps no place of those that do not. Without a group there is no queue that outlives us: then a retry waits here, and
what is given up is dropped.
"""

from __future__ import annotations

import math
import secrets
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Final

import anyio
from anyio.abc import TaskGroup
from msgspec.structs import replace

from fogactors.bus.base import Bus, Consumer, Delivery, Message
from fogactors.core import Actor, ChildSpec, Exit, StopRequested
from fogactors.errors import ActorError, BusError, BusUnavailable, StrayCancellation, TimeLimitExceeded, WireError
from fogactors.messages import DeadLetter, ErrorInfo, Reason
from fogactors.messages import Event as WireEvent
from fogactors.messaging.context import correlated
from fogactors.messaging.event import Event
from fogactors.messaging.event_plan import EventStats, Plan
from fogactors.messaging.facts import EventDeadLettered, EventGroupFull, EventRetried
from fogactors.messaging.threads import Place
from fogactors.tasks.deadletter import publish_letter, unreadable
from fogactors.tasks.failures import brief, error_info
from fogactors.tasks.limits import longest_s
from fogactors.tasks.retry import Retry, Skip, next_delay, step_for
from fogactors.wire.codec import amend, decode
from fogactors.wire.topology import DLX, LIVE_PREFIX, RETRY_STEPS_S, retry_exchange

__all__ = ["EventStats", "Plan", "Subscriber", "child"]

SUSPECT: Final = 2
"""From so many deliveries that ended with their process on, an event is handled alone."""
CRASH_LIMIT: Final = 10
"""At so many it is given up. A broken connection counts as well; the broker would discard it after 20."""
DRAIN_S: Final = 10.0
"""For handlers to come to their end when the subscription stops."""
CLOSE_S: Final = 3.0
REFUSED_S: Final = 5.0
"""The longest pause before a retry or a dead letter that the broker refuses is offered again."""


@dataclass(frozen=True, slots=True)
class _Lost:
    reason: str


class _Look:
    """Look how many events wait."""


class Subscriber(Actor[Any]):
    """One incarnation of a subscription; what it counts and remembers is in its plan."""

    def __init__(self, bus: Bus, plan: Plan) -> None:
        self._bus = bus
        self._plan = plan
        self._queue = plan.queue
        self._consumer: Consumer | None = None
        self._slots = anyio.Semaphore(plan.concurrency)
        self._line = plan.handler.threads.line()
        self._alone = anyio.Lock()
        self._condemned = False
        self._in_hand: dict[str, anyio.Event] = {}
        self._working = 0
        self._idle = anyio.Event()
        self._stopping = False
        self._tasks: TaskGroup

    # -- the life of it

    async def on_start(self) -> None:
        plan = self._plan
        if plan.queue:
            await self._bus.declare(plan.topology)
        else:
            # With a bound, or a slow listener could fill the broker's memory.
            name = f"{LIVE_PREFIX}{secrets.token_hex(8)}"
            self._queue = await self._bus.open_exclusive(name, plan.exclusive, max_length=plan.max_length)
        self._consumer = await self._bus.consume(
            self._queue, self._take, prefetch=plan.prefetch, on_lost=lambda reason: self._put(_Lost(reason))
        )
        if plan.max_length:
            self.ctx.send_every(plan.look_s, _Look())

    async def run(self) -> None:
        end: Exception | None = None
        async with anyio.create_task_group() as self._tasks:
            try:
                await super().run()
            except Exception as error:
                end = error  # out of the group by hand, or it would come out wrapped in an ExceptionGroup
            self._stopping = True
            if isinstance(end, StopRequested) and self._bus.is_open:
                await self._drain()
            # Without its connection nothing can be settled: what is in hand is delivered again.
            self._tasks.cancel_scope.cancel()
        if end is not None:
            raise end

    async def _drain(self) -> None:
        """Ends at once when the connection does: what is in hand is the broker's again then, and the link waits for us
        to connect anew."""
        with anyio.move_on_after(DRAIN_S) as drain, suppress(BusError):

            async def until_lost() -> None:
                await self._bus.wait_lost()
                drain.cancel()

            self._tasks.start_soon(until_lost)
            if self._consumer is not None:
                await self._consumer.cancel()
            self._line.close()
            while self._working:
                self._idle = anyio.Event()
                await self._idle.wait()

    async def on_stop(self, exit: Exit) -> None:  # noqa: A002
        if self._consumer is not None:
            with anyio.move_on_after(CLOSE_S, shield=True), suppress(BusError):
                await self._consumer.close()

    async def handle(self, message: Any) -> None:
        match message:
            case _Lost(reason):
                raise BusUnavailable(f"{self.ctx.path}: the broker took the consumer of {self._queue} away: {reason}")
            case _Look():
                await self._look()
            case _:
                self._working += 1
                self._tasks.start_soon(self._work, message, name=f"{self.ctx.path} event")

    def _take(self, delivery: Delivery) -> None:
        self._put(delivery)

    def _put(self, message: object) -> None:
        with suppress(ActorError):  # ending: what is not settled goes back
            self.ctx.mailbox.put_nowait(message)

    async def _look(self) -> None:
        with suppress(BusError):
            ready = (await self._bus.inspect(self._queue)).ready
            if ready >= self._plan.max_length:
                self._plan.stats.full = total = self._plan.stats.full + 1
                if total & (total - 1) == 0:
                    self.ctx.emit(EventGroupFull(at=_now(), queue=self._queue, ready=ready, total=total))

    # -- one event

    async def _work(self, delivery: Delivery) -> None:
        begin_by = self._begin_by()
        try:
            count = delivery.delivery_count or 0
            if count < SUSPECT:
                async with self._slots:
                    await self._one(delivery, begin_by)
                return
            async with self._alone:  # it may be what kills us, and would take its neighbours with it
                for _ in range(self._plan.concurrency):
                    await self._slots.acquire()
                try:
                    await self._one(delivery, begin_by, crashes=count)
                finally:
                    for _ in range(self._plan.concurrency):
                        self._slots.release()
        except BusError:
            pass  # the connection is gone, and what is unsettled comes again
        finally:
            self._working -= 1
            self._idle.set()

    async def _one(self, delivery: Delivery, begin_by: float, crashes: int = 0) -> None:
        """Raises `BusError`; then it is not settled."""
        if self._stopping:
            return None
        if not self._plan.queue:
            await delivery.ack()  # nobody else could have it, and while it waits here it must keep no place
        try:
            wire = decode(delivery.body, WireEvent, delivery.content_type)
        except WireError as error:
            return await self._malformed(delivery, error)
        if crashes >= CRASH_LIMIT and not self._condemned:
            # One at most, the first: what came back with it as often may only have been beside it, and is run alone.
            self._condemned = True
            error = ErrorInfo(type="WorkerLost", message=f"its process or connection was lost with it {crashes} times")
            return await self._give_up(delivery, wire, "worker_lost", error)
        while (other := self._in_hand.get(wire.event_id)) is not None:
            await other.wait()  # a copy of it: whether this one is a duplicate is known when that one is done
        done = self._in_hand[wire.event_id] = anyio.Event()
        try:
            if await self._plan.seen.handled(wire.event_id):
                self._plan.stats.duplicates += 1
                await self._done(delivery)
            else:
                await self._try(delivery, wire, begin_by)
        finally:
            self._plan.seen.leave(wire.event_id)
            del self._in_hand[wire.event_id]
            done.set()

    def _begin_by(self) -> float:
        """When a run of what comes now must begin, so that the broker does not take it back in the midst of it."""
        return anyio.current_time() + longest_s() - self._plan.handler.timeout_s

    async def _try(self, delivery: Delivery, wire: WireEvent, begin_by: float) -> None:
        try:
            event = self._plan.handler.decode(wire)
        except WireError as error:
            return await self._give_up(delivery, wire, "bad_arguments", error_info(error))
        place: Place | None = None
        if not self._plan.handler.is_async:
            # Beyond a call's time its thread runs on, and may still have it. Not counted as time of the next call.
            place = await self._line.wait_place(begin_by - anyio.current_time(), wire.event_id)
            if place is None:
                return None if self._line.is_closed else await self._put_off(delivery, wire)
        failure = await self._call(event, place)
        if failure is not None:
            return await self._failed(delivery, wire, failure)
        self._plan.stats.handled += 1
        await self._plan.seen.mark(wire.event_id)
        return await self._done(delivery)

    async def _done(self, delivery: Delivery) -> None:
        if self._plan.queue:  # else it was acked when it came
            await delivery.ack()

    async def _call(self, event: Event[Any], place: Place | None) -> BaseException | None:
        try:
            with correlated(event.correlation_id or event.event_id, event.event_id):
                await self._plan.handler.run(event, place)
        except Skip:
            return None
        except (Exception, SystemExit) as error:  # exit() in a handler is not the end of the program
            return error
        except anyio.get_cancelled_exc_class():
            if anyio.current_effective_deadline() == -math.inf:
                raise
            return StrayCancellation("its handler was cancelled by something that it had started")
        return None

    async def _failed(self, delivery: Delivery, wire: WireEvent, error: BaseException) -> None:
        policy, asked_s = self._plan.retry, error.delay if isinstance(error, Retry) else None
        rng = self.ctx.system.rng
        wait_s = next_delay(policy, wire.attempt, rng, retryable=policy.retries(error), asked_s=asked_s)
        if wait_s is None:
            reason: Reason = "time_limit" if isinstance(error, TimeLimitExceeded) else "failed"
            await self._give_up(delivery, wire, reason, error_info(error))
            return
        if self._plan.queue:
            wait_s = step_for(wait_s, RETRY_STEPS_S)
            await self._retry_later(delivery, wire, wait_s, wire.attempt + 1)
        else:
            self._tasks.start_soon(self._retry_here, delivery, replace(wire, attempt=wire.attempt + 1), wait_s)
        self._retried(wire, error, wait_s)

    def _retried(self, wire: WireEvent, error: BaseException, wait_s: float) -> None:
        self._plan.stats.retried += 1
        text = brief(error_info(error))
        self.ctx.emit(EventRetried(**self._facts(wire), attempt=wire.attempt, error=text, delay_s=wait_s))

    async def _put_off(self, delivery: Delivery, wire: WireEvent) -> None:
        """Its handler has not been called: the threads of calls that took too long keep all places. Perhaps another
        process of the group has one."""
        error = TimeLimitExceeded(f"no thread was free for it: calls of {self._plan.handler.name} do not end")
        if not self._plan.queue:
            return await self._give_up(delivery, wire, "time_limit", error_info(error))
        await self._retry_later(delivery, wire, RETRY_STEPS_S[0], wire.attempt)
        return self._retried(wire, error, RETRY_STEPS_S[0])

    async def _retry_later(self, delivery: Delivery, wire: WireEvent, step: int, attempt: int) -> None:
        """The ladder's key is the queue, so that no other group gets it again."""
        body = amend(delivery.body, {"attempt": attempt}, delivery.content_type)
        message = Message(
            body, type=delivery.type, content_type=delivery.content_type, correlation_id=wire.correlation_id
        )
        timeout = self._plan.publish_timeout_s
        await self._taken(lambda: self._bus.publish(retry_exchange(step), self._queue, message, timeout=timeout))
        stats = self._plan.stats
        stats.retries_until = max(stats.retries_until, anyio.current_time() + step)
        await delivery.ack()

    async def _retry_here(self, delivery: Delivery, wire: WireEvent, wait_s: float) -> None:
        await anyio.sleep(wait_s)
        begin_by = self._begin_by()
        async with self._slots:
            await self._try(delivery, wire, begin_by)

    async def _malformed(self, delivery: Delivery, error: WireError) -> None:
        letter = unreadable(delivery, WireEvent, _now(), self._plan.source)
        letter.id = f"{letter.id}@{self._queue}"
        await self._park(delivery, letter, delivery.message_id, "", brief(error_info(error)))

    async def _give_up(self, delivery: Delivery, wire: WireEvent, reason: Reason, error: ErrorInfo) -> None:
        letter = DeadLetter(
            id=f"{wire.event_id}@{self._queue}",  # each group has a letter of its own
            reason=reason,
            body=amend(delivery.body, {"attempt": 1}, delivery.content_type),  # so that a replay has all its attempts
            content_type=delivery.content_type,
            error=error,
            name=wire.event_type,
            attempts=wire.attempt,
            worker=self._plan.source,
            origin=self._queue,
            first=wire.timestamp,
            last=_now(),
            correlation_id=wire.correlation_id,
            traceparent=wire.traceparent,
        )
        await self._park(delivery, letter, wire.event_id, wire.event_type, brief(error))

    async def _park(self, delivery: Delivery, letter: DeadLetter, event_id: str, event_type: str, error: str) -> None:
        kept = bool(self._plan.queue)
        if kept:
            timeout = self._plan.publish_timeout_s
            await self._taken(lambda: publish_letter(self._bus, DLX, letter, timeout=timeout))
            self._plan.stats.dead_lettered += 1
        else:
            self._plan.stats.abandoned += 1
        self.ctx.emit(
            EventDeadLettered(
                at=letter.last,
                queue=self._queue,
                event_id=event_id,
                event_type=event_type,
                correlation_id=letter.correlation_id,
                reason=letter.reason,
                error=error,
                kept=kept,
            )
        )
        await self._done(delivery)

    async def _taken(self, publish: Callable[[], Awaitable[None]]) -> None:
        """Until the broker takes it. Not handed back instead: that counts as a crash, and would call the handler again
        for nothing. Raises `BusError` when the connection is gone, which is when the event is delivered again."""
        wait_s = 0.1
        while True:
            try:
                return await publish()
            except BusError:
                if not self._bus.is_open:
                    raise
            await anyio.sleep(wait_s)
            wait_s = min(2 * wait_s, REFUSED_S)

    def _facts(self, wire: WireEvent) -> dict[str, Any]:
        return {
            "at": _now(),
            "queue": self._queue,
            "event_id": wire.event_id,
            "event_type": wire.event_type,
            "correlation_id": wire.correlation_id,
        }


def _now() -> datetime:
    return datetime.now(UTC)


def child(id: str, bus: Bus, plan: Plan) -> ChildSpec:  # noqa: A002
    return ChildSpec(
        id=id,
        factory=lambda: Subscriber(bus, plan),
        start_s=15.0,
        shutdown_s=DRAIN_S + 1.0,
        mailbox=2 * plan.prefetch + 16,
    )

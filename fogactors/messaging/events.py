"""The event bus: what happens in one service, for all who want to know.

    async with EventBus("amqp://shop@rabbitmq1/%2Ffog", source="fabrication") as bus:
        await bus.subscribe("fabrication.print.#", audit, group="audit")
        await bus.publish("fabrication.print.started", {"job_id": "print_123"})

A publisher knows no subscribers, and none of them slows it down. With a group a subscription is a durable queue: what
happens while nobody of the group runs is there when somebody does, several processes share it, and several groups each
get all. Without a group one gets what happens from now on, for as long as one listens.
"""

from __future__ import annotations

import itertools
import math
import secrets
from collections.abc import Callable
from contextlib import AsyncExitStack, suppress
from datetime import UTC, datetime
from types import TracebackType
from typing import Any, Final, TypeVar

import anyio

from fogactors.bus.base import MAX_BODY, Message
from fogactors.coord.base import Coord
from fogactors.core import Events
from fogactors.errors import ActorError, ConfigError, NoSuchChild, SpecError, TopologyMismatch
from fogactors.messages import Event as WireEvent
from fogactors.messaging.context import causation_id
from fogactors.messaging.context import correlation_id as current_correlation
from fogactors.messaging.embedded import MEMORY
from fogactors.messaging.event import (
    Event,
    EventHandler,
    check_event_type,
    check_group,
    check_pattern,
    encode_data,
    group_queue,
)
from fogactors.messaging.facts import log_fact
from fogactors.messaging.seen import Seen
from fogactors.messaging.session import Session
from fogactors.messaging.stores import close_store, make_store
from fogactors.messaging.subscriber import EventStats, Plan, child
from fogactors.tasks.retry import RetryPolicy
from fogactors.wire.codec import encode
from fogactors.wire.topology import EVENTS, EVENTS_MAX_LENGTH, Binding, Exchange, Queue, Topology

__all__ = ["EVENT_RETRY", "EventBus", "Subscription"]

T = TypeVar("T")

EVENT_RETRY: Final = RetryPolicy(attempts=4, first_s=1.0, factor=4.0, max_s=65_536.0, jitter=False)
"""A handler is tried again after 1, 4 and 16 s, then its event is a dead letter."""
HANDLER_S: Final = 60.0
PATIENCE_S: Final = 1500.0
"""How long an event may be in hand, those before it included: the broker takes the consumer away after 1,800 s."""
AHEAD: Final = 9
"""Events that are fetched beyond those that are handled, so that the next is there when one is done."""
FORGET_S: Final = 20.0
"""How long to wait for retries to come back before their queue is deleted; see `EventBus.unsubscribe`."""


class Subscription:
    """What `EventBus.subscribe` returns. `queue`: its name at the broker; empty without a group. `stats`: counts of
    this process since it subscribed."""

    def __init__(self, bus: EventBus, id: str, pattern: str, group: str | None, plan: Plan, *, ours: bool) -> None:  # noqa: A002
        self.id = id
        self.pattern = pattern
        self.group = group
        self.queue = plan.queue
        self.stats: EventStats = plan.stats
        self.is_ours = ours
        self.is_stopped = False
        self._bus = bus

    def __repr__(self) -> str:
        return f"<Subscription {self.pattern} of {self.group or 'nobody but this process'}>"

    async def unsubscribe(self, *, forget: bool = False) -> None:
        """As `EventBus.unsubscribe`."""
        await self._bus.unsubscribe(self, forget=forget)


class EventBus:
    """Publish events and subscribe to them: `async with EventBus(url, source="fabrication") as bus`.

    `url`: `amqp://user:password@host1,host2/%2Ffog`, or `memory://` for a broker in this process. `source`: who
    publishes, in each event and as the connection's name. `exchange`: a topic exchange, which must exist.

    `dedup_window_s`: how long a subscription remembers what it has handled; 0: it drops no duplicates. `store`: the URL
    of a Redis (or `memory://`), so that the processes of a group know of each other's; without one each knows its own.

    `publish_timeout_s`: for one publish, the wait for a connection included. `connect_timeout_s`: for a broker that is
    not there yet. `max_body`: bytes of an event. `max_length`: how many events may wait for a group, as `[events]
    max_length` says at the broker; it is where the alarm is. `events`: gets every fact (`EventRetried`,
    `EventDeadLettered`, `EventGroupFull`, and those of actors); without one the bad ones are logged.
    """

    def __init__(
        self,
        url: str = MEMORY,
        *,
        source: str,
        exchange: str = EVENTS,
        store: str | None = None,
        dedup_window_s: float = 900.0,
        publish_timeout_s: float = 10.0,
        connect_timeout_s: float = 10.0,
        max_body: int = MAX_BODY,
        max_length: int = EVENTS_MAX_LENGTH,
        look_s: float = 5.0,
        events: Events | None = None,
    ) -> None:
        if not source:
            raise ConfigError("an event bus needs a source: the name of who publishes")
        if not 0 <= dedup_window_s < math.inf:
            raise ConfigError(f"dedup_window_s must be a number of seconds from 0 on, not {dedup_window_s}")
        self.source = source
        self.exchange = exchange
        self._url = url
        self._store = store
        self._dedup_window_s = dedup_window_s
        self._publish_timeout_s = publish_timeout_s
        self._connect_timeout_s = connect_timeout_s
        self._max_body = max_body
        self._max_length = max_length
        self._look_s = look_s
        self._events = events
        self._number = itertools.count(1)
        self._subscriptions: dict[str, Subscription] = {}
        self._coord: Coord | None = None
        self._open: Session | None = None

    async def __aenter__(self) -> EventBus:
        """Raises `BusUnavailable`, `AccessRefused`, `ConfigError`, and `TopologyMismatch` when there is no such
        exchange."""
        async with AsyncExitStack() as stack:
            self._coord = make_store(self._store, f"{self.source}-events")
            if self._coord is not None:
                stack.push_async_callback(close_store, self._coord)
            session = await stack.enter_async_context(
                Session.open(
                    self._url,
                    self.source,
                    timeout=self._connect_timeout_s,
                    max_body=self._max_body,
                    events=self._events,
                )
            )
            if self._events is None:
                session.events.subscribe(log_fact)
            if await session.bus.check(Topology(exchanges=(Exchange(self.exchange, "topic"),))):
                raise TopologyMismatch(f"there is no exchange {self.exchange}; run `fogactors topology apply`")
            self._open = session
            self._stack = stack.pop_all()
        return self

    async def __aexit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, tb: TracebackType | None
    ) -> bool | None:
        """Handlers that run come to their end, for up to 10 s; they can still publish."""
        try:
            await self._drain()
            return await self._stack.__aexit__(exc_type, exc, tb)
        finally:
            self._open = None
            self._subscriptions.clear()

    async def _drain(self) -> None:
        """All subscriptions at the same time: the session stops its children one by one, and would need the sum of
        their drains."""

        async def stop(id_: str) -> None:
            with suppress(ActorError):  # it is over now, or soon: with the session
                await self.session.stop(id_)

        if not self.session.bus.is_open:
            return  # then nothing is waited for
        with anyio.CancelScope(shield=True):
            async with anyio.create_task_group() as drains:
                for id_ in self._subscriptions:
                    drains.start_soon(stop, id_)

    @property
    def session(self) -> Session:
        """The connection. Raises `RuntimeError` outside of `async with`."""
        if self._open is None:
            raise RuntimeError("the event bus is not open; use it as `async with EventBus(...) as bus`")
        return self._open

    # -- publishing

    async def publish(
        self,
        event_type: str,
        data: Any = None,
        *,
        event_id: str | None = None,
        correlation_id: str | None = None,
        timeout: float | None = None,
    ) -> Event[Any]:
        """Tell all who listen; returns when the broker has it, and does so too when nobody listens.

        `data`: whatever has a JSON form: a dict, a dataclass, a msgspec `Struct`; `{}` without. `event_id`: to publish
        the same event once more, after an error that leaves it open whether it arrived: groups drop the second.
        `correlation_id`: of the conversation; by default that of the event (or call) whose handler this is called from,
        and otherwise the event's own id.

        Raises `ConfigError` for what is no event type, `WireError` for data without a JSON form, `MessageTooLarge`,
        `BusUnavailable`, `QueueFull`.
        """
        check_event_type(event_type)
        id_ = event_id or secrets.token_hex(16)
        wire = WireEvent(
            event_id=id_,
            event_type=event_type,
            timestamp=datetime.now(UTC),
            source=self.source,
            correlation_id=correlation_id or current_correlation() or id_,
            causation_id=causation_id(),
        )
        if data is not None:
            wire.data = encode_data(event_type, data)
        message = Message(encode(wire), type="event", correlation_id=wire.correlation_id)
        await self.session.publish(
            self.exchange,
            event_type,
            message,
            mandatory=False,
            timeout=self._publish_timeout_s if timeout is None else timeout,
        )
        return Event(
            id_, event_type, wire.timestamp, self.source, data, wire.correlation_id, causation_id=wire.causation_id
        )

    # -- subscribing

    async def subscribe(
        self,
        pattern: str,
        handler: Callable[[Event[T]], Any],
        *,
        group: str | None = None,
        queue: str | None = None,
        data_type: type[T] | None = None,
        retry: RetryPolicy = EVENT_RETRY,
        concurrency: int = 1,
        prefetch: int | None = None,
        timeout: float = HANDLER_S,
    ) -> Subscription:
        """Call `handler` for each event whose type fits; returns when the broker has the subscription.

        `pattern`: an event type, in which `*` stands for one word and `#` for any number. `group`: a durable queue of
        this group and pattern; None: events from now on, for this process alone, missed while it has no connection.
        `queue`: read this queue, which somebody else has declared and bound, and nothing is declared or bound here.

        `handler`: `async`, or a plain function, which runs in a thread. Its data comes as `data_type`, or as the
        annotation says (`event: Event[PrintStarted]`). It may be called more than once for one event, so it should not
        mind. `timeout`: seconds for one call. When it raises it is called again by `retry` (`Retry(delay)` asks for
        a time of its own, `Skip` ends it as done); waits are rounded down to the broker's steps of 1, 4, 16 ... s.

        `concurrency`: events that are handled at the same time; with 1 they come in order, but for retries. `prefetch`:
        how many this process holds, those included.

        Raises `ConfigError`, `BusUnavailable`, `AccessRefused`, `QueueMissing`, and `SpecError` when this bus has the
        same subscription.
        """
        check_pattern(pattern)
        if group is not None:
            check_group(group)
        prefetch = concurrency + AHEAD if prefetch is None else prefetch
        _check_load(concurrency, prefetch, timeout)
        name = queue or (group_queue(group, pattern) if group is not None else "")
        ours = queue is None and group is not None
        plan = Plan(
            queue=name,
            handler=EventHandler(handler, data_type, timeout, concurrency),
            retry=retry,
            concurrency=concurrency,
            prefetch=prefetch,
            seen=Seen(f"event {name}", self._dedup_window_s, self._coord if name else None),
            source=self.source,
            topology=self._topology(name, pattern) if ours else Topology(),
            exclusive=() if name else ((self.exchange, pattern),),
            max_length=0 if queue is not None else self._max_length,
            look_s=self._look_s,
            publish_timeout_s=self._publish_timeout_s,
        )
        id_ = name or f"{pattern} {next(self._number)}"
        try:
            await self.session.start(child(id_, self.session.bus, plan), timeout=self._connect_timeout_s)
        except SpecError as error:
            raise SpecError(f"{self.source} reads {name} already; one event bus reads a queue once") from error
        subscription = self._subscriptions[id_] = Subscription(self, id_, pattern, group, plan, ours=ours)
        return subscription

    async def unsubscribe(self, subscription: Subscription, *, forget: bool = False) -> None:
        """Call its handler no more; what it has begun comes to its end, for up to 10 s.

        The group's queue stays and goes on collecting, for when somebody of the group subscribes again. `forget`:
        nobody will; it is deleted with all that is in it. Retries that this process has sent to wait are waited for
        then, up to 20 s: one that comes back to a queue that is gone is kept at the broker until there is one again.
        Raises `BusUnavailable`, `ActorError`; then it can be repeated, and does what is left of it. A subscription that
        has ended before is none.
        """
        if not self._has(subscription):
            return
        if not subscription.is_stopped:
            with suppress(NoSuchChild):  # another call was quicker
                await self.session.stop(subscription.id)
            subscription.is_stopped = True
        if forget and subscription.is_ours:
            rest_s = subscription.stats.retries_until - anyio.current_time()
            if rest_s > 0:
                await anyio.sleep(min(rest_s + 1.0, FORGET_S))
            if self._has(subscription):  # else the group is back, and the queue is its own
                await self.session.bus.delete(subscription.queue)
        if self._has(subscription):
            del self._subscriptions[subscription.id]

    def _has(self, subscription: Subscription) -> bool:
        return self._subscriptions.get(subscription.id) is subscription

    async def run_forever(self) -> None:
        """Wait until cancelled, while subscriptions do their work."""
        await anyio.sleep_forever()

    def _topology(self, queue: str, pattern: str) -> Topology:
        return Topology(queues=(Queue(queue),), bindings=(Binding(self.exchange, pattern, queue),))


def _check_load(concurrency: int, prefetch: int, timeout: float) -> None:
    """Raises `ConfigError`."""
    if not 1 <= concurrency <= prefetch <= 10_000:
        raise ConfigError(f"1 <= concurrency <= prefetch <= 10,000 must hold, not {concurrency} and {prefetch}")
    longest_s = timeout * math.ceil(prefetch / concurrency)
    if not 0 < longest_s <= PATIENCE_S:
        raise ConfigError(
            f"the last of {prefetch} events may wait {longest_s:g} s with timeout {timeout:g} s and concurrency "
            f"{concurrency}; the broker waits for {PATIENCE_S:g} s: take a smaller prefetch or timeout"
        )

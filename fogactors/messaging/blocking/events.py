"""Events without asyncio.

with EventBus("amqp://kitty:changeme@localhost:5672/", source="audit-service") as bus:
    bus.subscribe("fabrication.print.#", handle_print_started, group="audit")
    bus.start_consuming()
"""

from __future__ import annotations

import inspect
import logging
from collections.abc import Callable
from typing import Any, Final, Protocol, TypeVar

import anyio

from fogactors.bus.base import MAX_BODY
from fogactors.errors import ConfigError, FogError
from fogactors.messaging.blocking.defaults import broker_url, program_name
from fogactors.messaging.blocking.face import Face
from fogactors.messaging.event import Event, check_pattern
from fogactors.messaging.events import EVENT_RETRY, HANDLER_S
from fogactors.messaging.events import EventBus as AsyncEventBus
from fogactors.messaging.events import Subscription as AsyncSubscription
from fogactors.messaging.subscriber import EventStats
from fogactors.tasks.retry import RetryPolicy
from fogactors.wire.topology import EVENTS, EVENTS_MAX_LENGTH, Binding, Queue, Topology

__all__ = ["EventBus", "Properties", "Subscription", "check_durable", "check_plain"]

PERSISTENT: Final = 2

T = TypeVar("T")

_log: Final = logging.getLogger("fogactors.blocking")


class Properties(Protocol):
    """What `publish` takes of a `pika.BasicProperties`: a program that was written for pika may go on passing one."""

    @property
    def delivery_mode(self) -> int | None: ...
    @property
    def correlation_id(self) -> str | None: ...


class Subscription:
    """What `EventBus.subscribe` returns. `queue`: its name at the broker; empty without a group. `stats`: counts of
    this process since it subscribed."""

    def __init__(self, bus: EventBus, inner: AsyncSubscription) -> None:
        self.pattern = inner.pattern
        self.group = inner.group
        self.queue = inner.queue
        self.stats: EventStats = inner.stats
        self._bus = bus
        self._inner = inner

    def __repr__(self) -> str:
        return repr(self._inner)

    def unsubscribe(self, *, forget: bool = False) -> None:
        """As `EventBus.unsubscribe`."""
        self._bus.unsubscribe(self, forget=forget)


class EventBus(Face[AsyncEventBus]):
    """Publish events and subscribe to them: `with EventBus(url, source="fabrication") as bus`, or `bus.connect()` and,
    at the end, `bus.disconnect()`.

    `url`: `amqp://user:password@host1,host2/%2Ffog`; without one, or for what it leaves open, `RABBITMQ_URL`,
    `RABBITMQ_USER`, `RABBITMQ_PASSWORD`, `RABBITMQ_VHOST`. `source`: who publishes; by default the name of the program.
    The others, and what is raised, are those of `fogactors.EventBus`; see `Face` for more.
    """

    def __init__(
        self,
        url: str | None = None,
        source: str | None = None,
        *,
        exchange: str = EVENTS,
        store: str | None = None,
        dedup_window_s: float = 900.0,
        publish_timeout_s: float = 10.0,
        connect_timeout_s: float = 10.0,
        max_body: int = MAX_BODY,
        max_length: int = EVENTS_MAX_LENGTH,
        look_s: float = 5.0,
    ) -> None:
        super().__init__()
        self.source = source or program_name()
        self.exchange = exchange
        self._url = url
        self._options: dict[str, Any] = {
            "exchange": exchange,
            "store": store,
            "dedup_window_s": dedup_window_s,
            "publish_timeout_s": publish_timeout_s,
            "connect_timeout_s": connect_timeout_s,
            "max_body": max_body,
            "max_length": max_length,
            "look_s": look_s,
        }
        self._subscriptions: list[Subscription] = []
        self._make()  # so that what cannot be is said here, not at connect()

    def __repr__(self) -> str:
        return f"EventBus of {self.source}"

    def _make(self) -> AsyncEventBus:
        self._subscriptions = []
        return AsyncEventBus(broker_url(self._url), source=self.source, **self._options)

    def publish(
        self,
        event_type: str,
        data: Any = None,
        *,
        event_id: str | None = None,
        correlation_id: str | None = None,
        timeout: float | None = None,
        properties: Properties | None = None,
    ) -> Event[Any]:
        """Tell all who listen; returns when the broker has it, and does so too when nobody listens. Events are always
        persistent. As `fogactors.EventBus.publish`, which see for what is raised.

        `properties`: of a `pika.BasicProperties` the `correlation_id` is taken, and `delivery_mode` may be 2.
        """
        if properties is not None:
            if properties.delivery_mode not in (None, PERSISTENT):
                raise ConfigError(f"events are persistent: delivery_mode is 2, not {properties.delivery_mode}")
            correlation_id = correlation_id or properties.correlation_id
        return self._call(
            lambda bus: bus.publish(event_type, data, event_id=event_id, correlation_id=correlation_id, timeout=timeout)
        )

    def subscribe(
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
        """Call `handler` in a thread for each event whose type fits, from now on: also before `start_consuming`, which
        only waits. Returns when the broker has the subscription. As `fogactors.EventBus.subscribe`.
        """
        check_plain(handler)
        inner = self._call(
            lambda bus: bus.subscribe(
                pattern,
                handler,
                group=group,
                queue=queue,
                data_type=data_type,
                retry=retry,
                concurrency=concurrency,
                prefetch=prefetch,
                timeout=timeout,
            )
        )
        subscription = Subscription(self, inner)
        self._subscriptions.append(subscription)
        return subscription

    def unsubscribe(self, subscription: Subscription, *, forget: bool = False) -> None:
        """Call its handler no more; what it has begun comes to its end, for up to 10 s. `forget`: nobody of its group
        will ever come back; its queue is deleted with all that is in it. As `fogactors.EventBus.unsubscribe`."""
        self._call(lambda bus: bus.unsubscribe(subscription._inner, forget=forget))  # pyright: ignore[reportPrivateUsage]
        if subscription in self._subscriptions:
            self._subscriptions.remove(subscription)

    def declare_queue(self, name: str, durable: bool = True, *, pattern: str = "#") -> None:
        """Make a queue of this name that gets each event whose type fits `pattern`, for `subscribe(..., queue=name)`.
        One with limits of its own belongs into actors.toml instead. Queues are replicated and durable: raises
        `ConfigError` for `durable=False`."""
        check_durable(name, durable)
        check_pattern(pattern)
        topology = Topology(queues=(Queue(name),), bindings=(Binding(self.exchange, pattern, name),))
        self._call(lambda bus: bus.session.bus.declare(topology))

    def start_consuming(self) -> None:
        """Block until Ctrl-C, SIGTERM, `stop()` or `disconnect()`, while handlers are called. Then all subscriptions of
        this bus end (groups keep their queues), what runs comes to its end, for up to 10 s, and it returns; one can
        still publish.

        A second signal ends the process at once. In a thread that is not the main one it waits for `stop()`, the end of
        the main thread, or a signal that stops another wait in the main thread.

        Raises `ConfigError` when nothing is subscribed, `BusUnavailable` when the loop's thread has died.
        """
        with self._blocking("start_consuming") as wait:
            if not self._subscriptions:
                raise ConfigError(f"{self!r}: nothing is subscribed; call subscribe() before start_consuming()")
            try:
                wait.until_stopped()
            finally:
                self._end_all()

    def _end_all(self) -> None:
        ending, self._subscriptions = self._subscriptions, []
        inner = [each._inner for each in ending]  # pyright: ignore[reportPrivateUsage]
        self._finish(lambda bus: _unsubscribe_all(bus, inner))


async def _unsubscribe_all(bus: AsyncEventBus, subscriptions: list[AsyncSubscription]) -> None:
    async with anyio.create_task_group() as tasks:  # at once: each may take its time to come to an end
        for each in subscriptions:
            tasks.start_soon(_unsubscribe, bus, each)


async def _unsubscribe(bus: AsyncEventBus, subscription: AsyncSubscription) -> None:
    try:
        await bus.unsubscribe(subscription)
    except (FogError, RuntimeError) as error:  # the broker is away, or the bus was closed: it is over all the same
        _log.warning("%r did not end well: %s", subscription, error)


def check_durable(name: str, durable: bool) -> None:
    """Raises `ConfigError`."""
    if not name or not durable:
        raise ConfigError(
            f"queue {name!r}: give it a name, and durable=True: queues are replicated, and so durable; what is only "
            "for as long as one listens is subscribe() without a group"
        )


def check_plain(handler: Callable[..., Any]) -> None:
    """Raises `ConfigError` for an `async` function: nobody would await it."""
    called = handler if inspect.isroutine(handler) else getattr(handler, "__call__", handler)  # noqa: B004
    if inspect.iscoroutinefunction(handler) or inspect.iscoroutinefunction(called):
        name = getattr(handler, "__qualname__", repr(handler))
        raise ConfigError(f"{name} is async; handlers here are plain functions: use the classes of `fogactors` for it")

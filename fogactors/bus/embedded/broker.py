"""The broker itself: exchanges, queues, connections and one loop for everything that is due."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from itertools import count
from types import TracebackType
from typing import Literal

import anyio
from anyio.abc import TaskGroup, TaskStatus

from fogactors.bus.base import BusStats, DeliveryHandler, LostHandler, Message, QueueInfo
from fogactors.bus.embedded.channel import Connection, Stored, Subscription
from fogactors.bus.embedded.deadletter import DeadLetter, is_cycle
from fogactors.bus.embedded.faults import Faults
from fogactors.bus.embedded.queue import MemoryQueue, Pump
from fogactors.bus.embedded.rest import Rest
from fogactors.bus.embedded.stream import MemoryStream
from fogactors.bus.embedded.timers import Timers
from fogactors.bus.routing import Routes
from fogactors.errors import (
    AccessRefused,
    BusUnavailable,
    QueueFull,
    QueueMissing,
    TopologyMismatch,
    Unroutable,
)
from fogactors.wire.topology import Family, Policy, Queue, Topology

__all__ = ["MemoryBroker", "QueueDepth"]


@dataclass(slots=True, frozen=True)
class QueueDepth(QueueInfo):
    """`unsettled`: delivered and not settled; `stalled`: dead letters that their target refuses."""

    unsettled: int
    stalled: int


class MemoryBroker:
    """A broker in this process, with the behaviour of RabbitMQ 4.3 as far as the system's topology uses it.

    ```python
    async with MemoryBroker() as broker:
        broker.declare(fog_topology())
        bus = MemoryBus(broker)
        await bus.open()
    ```

    Publishing, routing and delivering happen within the call; only what must wait (TTL, a dead letter that is
    refused) is left to the loop that runs while the broker is entered. `clock`: seconds, by default the event
    loop's, so that virtual time works. `skip`: called when the broker is at rest (see `Rest`) and only a delay keeps
    the next message, with the seconds that are left of it; a test's clock may go ahead by them. Without it no wait is
    skipped. `dead_letter_retry_s`: the pause before a refused dead letter is tried again (RabbitMQ's default is 180; 5
    is what we configure there).
    """

    def __init__(
        self,
        *,
        clock: Callable[[], float] = anyio.current_time,
        skip: Callable[[float], None] | None = None,
        dead_letter_retry_s: float = 5.0,
    ) -> None:
        self.faults = Faults(self._drop_all)
        self._timers = Timers(clock)
        self._pump = Pump()
        self._retry_s = dead_letter_retry_s
        self._exchanges: dict[str, Routes] = {}
        self._queues: dict[str, MemoryQueue | MemoryStream] = {}
        self._families: list[Family] = []
        self._rest = Rest(self._queues, self._pump, self._timers, skip)
        self._connections: dict[Connection, None] = {}
        self._ids = count(1)
        self._tasks: TaskGroup | None = None
        self._attending = 0
        self._turn = anyio.Lock()

    async def __aenter__(self) -> MemoryBroker:
        tasks = anyio.create_task_group()
        await tasks.__aenter__()
        tasks.start_soon(self._timers.run, name="embedded broker")
        tasks.start_soon(self._rest.run, name="rest of the embedded broker")
        self._tasks = tasks
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> bool | None:
        tasks, self._tasks = self._tasks, None
        if tasks is None:
            raise RuntimeError("the broker was not entered")
        self._drop_all("the broker has stopped")
        tasks.cancel_scope.cancel()
        try:
            return await tasks.__aexit__(kind, error, trace)
        except BaseExceptionGroup as group:
            if error is not None and group.exceptions == (error,):
                return False  # the body's own error, as it was: the group is our implementation, not its business
            raise

    async def attend(self, *, task_status: TaskStatus[None] = anyio.TASK_STATUS_IGNORED) -> None:
        """Run the broker until this is cancelled, instead of entering it: for one that several tasks share and that
        none of them outlives for certain. It runs as long as any of them attends."""
        self._attending += 1
        task_status.started()
        try:
            async with self._turn, anyio.create_task_group() as tasks:  # one runs the loops, the others stand by
                tasks.start_soon(self._timers.run, name="embedded broker")
                tasks.start_soon(self._rest.run, name="rest of the embedded broker")
        finally:
            self._attending -= 1

    # -- for whoever runs the broker

    def declare(self, topology: Topology) -> None:
        """Make what is missing. A queue that is there keeps its policy. Raises `TopologyMismatch` for another
        type, and for a binding to what does not exist."""
        for exchange in topology.exchanges:
            there = self._exchanges.setdefault(exchange.name, Routes(exchange.type))
            if there.type != exchange.type:
                raise TopologyMismatch(f"exchange {exchange.name!r} is {there.type}, not {exchange.type}")
        self._families += [each for each in topology.families if each not in self._families]
        for queue in topology.queues:
            found = self._queues.get(queue.name)
            if found is None:
                self._queues[queue.name] = self._make(queue)
            elif found.type != queue.type or found.exclusive_to is not None:
                raise TopologyMismatch(f"queue {queue.name!r} is there, but not as a {queue.type} queue")
            elif isinstance(found, MemoryQueue):
                found.used()
        for binding in topology.bindings:
            if binding.queue not in self._queues:
                raise TopologyMismatch(f"there is no queue {binding.queue!r} to bind to {binding.exchange!r}")
            self._exchange(binding.exchange).bind(binding.key, binding.queue)

    def missing(self, topology: Topology) -> list[str]:
        """What `declare` would make, a line each."""
        lines = [f"exchange {each.name!r}" for each in topology.exchanges if each.name not in self._exchanges]
        lines += [f"queue {each.name!r}" for each in topology.queues if each.name not in self._queues]
        for each in topology.bindings:
            routes = self._exchanges.get(each.exchange)
            if routes is None or not routes.bound(each.key, each.queue):
                lines.append(f"binding of {each.queue!r} to {each.exchange!r} by {each.key!r}")
        return [f"{line} is missing" for line in lines]

    def depths(self) -> dict[str, QueueDepth]:
        """Every queue and stream by name. Cheap enough for a display that refreshes."""
        depths: dict[str, QueueDepth] = {}
        for name, queue in self._queues.items():
            info = queue.info()
            depths[name] = QueueDepth(name, info.ready, info.consumers, queue.unsettled, queue.stalled)
        return depths

    def kill_connection(self, name: str, reason: str = "connection killed") -> int:
        """End the connections of the client of this name, as a crash of its process would. Returns how
        many."""
        return self._drop([each for each in self._connections if each.name == name], reason)

    def clock_moved(self) -> None:
        """Whoever moved the clock says so, and what is due by now happens."""
        self._timers.moved()

    def stirred(self) -> anyio.Event:
        """An event that is set at the next publish, settle, expiry or new consumer: for waiting until something is so
        in the broker, look, wait for it, look again."""
        return self._pump.stirred()

    def read(self, stream: str) -> list[Message]:
        """All that a stream holds, the oldest first, without a connection. Raises `QueueMissing`, and `ValueError` for
        a queue, which cannot be read without taking from it."""
        found = self.queue(stream)
        if not isinstance(found, MemoryStream):
            raise ValueError(f"{stream!r} is a queue, not a stream")
        return found.messages()

    def delete_queue(self, name: str) -> None:
        """Delete a queue with all that is in it; its consumers are told. Raises `QueueMissing`."""
        queue = self.queue(name)
        del self._queues[name]
        for routes in self._exchanges.values():
            routes.unbind_queue(name)
        queue.delete(f"queue {name!r} was deleted")
        self._pump.stir()

    # -- for `MemoryBus`

    @property
    def running(self) -> bool:
        return self._tasks is not None or self._attending > 0

    def publish_waits(self) -> AbstractContextManager[None]:
        """Entered while a publish waits for its connection or its confirm."""
        return self._rest

    def connect(self, name: str, stats: BusStats) -> Connection:
        """Raises `BusUnavailable` while the broker is down or not entered."""
        if not self.running:
            raise BusUnavailable("the embedded broker does not run; open it with `async with MemoryBroker()`")
        if self.faults.down_reason is not None:
            raise BusUnavailable(self.faults.down_reason)
        if self.faults.login_refused is not None:
            raise AccessRefused(self.faults.login_refused)
        connection = Connection(name, stats)
        self._connections[connection] = None
        return connection

    def disconnect(self, connection: Connection, reason: str, *, by_client: bool) -> None:
        """Idempotent."""
        if connection not in self._connections:
            return
        del self._connections[connection]
        connection.end(reason, by_client=by_client)
        for name in connection.exclusive:
            if name in self._queues:
                self.delete_queue(name)

    def publish(self, exchange: str, key: str, message: Message, *, mandatory: bool) -> None:
        """Route a message and hand it to every queue. Raises `Unroutable`, `QueueFull` (when one of several
        refuses, the others have it), `AccessRefused` for the default exchange."""
        if not exchange:
            raise AccessRefused(
                "the default exchange is closed: write permission on it would be on every queue", unsent=message
            )
        routes = self._exchanges.get(exchange)
        if routes is None:
            raise Unroutable(f"there is no exchange {exchange!r}", unsent=message)
        if self.faults.take_refusal(exchange):
            raise QueueFull(f"exchange {exchange!r} refuses, by a fault", unsent=message)
        names = routes.route(key)
        if not names and mandatory:
            raise Unroutable(f"no queue takes key {key!r} of exchange {exchange!r}", unsent=message)
        message_id = message.message_id or f"m-{next(self._ids)}"
        refused: list[str] = []
        for name in names:
            stored = Stored(message, message_id, exchange, key)
            if self.faults.take_refusal(name) or not self._queues[name].offer(stored):
                refused.append(name)
        if refused:
            raise QueueFull(f"refused by {', '.join(refused)}", unsent=message)

    def subscribe(
        self,
        connection: Connection,
        name: str,
        on_delivery: DeliveryHandler,
        *,
        prefetch: int,
        priority: int,
        on_lost: LostHandler | None,
        offset: int | Literal["first", "next"] | None,
    ) -> Subscription:
        queue = self.queue(name)
        self._check_access(connection, queue)
        if prefetch < 1:
            raise ValueError(f"prefetch must be at least 1, not {prefetch}")
        if offset is not None and not queue.is_stream:
            raise ValueError(f"an offset is for streams only, and {name!r} is a queue")
        subscription = Subscription(
            connection, queue, on_delivery, prefetch=prefetch, priority=priority, on_lost=on_lost
        )
        if isinstance(queue, MemoryStream):
            queue.attach(subscription, offset)
        else:
            queue.attach(subscription)
        return subscription

    def declare_exclusive(
        self, connection: Connection, name: str, bindings: tuple[tuple[str, str], ...], max_length: int | None = None
    ) -> str:
        """A queue that only this connection may use and that goes with it. An empty name: the broker makes
        one up."""
        name = name or f"amq.gen-{next(self._ids)}"
        routes = [(self._exchange(exchange), key) for exchange, key in bindings]
        there = self._queues.get(name)
        if there is None:
            policy = Policy() if max_length is None else Policy(max_length=max_length, overflow="drop-head")
            self._queues[name] = self._make(Queue(name, policy=policy), owner=connection)
            connection.exclusive.append(name)
        elif name not in connection.exclusive:
            raise AccessRefused(f"queue {name!r} belongs to another connection")
        for each, key in routes:
            each.bind(key, name)
        return name

    def queue(self, name: str, connection: Connection | None = None) -> MemoryQueue | MemoryStream:
        """Raises `QueueMissing`; with a connection also `AccessRefused`, when the queue is another's
        alone."""
        queue = self._queues.get(name)
        if queue is None:
            raise QueueMissing(f"there is no queue {name!r}")
        if connection is not None:
            self._check_access(connection, queue)
        return queue

    # -- inside

    def _check_access(self, connection: Connection, queue: MemoryQueue | MemoryStream) -> None:
        if queue.exclusive_to is not None and queue.name not in connection.exclusive:
            raise AccessRefused(f"queue {queue.name!r} is exclusive to {queue.exclusive_to}")

    def _exchange(self, name: str) -> Routes:
        routes = self._exchanges.get(name)
        if routes is None:
            raise TopologyMismatch(f"there is no exchange {name!r} to bind to")
        return routes

    def _make(self, queue: Queue, *, owner: Connection | None = None) -> MemoryQueue | MemoryStream:
        if queue.type == "stream":
            return MemoryStream(queue.name, queue.policy, pump=self._pump, timers=self._timers)
        return MemoryQueue(
            queue.name,
            self._policy(queue) if owner is None else queue.policy,
            pump=self._pump,
            timers=self._timers,
            faults=self.faults,
            dead_letter=self._dead_letter,
            dead_letter_retry_s=self._retry_s,
            unused=self._unused,
            exclusive_to=None if owner is None else owner.name,
        )

    def _unused(self, queue: MemoryQueue) -> None:
        if self._queues.get(queue.name) is queue:
            self.delete_queue(queue.name)

    def _policy(self, queue: Queue) -> Policy:
        if queue.policy != Policy():
            return queue.policy
        fitting = [each for each in self._families if queue.name.startswith(each.prefix)]
        return max(fitting, key=lambda each: len(each.prefix)).policy if fitting else queue.policy

    def _dead_letter(self, letter: DeadLetter) -> bool:
        """Whether every target has it now. No target at all counts as a refusal, as it does at RabbitMQ."""
        if letter.exchange:
            routes = self._exchanges.get(letter.exchange)
            names = () if routes is None else routes.route(letter.key)
        else:
            # The default exchange: the key is the name of the queue. Only the ladder of retries comes this
            # way.
            names = (letter.key,) if letter.key in self._queues else ()
        old = letter.stored
        for name in names:
            if name in letter.taken:
                continue
            copy = Stored(old.message, old.message_id, letter.exchange, letter.key, old.deaths)
            if is_cycle(old.deaths, name) or self._queues[name].offer(copy, forced=letter.forced):
                letter.taken.add(name)
        return bool(names) and letter.taken.issuperset(names)

    def _drop(self, connections: list[Connection], reason: str) -> int:
        for each in connections:
            self.disconnect(each, reason, by_client=False)
        return len(connections)

    def _drop_all(self, reason: str) -> int:
        return self._drop(list(self._connections), reason)

"""Task queues of one's own: work for later, done by handlers in one's own processes.

    async with TaskQueue("amqp://shop@rabbitmq1/%2Ffog", "research.tasks", store="redis://redis") as queue:
        handle = await queue.submit("research_paper", {"query": "print failures"}, priority=7)
        print(await handle.result(timeout=600))

    async with TaskQueue("amqp://shop@rabbitmq1/%2Ffog", "research.tasks", store="redis://redis") as queue:

        @queue.handler("research_paper")
        async def research(task: QueueTask[dict]) -> dict: ...

        await queue.run(concurrency=3)

A task and its end are those of the tiers, in queues of another name, and run by the same executor: what is promised
there of crashes, retries, dead letters, cancelling and records is promised here.
"""

from __future__ import annotations

import math
import os
import re
import socket
from collections.abc import Callable
from contextlib import AsyncExitStack, suppress
from typing import Any, Final, Literal, TypeVar

import anyio

from fogactors.bus.base import MAX_BODY
from fogactors.coord.base import RESULT_TTL_S, Coord
from fogactors.core import Events
from fogactors.errors import AccessRefused, ActorError, ConfigError, NoSuchChild, SpecError, TopologyMismatch
from fogactors.messaging import work
from fogactors.messaging.embedded import MEMORY
from fogactors.messaging.queue_task import Handlers, QueueTask
from fogactors.messaging.session import Session
from fogactors.messaging.stores import Storeless, close_store, make_store
from fogactors.messaging.submission import submission
from fogactors.messaging.task_handle import TaskHandle
from fogactors.tasks.client import Submitter
from fogactors.tasks.executor_config import ExecutorConfig
from fogactors.tasks.limits import CONSUMER_TIMEOUT_S, longest_s
from fogactors.tasks.once import IDEMPOTENCY_TTL_S
from fogactors.tasks.retry import RetryPolicy
from fogactors.wire.topology import TASKS, Exchange, Queue, Topology
from fogactors.wire.work import work_topology

__all__ = ["TASK_RETRY", "TaskQueue"]

F = TypeVar("F", bound=Callable[..., Any])

TASK_RETRY: Final = RetryPolicy(attempts=4, first_s=1.0, factor=4.0, max_s=1024.0, jitter=False)
"""A task is tried again after 1, 4, 16, 64, 256 and then each 1,024 s; how often its submitter says."""

HANDLER_S: Final = 1500.0
"""For one attempt of a task for which neither its handler nor its submitter states a limit."""
REFILL_S: Final = 0.03
"""What the broker takes to deliver the next when one was acked, and to spare."""
UNDO_S: Final = 10.0
"""Beyond its drain, for a start that failed half way to be taken back."""
LEVELS_SINCE: Final = (4, 3)
WORKER: Final = "worker"
EAR: Final = "control"

_NAME: Final = re.compile(r"[A-Za-z0-9][\w.:-]{0,99}", re.ASCII)
_ENDINGS: Final = (".high", ".low")


class TaskQueue:
    """A queue of tasks: `async with TaskQueue(url, "research.tasks") as queue`. Submit to it, work on it, or both.

    `url`: `amqp://user:password@host1,host2/%2Ffog`, or `memory://` for a broker in this process. `name`: the queue's;
    at the broker it is `work.<name>`, with `.high` and `.low` behind it for those bands. `exchange`: a direct exchange,
    which must exist. `declared`: the queue is part of the topology, under its plain name and with limits of its own;
    it is only looked for, and never made.

    `priority`: how 0 to 10 are honoured. `"bands"`: high (7 to 10), normal (4 to 6), low (0 to 3), by three queues, on
    every version of RabbitMQ. `"levels"`: each strictly before the next, by the broker, from 4.3 on. Who submits and
    who works must say the same.

    `store`: the URL of a Redis (or `memory://`), where results, cancellations and idempotency keys are. Without one
    tasks are submitted, run, retried and dead-lettered all the same, but nobody learns what they returned. At
    `memory://` it is the store of the same URL. `result_ttl_s`: how long an end is known. `idempotency_ttl_s`: how long
    a key stands for its task.

    `source`: who this is, as workers are named, and the connection. `publish_timeout_s`: for one publish, the wait for
    a connection included. `connect_timeout_s`: for a broker that is not there yet. `max_body`: bytes of a task.
    `consumer_timeout_s`: the broker's; a handler's time limit must be less. `events`: gets every fact (`TaskStarted`,
    `TaskRetried`, `TaskDeadLettered` ... of `fogactors.tasks.events`); without one the bad ones are logged.
    """

    def __init__(
        self,
        url: str,
        name: str,
        *,
        exchange: str = TASKS,
        declared: bool = False,
        priority: Literal["bands", "levels"] = "bands",
        store: str | None = None,
        source: str = "",
        result_ttl_s: float = RESULT_TTL_S,
        idempotency_ttl_s: float = IDEMPOTENCY_TTL_S,
        publish_timeout_s: float = 10.0,
        connect_timeout_s: float = 10.0,
        max_body: int = MAX_BODY,
        consumer_timeout_s: float = CONSUMER_TIMEOUT_S,
        events: Events | None = None,
    ) -> None:
        if not _NAME.fullmatch(name) or name.endswith(_ENDINGS):
            raise ConfigError(
                f"{name!r:.120} cannot be a task queue: use letters, digits and . _ : - (at most 100), "
                "and do not end with .high or .low, which are its bands"
            )
        if priority not in ("bands", "levels"):
            raise ConfigError(f"{name}: priority is 'bands' or 'levels', not {priority!r}")
        for what, seconds in (("result_ttl_s", result_ttl_s), ("idempotency_ttl_s", idempotency_ttl_s)):
            if not 0 < seconds < math.inf:
                raise ConfigError(f"{name}: {what} must be a number of seconds above 0, not {seconds}")
        self.name = name
        self.exchange = exchange
        self.source = source or f"{socket.gethostname()}-{os.getpid()}"
        self._url = url
        self._store = store if store is not None or not url.startswith(MEMORY) else url
        self._routes = work.WorkRoutes(name, exchange, declared, priority == "levels")
        self._result_ttl_s = result_ttl_s
        self._idempotency_ttl_s = idempotency_ttl_s
        self._publish_timeout_s = publish_timeout_s
        self._connect_timeout_s = connect_timeout_s
        self._max_body = max_body
        self._consumer_timeout_s = consumer_timeout_s
        self._events = events
        self._handlers = Handlers(name, longest_s(consumer_timeout_s))
        self._coord: Coord = Storeless(name)
        self._session: Session | None = None
        self._submitter: Submitter | None = None
        self._works = False
        self._drain_s = 0.0

    def __repr__(self) -> str:
        return f"<TaskQueue {self.name}>"

    async def __aenter__(self) -> TaskQueue:
        """Raises `BusUnavailable`, `AccessRefused`, `ConfigError`, and `TopologyMismatch` when there is no such
        exchange, or no such queue where it is `declared`."""
        async with AsyncExitStack() as stack:
            self._coord = make_store(self._store, f"{self.source}-{self.name}") or Storeless(self.name)
            stack.push_async_callback(close_store, self._coord)
            self._session = session = await stack.enter_async_context(
                Session.open(
                    self._url,
                    f"{self.source}-{self.name}",
                    timeout=self._connect_timeout_s,
                    max_body=self._max_body,
                    events=self._events,
                )
            )
            if self._events is None:
                session.events.subscribe(work.log_fact)
            await self._prepare(session)
            self._submitter = await stack.enter_async_context(
                Submitter(
                    session.bus,
                    self._coord,
                    work.tiers_for("light", 1),
                    publish_timeout_s=self._publish_timeout_s,
                    max_time_limit_s=longest_s(self._consumer_timeout_s),
                    idempotency_ttl_s=self._idempotency_ttl_s,
                    result_ttl_s=self._result_ttl_s,
                    routes=self._routes,
                    scope=self.name,
                    max_body=self._max_body,
                )
            )
            self._stack = stack.pop_all()
        return self

    async def __aexit__(self, exc_type: type[BaseException] | None, exc: BaseException | None, tb: Any) -> bool | None:
        """What runs comes to its end, for up to `drain_s`; the rest goes back to the queue."""
        try:
            with anyio.CancelScope(shield=True), suppress(ActorError):  # what is left of it ends with the session
                await self.stop()
            return await self._stack.__aexit__(exc_type, exc, tb)
        finally:
            self._session = self._submitter = None

    async def _prepare(self, session: Session) -> None:
        if missing := await session.bus.check(Topology(exchanges=(Exchange(self.exchange, "direct"),))):
            raise TopologyMismatch(f"{self.name}: {missing[0]}; run `fogactors topology apply`")
        if self._routes.levels and (found := session.bus.version) < LEVELS_SINCE:
            raise ConfigError(
                f"{self.name}: priority='levels' needs RabbitMQ 4.3, and this is {found[0]}.{found[1]}; use 'bands'"
            )
        hint = "declare it in actors.toml and run `fogactors topology apply`"
        if self._topology is not None:
            try:
                await session.bus.declare(self._topology)
                return
            except AccessRefused:  # a user that only submits makes no queues, as it could read them then
                hint = f"user {session.user} may not make it; start a worker first"
        queues = tuple(Queue(self._routes.of(each, "").queue) for each in self._routes.priorities)
        if missing := await session.bus.check(Topology(queues=queues)):
            raise TopologyMismatch(f"{self.name}: {'; '.join(missing)}; {hint}")

    @property
    def _topology(self) -> Topology | None:
        """What is made here."""
        routes = self._routes
        return None if routes.declared else work_topology(self.name, self.exchange, levels=routes.levels)

    @property
    def session(self) -> Session:
        """The connection. Raises `RuntimeError` outside of `async with`."""
        if self._session is None:
            raise RuntimeError(f"task queue {self.name} is not open; use it as `async with TaskQueue(...) as queue`")
        return self._session

    @property
    def submitter(self) -> Submitter:
        """What it submits with. Raises `RuntimeError` outside of `async with`."""
        if self._submitter is None:
            raise RuntimeError(f"task queue {self.name} is not open; use it as `async with TaskQueue(...) as queue`")
        return self._submitter

    @property
    def has_store(self) -> bool:
        return self._store is not None

    # -- submitting

    async def submit(
        self,
        task_type: str,
        data: Any = None,
        priority: int = 5,
        max_retries: int = 3,
        *,
        delay: float | None = None,
        time_limit: float | None = None,
        deadline: float | None = None,
        idempotency_key: str | None = None,
        correlation_id: str | None = None,
    ) -> TaskHandle:
        """Publish a task; returns when the broker has it. The handle is its id as text, and can be asked.

        `data`: whatever has a JSON form: a dict, a dataclass, a msgspec `Struct`; `{}` without. `priority`: 0 to 10,
        higher is sooner. `max_retries`: how often it is tried again when it fails. `delay`: seconds before which it
        does not start, give or take one. `time_limit`: seconds of one attempt, instead of the handler's. `deadline`:
        seconds in which it must have started, or it is not run. `correlation_id`: of the conversation; by default that
        of the event, call or task whose handler this is called from, and otherwise its own id.

        `idempotency_key`: the first submit of a key makes the task, and later ones of the same type, within
        `idempotency_ttl_s` and from any process, return its handle, whatever their data is. It needs the store: without
        one this raises `ConfigError`, and while it is away `CoordUnavailable`; then nothing was published.

        Raises `ConfigError` for what cannot be, `WireError` for data without a JSON form, `MessageTooLarge`,
        `QueueFull`, `BusUnavailable`. After the last one it may have arrived all the same: with an `idempotency_key` it
        can be submitted again without harm.
        """
        raw, fields = submission(
            self.name,
            task_type,
            data,
            priority=priority,
            max_retries=max_retries,
            delay=delay,
            time_limit=time_limit,
            deadline=deadline,
            idempotency_key=idempotency_key,
            correlation_id=correlation_id,
        )
        handle = await self.submitter.submit_raw(task_type, raw, **fields)
        return TaskHandle(handle.id, self, task_type)

    def handle(self, task_id: str) -> TaskHandle:
        """A handle on a task that was submitted elsewhere or earlier."""
        return TaskHandle(task_id, self)

    async def size(self) -> int:
        """How many tasks wait in it; those that are delayed, or that a worker has fetched, not counted. Raises
        `BusUnavailable`."""
        queues = [self._routes.of(each, "").queue for each in self._routes.priorities]
        return sum([(await self.session.bus.inspect(queue)).ready for queue in queues])

    # -- working

    def handler(
        self,
        task_type: str,
        *,
        retry: RetryPolicy = TASK_RETRY,
        time_limit: float | None = None,
        data_type: Any = None,
    ) -> Callable[[F], F]:
        """As a decorator: this function does the tasks of this type. What it returns is the task's result.

        `async`, or a plain function, which runs in a thread; it is given one `QueueTask`, whose data comes as
        `data_type`, or as its annotation says (`task: QueueTask[Paper]`). It may be called more than once for one task.
        `time_limit`: seconds of one attempt (25 minutes without). When it raises it is called again by `retry`, as
        often as the task's `max_retries` says (`retry.attempts` is not looked at), and at last the task is a dead
        letter. `RetryableError("...", delay=30)` asks for a time of its own; `PermanentError` gives up at once; `Skip`
        ends it as done.

        Raises `ConfigError` when it cannot, or the type has one.
        """

        def register(fn: F) -> F:
            self.register_handler(task_type, fn, retry=retry, time_limit=time_limit, data_type=data_type)
            return fn

        return register

    def register_handler(
        self,
        task_type: str,
        handler: Callable[[QueueTask[Any]], Any],
        *,
        retry: RetryPolicy = TASK_RETRY,
        time_limit: float | None = None,
        data_type: Any = None,
    ) -> None:
        """As `handler`, and no decorator."""
        self._handlers.register(task_type, handler, data_type=data_type, retry=retry, time_limit=time_limit)

    async def start(self, *, concurrency: int = 1, prefetch: int | None = None, drain_s: float = 20.0) -> None:
        """Work; returns when it has begun. `concurrency`: tasks that run at the same time. `prefetch`: how many of each
        band this process holds, those that run included (by default `concurrency`): one that it holds and cannot start
        waits for it, even when another worker is idle. `drain_s`: seconds that what runs may take on a stop.

        Raises `ConfigError` without a handler and for what cannot be, `SpecError` when it works already, and what
        `Session.start` raises.
        """
        prefetch = concurrency if prefetch is None else prefetch
        if not 1 <= concurrency <= prefetch <= 10_000:
            raise ConfigError(
                f"{self.name}: 1 <= concurrency <= prefetch <= 10,000 must hold, not {concurrency} and {prefetch}"
            )
        if not 0 <= drain_s < math.inf:
            raise ConfigError(f"{self.name}: drain_s must be 0 or more and finite, not {drain_s}")
        if not self._handlers.names():
            raise ConfigError(f"{self.name} has no handler; give it one with @queue.handler('type')")
        session = self.session
        if self._works:
            raise SpecError(f"{self.name} is worked on already; one task queue works once")
        config = ExecutorConfig(
            node=self.source,
            tier=self.name,
            look_ahead=prefetch - concurrency,
            drain_s=drain_s,
            time_limit_s=min(HANDLER_S, longest_s(self._consumer_timeout_s)),
            result_ttl_s=self._result_ttl_s,
            publish_timeout_s=self._publish_timeout_s,
            max_body_bytes=self._max_body,
            consumer_timeout_s=self._consumer_timeout_s,
            routes=self._routes,
            refill_s=REFILL_S,
            topology=self._topology,
            feed=False,
        )
        worker = work.executor(WORKER, session.bus, self._coord, self._handlers, config, concurrency)
        role = f"task-queue-{self.name}"
        ear = work.listener(session.bus, self.source, role, session.ref(WORKER), self._handlers)
        self._works, self._drain_s = True, drain_s
        try:
            for child in (ear, worker):  # so that it takes no task that nobody could find or cancel
                await session.start(child, timeout=self._connect_timeout_s)
        except BaseException:
            with anyio.move_on_after(UNDO_S + drain_s, shield=True):
                await self.stop()
            raise

    async def stop(self) -> None:
        """Take no more: what runs may finish within `drain_s`, the rest goes back uncounted. Does nothing when it does
        not work."""
        if self._works and self._session is not None:
            try:  # while it drains its tasks are found and cancelled as ever
                await self._remove(WORKER)
            finally:
                await self._remove(EAR)
        self._works = False  # not earlier: a stop that is cut short can be called again

    async def _remove(self, id_: str) -> None:
        if self._session is not None:
            with suppress(NoSuchChild):  # another call was quicker
                await self._session.stop(id_, drain_s=self._drain_s)

    async def run(self, *, concurrency: int = 1, prefetch: int | None = None, drain_s: float = 20.0) -> None:
        """As `start`, until it is cancelled."""
        await self.start(concurrency=concurrency, prefetch=prefetch, drain_s=drain_s)
        await anyio.sleep_forever()

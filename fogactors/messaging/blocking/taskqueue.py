"""Task queues without asyncio.

queue = TaskQueue("amqp://kitty:changeme@localhost:5672/", "research.tasks")
queue.connect()
task_id = queue.submit("research_paper", {"query": "print failures"}, priority=7)

queue.register_handler("research_paper", process_research)
queue.start_worker(prefetch_count=2)
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final, Literal, TypeVar, overload

from fogactors.bus.base import MAX_BODY
from fogactors.coord.base import RESULT_TTL_S
from fogactors.errors import ConfigError
from fogactors.messages import TaskResult
from fogactors.messaging.blocking.defaults import broker_url
from fogactors.messaging.blocking.events import check_durable, check_plain
from fogactors.messaging.blocking.face import Face
from fogactors.messaging.queue_task import QueueTask
from fogactors.messaging.task_handle import TaskHandle as AsyncTaskHandle
from fogactors.messaging.taskqueue import TASK_RETRY
from fogactors.messaging.taskqueue import TaskQueue as AsyncTaskQueue
from fogactors.tasks.limits import CONSUMER_TIMEOUT_S
from fogactors.tasks.once import IDEMPOTENCY_TTL_S
from fogactors.tasks.retry import RetryPolicy
from fogactors.tasks.tracker import Cancellation, Whereabouts
from fogactors.wire.topology import TASKS
from fogactors.wire.work import work_topology

__all__ = ["TaskHandle", "TaskQueue"]

DRAIN_S: Final = 20.0

F = TypeVar("F", bound=Callable[..., Any])
R = TypeVar("R")


class TaskHandle(str):
    """A submitted task: its id, as text, that can be asked. `TaskQueue.handle(id)` makes one of any id.

    What asks needs the queue's store, and raises `ConfigError` without one; see `fogactors.messaging.TaskHandle`.
    """

    _queue: TaskQueue

    __slots__ = ("_queue",)

    def __new__(cls, task_id: str, queue: TaskQueue) -> TaskHandle:
        self = super().__new__(cls, task_id)
        self._queue = queue
        return self

    def __repr__(self) -> str:
        return f"<TaskHandle {self}>"

    @property
    def task_id(self) -> str:
        """The same as plain text."""
        return str.__str__(self)

    @overload
    def result(self, timeout: float) -> Any: ...
    @overload
    def result(self, timeout: float, *, returns: type[R]) -> R: ...
    def result(self, timeout: float, *, returns: Any = Any) -> Any:
        """What the handler returned, once it has. `timeout`: seconds. `returns`: as what it is decoded, and checked.

        Raises `TaskFailed` with the type and the text of what was raised there, `WorkerLost`, `TaskExpired`,
        `TaskCancelled`, `ResultTimeout`, `SubmitterClosed`, `WireError` for a result of another type.
        """
        return self._ask(lambda handle: handle.result(timeout, returns=returns))

    def outcome(self, timeout: float) -> TaskResult:
        """How it ended, as data: whatever its state, nothing is raised for it.

        Raises `ResultTimeout`, `SubmitterClosed` at once when the queue is disconnected.
        """
        return self._ask(lambda handle: handle.outcome(timeout))

    def status(self) -> Whereabouts:
        """Where it is now. One that no worker has lies in its queue, in a delay, or nowhere; to know that takes a
        second. Raises `BusUnavailable`."""
        return self._ask(lambda handle: handle.status())

    def progress(self) -> float | None:
        """What its handler has said last, from 0 to 1; 1 when it has succeeded. Raises as `status`."""
        return self._ask(lambda handle: handle.progress())

    def cancel(self) -> Cancellation:
        """End it as `cancelled`, wherever it is. A plain function that runs in a thread cannot be stopped, and the
        answer says so. Raises `BusUnavailable` when the workers could not be told."""
        return self._ask(lambda handle: handle.cancel())

    def _ask(self, question: Callable[[AsyncTaskHandle], Any]) -> Any:
        task_id = self.task_id
        return self._queue._call(lambda queue: question(queue.handle(task_id)))  # pyright: ignore[reportPrivateUsage]


class TaskQueue(Face[AsyncTaskQueue]):
    """A queue of tasks: `connect()`, then `submit` to it, or `register_handler` and `start_worker`.

    `url`: as for `EventBus`. `name`: the queue's, such as `research.tasks`. `exchange`: a direct exchange, which must
    exist. `store`: the URL of a Redis, where results, cancellations and idempotency keys are; without one tasks are
    submitted, run, retried and dead-lettered all the same. The others, and what is raised, are those of
    `fogactors.TaskQueue`; see `Face` for more.
    """

    def __init__(
        self,
        url: str | None = None,
        name: str = "",
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
    ) -> None:
        super().__init__()
        self.name = name
        self.exchange = exchange
        self._url = url
        self._options: dict[str, Any] = {
            "exchange": exchange,
            "declared": declared,
            "priority": priority,
            "store": store,
            "source": source,
            "result_ttl_s": result_ttl_s,
            "idempotency_ttl_s": idempotency_ttl_s,
            "publish_timeout_s": publish_timeout_s,
            "connect_timeout_s": connect_timeout_s,
            "max_body": max_body,
            "consumer_timeout_s": consumer_timeout_s,
        }
        self._handlers: list[tuple[str, Callable[[QueueTask[Any]], Any], dict[str, Any]]] = []
        self._checked = self._make()  # so that what cannot be is said here, not at connect()

    def __repr__(self) -> str:
        return f"TaskQueue {self.name}"

    def _make(self) -> AsyncTaskQueue:
        queue = AsyncTaskQueue(broker_url(self._url), self.name, **self._options)
        for task_type, handler, options in self._handlers:
            queue.register_handler(task_type, handler, **options)
        return queue

    # -- submitting

    def submit(
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

        `priority`: 0 to 10, higher is sooner. `max_retries`: how often it is tried again when it fails. `delay`,
        `time_limit`, `deadline`: seconds. As `fogactors.TaskQueue.submit`, which see for more and for what is raised.
        """
        handle = self._call(
            lambda queue: queue.submit(
                task_type,
                data,
                priority,
                max_retries,
                delay=delay,
                time_limit=time_limit,
                deadline=deadline,
                idempotency_key=idempotency_key,
                correlation_id=correlation_id,
            )
        )
        return TaskHandle(handle.task_id, self)

    def handle(self, task_id: str) -> TaskHandle:
        """A handle on a task that was submitted elsewhere or earlier."""
        return TaskHandle(task_id, self)

    def size(self) -> int:
        """How many tasks wait in it; those that are delayed, or that a worker has fetched, not counted."""
        return self._call(lambda queue: queue.size())

    def declare_queue(self, name: str, durable: bool = True) -> None:
        """Make a task queue of this name on this one's exchange, as opening it does. Queues are replicated and
        durable: raises `ConfigError` for `durable=False`."""
        check_durable(name, durable)
        AsyncTaskQueue(broker_url(self._url), name)  # its name is checked
        self._call(lambda queue: queue.session.bus.declare(work_topology(name, self.exchange)))

    # -- working

    def register_handler(
        self,
        task_type: str,
        handler: Callable[[QueueTask[Any]], Any],
        *,
        retry: RetryPolicy = TASK_RETRY,
        time_limit: float | None = None,
        data_type: Any = None,
    ) -> None:
        """This function does the tasks of this type, each in a thread. What it returns is the task's result; when it
        raises it is tried again, `RetryableError("...", delay=30)` asks for a time of its own, `PermanentError` gives
        up at once. As `fogactors.TaskQueue.handler`.
        """
        check_plain(handler)
        options: dict[str, Any] = {"retry": retry, "time_limit": time_limit, "data_type": data_type}
        self._checked.register_handler(task_type, handler, **options)
        self._handlers.append((task_type, handler, options))
        if self.is_connected:
            self._call(lambda queue: _register(queue, task_type, handler, options))

    def handler(
        self,
        task_type: str,
        *,
        retry: RetryPolicy = TASK_RETRY,
        time_limit: float | None = None,
        data_type: Any = None,
    ) -> Callable[[F], F]:
        """As `register_handler`, as a decorator."""

        def register(fn: F) -> F:
            self.register_handler(task_type, fn, retry=retry, time_limit=time_limit, data_type=data_type)
            return fn

        return register

    def start_worker(self, prefetch_count: int = 2, *, drain_s: float = DRAIN_S) -> None:
        """Work; block until Ctrl-C, SIGTERM, `stop()` or `disconnect()`. Then no more is taken, what runs may take
        `drain_s` (what does not end goes back to the queue), and it returns. `prefetch_count`: tasks that run at the
        same time; no more are fetched.

        A second signal ends the process at once. In a thread that is not the main one it waits for `stop()`, the end of
        the main thread, or a signal that stops another wait in the main thread.

        Raises `ConfigError` without a handler, `BusUnavailable`, `AccessRefused`.
        """
        if not self._handlers:
            raise ConfigError(f"{self!r} has no handler; call register_handler() before start_worker()")
        with self._blocking("start_worker") as wait:
            self._call(lambda queue: queue.start(concurrency=prefetch_count, drain_s=drain_s))
            try:
                wait.until_stopped()
            finally:
                self._finish(lambda queue: queue.stop())


async def _register(
    queue: AsyncTaskQueue, task_type: str, handler: Callable[[QueueTask[Any]], Any], options: dict[str, Any]
) -> None:
    queue.register_handler(task_type, handler, **options)

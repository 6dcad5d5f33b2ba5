"""How work gets in and how its result comes back."""

from __future__ import annotations

import itertools
import secrets
from collections.abc import Callable
from datetime import datetime, timedelta
from types import TracebackType
from typing import Any, Final, ParamSpec, TypeVar

import anyio
from anyio.abc import TaskGroup
from msgspec import Raw

from fogactors.bus.base import Bus, Message
from fogactors.coord.base import RESULT_TTL_S, Coord, done_channel
from fogactors.errors import (
    CoordError,
    MessageTooLarge,
    ResultTimeout,
    SubmitterClosed,
    TaskDefinitionError,
    WireError,
)
from fogactors.messages import Task, TaskResult
from fogactors.tasks.executor_config import utc_now
from fogactors.tasks.handle import Handle
from fogactors.tasks.limits import longest_s, too_long
from fogactors.tasks.once import IDEMPOTENCY_TTL_S, Once
from fogactors.tasks.retry import step_for
from fogactors.tasks.routes import Routes, TierRoutes
from fogactors.tasks.task import TaskDef
from fogactors.tasks.tiers import Tiers
from fogactors.tasks.tracker import Cancellation, Tracker, Whereabouts
from fogactors.wire.codec import decode, encode
from fogactors.wire.topology import RETRY_STEPS_S, retry_exchange

__all__ = ["Handle", "Submitter"]

P = ParamSpec("P")
R = TypeVar("R")

POLL_S: Final = 1.0
"""How often a waiting handle looks by itself, in case its notice was lost."""
CLOSE_S: Final = 3.0


class Submitter:
    """Submits tasks over a bus and waits for their results: `async with Submitter(bus, coord, tiers) as submitter`.

    Its id is the first part of every task id that it gives, and whoever records a result knows from it whom to notify.

    `publish_timeout_s`: seconds for one publish. `max_time_limit_s`: a task that states a longer time limit is refused.
    `idempotency_ttl_s`: how long an idempotency key stands for its task, `result_ttl_s`: how long the record of a
    cancellation is kept, both in seconds. `now`: the time of day. `routes`: into which queues tasks are published, by
    default those of the tiers; `scope`: whose the idempotency keys are, so that two of them may have the same.
    `max_body`: bytes of a task, where that is less than the bus takes.
    """

    def __init__(
        self,
        bus: Bus,
        coord: Coord,
        tiers: Tiers,
        *,
        publish_timeout_s: float = 10.0,
        max_time_limit_s: float = longest_s(),
        idempotency_ttl_s: float = IDEMPOTENCY_TTL_S,
        result_ttl_s: float = RESULT_TTL_S,
        now: Callable[[], datetime] = utc_now,
        routes: Routes | None = None,
        scope: str = "",
        max_body: int | None = None,
    ) -> None:
        self.id = secrets.token_hex(8)
        self._bus = bus
        self._coord = coord
        self._tiers = tiers
        self._routes = routes or TierRoutes(tiers.lightest.name)
        self._publish_timeout_s = publish_timeout_s
        self._max_time_limit_s = max_time_limit_s
        self._now = now
        self._max_body = max_body
        self._once = Once(coord, self._publish, idempotency_ttl_s, scope)
        self._tracker = Tracker(bus, coord, result_ttl_s=result_ttl_s, now=now)
        self._number = itertools.count(1)
        self._waiting: dict[str, set[anyio.Event]] = {}
        self._waits: set[anyio.CancelScope] = set()
        self._is_closed = False
        self._tasks: TaskGroup

    async def __aenter__(self) -> Submitter:
        self._is_closed = False
        self._tasks = anyio.create_task_group()
        await self._tasks.__aenter__()
        self._tasks.start_soon(self._listen, name=f"results of {self.id}")
        self._tasks.start_soon(self._once.confirm_late, name=f"idempotency keys of {self.id}")
        return self

    async def __aexit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, tb: TracebackType | None
    ) -> bool | None:
        self._is_closed = True
        for wait in self._waits:  # in tasks of others, which would ask a closed store until their time is over
            wait.cancel()
        self._tasks.cancel_scope.cancel()
        with anyio.move_on_after(CLOSE_S, shield=True):
            await self._tracker.close()
        if exc is not None and not isinstance(exc, anyio.get_cancelled_exc_class()):
            await self._tasks.__aexit__(None, None, None)  # the body's own error leaves unwrapped
            return False
        return await self._tasks.__aexit__(exc_type, exc, tb)

    async def submit(self, task: TaskDef[P, R], /, *args: P.args, **kwargs: P.kwargs) -> Handle[R]:
        """Publish a call of the task; returns when the broker has it. For one submit's own priority, tier or
        delay, submit `task.options(...)`.

        With `options(idempotency_key=...)` the first submit of that key makes the task, and later ones return a
        handle on it, whatever their arguments are. They need the coordination store, and publish nothing when it is
        away.

        Raises `TaskArgumentError`, `NoTierFits`, `TaskDefinitionError` for a time limit that is too long,
        `CoordUnavailable` where there is a key, and what `Bus.publish` raises (`BusUnavailable`, `QueueFull`,
        `Unroutable`, `MessageTooLarge`), whose `unsent` is the message: publish it again and it keeps its id.
        """
        raw = task.encode_args(*args, **kwargs)
        needs, now = task.needs, self._now()
        tier = needs.tier or self._tiers.smallest_for(needs.cpu, needs.memory_mb).name
        self._tiers.amount(tier, needs.cpu, needs.memory_mb)
        not_before = task.not_before or (now + timedelta(seconds=task.delay_s) if task.delay_s else None)
        message = Task(
            id=f"{self.id}-{next(self._number):x}",
            name=task.name,
            args=raw,
            priority=task.priority,
            tier=tier,
            cpu=needs.cpu,
            memory_mb=needs.memory_mb,
            max_attempts=task.retry.attempts,
            created=now,
            not_before=not_before,
            deadline=now + timedelta(seconds=task.deadline_s) if task.deadline_s else None,
            time_limit=task.time_limit,
            idempotency_key=task.idempotency_key,
        )
        message.origin = self._routes.of(message.priority, tier).queue
        message.correlation_id = message.id
        return Handle(await self._send(message), task, self, name=task.name)

    async def submit_raw(self, name: str, args: Raw, **fields: Any) -> Handle[Any]:
        """The same for a task that is not imported here: its name and its arguments as JSON. `fields` are those of
        `Task`; what the task's definition says of tier, priority and retries is not known here, so say it. Raises what
        `submit` raises, but nothing about arguments that only the task's module knows."""
        tier = fields.pop("tier", None) or self._tiers.smallest_for(fields.get("cpu"), fields.get("memory_mb")).name
        self._tiers.amount(tier, fields.get("cpu"), fields.get("memory_mb"))
        id_ = f"{self.id}-{next(self._number):x}"
        fields.setdefault("created", self._now())
        message = Task(id=id_, name=name, args=args, tier=tier, **fields)
        message.correlation_id = message.correlation_id or id_
        message.origin = self._routes.of(message.priority, tier).queue
        return Handle(await self._send(message), None, self, name=name)

    async def resubmit(self, unsent: Message) -> Handle[Any]:
        """Publish what a `BusError` carries as `unsent` once more. It keeps its id, so it does no harm if it did
        arrive the first time: it may run twice, and is recorded once. Raises what `submit` raises."""
        task = decode(unsent.body, Task, unsent.content_type)
        task.hops += 1  # so that an executor looks its record up before it runs it
        return Handle(await self._send(task), None, self, name=task.name)

    def handle(self, task_id: str) -> Handle[Any]:
        """A handle on a task that was submitted elsewhere or earlier."""
        return Handle(task_id, None, self)

    async def cancel(self, task_id: str, *, name: str = "") -> Cancellation:
        """End a task as `cancelled`, wherever it is. When this returns its record says so, and it is not run any more;
        an executor that had it in hand has said so within a second. One that had ended keeps its end. `name`: the
        task's, for its record. Idempotent.

        Raises `CoordUnavailable` when it could not be recorded, `BusUnavailable` when the executors could not be told;
        what could be done is done then, and the error says what it was.
        """
        return await self._tracker.cancel(task_id, name=name)

    async def where(self, task_id: str) -> Whereabouts:
        """Where a task is: its record, or else what the executor says that has it, asked for a second.

        Raises `CoordUnavailable`, `BusUnavailable` where that leaves it without an answer.
        """
        return await self._tracker.where(task_id)

    async def wait(self, task_id: str, timeout: float) -> TaskResult:
        """Raises `ResultTimeout`, `SubmitterClosed` at once when this is closed."""
        event = anyio.Event()
        self._waiting.setdefault(task_id, set()).add(event)
        away, scope = "", anyio.move_on_after(0 if self._is_closed else timeout)
        self._waits.add(scope)
        try:
            with scope:
                while True:
                    try:
                        result = await self._coord.result(task_id)
                        away = ""
                    except CoordError as error:
                        result, away = None, f"; the coordination store is away: {error}"
                    except WireError as error:
                        result, away = None, f"; its record cannot be read: {error}"
                    if result is not None:
                        return result
                    with anyio.move_on_after(POLL_S):
                        await event.wait()
                    if event.is_set():  # a notice may come before a replica has the record
                        event = self._again(task_id, event)
            if self._is_closed:
                text = "was closed; the task goes on, so ask for it by its id from one that is open"
                raise SubmitterClosed(f"no result of {task_id}: what waited for it {text}")
            raise ResultTimeout(f"no result of {task_id} within {timeout:g} s; it may still run{away}")
        finally:
            self._waits.discard(scope)
            waiting = self._waiting.get(task_id, set())
            waiting.discard(event)
            if not waiting:
                self._waiting.pop(task_id, None)

    def _again(self, task_id: str, event: anyio.Event) -> anyio.Event:
        fresh = anyio.Event()
        waiting = self._waiting.setdefault(task_id, set())
        waiting.discard(event)
        waiting.add(fresh)
        return fresh

    async def _send(self, task: Task) -> str:
        """Returns the id under which it is to be found."""
        problem = too_long(task.time_limit, self._max_time_limit_s)
        if problem is not None:
            raise TaskDefinitionError(f"task {task.name}: {problem}")
        if task.idempotency_key is not None:
            return await self._once.publish(task, task.idempotency_key)
        await self._publish(task)
        return task.id

    async def _publish(self, task: Task) -> None:
        exchange, key, queue = self._routes.of(task.priority, task.tier)
        level = self._routes.level(task)
        rest_s = 0.0 if task.not_before is None else (task.not_before - task.created).total_seconds()
        if rest_s >= RETRY_STEPS_S[0]:
            # Without a level: a queue looks for what has expired at its head only, and a higher one would stand there.
            exchange, key, level = retry_exchange(step_for(rest_s, RETRY_STEPS_S)), self._routes.room(queue), None
        message = Message(encode(task), type="task", correlation_id=task.correlation_id, priority=level)
        size = len(message.body)
        if self._max_body is not None and size > self._max_body:
            text = (
                f"task {task.name} has {size} bytes, more than {self._max_body}; submit a reference to the data instead"
            )
            raise MessageTooLarge(text, unsent=message)
        await self._bus.publish(exchange, key, message, mandatory=True, timeout=self._publish_timeout_s)

    async def _listen(self) -> None:
        while True:
            try:
                async with self._coord.listen(done_channel(f"{self.id}-")) as notices:
                    async for task_id in notices:
                        for event in self._waiting.get(task_id, ()):
                            event.set()
            except CoordError:
                pass  # away, or not allowed to listen: the handles poll
            await anyio.sleep(POLL_S)

"""What follows an attempt: the record, the retry, the dead letter; and only then the ack.

The order is the guarantee. A crash between two of these steps makes the broker deliver the task again: it may run
twice, it is never lost, and the record stays one.

| end of the attempt | steps |
|---|---|
| succeeded | record, feed, ack |
| failed, another attempt | publish to `retry.<step>`, ack |
| failed for good, expired, refused | publish to `dlx`, record, feed, ack |
| its worker process died | reject with requeue: its start stays in the store, which counts |
| handed back | publish to `retry.1`, ack: counted nowhere |
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any, Final, TypeVar

import anyio

from fogactors.bus.base import Bus, Delivery, Message
from fogactors.coord.base import UNCOUNTED, Copy, Recorded
from fogactors.errors import BusError, WorkerLost
from fogactors.messages import DeadLetter, Task, TaskResult
from fogactors.tasks.attempt import Cancelled, Crashed, GaveUp, NotRun, Outcome, Succeeded, TryAgain
from fogactors.tasks.deadletter import DIED, of_task, publish_letter, result_of
from fogactors.tasks.events import (
    DuplicateResult,
    TaskDeadLettered,
    TaskEnded,
    TaskHandedBack,
    TaskRetried,
    WorkerCrashed,
)
from fogactors.tasks.failures import brief, error_info
from fogactors.tasks.feed import announce
from fogactors.tasks.policy import Lane
from fogactors.tasks.retry import step_for
from fogactors.tasks.store import Store
from fogactors.tasks.tiers import Amount
from fogactors.wire.codec import amend, encode
from fogactors.wire.topology import DLX, RESULTS, RESULTS_PENDING, RETRY_STEPS_S, due_queue, retry_exchange

if TYPE_CHECKING:
    from fogactors.tasks.intake import Subscription
    from fogactors.tasks.task import TaskDef

__all__ = ["DEATHS_ALLOWED", "Held", "Settler", "crashes", "facts"]

DEATHS_ALLOWED: Final = 3
"""Processes that may die of one attempt; one more, and the task is given up."""

LAST_LOOK_S: Final = 1.0
"""Before a task is given up for its deaths."""

STEP_AGAIN_S: Final = 0.1
"""Before the second try to publish what settles a task; twice as long before each further one."""

T = TypeVar("T")


@dataclass(slots=True, eq=False)
class Held:
    """A task in our hands: delivered, not settled. `amount` is what it takes while it runs; `limit_s` bounds the run;
    `since` (the loop's clock) is when it came. `starts`: of one that may have run before, as `Coord.begin` counts
    them."""

    task: Task
    definition: TaskDef[..., Any]
    delivery: Delivery
    subscription: Subscription
    lane: Lane
    amount: Amount
    since: float
    limit_s: float
    started: datetime | None = None
    scope: anyio.CancelScope | None = None
    cancelled: bool = False
    starts: int | None = None

    @property
    def deaths(self) -> int:
        """Processes that have died with this attempt in their hands, as far as is known.

        The store knows whose process has said that it lives. Where it does not answer, each delivery that came back is
        held for one, but none condemns: the broker cannot tell the end of a process from that of a connection. Where
        there is no store its word is all there is.
        """
        if self.starts == UNCOUNTED:
            return crashes(self.task, self.delivery)
        if not self.starts:
            return min(crashes(self.task, self.delivery), DEATHS_ALLOWED)
        # Its first delivery was fresh, and the store was not asked.
        unnoted = self.task.attempt == 1 and self.task.hops == 0 and self.task.not_before is None
        return self.task.crashes + unnoted + self.starts - 1


def crashes(task: Task, delivery: Delivery) -> int:
    """Deliveries of this attempt that came back, beside the deaths that were known when it was published; the broker
    counts those of lost connections too, and 4.0 all others."""
    return task.crashes + (delivery.delivery_count or 0)


class Settler:
    """Settles for one executor (`worker`, its name in results). `emit` takes events, `now` is wall-clock UTC. `room`:
    with which key a delay comes back to a queue; `feed`: whether ends are published to the feed of results."""

    def __init__(
        self,
        bus: Bus,
        store: Store,
        *,
        worker: str,
        emit: Callable[[object], None],
        now: Callable[[], datetime],
        publish_timeout_s: float,
        room: Callable[[str], str] = due_queue,
        feed: bool = True,
    ) -> None:
        self._bus = bus
        self.store = store
        self._worker = worker
        self._emit = emit
        self._now = now
        self._publish_timeout_s = publish_timeout_s
        self._room = room
        self._feed = feed
        self._begun: dict[Held, Copy] = {}
        """The starts that the store knows of, of what is in hand."""

    async def surely(self, delivery: Delivery, step: Callable[[], Awaitable[T]]) -> T | None:
        """Take a step that settles a delivery, and when its publish is refused, again, for as long as a publish may
        take; then give it back at the cost of one delivery, and return `None`. Requeued at once, a task would meet
        the same refusal three more times within a tenth of a second, and be given up for it.
        """
        wait_s, until = STEP_AGAIN_S, 0.0
        while True:
            try:
                return await step()
            except BusError:
                now = anyio.current_time()
                until = until or now + self._publish_timeout_s
                if not self._bus.is_open or now + wait_s > until:
                    # If the connection is gone this does nothing, and the broker delivers again. Otherwise the start
                    # stays: what can never be settled must not run for ever.
                    if self._bus.is_open:
                        self._begun = {held: its for held, its in self._begun.items() if held.delivery is not delivery}
                    await delivery.requeue()
                    return None
            await anyio.sleep(wait_s)
            wait_s *= 2

    async def settle(self, held: Held, outcome: Outcome) -> None:
        """What its outcome asks for. Raises `BusError`: then nothing is settled."""
        match outcome:
            case Succeeded():
                await self.succeeded(held, outcome)
            case Cancelled():
                await self.cancelled(held)
            case TryAgain():
                await self.try_again(held, outcome)
            case GaveUp():
                await self.gave_up(held, outcome)
            case Crashed():
                await self.crashed(held, outcome)
            case NotRun(why):
                await self.hand_back(held, why)

    async def succeeded(self, held: Held, outcome: Succeeded) -> None:
        await self._record(held, self._result(held, "succeeded", value=outcome.value))
        await self._ack(held)

    async def cancelled(self, held: Held) -> None:
        """Raises `BusError`."""
        result = self._result(held, "cancelled")
        if await self._write(result) == "duplicate":
            known = await self.store.result(held.task)
            if known is None or known.state != "cancelled":
                return await self.duplicate(held)
        # Whoever cancelled it has recorded that already; that it is over is still news.
        await self._tell_end(held, result)
        return await self._ack(held)

    async def try_again(self, held: Held, outcome: TryAgain) -> None:
        """Raises `BusError`."""
        changes = {
            "attempt": held.task.attempt + 1,
            "crashes": 0,
            "hops": held.task.hops + 1,
            "not_before": self._now() + timedelta(seconds=outcome.delay_s),
        }
        await self._republish(held, changes, outcome.delay_s)
        self._emit(TaskRetried(**self._facts(held), error=brief(outcome.error), delay_s=outcome.delay_s))
        await self._ack(held)

    async def gave_up(self, held: Held, outcome: GaveUp) -> None:
        """Raises `BusError`."""
        letter = of_task(
            held.task, held.delivery, outcome.reason, outcome.error, attempts=_attempts(held), at=self._now()
        )
        await self._dead_letter(letter)
        result = result_of(letter)
        if result is not None:
            result.started = held.started
            await self._record(held, result)
        await self._ack(held)

    async def refuse(self, delivery: Delivery, letter: DeadLetter, task: Task | None) -> None:
        """For what never became a task in our hands. Raises `BusError`."""
        await self._dead_letter(letter)
        result = result_of(letter)
        if result is not None and await self._write(result) == "recorded":
            await self._announce(result, task.reply_to if task is not None else None)
        await delivery.ack()

    async def crashed(self, held: Held, outcome: Crashed) -> None:
        self._emit(WorkerCrashed(**self._facts(held), error=outcome.error))
        self._begun.pop(held, None)  # it stays: this was a death
        await held.delivery.requeue()

    async def hand_back(self, held: Held, why: str) -> None:
        """Raises `BusError`."""
        await self._put_back(held, float(RETRY_STEPS_S[0]))
        self._emit(TaskHandedBack(**self._facts(held), why=why))
        await self._ack(held)

    async def put_off(self, held: Held, rest_s: float) -> None:
        """It came before its time. Raises `BusError`."""
        await self._put_back(held, rest_s)
        await self._ack(held)

    async def ended_before(self, held: Held) -> bool:
        """For a task that may have run before: settle it if it is over, if another copy of it has come as far or
        further, or if it has taken too many processes with it. Raises `BusError`."""
        record = await self.store.result(held.task)
        if record is not None:
            await (self.cancelled if record.state == "cancelled" else self.duplicate)(held)
            return True
        start = self._begun.setdefault(held, self.store.start_of(held.task))
        held.starts = await self.store.begin(start, held.limit_s)
        if held.starts != 0 and held.deaths > DEATHS_ALLOWED:
            # Who has only lost its connection may be about to say that it lives.
            await anyio.sleep(LAST_LOOK_S)
            held.starts = await self.store.begin(start, held.limit_s)
        if held.starts == 0:
            await self.duplicate(held)
        elif held.deaths > DEATHS_ALLOWED:
            await self.gave_up(held, GaveUp("worker_lost", error_info(WorkerLost(DIED))))
        else:
            return False
        return True

    async def take_back(self, helds: Iterable[Held] | None = None) -> None:
        """For those that leave our hands unsettled (by default all) while our process lives: they are not what ends
        it."""
        async with anyio.create_task_group() as group:
            for held in list(self._begun if helds is None else helds):
                if (start := self._begun.get(held)) is not None:
                    group.start_soon(self._take_back, held, start)

    async def _take_back(self, held: Held, start: Copy) -> None:
        await self.store.take_back(start)
        self._begun.pop(held, None)  # not before: who is cancelled here is asked again

    async def duplicate(self, held: Held) -> None:
        self._emit(DuplicateResult(**self._facts(held)))
        await self._ack(held)

    # -- the steps

    async def _ack(self, held: Held) -> None:
        self._begun.pop(held, None)
        await held.delivery.ack()

    async def _record(self, held: Held, result: TaskResult) -> None:
        if await self._write(result) == "duplicate":
            self._emit(DuplicateResult(**self._facts(held)))
            return
        await self._tell_end(held, result)

    async def _tell_end(self, held: Held, result: TaskResult) -> None:
        run_s = (result.finished - held.started).total_seconds() if held.started else 0.0
        self._emit(TaskEnded(**self._facts(held), state=result.state, run_s=run_s))
        await self._announce(result, held.task.reply_to)

    async def _write(self, result: TaskResult) -> Recorded:
        outcome = await self.store.record(result)
        if outcome is None:
            await self._publish(RESULTS, RESULTS_PENDING, Message(encode(result), type="result"))
            self.store.unrecorded += 1
        return outcome or "recorded"

    async def _announce(self, result: TaskResult, reply_to: str | None) -> None:
        await announce(self._bus, result, reply_to, timeout=self._publish_timeout_s, feed=self._feed)

    async def _dead_letter(self, letter: DeadLetter) -> None:
        letter.worker = self._worker
        await publish_letter(self._bus, DLX, letter, timeout=self._publish_timeout_s)
        self._emit(
            TaskDeadLettered(
                at=letter.last,
                worker=self._worker,
                reason=letter.reason,
                task_id=letter.task_id or "",
                name=letter.name or "",
                origin=letter.origin or "",
                error=brief(letter.error),
            )
        )

    async def _put_back(self, held: Held, wait_s: float) -> None:
        # No attempt is counted, and no death is forgotten: with a new publish the counts begin anew, and what kills its
        # workers would be handed back by each of them for ever.
        known = held.deaths if held.starts else held.task.crashes
        await self._republish(held, {"hops": held.task.hops + 1, "crashes": known}, wait_s)

    async def _republish(self, held: Held, changes: dict[str, Any], wait_s: float) -> None:
        delivery = held.delivery
        body = amend(delivery.body, changes, delivery.content_type)
        message = Message(
            body,
            type="task",
            content_type=delivery.content_type,
            correlation_id=held.task.correlation_id,
        )
        step = step_for(wait_s, RETRY_STEPS_S)
        await self._publish(retry_exchange(step), self._room(delivery.queue), message)

    async def _publish(self, exchange: str, key: str, message: Message) -> None:
        await self._bus.publish(exchange, key, message, mandatory=True, timeout=self._publish_timeout_s)

    # -- facts

    def _result(self, held: Held, state: Any, *, value: Any = None) -> TaskResult:
        task = held.task
        return TaskResult(
            task_id=task.id,
            name=task.name,
            state=state,
            generation=task.generation,
            value=value,
            attempts=_attempts(held),
            worker=self._worker,
            created=task.created,
            started=held.started,
            finished=self._now(),
            correlation_id=task.correlation_id,
            traceparent=task.traceparent,
        )

    def _facts(self, held: Held) -> dict[str, Any]:
        return facts(held, self._worker, self._now())


def facts(held: Held, worker: str, at: datetime) -> dict[str, Any]:
    """What every task event says."""
    return {
        "at": at,
        "worker": worker,
        "task_id": held.task.id,
        "name": held.task.name,
        "lane_tier": held.lane.tier,
        "priority": held.lane.priority,
        "attempt": held.task.attempt,
    }


def _attempts(held: Held) -> int:
    """Runs so far: those that failed and this one, by the envelope, and those that took their worker with them."""
    return held.task.attempt - (not held.started) + held.deaths

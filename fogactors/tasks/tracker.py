"""Where a task is, and how to end it: `Tracker`, with what it answers.

The record is the truth about a task that has ended. Of one that has not, only the executor knows that has it in hand,
so all are asked; what none of them has lies in a queue, in a delay, or nowhere.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime
from typing import Any, Final, Literal

import msgspec
from msgspec import Struct

from fogactors.bus.base import Bus
from fogactors.coord.base import CANCEL_KEEP_S, RESULT_TTL_S, Coord
from fogactors.errors import BusError, CoordError, CoordUnavailable, WireError
from fogactors.messages import UTC, Command, ControlReply, TaskResult, TaskState
from fogactors.tasks.executor_config import utc_now
from fogactors.tasks.orders import ANSWER_S, Orders
from fogactors.tasks.requests import TaskWhere

__all__ = ["Cancellation", "Tracker", "Whereabouts"]

THREAD: Final = "it runs in a thread, which cannot be stopped: it may still run (with process=True it could be killed)"


class Cancellation(Struct, kw_only=True, frozen=True, omit_defaults=True):
    """What a cancel has done. `state`: what is recorded now; anything but `cancelled` means that the task had ended
    before. `found`: whether an executor had it in hand; one that is not held is queued, delayed or unknown. `worker`:
    who had it, as `node/tier`. `note`: what else is to be known, above all when a thread goes on."""

    task_id: str
    state: TaskState
    found: Literal["running", "waiting", "not held"]
    worker: str | None = None
    note: str = ""


class Whereabouts(Struct, kw_only=True, frozen=True, omit_defaults=True):
    """Where a task is. `worker`: who has it or had it last, as `node/tier`; `attempts`: how often it was started;
    `since`: when it came into this state. `progress`, `note`: what the handler of one that runs has said last, from 0
    to 1 and in words."""

    task_id: str
    state: TaskState | Literal["running", "waiting", "queued or unknown"]
    name: str = ""
    worker: str | None = None
    attempts: int = 0
    since: UTC | None = None
    progress: float | None = None
    note: str = ""


class Tracker:
    """Finds tasks and cancels them, whoever submitted them. `now`: the time of day; `result_ttl_s`: how long the record
    of a cancellation is kept."""

    def __init__(
        self,
        bus: Bus,
        coord: Coord,
        *,
        result_ttl_s: float = RESULT_TTL_S,
        now: Callable[[], datetime] = utc_now,
    ) -> None:
        self._coord = coord
        self._orders = Orders(bus)
        self._result_ttl_s = result_ttl_s
        self._now = now

    async def close(self) -> None:
        await self._orders.close()

    async def cancel(self, task_id: str, *, name: str = "", wait_s: float = ANSWER_S) -> Cancellation:
        """End a task as `cancelled`, wherever it is: its record says so when this returns, and it is not run any more.
        One that has ended keeps its end. `name`: the task's, for its record. `wait_s`: how long to wait for the
        executor that has it. Idempotent.

        Raises `CoordError` when it could not be recorded, and `BusError` when the executors could not be told; what
        could be done is done then, and the error says what it was.
        """
        try:
            record = await self._record(task_id, name)
        except CoordError as away:
            try:
                told = _said(await self._ask("cancel", task_id, wait_s))
            except BusError as error:
                told = f"the executors could not be told either ({error})"
            # The same type, so that the exit code and an `except` say the same of it.
            raise type(away)(f"{task_id} is not recorded as cancelled: {away}; {told}; cancel it again") from away
        if record.state != "cancelled":
            return Cancellation(
                task_id=task_id,
                state=record.state,
                found="not held",
                worker=record.worker,
                note=f"it had already {_ENDED[record.state]}",
            )
        try:
            held = await self._ask("cancel", task_id, wait_s)
        except BusError as error:
            raise type(error)(
                f"{task_id} is recorded as cancelled, but the executors could not be told: {error}; "
                "one that runs it goes on until it connects again, so cancel it again",
                unsent=error.unsent,
            ) from error
        if held is None:
            note = "no executor has it; if it comes to one it is not run"
            return Cancellation(task_id=task_id, state="cancelled", found="not held", note=note)
        note = THREAD if (held.state, held.mode) == ("running", "thread") else ""
        return Cancellation(task_id=task_id, state="cancelled", found=held.state, worker=held.worker, note=note)

    async def where(self, task_id: str, *, wait_s: float = ANSWER_S) -> Whereabouts:
        """The record, or else what the executor says that has it. `wait_s`: how long to wait for one.

        Raises `CoordError` when there is no answer and the record cannot be read, `BusError` when there is no record
        and the executors cannot be asked.
        """
        record, away = None, None
        try:
            record = await self._coord.result(task_id)
            if record is not None and not await self._is_replayed(record):
                return Whereabouts(
                    task_id=task_id,
                    state=record.state,
                    name=record.name,
                    worker=record.worker,
                    attempts=record.attempts,
                    since=record.finished,
                )
        except (CoordError, WireError) as error:
            away = error
        held = await self._ask("where", task_id, wait_s)
        if held is not None:
            return Whereabouts(
                task_id=task_id,
                state=held.state,
                name=held.name,
                worker=held.worker,
                attempts=held.attempt,
                since=held.since,
                progress=held.progress,
                note=held.note,
            )
        if away is not None:
            kind = type(away) if isinstance(away, CoordError) else CoordUnavailable
            raise kind(f"no executor has {task_id}, and its record cannot be read: {away}") from away
        return Whereabouts(task_id=task_id, state="queued or unknown", name=record.name if record else "")

    async def _record(self, task_id: str, name: str) -> TaskResult:
        """The record that stands. Which generation lives is asked of the dead letter and not of the record, which may
        have run out while a replay waits for hours."""
        letter = await self._coord.letters.get(task_id)
        generation = letter.living if letter is not None else 0
        result = TaskResult(task_id=task_id, name=name, state="cancelled", generation=generation, finished=self._now())
        return await self._coord.cancel(result, ttl_s=self._result_ttl_s, keep_s=max(CANCEL_KEEP_S, self._result_ttl_s))

    async def _is_replayed(self, record: TaskResult) -> bool:
        """Whether the dead letter of this end was published once more: then the task lives again, though its record
        still says how it ended."""
        letter = await self._coord.letters.get(record.task_id)
        return letter is not None and letter.living > record.generation

    async def _ask(self, command: Command, task_id: str, wait_s: float) -> TaskWhere | None:
        def enough(replies: list[ControlReply]) -> bool:
            return any(_held(reply) is not None for reply in replies)

        replies = await self._orders.ask(command, task_id=task_id, wait_s=wait_s, enough=enough)
        return next((held for held in map(_held, replies) if held is not None), None)


_ENDED: Final[dict[TaskState, str]] = {
    "succeeded": "succeeded",
    "failed": "failed",
    "cancelled": "been cancelled",
    "expired": "expired",
    "worker_lost": "been given up",
}


def _held(reply: ControlReply) -> TaskWhere | None:
    """What an executor says; nothing, when it is of a version that says it otherwise."""
    try:
        found: Any = msgspec.json.decode(bytes(reply.data or b"null"), type=TaskWhere | None)
    except msgspec.DecodeError:
        return None
    return found


def _said(held: TaskWhere | None) -> str:
    if held is None:
        return "the executors were told, and none has it"
    return f"{held.worker} had it {held.state} and was told"

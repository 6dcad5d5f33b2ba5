"""What is given up on: as a typed `DeadLetter`, and what a dead letter says about the task's end."""

from __future__ import annotations

import hashlib
from datetime import datetime
from typing import Final

from msgspec import Struct
from msgspec.structs import replace

from fogactors.bus.base import Bus, Delivery, Message
from fogactors.errors import MessageTooLarge, WireError
from fogactors.messages import DeadLetter, DeadLetterFate, ErrorInfo, Reason, Task, TaskResult, TaskState
from fogactors.wire.codec import decode, encode
from fogactors.wire.topology import DLQ, PARKED, TASK_DELIVERY_LIMIT

__all__ = [
    "DEAD_LETTER_KEY",
    "DEAD_LETTER_TYPE",
    "DIED",
    "FATE_TYPE",
    "from_delivery",
    "of_task",
    "publish_fate",
    "publish_letter",
    "reply_to_of",
    "result_of",
    "unreadable",
]

DEAD_LETTER_TYPE: Final = "dead_letter"
"""The AMQP `type` of a dead letter that one of us wrote; what the broker dead-letters keeps its own."""

FATE_TYPE: Final = "dead_letter_fate"
"""The AMQP `type` of what became of a letter, in the stream behind it."""

DEAD_LETTER_KEY: Final = "task.failed"

DIED: Final = "its worker died every time it was delivered"

_END: Final[dict[Reason, TaskState]] = {"expired": "expired", "worker_lost": "worker_lost"}


async def publish_letter(bus: Bus, exchange: str, letter: DeadLetter, *, timeout: float) -> None:
    """To `dlx`, or to the stream. Raises `BusError`.

    A body may be too large to be published once more, as another client's message may be; then the letter goes without
    it: that it happened, and why, is worth more than nothing, and to try again would be to try for ever.
    """
    try:
        await bus.publish(exchange, DEAD_LETTER_KEY, _as_message(letter), timeout=timeout)
    except MessageTooLarge:
        error = letter.error or ErrorInfo(type=MessageTooLarge.__name__)
        text = f"{error.message} (its body of {len(letter.body)} bytes was too large to be kept)".lstrip()
        bare = replace(letter, body=b"", error=ErrorInfo(type=error.type, message=text))
        await bus.publish(exchange, DEAD_LETTER_KEY, _as_message(bare), timeout=timeout)


async def publish_fate(bus: Bus, fate: DeadLetterFate, *, timeout: float) -> None:
    """To the stream. Raises `BusError`."""
    await bus.publish(PARKED, DEAD_LETTER_KEY, Message(encode(fate), type=FATE_TYPE), timeout=timeout)


def _as_message(letter: DeadLetter) -> Message:
    return Message(encode(letter), type=DEAD_LETTER_TYPE, correlation_id=letter.correlation_id)


def of_task(
    task: Task, delivery: Delivery, reason: Reason, error: ErrorInfo, *, attempts: int, at: datetime
) -> DeadLetter:
    """A task that an executor gives up on; `attempts`: how often it ran."""
    return DeadLetter(
        id=task.id,
        reason=reason,
        body=delivery.body,
        content_type=delivery.content_type,
        error=error,
        task_id=task.id,
        name=task.name,
        generation=task.generation,
        attempts=attempts,
        origin=delivery.queue,
        first=task.created,
        last=at,
        correlation_id=task.correlation_id,
        traceparent=task.traceparent,
    )


def reply_to_of(delivery: Delivery) -> str | None:
    """Where the task that the broker gave up on wants its result, if it is one."""
    try:
        return decode(delivery.body, Task, delivery.content_type).reply_to
    except WireError:
        return None


def from_delivery(delivery: Delivery, at: datetime, worker: str | None = None) -> DeadLetter:
    """Read what lies in `dlq`, whoever put it there: a letter of ours, or a message that the broker gave up on.

    The same entry makes a letter of the same id however often it is delivered, so that one who was killed in between
    does not leave two. `worker`: who reads it, for a letter that is made here.
    """
    if delivery.type == DEAD_LETTER_TYPE:
        try:
            return decode(delivery.body, DeadLetter)
        except WireError:
            return unreadable(delivery, DeadLetter, at, worker)
    try:
        task = decode(delivery.body, Task, delivery.content_type)
    except WireError:
        return unreadable(delivery, Task, at, worker)
    death = delivery.death
    reason: Reason = "worker_lost" if death is not None and death.reason == "delivery_limit" else "rejected"
    text = {
        "worker_lost": DIED,
        "rejected": f"the broker dead-lettered it: {death.reason if death else 'no reason given'}",
    }[reason]
    error = ErrorInfo(type="WorkerLost" if reason == "worker_lost" else "Rejected", message=text)
    # By the envelope and by the reason: whether the broker's own count travels with the dead letter depends on its
    # version, and in `dlq` it counts on, for each reaper that died.
    runs = {"delivery_limit": TASK_DELIVERY_LIMIT + 1, "rejected": 1}.get(death.reason if death else "", 0)
    letter = of_task(task, delivery, reason, error, attempts=task.attempt - 1 + task.crashes + runs, at=at)
    letter.origin = death.queue if death else task.origin
    letter.worker = worker
    return letter


def result_of(letter: DeadLetter) -> TaskResult | None:
    """The end that a dead letter means for its task; `None` for bytes that were no task."""
    if letter.task_id is None:
        return None
    return TaskResult(
        task_id=letter.task_id,
        name=letter.name or "",
        state=_END.get(letter.reason, "failed"),
        generation=letter.generation,
        error=None if letter.error is None else ErrorInfo(type=letter.error.type, message=letter.error.message),
        attempts=letter.attempts,
        worker=letter.worker,
        created=letter.first,
        finished=letter.last,
        correlation_id=letter.correlation_id,
        traceparent=letter.traceparent,
    )


def unreadable(delivery: Delivery, expected: type[Struct], at: datetime, worker: str | None = None) -> DeadLetter:
    """For bytes that are not what they should be."""
    why = f"no {expected.__name__}"
    try:
        decode(delivery.body, expected, delivery.content_type)
    except WireError as error:
        why = str(error)
    return DeadLetter(
        id=delivery.message_id or f"bytes-{hashlib.sha256(delivery.body).hexdigest()[:32]}",
        reason="malformed",
        body=delivery.body,
        content_type=delivery.content_type,
        error=ErrorInfo(type="WireError", message=why),
        worker=worker,
        origin=_origin(delivery),
        first=at,
        last=at,
        correlation_id=delivery.correlation_id,
    )


def _origin(delivery: Delivery) -> str | None:
    """The queue that it was meant for. Elsewhere than in `dlq` its history may be that of a delay, whose queue it has
    left alive."""
    if delivery.queue != DLQ:
        return delivery.queue
    return delivery.death.queue if delivery.death is not None else None

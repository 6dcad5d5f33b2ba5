"""What is given up on: as a typed `DeadLetter`, and what a dead letter says about the task's end."""

from __future__ import annotations

from datetime import datetime
from typing import Final

from msgspec import Struct
from msgspec.structs import replace

from fogactors.bus.base import Bus, Delivery, Message
from fogactors.errors import MessageTooLarge, WireError
from fogactors.messages import DeadLetter, ErrorInfo, Reason, Task, TaskResult, TaskState
from fogactors.wire.codec import decode, encode
from fogactors.wire.topology import TASK_DELIVERY_LIMIT

__all__ = [
    "DEAD_LETTER_KEY",
    "DEAD_LETTER_TYPE",
    "from_delivery",
    "of_task",
    "publish_letter",
    "result_of",
    "unreadable",
]

DEAD_LETTER_TYPE: Final = "dead_letter"
"""The AMQP `type` of a dead letter that one of us wrote; what the broker dead-letters keeps its own."""

DEAD_LETTER_KEY: Final = "task.failed"

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


def from_delivery(delivery: Delivery, at: datetime) -> DeadLetter:
    """Read what lies in `dlq`, whoever put it there: a letter of ours, or a message that the broker gave up on."""
    if delivery.type == DEAD_LETTER_TYPE:
        try:
            return decode(delivery.body, DeadLetter)
        except WireError:
            return unreadable(delivery, DeadLetter, at)
    try:
        task = decode(delivery.body, Task, delivery.content_type)
    except WireError:
        return unreadable(delivery, Task, at)
    death = delivery.death
    reason: Reason = "worker_lost" if death is not None and death.reason == "delivery_limit" else "rejected"
    text = {
        "worker_lost": "its worker died every time it was delivered",
        "rejected": f"the broker dead-lettered it: {death.reason if death else 'no reason given'}",
    }[reason]
    error = ErrorInfo(type="WorkerLost" if reason == "worker_lost" else "Rejected", message=text)
    # Whether the count travels with the dead letter depends on the broker's version; that it ran out does not.
    crashes = TASK_DELIVERY_LIMIT if reason == "worker_lost" else 0
    letter = of_task(task, delivery, reason, error, attempts=task.attempt + crashes, at=at)
    letter.origin = death.queue if death else None
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


def unreadable(delivery: Delivery, expected: type[Struct], at: datetime) -> DeadLetter:
    """For bytes that are not what they should be."""
    why = f"no {expected.__name__}"
    try:
        decode(delivery.body, expected, delivery.content_type)
    except WireError as error:
        why = str(error)
    death = delivery.death
    return DeadLetter(
        id=delivery.message_id or f"unreadable-{at.isoformat()}",
        reason="malformed",
        body=delivery.body,
        content_type=delivery.content_type,
        error=ErrorInfo(type="WireError", message=why),
        origin=death.queue if death else delivery.queue,
        first=at,
        last=at,
        correlation_id=delivery.correlation_id,
    )

"""What is submitted to a queue, checked and as the fields of a `Task`."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

from msgspec import Raw

from fogactors.errors import ConfigError, WireError
from fogactors.messages import Priority
from fogactors.messaging.context import causation_id
from fogactors.messaging.context import correlation_id as current_correlation
from fogactors.messaging.handlers import BAD_VALUE, to_json
from fogactors.messaging.queue_task import check_task_type
from fogactors.tasks.retry import MAX_DELAY_S
from fogactors.wire.work import band_of

__all__ = ["submission"]


def submission(
    queue: str,
    task_type: str,
    data: Any,
    *,
    priority: int,
    max_retries: int,
    delay: float | None,
    time_limit: float | None,
    deadline: float | None,
    idempotency_key: str | None,
    correlation_id: str | None,
) -> tuple[Raw, dict[str, Any]]:
    """The data, and the other fields. Raises `ConfigError`, `WireError` for data without a JSON form."""
    check_task_type(task_type)
    now = datetime.now(UTC)
    fields: dict[str, Any] = {
        "priority": _band(queue, priority),
        "level": priority,
        "max_attempts": 1 + _count(queue, "max_retries", max_retries),
        "created": now,
        "correlation_id": correlation_id or current_correlation(),
        "causation_id": causation_id(),
        "idempotency_key": idempotency_key,
    }
    if delay is not None:
        fields["not_before"] = now + timedelta(seconds=_seconds(queue, "delay", delay, 0.0))
    if time_limit is not None:
        fields["time_limit"] = _seconds(queue, "time_limit", time_limit, 0.001)
    if deadline is not None:
        fields["deadline"] = now + timedelta(seconds=_seconds(queue, "deadline", deadline, 0.001))
    if data is None:
        return Raw(b"{}"), fields
    try:
        return Raw(to_json(data)), fields
    except BAD_VALUE as error:
        raise WireError(f"task {task_type}: its data has no JSON form: {error}") from error


def _band(queue: str, priority: int) -> Priority:
    try:
        return band_of(priority)
    except ValueError as error:
        raise ConfigError(f"{queue}: {error}") from None


def _count(queue: str, what: str, number: int) -> int:
    if not 0 <= number <= 1_000_000:
        raise ConfigError(f"{queue}: {what} must be 0 or more, not {number!r}")
    return number


def _seconds(queue: str, what: str, seconds: float, least: float) -> float:
    if not least <= seconds <= MAX_DELAY_S:
        raise ConfigError(f"{queue}: {what} must be from {least:g} to {MAX_DELAY_S:.0f} seconds, not {seconds!r}")
    return seconds

"""How long one attempt of a task may run at most: the broker takes back what a consumer holds for too long."""

from __future__ import annotations

from typing import Final

__all__ = ["CONSUMER_TIMEOUT_S", "SETTLE_MARGIN_S", "longest_s", "too_long"]

CONSUMER_TIMEOUT_S: Final = 1800.0
"""How long a delivery may be held unsettled: RabbitMQ's `consumer_timeout`, by default (30 minutes)."""

SETTLE_MARGIN_S: Final = 60.0
"""From the end of a time limit to the consumer timeout: to kill the task, to record its end and to settle. RabbitMQ 4.0
looks once a minute, so less would work there by luck."""


def longest_s(consumer_timeout_s: float = CONSUMER_TIMEOUT_S) -> float:
    """The largest time limit that a task may have, in seconds."""
    return consumer_timeout_s - SETTLE_MARGIN_S


def too_long(time_limit_s: float | None, most_s: float) -> str | None:
    """Why a task cannot have this time limit where `most_s` is the largest, if so."""
    if time_limit_s is None or time_limit_s <= most_s:
        return None
    return (
        f"its time_limit of {time_limit_s:g} s is more than the {most_s:g} s that [bus] consumer_timeout_s leaves it; "
        "split the task, or raise the broker's consumer_timeout and that key"
    )

"""Retry as a value (the idea is procrastinate's): a frozen policy, and pure functions that decide.

Two things are delayed through the broker: a retry, and a task that was submitted for later. Both travel over
the `retry.<step>` queues, each with a fixed time to live, because one queue that mixes delays would hold a
short one behind a long one. `step_for` and `close_enough` are the rule of that ladder.
"""

from __future__ import annotations

import math
from bisect import bisect_right
from typing import TYPE_CHECKING, Final, cast

from msgspec import Struct

from fogactors.errors import TaskArgumentError, TaskDefinitionError, TaskResultError, UnknownTask

if TYPE_CHECKING:
    from collections.abc import Sequence
    from random import Random

__all__ = [
    "MAX_DELAY_S",
    "MIN_DELAY_S",
    "PermanentError",
    "Retry",
    "RetryPolicy",
    "RetryableError",
    "Skip",
    "close_enough",
    "delay",
    "next_delay",
    "step_for",
]

MIN_DELAY_S: Final = 0.1
"""No retry comes sooner: full jitter may draw 0, and a task that fails at once would then spin."""

MIN_STEP_S: Final = 1.0
"""The shortest step of the ladder: what is early by no more runs now."""
MAX_DELAY_S: Final = 31_536_000.0
"""A year. A bound at all, because `datetime` ends: a wait that leads beyond it must fail in the task that asks for it,
not in the executor that obeys."""


class Retry(Exception):
    """Raised by a task: end this attempt and try again, in `delay` seconds or when the policy says.

    `delay` is a year at most. It counts as an attempt. When none is left the task ends as failed with this type and
    `reason`. Control flow, not an error: it is not a `FogError`, so that `except FogError` in a task does not swallow
    it.
    """

    def __init__(self, delay: float | None = None, reason: str = "") -> None:
        super().__init__(reason or "the task asked to be tried again")
        if delay is not None and not 0 <= delay <= MAX_DELAY_S:
            raise ValueError(f"Retry: delay must be from 0 to {MAX_DELAY_S:.0f} seconds, not {delay!r}")
        self.delay = delay
        self.reason = reason


class RetryableError(Retry):
    """Raised by a handler: this did not work now and may work later. As `Retry`, with what went wrong first, as any
    exception has it. Retried whatever the policy says, as long as attempts are left."""

    def __init__(self, reason: str = "", delay: float | None = None) -> None:
        super().__init__(delay, reason)


class PermanentError(Exception):
    """Raised by a handler: this will never work. It is given up at once, however many attempts are left."""


_HOPELESS: Final = (PermanentError, TaskArgumentError, TaskDefinitionError, TaskResultError, UnknownTask)
# The same bytes meet the same code again, so these are never retried, whatever the policy says; nor is what says so
# itself.


class Skip(Exception):
    """Raised by a task: there is nothing to do. The task ends as succeeded, with no value."""

    def __init__(self, reason: str = "") -> None:
        super().__init__(reason or "the task had nothing to do")
        self.reason = reason


class RetryPolicy(Struct, frozen=True):
    """When to run a failed task again.

    `attempts`: runs in all, the first included. The wait before the second run is drawn from 0 to `first_s`,
    and that bound grows by `factor` with each further run, up to `max_s` (all in seconds). `jitter=False`
    waits for the bound itself. A failure is retried when it is one of `retry_on` and none of `never_on`.
    Raises `TaskDefinitionError`.
    """

    attempts: int = 1
    first_s: float = 1.0
    factor: float = 2.0
    max_s: float = 300.0
    jitter: bool = True
    retry_on: tuple[type[BaseException], ...] = (Exception,)
    never_on: tuple[type[BaseException], ...] = ()

    def __post_init__(self) -> None:
        if self.attempts < 1:
            raise TaskDefinitionError(f"RetryPolicy: attempts must be at least 1, not {self.attempts}")
        if not 0 < self.first_s <= self.max_s <= MAX_DELAY_S:
            raise TaskDefinitionError(
                f"RetryPolicy: 0 < first_s <= max_s <= {MAX_DELAY_S:.0f} must hold, "
                f"not first_s={self.first_s}, max_s={self.max_s}"
            )
        if not 1 <= self.factor < math.inf:
            raise TaskDefinitionError(f"RetryPolicy: factor must be at least 1, not {self.factor}")
        for field in ("retry_on", "never_on"):
            kinds = cast("object", getattr(self, field))
            if not isinstance(kinds, tuple) or not all(map(_is_exception, cast("tuple[object, ...]", kinds))):
                raise TaskDefinitionError(f"RetryPolicy: {field} must be a tuple of exception classes")

    def retries(self, error: BaseException) -> bool:
        """Whether this kind of failure is worth another run; how many are left is not its question."""
        if isinstance(error, Retry):
            return True
        return isinstance(error, self.retry_on) and not isinstance(error, (*self.never_on, *_HOPELESS))


def _is_exception(kind: object) -> bool:
    return isinstance(kind, type) and issubclass(kind, BaseException)


def delay(policy: RetryPolicy, attempt: int, rng: Random) -> float:
    """Seconds to wait after run number `attempt` failed (the first is 1).

    Full jitter, after Marc Brooker's "Exponential Backoff And Jitter" (AWS, 2015): of the variants there it
    costs the least work when many tasks fail together, as all tasks of a node do when their database goes
    away.
    """
    # The exponent is capped, not only the product: a float power overflows long after `max_s` has decided.
    most = math.log(policy.max_s / policy.first_s) / math.log(policy.factor) if policy.factor > 1 else 0.0
    bound = min(policy.max_s, policy.first_s * policy.factor ** min(attempt - 1, most))
    return max(MIN_DELAY_S, rng.uniform(0.0, bound) if policy.jitter else bound)


def next_delay(
    policy: RetryPolicy, attempt: int, rng: Random, *, retryable: bool, asked_s: float | None = None
) -> float | None:
    """Seconds until the next run after run number `attempt` failed, or `None`: give up. A failure in a worker process
    comes as data, so its kind has been judged before (`RetryPolicy.retries`). `asked_s`: what a `Retry` asked for; it
    overrides the policy's wait, not its cap."""
    if not retryable or attempt >= policy.attempts:
        return None
    return delay(policy, attempt, rng) if asked_s is None else max(MIN_DELAY_S, asked_s)


# -- the ladder of delays ------------------------------------------------------------------------------------


def step_for(rest_s: float, steps: Sequence[int]) -> int:
    """The largest step that is not longer than the rest, or the smallest: one hop more is better than late.

    `steps`: seconds, ascending.
    """
    return steps[max(0, bisect_right(steps, rest_s) - 1)]


def close_enough(rest_s: float) -> bool:
    """Whether a task that is early by `rest_s` may run now: the shortest step is a second.

    To let a long delay end early by a tenth of it, or of its last step, is no bargain: of the twelve hops that a delay
    below a day takes on average it saves two, and a task for tomorrow morning may run two hours early.
    """
    return rest_s <= MIN_STEP_S

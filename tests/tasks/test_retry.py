"""When to try again, and how a delay walks down the ladder of steps."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from random import Random

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from fogactors.errors import FogError, TaskArgumentError, TaskDefinitionError
from fogactors.tasks.retry import (
    MAX_DELAY_S,
    MIN_DELAY_S,
    Retry,
    RetryPolicy,
    Skip,
    close_enough,
    delay,
    next_delay,
    step_for,
)

STEPS = (1, 4, 16, 64, 256, 1_024, 4_096, 16_384, 65_536)


def decide(policy: RetryPolicy, attempt: int, error: BaseException, rng: Random) -> float | None:
    """What an attempt in this process asks."""
    asked_s = error.delay if isinstance(error, Retry) else None
    return next_delay(policy, attempt, rng, retryable=policy.retries(error), asked_s=asked_s)


@pytest.mark.parametrize(
    "wrong",
    [
        {"attempts": 0},
        {"first_s": 0},
        {"first_s": 10, "max_s": 5},
        {"max_s": MAX_DELAY_S + 1},
        {"factor": 0.5},
        {"factor": float("nan")},
        {"retry_on": ("ValueError",)},
        {"retry_on": ValueError},
        {"never_on": (int,)},
    ],
    ids=str,
)
def test_a_wrong_policy_is_refused(wrong: dict[str, object]) -> None:
    with pytest.raises(TaskDefinitionError, match=next(iter(wrong))):
        RetryPolicy(**wrong)


def test_without_jitter_the_wait_doubles_up_to_its_cap() -> None:
    policy = RetryPolicy(attempts=9, first_s=1, factor=2, max_s=10, jitter=False)
    assert [delay(policy, n, Random(0)) for n in range(1, 7)] == pytest.approx([1, 2, 4, 8, 10, 10])


def test_a_factor_of_one_waits_the_same_each_time() -> None:
    policy = RetryPolicy(attempts=9, first_s=3, factor=1, jitter=False)
    assert [delay(policy, n, Random(0)) for n in (1, 2, 100)] == [3, 3, 3]


@given(st.integers(1, 10**9), st.integers(), st.floats(0.001, 300), st.floats(1, 1e6))
@example(10**9, 0, 300.0, 2.0)
def test_jitter_stays_between_floor_and_bound(attempt: int, seed: int, first: float, factor: float) -> None:
    policy = RetryPolicy(attempts=2, first_s=first, factor=factor)
    drawn = delay(policy, attempt, Random(seed))
    fixed = delay(RetryPolicy(attempts=2, first_s=first, factor=factor, jitter=False), attempt, Random(seed))
    assert MIN_DELAY_S <= drawn <= fixed <= policy.max_s * 1.000001


def test_full_jitter_uses_the_whole_range() -> None:
    policy, rng = RetryPolicy(attempts=2, first_s=100), Random(7)
    drawn = sorted(delay(policy, 1, rng) for _ in range(1_000))
    assert drawn[100] < 15
    assert 40 < drawn[500] < 60
    assert drawn[900] > 85


def test_attempts_are_runs_in_all() -> None:
    policy, rng = RetryPolicy(attempts=3, jitter=False), Random(0)
    waits = [decide(policy, n, ValueError(), rng) for n in (1, 2, 3, 4)]
    assert waits == [1, 2, None, None]


@pytest.mark.parametrize(
    ("error", "again"),
    [
        (ConnectionError(), True),
        (ConnectionRefusedError(), False),
        (ValueError(), False),
        (KeyboardInterrupt(), False),
        (TaskArgumentError(), False),
        (Retry(), True),
    ],
    ids=repr,
)
def test_only_what_the_policy_names_is_retried(error: BaseException, again: bool) -> None:
    policy = RetryPolicy(
        attempts=2, retry_on=(ConnectionError, TaskArgumentError), never_on=(ConnectionRefusedError, Retry)
    )
    assert (decide(policy, 1, error, Random(0)) is not None) is again


def test_retry_overrides_the_wait_but_not_the_cap_nor_the_floor() -> None:
    policy, rng = RetryPolicy(attempts=2, jitter=False), Random(0)
    assert decide(policy, 1, Retry(30), rng) == 30
    assert decide(policy, 1, Retry(), rng) == 1
    assert decide(policy, 1, Retry(0), rng) == MIN_DELAY_S
    assert decide(policy, 2, Retry(30), rng) is None


def test_a_failure_as_data_is_decided_alike() -> None:
    policy, rng = RetryPolicy(attempts=2, jitter=False), Random(0)
    assert next_delay(policy, 1, rng, retryable=True, asked_s=30) == 30
    assert next_delay(policy, 1, rng, retryable=True) == 1
    assert next_delay(policy, 1, rng, retryable=False) is None
    assert next_delay(policy, 2, rng, retryable=True, asked_s=30) is None


def test_control_flow_is_not_an_error() -> None:
    assert not issubclass(Retry, FogError)
    assert not issubclass(Skip, FogError)


@pytest.mark.parametrize("delay", [-1, MAX_DELAY_S + 1, float("inf"), float("nan")])
def test_retry_refuses_a_delay_that_is_none_or_leads_nowhere(delay: float) -> None:
    with pytest.raises(ValueError, match="delay"):
        Retry(delay)


def test_the_longest_delay_leads_to_a_date() -> None:
    assert datetime.now(UTC) + timedelta(seconds=MAX_DELAY_S) < datetime.max.replace(tzinfo=UTC)


@pytest.mark.parametrize(
    ("rest", "step"), [(0, 1), (0.5, 1), (1, 1), (3.9, 1), (4, 4), (63, 16), (86_400, 65_536), (1e9, 65_536)]
)
def test_the_step_is_the_largest_that_is_not_longer(rest: float, step: int) -> None:
    assert step_for(rest, STEPS) == step


@pytest.mark.parametrize(("rest", "ok"), [(1, True), (1.01, False), (-5, True), (6_553, False)])
def test_early_by_a_second_is_on_time(rest: float, ok: bool) -> None:
    assert close_enough(rest) is ok


def _hops(planned_s: float) -> list[int]:
    rest, hops = planned_s, list[int]()
    while not close_enough(rest):
        hops.append(step_for(rest, STEPS))
        rest -= hops[-1]
    return hops


def test_a_day_takes_six_hops() -> None:
    assert _hops(86_400) == [65_536, 16_384, 4_096, 256, 64, 64]


@given(st.floats(1.1, 86_400))
def test_any_delay_up_to_a_day_takes_few_hops_is_never_late_and_early_by_a_second_at_most(planned_s: float) -> None:
    hops = _hops(planned_s)
    assert 1 <= len(hops) <= 3 * len(STEPS)
    assert sum(hops) <= planned_s <= sum(hops) + 1

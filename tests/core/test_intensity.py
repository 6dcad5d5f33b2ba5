"""The two pure functions that decide how often and how late."""

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fogactors.core import Backoff, Intensity
from fogactors.errors import SpecError


@pytest.mark.parametrize(
    ("limit", "times", "too_many"),
    [
        (Intensity(0, 5), [0], [True]),
        (Intensity(1, 5), [0, 1], [False, True]),
        (Intensity(1, 5), [0, 5], [False, True]),  # exactly period_s old still counts
        (Intensity(1, 5), [0, 5.001], [False, False]),
        (Intensity(3, 10), [0, 1, 2, 3], [False, False, False, True]),
        (Intensity(3, 10), [0, 4, 8, 12, 16], [False] * 5),
        (Intensity(3, 10), [0, 4, 8, 10, 11], [False, False, False, True, True]),
    ],
)
def test_intensity(limit, times, too_many):
    window, told = (), []
    for now in times:
        window, exceeded = limit.record(window, now)
        told.append(exceeded)
    assert told == too_many


@given(
    st.integers(0, 5),
    st.floats(0.1, 20),
    st.lists(st.floats(0, 10, allow_nan=False, allow_infinity=False), max_size=60),
)
def test_what_is_allowed_never_exceeds_the_limit_in_any_window(most, period_s, gaps):
    limit, window, now, allowed = Intensity(most, period_s), (), 0.0, []
    for gap in gaps:
        now += gap
        window, too_many = limit.record(window, now)
        if too_many:
            window = window[:-1]  # not done
        else:
            allowed.append(now)
    assert all(sum(0 <= at - start <= period_s for at in allowed) <= most for start in allowed)
    assert len(window) <= most + 1


@pytest.mark.parametrize(
    ("backoff", "delays"),
    [
        (Backoff(1, 8, 2, 0), [1, 2, 4, 8, 8]),
        (Backoff(0.5, 0.5, 2, 0), [0.5, 0.5]),
        (Backoff(1, 100, 1, 0), [1, 1, 1]),
        (Backoff(2, 50, 3, 0), [2, 6, 18, 50]),
    ],
)
def test_backoff(backoff, delays):
    assert [backoff.delay(tries, random.Random(0)) for tries in range(len(delays))] == delays


@given(st.integers(0, 10**9), st.floats(0, 1), st.integers())
def test_jitter_takes_away_its_share_at_most_and_long_outages_do_not_overflow(tries, jitter, seed):
    plain = Backoff(0.2, 30, 2, 0).delay(tries, random.Random(0))
    delay = Backoff(0.2, 30, 2, jitter).delay(tries, random.Random(seed))
    assert plain * (1 - jitter) <= delay <= plain <= 30


@pytest.mark.parametrize(
    ("make", "problem"),
    [
        (lambda: Intensity(-1, 5), "restart intensity must not be negative, got -1"),
        (lambda: Intensity(1, 0), "restart period must be more than 0 s, got 0"),
        (lambda: Intensity(1, float("nan")), "restart period must be more than 0 s"),
        (lambda: Backoff(0, 1), "backoff needs 0 < first_s <= max_s, got 0 and 1"),
        (lambda: Backoff(2, 1), "backoff needs 0 < first_s <= max_s, got 2 and 1"),
        (lambda: Backoff(factor=0.5), "backoff factor must be at least 1, got 0.5"),
        (lambda: Backoff(jitter=1.5), "backoff jitter must be within 0 and 1, got 1.5"),
    ],
)
def test_wrong_numbers_are_refused(make, problem):
    with pytest.raises(SpecError, match=problem):
        make()

"""What starts next: cases first, then what holds for every sequence of choices."""

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fogactors.tasks.policy import PASSES, Lane, Turn, choose, lanes, should_help
from fogactors.tasks.tiers import Amount, Tier, Tiers

TIERS = Tiers((Tier("light", 0.5, 512, 4), Tier("medium", 0.75, 768, 2), Tier("heavy", 1.0, 1024, 2)))
ORDER = lanes(TIERS, "heavy")
OWN = ORDER[:3]
HIGH, NORMAL, LOW = OWN
SMALL, ALL = Amount(0.1, 1), Amount(1.0, 1024)


def starts(heads, n, *, free=ALL, every=10, turn=None):
    """The lanes of the next `n` choices when nothing else changes."""
    turn, chosen = turn or Turn(), []
    for _ in range(n):
        lane, turn = choose(free, heads, ORDER, turn, every)
        chosen.append(lane)
    return chosen


def test_lanes_are_own_first_then_by_priority_and_the_largest_helped_tier():
    assert [f"{lane.tier} {lane.priority}" for lane in ORDER] == [
        "heavy high",
        "heavy normal",
        "heavy low",
        "medium high",
        "light high",
        "medium normal",
        "light normal",
        "medium low",
        "light low",
    ]
    assert {lane.tier for lane in lanes(TIERS, "light")} == {"light"}


@pytest.mark.parametrize(
    ("waiting", "first"),
    [
        (ORDER, HIGH),
        ((NORMAL, LOW), NORMAL),
        ((LOW, Lane("light", "high")), LOW),
        ((Lane("light", "high"), Lane("medium", "normal")), Lane("light", "high")),
        ((), None),
    ],
)
def test_own_before_helped_then_high_before_normal_before_low(waiting, first):
    assert starts(dict.fromkeys(waiting, SMALL), 1) == [first]


def test_low_has_one_start_in_ten_under_constant_high_load():
    assert starts({HIGH: SMALL, LOW: SMALL}, 30) == ([HIGH] * 9 + [LOW]) * 3


def test_all_three_lanes_have_their_turn_even_when_every_second_start_is_promised():
    assert set(starts(dict.fromkeys(OWN, SMALL), 6, every=2)) == set(OWN)


def test_what_does_not_fit_is_passed_and_then_the_road_is_kept_free():
    heads = {HIGH: ALL, NORMAL: SMALL}
    half = Amount(0.5, 512)
    turn, chosen = Turn(), []
    for _ in range(PASSES + 3):
        lane, turn = choose(half, heads, ORDER, turn, 10)
        chosen.append(lane)
    assert chosen == [NORMAL] * PASSES + [None] * 3
    assert choose(ALL, heads, ORDER, turn, 10)[0] == HIGH


def test_one_that_is_due_does_not_pass_what_has_been_passed_often_enough():
    turn = Turn({LOW: 50}, {HIGH: PASSES})
    assert choose(Amount(0.5, 512), {HIGH: ALL, LOW: SMALL}, ORDER, turn, 10)[0] is None


def test_helped_work_does_not_wait_behind_own_work_that_does_not_fit_but_only_so_often():
    light = Lane("light", "low")
    assert starts_of(light, {NORMAL: ALL, light: SMALL}, Amount(0.5, 512), 40) == PASSES


def test_own_work_does_not_wait_behind_helped_work():
    turn = Turn(passed={Lane("light", "high"): PASSES})
    assert choose(SMALL, {LOW: SMALL, Lane("light", "high"): ALL}, ORDER, turn, 10)[0] == LOW


def test_own_starts_are_no_passing_of_helped_work():
    big, small = Lane("light", "high"), Lane("light", "low")
    turn = Turn()
    for _ in range(PASSES * 2):
        lane, turn = choose(SMALL, {NORMAL: SMALL, big: ALL}, ORDER, turn, 10)
        assert lane == NORMAL
    assert choose(SMALL, {big: ALL, small: SMALL}, ORDER, turn, 10)[0] == small


def starts_of(lane, heads, free, n):
    turn, count = Turn(), 0
    for _ in range(n):
        chosen, turn = choose(free, heads, ORDER, turn, 10)
        count += chosen == lane
    return count


# -- for every sequence

amounts = st.builds(Amount, st.sampled_from([0.1, 0.25, 0.5, 1.0]), st.sampled_from([1, 256, 512, 1024]))
situations = st.lists(st.tuples(amounts, st.dictionaries(st.sampled_from(ORDER), amounts)), min_size=1, max_size=60)


@given(situations, st.integers(2, 12))
def test_what_is_chosen_waits_and_fits_and_own_goes_first(situations, every):
    turn = Turn()
    for free, heads in situations:
        lane, turn = choose(free, heads, ORDER, turn, every)
        if lane is None:
            continue
        assert free.fits(heads[lane])
        if lane.tier != "heavy":
            assert not any(free.fits(heads[own]) for own in OWN if own in heads)


@given(situations, st.integers(2, 12))
def test_something_starts_if_anything_fits_unless_one_was_passed_too_often(situations, every):
    turn = Turn()
    for free, heads in situations:
        lane, after = choose(free, heads, ORDER, turn, every)
        if lane is None and any(map(free.fits, heads.values())):
            assert any(turn.passed.get(each, 0) >= PASSES and not free.fits(heads[each]) for each in heads)
        turn = after


@given(st.sets(st.sampled_from(OWN), min_size=1), st.integers(2, 12), st.data())
def test_every_waiting_lane_starts_within_its_guarantee(waiting, every, data):
    """Those of its kind that waited longer come first, hence as many starts more as there are other lanes."""
    helped = data.draw(st.booleans())
    heads = dict.fromkeys(([Lane("light", lane.priority) for lane in waiting] if helped else waiting), SMALL)
    chosen = starts(heads, 10 * (every + len(heads)), every=every)
    for lane in heads:
        times = [-1, *(n for n, each in enumerate(chosen) if each == lane), len(chosen)]
        gaps = [later - earlier - 1 for earlier, later in pairwise(times)]
        assert max(gaps) <= every - 1 + len(heads) - 1


@given(st.lists(st.tuples(st.sets(st.sampled_from(OWN)), st.booleans()), max_size=80), st.integers(2, 12))
def test_a_head_that_does_not_fit_is_passed_at_most_so_often(moments, every):
    """One head is too large for a while; whoever comes and goes beside it."""
    turn, passed = Turn(), 0
    for others, small_helps in moments:
        heads = dict.fromkeys(others - {NORMAL}, SMALL) | {NORMAL: ALL}
        if small_helps:
            heads[Lane("light", "high")] = SMALL
        lane, turn = choose(Amount(0.5, 512), heads, ORDER, turn, every)
        passed += lane is not None
    assert passed <= PASSES
    assert choose(ALL, {NORMAL: ALL}, ORDER, turn, every)[0] == NORMAL


# -- helping


@pytest.mark.parametrize(
    ("now", "helping", "free_since", "held_since", "wanted"),
    [
        (10.0, False, None, None, False),
        (10.0, False, 9.9, None, False),
        (10.0, False, 9.7, None, True),
        (10.0, True, None, None, True),
        (10.0, True, None, 9.5, True),
        (10.0, True, None, 9.0, False),
        (10.0, True, 9.0, 8.0, False),
    ],
)
def test_helping_begins_after_a_while_and_ends_when_something_is_held_too_long(
    now, helping, free_since, held_since, wanted
):
    assert should_help(now, helping, free_since, held_since, after_s=0.25, grace_s=1.0) is wanted

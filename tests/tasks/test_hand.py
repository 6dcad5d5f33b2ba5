"""The books of an executor: whatever happens, nothing is overcommitted and all of it comes back."""

from hypothesis import given
from hypothesis import strategies as st

from fogactors.tasks.budget import MemoryBudget
from fogactors.tasks.hand import Hand
from fogactors.tasks.policy import lanes
from fogactors.tasks.tiers import Amount, Tier, Tiers

TIERS = Tiers((Tier("light", 0.3, 333, 3), Tier("heavy", 0.7, 1000, 7)))
LANES = lanes(TIERS, "heavy")


class Task:
    def __init__(self, lane, amount, since=0.0):
        self.lane, self.amount, self.since = lane, amount, since


def task(lane=LANES[0], amount=None, since=0.0):
    return Task(lane, amount or TIERS.get(lane.tier).share, since)


amounts = st.builds(Amount, st.sampled_from([0.1, 0.3, 0.7, 0.05]), st.sampled_from([1, 333, 1000]))
steps = st.one_of(
    st.tuples(st.just("put"), st.sampled_from(LANES), amounts),
    st.tuples(st.sampled_from(["start", "start", "end", "abandon", "pull"]), st.integers(0, 20), st.none()),
)


@given(st.lists(steps, min_size=20, max_size=120))
def test_what_is_free_is_what_is_not_taken_and_all_of_it_comes_back(script):
    hand, running, abandoned = Hand(TIERS, "heavy", 10), [], []
    size = TIERS.get("heavy").size
    for what, which, amount in script:
        if what == "put":
            hand.put(task(which, amount))
        elif what == "start":
            running += iter(hand.start, None)
        elif what == "pull":
            hand.pull(hand.is_helped)
        elif running:
            ended = running.pop(which % len(running))
            hand.ended(ended)
            if what == "abandon":
                abandoned.append(ended)
            else:
                hand.release(ended)
                hand.release(ended)
        taken = sum((each.amount for each in running + abandoned), Amount(0, 0))
        assert size.fits(taken)
        assert abs(hand.free.cpu + taken.cpu - size.cpu) < 1e-9
        assert abs(hand.free.memory_mb + taken.memory_mb - size.memory_mb) < 1e-6
        assert hand.running == frozenset(running)
    for each in running + abandoned:
        hand.ended(each)
        hand.release(each)
    assert hand.free == size


def test_a_share_that_is_given_back_twice_counts_once():
    hand = Hand(TIERS, "heavy", 10)
    for _ in range(2):
        hand.put(task())
    first, second = hand.start(), hand.start()
    for _ in range(2):
        hand.ended(first)
        hand.release(first)
    assert hand.free == TIERS.get("heavy").size - second.amount


def test_many_fractions_later_the_size_is_what_it_was():
    hand = Hand(TIERS, "heavy", 10)
    for _ in range(500):
        started = []
        for amount in (0.1, 0.3, 0.2, 0.05):
            hand.put(task(amount=Amount(amount, 1000 * amount / 7)))
            started.append(hand.start())
        assert None not in started
        for each in started:
            hand.ended(each)
            hand.release(each)
    assert hand.free == TIERS.get("heavy").size


def test_there_is_no_room_while_own_work_waits_or_nothing_small_fits():
    hand = Hand(TIERS, "heavy", 10)
    assert hand.has_room
    hand.put(task(amount=TIERS.get("heavy").size))
    assert not hand.has_room
    started = hand.start()
    assert not hand.has_room
    hand.ended(started)
    assert not hand.has_room
    hand.release(started)
    assert hand.has_room


def test_the_oldest_helped_task_tells_since_when_one_waits():
    hand = Hand(TIERS, "heavy", 10)
    assert hand.helped_since is None
    for lane, since in ((LANES[0], 1.0), (LANES[3], 3.0), (LANES[4], 2.0), (LANES[4], 4.0)):
        hand.put(task(lane, since=since))
    assert hand.helped_since == 2.0
    assert [each.since for each in hand.pull(hand.is_helped)] == [3.0, 2.0, 4.0]
    assert hand.helped_since is None
    assert hand.waiting == 1


def test_the_load_is_told_as_it_is():
    hand = Hand(TIERS, "heavy", 10)
    for _ in range(3):
        hand.put(task())
    hand.start()
    load = hand.load(helping=True, unrecorded=0)
    assert (load.running, load.waiting, load.helping, load.size) == (1, 2, True, TIERS.get("heavy").size)


def test_two_hands_share_the_memory_of_a_node_and_none_starves_the_other():
    woken = []
    budget = MemoryBudget(1000)
    light = Hand(TIERS, "light", 10, budget.claimant(lambda: woken.append("light")))
    heavy = Hand(TIERS, "heavy", 10, budget.claimant(lambda: woken.append("heavy")))
    small, large = Amount(0.1, 100), Amount(0.1, 950)
    for _ in range(3):
        light.put(task(lanes(TIERS, "light")[0], small))
    heavy.put(task(LANES[0], large))
    first = light.start()
    assert heavy.start() is None  # 900 are free, and it wants 950
    assert light.start() is None  # what has come later does not pass the one that waits
    light.ended(first)
    light.release(first)
    assert woken == ["heavy"]
    assert heavy.start() is not None
    assert light.start() is None
    assert light.free.memory_mb == 333  # it was the node's memory that it lacked, not its tier's


def test_what_goes_elsewhere_does_not_stand_in_the_way():
    budget = MemoryBudget(1000)
    light = Hand(TIERS, "light", 10, budget.claimant(lambda: None))
    heavy = Hand(TIERS, "heavy", 10, budget.claimant(lambda: None))
    light.put(task(lanes(TIERS, "light")[0], Amount(0.1, 300)))
    assert light.start() is not None
    heavy.put(task(LANES[0], Amount(0.1, 1000)))
    assert heavy.start() is None
    light.put(task(lanes(TIERS, "light")[0], Amount(0.1, 30)))
    assert light.start() is None
    heavy.put(kept := task(LANES[0], Amount(0.1, 10)))
    heavy.pull(lambda held: held is not kept)  # and nothing is started there meanwhile
    assert light.start() is not None


def test_a_lower_lane_is_held_back_while_a_higher_one_has_more_on_its_way_but_not_for_ever():
    high, normal, low = LANES[:3]
    hand, awaited = Hand(TIERS, "heavy", 3), {normal: 0.5}
    hand.awaited_s = lambda lane: awaited.get(lane, 0.0)
    first, second, third = task(low), task(low), task(low)
    for each in (first, second, third):
        hand.put(each)
    assert hand.start() is None
    assert hand.held_back_s == 0.5
    hand.put(up := task(high))  # above both: not held back
    assert hand.start() is up
    assert hand.held_back_s == 0
    hand.put(middle := task(normal))  # it has come
    assert hand.start() is middle
    # Two others were started before it, so it is its turn whatever is on its way.
    assert hand.start() is first
    assert hand.start() is None
    awaited.clear()
    assert [hand.start(), hand.start()] == [second, third]

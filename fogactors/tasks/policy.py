"""What an executor does next. Pure functions of what runs and what waits: a simulator of ten thousand nodes runs the
very code that the executor runs.

The order: own tier before the smaller ones it helps; within those high, normal, low. Two rules bend it, each bounded:

* **Nobody starves.** A lane that waits and had no start among the last `guarantee_every - 1` gets the next one; of
  several such lanes the one that has waited through most starts.
* **No one blocks the road.** What waits at the head of a lane and does not fit now may be passed by others that
  fit, but only `PASSES` times; then nothing else starts until it fits. It always comes to fit, because a task that is
  larger than the executor never gets into a lane.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Final, NamedTuple

from fogactors.messages import PRIORITIES, Priority
from fogactors.tasks.tiers import Amount, Tiers

__all__ = ["PASSES", "Lane", "Turn", "choose", "lanes", "should_help"]

PASSES: Final = 10
"""How often what does not fit at the moment may be passed."""


class Lane(NamedTuple):
    """One queue, as an executor sees it."""

    tier: str
    priority: Priority


def lanes(tiers: Tiers, own: str) -> tuple[Lane, ...]:
    """The lanes that an executor of tier `own` may serve, in the order in which it prefers them."""
    mine = tuple(Lane(own, priority) for priority in PRIORITIES)
    helped = tuple(Lane(tier.name, priority) for priority in PRIORITIES for tier in tiers.smaller_than(own))
    return mine + helped


def _nothing() -> Mapping[Lane, int]:
    return MappingProxyType({})


@dataclass(frozen=True, slots=True)
class Turn:
    """What the choosing remembers from one start to the next.

    `skipped`: how many starts in a row a lane waited through. `passed`: how often its head did not fit and was passed.
    """

    skipped: Mapping[Lane, int] = field(default_factory=_nothing)
    passed: Mapping[Lane, int] = field(default_factory=_nothing)


def choose(
    free: Amount, heads: Mapping[Lane, Amount], order: tuple[Lane, ...], turn: Turn, guarantee_every: int
) -> tuple[Lane | None, Turn]:
    """Which lane's head starts now, if any, and the memory for the next choice.

    `free`: what is not taken. `heads`: for each lane where something waits, what its first task takes. `order`: from
    `lanes()`. `guarantee_every`: at least one start in so many for a lane that waits, among those of its kind (own or
    helped).
    """
    own = order[0].tier
    waiting = [lane for lane in order if lane in heads]
    due = {lane: times for lane, times in turn.skipped.items() if times >= guarantee_every - 1}

    def rank(lane: Lane) -> tuple[bool, bool, int]:
        return lane.tier != own, turn.passed.get(lane, 0) < PASSES, -due.get(lane, 0)

    for lane in sorted(waiting, key=rank):  # stable: among equals the order of preference
        if free.fits(heads[lane]):
            blocked = {each for each in waiting if not free.fits(heads[each])}
            return lane, _after(lane, blocked, waiting, turn, own)
        if turn.passed.get(lane, 0) >= PASSES:
            break
    return None, turn


def _after(started: Lane, blocked: set[Lane], waiting: list[Lane], turn: Turn, own: str) -> Turn:
    skipped: dict[Lane, int] = {}
    passed: dict[Lane, int] = {}
    for lane in waiting:
        if lane == started:
            continue
        same_kind = (lane.tier == own) == (started.tier == own)
        skipped[lane] = turn.skipped.get(lane, 0) + same_kind
        # One's own tier goes before those that one helps, so that is no passing.
        passed[lane] = turn.passed.get(lane, 0) + (lane in blocked and (same_kind or lane.tier == own))
    return Turn(skipped, passed)


def should_help(
    now: float, helping: bool, free_since: float | None, held_since: float | None, after_s: float, grace_s: float
) -> bool:
    """Whether to serve smaller tiers.

    Begins when there has been room and no work of one's own for `after_s` (`free_since`); ends when the oldest delivery
    that a helper holds and could not start has waited for `grace_s` (`held_since`). With hysteresis, because
    opening and closing consumers costs the broker more than a short wait costs a task; and a saturated helper goes
    on as long as what it holds keeps moving.
    """
    if helping:
        return held_since is None or now - held_since < grace_s
    return free_since is not None and now - free_since >= after_s

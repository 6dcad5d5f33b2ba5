"""What an executor has in its hands: the tasks that wait, those that run, and how much of its tier they take.

Bookkeeping without a single await, so every call leaves it whole, and it can be tested as data.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from fogactors.tasks.policy import Lane, Turn, choose, lanes
from fogactors.tasks.settle import Held
from fogactors.tasks.tiers import Amount, Tiers

__all__ = ["Hand", "Load"]


@dataclass(frozen=True, slots=True)
class Load:
    """What an executor has in hand. `free`: what is not taken."""

    tier: str
    size: Amount
    free: Amount
    running: int
    waiting: int
    helping: bool


class Hand:
    """For one executor of tier `own`. `free` is what is not taken of it."""

    def __init__(self, tiers: Tiers, own: str, guarantee_every: int) -> None:
        self._own = own
        self._size = tiers.get(own).size
        self._least = tiers.lightest.share
        self._order = lanes(tiers, own)
        self._guarantee_every = guarantee_every
        self._waiting: dict[Lane, deque[Held]] = {lane: deque() for lane in self._order}
        self._running: set[Held] = set()
        self._taking: set[Held] = set()
        self._turn = Turn()
        self.free: Amount = self._size

    @property
    def running(self) -> frozenset[Held]:
        return frozenset(self._running)

    @property
    def waiting(self) -> int:
        return sum(map(len, self._waiting.values()))

    def load(self, *, helping: bool) -> Load:
        return Load(self._own, self._size, self.free, len(self._running), self.waiting, helping)

    def where(self, task_id: str) -> str | None:
        """`running`, `waiting`, or `None` when it is not here."""
        if any(held.task.id == task_id for held in self._running):
            return "running"
        return "waiting" if any(held.task.id == task_id for lane in self._waiting.values() for held in lane) else None

    def cancel(self, task_id: str) -> list[Held]:
        """Stop it if it runs; returns what waited, taken out."""
        for held in self._running:
            if held.task.id == task_id and held.scope is not None:
                held.cancelled = True
                held.scope.cancel()
        return self.pull(lambda held: held.task.id == task_id)

    def put(self, held: Held) -> None:
        """At the end of its lane."""
        self._waiting[held.lane].append(held)

    def start(self) -> Held | None:
        """The task whose turn it is, if one fits; it takes its share from here on, until `release`."""
        heads = {lane: queue[0].amount for lane, queue in self._waiting.items() if queue}
        if not heads:
            return None
        lane, self._turn = choose(self.free, heads, self._order, self._turn, self._guarantee_every)
        if lane is None:
            return None
        held = self._waiting[lane].popleft()
        self._running.add(held)
        self._taking.add(held)
        self.free -= held.amount
        return held

    def ended(self, held: Held) -> None:
        """It does not run any more. Its share is another matter: an abandoned thread keeps it."""
        self._running.discard(held)

    def release(self, held: Held) -> None:
        """Its share is free again. Idempotent."""
        if held in self._taking:
            self._taking.remove(held)
            # From the size when nothing is taken: sums of fractions drift, and a drift here would never heal.
            self.free = self.free + held.amount if self._taking else self._size

    def pull(self, which: Callable[[Held], bool] = lambda _: True) -> list[Held]:
        """Take out those that wait and that `which` names."""
        pulled: list[Held] = []
        for lane, queue in self._waiting.items():
            pulled += filter(which, queue)
            self._waiting[lane] = deque(held for held in queue if not which(held))
        return pulled

    # -- whether to help smaller tiers

    @property
    def has_room(self) -> bool:
        """No work of its own waits, and the smallest share of the smallest tier would fit."""
        return not any(self._of(own=True)) and self.free.fits(self._least)

    @property
    def helped_since(self) -> float | None:
        """Since when the oldest task of a smaller tier has waited here."""
        return min((held.since for held in self._of(own=False)), default=None)

    def is_helped(self, held: Held) -> bool:
        return held.lane.tier != self._own

    def _of(self, *, own: bool) -> Iterable[Held]:
        return (queue[0] for lane, queue in self._waiting.items() if queue and (lane.tier == self._own) == own)

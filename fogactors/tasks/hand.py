"""What an executor has in its hands: the tasks that wait, those that run, and how much of its tier they take.

Bookkeeping without a single await, so every call leaves it whole, and it can be tested as data.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta

from fogactors.messages import Task
from fogactors.tasks.budget import Claimant
from fogactors.tasks.policy import Lane, Turn, choose, lanes
from fogactors.tasks.requests import TaskWhere
from fogactors.tasks.settle import Held
from fogactors.tasks.tiers import Amount, Tiers

__all__ = ["Hand", "Load"]


@dataclass(frozen=True, slots=True)
class Load:
    """What an executor has in hand. `free`: what is not taken; `unrecorded`: results that went to `results.pending`
    since it started, because the coordination store was away."""

    tier: str
    size: Amount
    free: Amount
    running: int
    waiting: int
    helping: bool
    unrecorded: int = 0


class Hand:
    """For one executor of tier `own`. `free` is what is not taken of it; `memory` is its part in the node's budget,
    which the executors of other tiers take from as well; `None`: there is no budget."""

    def __init__(self, tiers: Tiers, own: str, guarantee_every: int, memory: Claimant | None = None) -> None:
        self._own = own
        self._size = tiers.get(own).size
        self._least = tiers.lightest.share
        self._order = lanes(tiers, own)
        self._guarantee_every = guarantee_every
        self._waiting: dict[Lane, deque[Held]] = {lane: deque() for lane in self._order}
        self._running: set[Held] = set()
        self._taking: set[Held] = set()
        self._turn = Turn()
        self._memory = memory
        self._stands_in_line = False
        self.free: Amount = self._size
        self.awaited_s: Callable[[Lane], float] = lambda _: 0.0
        """For how long something of a lane is on its way; see `Intake.awaited_s`."""
        self.held_back_s = 0.0
        """For how long something waits for nothing but that, when `start` was asked last."""

    @property
    def running(self) -> frozenset[Held]:
        return frozenset(self._running)

    @property
    def waiting(self) -> int:
        return sum(map(len, self._waiting.values()))

    def load(self, *, helping: bool, unrecorded: int) -> Load:
        return Load(self._own, self._size, self.free, len(self._running), self.waiting, helping, unrecorded)

    def find(self, task_id: str) -> Held | None:
        """One of its copies, one that runs if there is one; `None` when it is not here."""
        waiting = (held for lane in self._waiting.values() for held in lane)
        return next((held for held in (*self._running, *waiting) if held.task.id == task_id), None)

    def where(self, task_id: str, worker: str, at: datetime, now: float) -> TaskWhere | None:
        """`at` and `now` are this moment, on the wall and on the loop's clock."""
        held = self.find(task_id)
        if held is None:
            return None
        return TaskWhere(
            state="running" if held in self._running else "waiting",
            name=held.task.name,
            attempt=held.task.attempt,
            since=held.started or at - timedelta(seconds=now - held.since),
            mode=held.definition.mode,
            worker=worker,
        )

    def cancel(self, which: Callable[[Task], bool]) -> list[Held]:
        """Stop those that run; returns those that waited, taken out."""
        for held in self._running:
            if which(held.task) and held.scope is not None:
                held.cancelled = True
                held.scope.cancel()
        return self.pull(lambda held: which(held.task))

    def put(self, held: Held) -> None:
        """At the end of its lane."""
        self._waiting[held.lane].append(held)

    def start(self) -> Held | None:
        """The task whose turn it is, if one fits; it takes its share from here on, until `release`."""
        self.held_back_s = 0.0
        heads = {lane: queue[0].amount for lane, queue in self._waiting.items() if queue}
        if not heads:
            return self._leave_line()
        lane, turn = choose(self.free, heads, self._order, self._turn, self._guarantee_every)
        if lane is None or self._is_held_back(lane, heads):
            return self._leave_line()
        if self._memory is not None and not self._memory.take(heads[lane].memory_mb):
            # It keeps its turn: to try a smaller one instead would let this one starve.
            self._stands_in_line = True
            return None
        self._turn = turn
        held = self._waiting[lane].popleft()
        self._running.add(held)
        self._taking.add(held)
        self.free -= held.amount
        return held

    def _is_held_back(self, lane: Lane, heads: Mapping[Lane, Amount]) -> bool:
        """Whether a lane that goes before this one has more on its way. Not when it is this one's turn by the guarantee
        that nobody starves."""
        if self._turn.skipped.get(lane, 0) >= self._guarantee_every - 1:
            return False
        before = self._order[: self._order.index(lane)]
        self.held_back_s = max((self.awaited_s(each) for each in before if each not in heads), default=0.0)
        return self.held_back_s > 0

    def _leave_line(self) -> None:
        if self._stands_in_line and self._memory is not None:
            self._stands_in_line = False
            self._memory.withdraw()

    def ended(self, held: Held) -> None:
        """It does not run any more. Its share is another matter: an abandoned thread keeps it."""
        self._running.discard(held)

    def release(self, held: Held) -> None:
        """Its share is free again. Idempotent."""
        if held in self._taking:
            self._taking.remove(held)
            if self._memory is not None:
                self._memory.give_back(held.amount.memory_mb)
            # From the size when nothing is taken: sums of fractions drift, and a drift here would never heal.
            self.free = self.free + held.amount if self._taking else self._size

    def pull(self, which: Callable[[Held], bool] = lambda _: True) -> list[Held]:
        """Take out those that wait and that `which` names."""
        pulled: list[Held] = []
        for lane, queue in self._waiting.items():
            pulled += filter(which, queue)
            self._waiting[lane] = deque(held for held in queue if not which(held))
        if pulled:  # whose turn it is comes out anew; another tier must not wait for what has gone
            self._leave_line()
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

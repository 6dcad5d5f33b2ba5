"""What happened in this process since it began, as counts that only grow, and the few facts that hold now.

Made from events alone, like the figures of the terminal's board. Those keep quantiles for people; these are histograms
of fixed bounds, because quantiles of several processes cannot be added.
"""

from __future__ import annotations

import os
import secrets
from bisect import bisect_left
from collections import Counter
from typing import Final

from fogactors.core import ActorExited, ActorStarted
from fogactors.messages import ClusterFact, LaneTotals, Priority, ProcessTotals, Reason, Spread
from fogactors.roles.sentinel.state import BrokerExited, ClusterChanged
from fogactors.tasks.events import (
    DuplicateResult,
    ResultUnrecorded,
    TaskDeadLettered,
    TaskEnded,
    TaskHandedBack,
    TaskRefused,
    TaskRetried,
    TaskStarted,
    WorkerCrashed,
)

__all__ = ["BOUNDS_S", "Totals"]

BOUNDS_S: Final = (0.005, 0.025, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0, 1800.0)
"""Seconds: from what a queue costs to the longest that a task may run by default."""

_EXECUTOR: Final = "/executor"
_WATCHER: Final = "/node-sentinel/watcher"


class Totals:
    """`count` is for `Events.subscribe`. Its size is bounded by tiers, priorities and reasons, never by how many tasks
    there were. It outlives the actor that reports it: an incarnation is one of the process."""

    def __init__(self) -> None:
        self._incarnation = secrets.token_hex(4)
        self._lanes: dict[tuple[str, Priority], LaneTotals] = {}
        self._dead_letters: dict[Reason, int] = {}
        self._duplicates = 0
        self._restarts = 0
        self._store_away: set[str] = set()
        self._cluster: set[tuple[ClusterFact, str, str]] = set()
        self._broker_exits = 0
        self._seq = 0

    def next(self) -> ProcessTotals:
        """For one report, which is to be encoded at once: it shares what is counted on."""
        self._seq += 1
        return ProcessTotals(
            id=os.getpid(),
            incarnation=self._incarnation,
            seq=self._seq,
            store_away=bool(self._store_away),
            restarts=self._restarts,
            duplicates=self._duplicates,
            dead_letters=self._dead_letters,
            cluster=dict(Counter(what for what, _, _ in self._cluster)),
            broker_exits=self._broker_exits,
            bounds_s=list(BOUNDS_S),
            lanes=list(self._lanes.values()),
        )

    def count(self, event: object) -> None:
        match event:
            case TaskStarted():
                lane = self._lane(event.lane_tier, event.priority)
                lane.started += 1
                _add(lane.wait, event.wait_s)
            case TaskEnded():
                lane = self._lane(event.lane_tier, event.priority)
                lane.ended[event.state] = lane.ended.get(event.state, 0) + 1
                _add(lane.run, event.run_s)
            case TaskRefused():
                lane = self._lane(event.lane_tier, event.priority)
                lane.ended["failed"] = lane.ended.get("failed", 0) + 1
            case TaskRetried():
                self._lane(event.lane_tier, event.priority).retried += 1
            case TaskHandedBack():
                self._lane(event.lane_tier, event.priority).handed_back += 1
            case WorkerCrashed():
                self._lane(event.lane_tier, event.priority).crashed += 1
            case TaskDeadLettered():
                self._dead_letters[event.reason] = self._dead_letters.get(event.reason, 0) + 1
            case DuplicateResult():
                self._duplicates += 1
            case ResultUnrecorded():
                (self._store_away.add if event.away else self._store_away.discard)(event.worker)
            case ClusterChanged():
                fact = (event.what, event.about, event.detail)
                (self._cluster.add if event.on else self._cluster.discard)(fact)
            case BrokerExited():
                self._broker_exits += 1
            case ActorStarted(incarnation=number) if number > 1:
                self._restarts += 1
            case ActorExited(path=path) if path.endswith(_EXECUTOR):
                # Its next incarnation knows nothing of it, and so would never tell that the store is back.
                tier = path.removesuffix(_EXECUTOR).rpartition("tier-executor-")[2]
                self._store_away = {each for each in self._store_away if each.rpartition("/")[2] != tier}
            case ActorExited(path=path) if path.endswith(_WATCHER):
                self._cluster.clear()  # the next says anew what holds
            case _:
                pass

    def _lane(self, tier: str, priority: Priority) -> LaneTotals:
        lane = self._lanes.get((tier, priority))
        if lane is None:
            lane = self._lanes[tier, priority] = LaneTotals(
                tier=tier, priority=priority, ended={}, wait=_spread(), run=_spread()
            )
        return lane


def _spread() -> Spread:
    return Spread(counts=[0] * (len(BOUNDS_S) + 1))


def _add(spread: Spread, seconds: float) -> None:
    inside = max(seconds, 0.0)  # clocks of two machines: a wait may come out below 0
    spread.counts[bisect_left(BOUNDS_S, inside)] += 1
    spread.sum_s += inside

"""The last report of every process, as long as it is not silent: what a sink knows.

Taken on the event loop, read from the thread that serves `/metrics`.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Final, Literal, Protocol, get_args

from fogactors.messages import NodeMetrics, ProcessTotals

__all__ = ["ALL_ROLES", "MOST", "REPORTING", "MetricsConfig", "MetricsServer", "Reports", "Seen", "Taken"]

REPORTING: Final = ("tier-executor", "dlq-reaper", "node-sentinel")
"""The roles that have something to report: a process reports where it runs one of them."""
ALL_ROLES: Final = "up"
"""The role in the report of a process that runs several."""

MOST: Final = 2000
"""Processes at once. They come from the wire, and each is a few hundred series."""
REPLACED: Final = 8
"""Incarnations of one process id that are remembered as over while a later one reports."""

_NODE: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,62}")
_ROLES: Final = frozenset((*REPORTING, ALL_ROLES))

Taken = Literal["taken", "stale", "refused"]


@dataclass(frozen=True, slots=True, kw_only=True)
class MetricsConfig:
    """The keys of `[metrics]`. `interval_s`: between two reports of a process; 0: it makes none."""

    host: str = "127.0.0.1"
    port: int = 0
    interval_s: float = 10.0

    @property
    def silent_s(self) -> float:
        """After how long without a report a process is gone: two of them may be late or lost."""
        return 3 * (self.interval_s or MetricsConfig().interval_s)


class MetricsServer(Protocol):
    """Serves what the reports say, from a thread; in `observe`, which knows Prometheus."""

    def close(self) -> None: ...


@dataclass(frozen=True, slots=True)
class Seen:
    """A report, its part on the process, and when it came, in seconds of the sink's clock."""

    report: NodeMetrics
    process: ProcessTotals
    at: float

    @property
    def labels(self) -> tuple[str, str, str]:
        """Node, role, process."""
        return self.report.node, self.report.role, str(self.process.id)


class Reports:
    """`silent_s`: seconds after which a process that has said nothing is gone. `tiers`, `queues`: the only names of
    such that are let through: what comes from the wire becomes labels, and a label from an open set would make series
    without end."""

    def __init__(
        self,
        tiers: Iterable[str],
        queues: Iterable[str],
        *,
        silent_s: float = 30.0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._tiers = frozenset(tiers)
        self._queues = frozenset(queues)
        self._silent_s = silent_s
        self._clock = clock
        self._seen: dict[tuple[str, str, int], Seen] = {}
        self._replaced: dict[tuple[str, str, int], tuple[str, ...]] = {}
        self.counts: dict[Taken, int] = dict.fromkeys(get_args(Taken), 0)

    def take(self, report: NodeMetrics) -> Taken:
        """`stale`: it is older than what is known of this process, as after a redelivery, or of the incarnation before
        it, which an update lets run until the new one is well: two that take turns would be counters that jump.
        `refused`: it has names that nobody here knows, or does not fit together."""
        now, process = self._clock(), report.process
        if process is None or not self._is_ours(report, process):
            return self.refuse()
        key = (report.node, report.role, process.id)
        alive = {each: seen for each, seen in self._seen.items() if now - seen.at < self._silent_s}
        known = alive.get(key)
        if known is None and len(alive) >= MOST:
            return self.refuse()
        if known is not None:
            again = known.process.incarnation == process.incarnation
            before = self._replaced.get(key, ())
            if process.incarnation in before or (again and process.seq <= known.process.seq):
                self.counts["stale"] += 1
                return "stale"
            if not again:
                self._replaced[key] = (*before, known.process.incarnation)[-REPLACED:]
        self._replaced = {each: before for each, before in self._replaced.items() if each in alive}
        # A new dict in the place of the old one: who reads from another thread has one or the other.
        self._seen = {**alive, key: Seen(report, process, now)}
        self.counts["taken"] += 1
        return "taken"

    def refuse(self) -> Taken:
        """Also what is no report at all."""
        self.counts["refused"] += 1
        return "refused"

    def alive(self) -> list[Seen]:
        """The last report of each process that is not silent, in a fixed order. From any thread."""
        now = self._clock()
        return [seen for _, seen in sorted(self._seen.items()) if now - seen.at < self._silent_s]

    def age_s(self, seen: Seen) -> float:
        return self._clock() - seen.at

    def _is_ours(self, report: NodeMetrics, process: ProcessTotals) -> bool:
        tiers = [each.tier for each in report.tiers]
        lanes = [(lane.tier, lane.priority) for lane in process.lanes]
        spreads = [spread for lane in process.lanes for spread in (lane.wait, lane.run)]
        return (
            _NODE.fullmatch(report.node) is not None
            and report.role in _ROLES
            and {*tiers, *(tier for tier, _ in lanes)} <= self._tiers
            and set(process.queues) <= self._queues
            and len(set(tiers)) == len(tiers)
            and len(set(lanes)) == len(lanes)
            and sorted(set(process.bounds_s)) == process.bounds_s
            and all(len(spread.counts) == len(process.bounds_s) + 1 for spread in spreads)
        )

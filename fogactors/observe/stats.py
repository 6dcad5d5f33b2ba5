"""Figures that stay small however long a program runs: quantiles of durations, and a rate over the last seconds."""

from __future__ import annotations

import math
from collections import Counter
from typing import Final

__all__ = ["ACCURACY", "Rate", "Sketch"]

ACCURACY: Final = 0.02
"""How far a quantile may be off, relative to itself."""

_GAMMA: Final = (1 + ACCURACY) / (1 - ACCURACY)
_LOG_GAMMA: Final = math.log(_GAMMA)
_LEAST_S: Final = 1e-5
_MOST_S: Final = 1e6


class Sketch:
    """Quantiles of durations in seconds, within 2 %, in at most some 630 counters.

    Buckets that grow by a constant factor, after DDSketch (Masson, Rim and Lee, VLDB 2019). A reservoir would be as
    small, but says little about a p99: of a thousand samples ten lie above it. Durations below 10 µs count as that.
    """

    __slots__ = ("_buckets", "count", "max_s")

    def __init__(self) -> None:
        self._buckets: Counter[int] = Counter()
        self.count = 0
        self.max_s = 0.0

    def add(self, seconds: float) -> None:
        inside = min(max(seconds, _LEAST_S), _MOST_S)
        self._buckets[math.ceil(math.log(inside) / _LOG_GAMMA)] += 1
        self.count += 1
        self.max_s = max(self.max_s, seconds)

    def quantile(self, q: float) -> float:
        """Seconds that the part `q` (0 to 1) of all durations does not exceed; 0 when there are none."""
        rank = q * (self.count - 1)
        seen = 0
        for index in sorted(self._buckets):
            seen += self._buckets[index]
            if seen > rank:
                return min(2 * _GAMMA**index / (_GAMMA + 1), self.max_s)
        return 0.0


class Rate:
    """Events per second over the last `window_s` seconds, in one counter per second. `at` and `now` are seconds of one
    clock, and no other is read."""

    __slots__ = ("_counts", "_since", "_window_s")

    def __init__(self, window_s: int = 10) -> None:
        self._window_s = window_s
        self._counts: dict[int, int] = {}
        self._since: float | None = None

    def add(self, at: float) -> None:
        if self._since is None:
            self._since = at
        second = math.floor(at)
        if second not in self._counts:
            self._counts = {each: n for each, n in self._counts.items() if each > second - self._window_s}
        self._counts[second] = self._counts.get(second, 0) + 1

    def per_s(self, now: float) -> float:
        if self._since is None:
            return 0.0
        first = math.floor(now) - self._window_s + 1
        total = sum(n for second, n in self._counts.items() if second >= first)
        # The window is not full in the beginning; and less than a second says nothing yet.
        return total / max(1.0, now - max(first, self._since))

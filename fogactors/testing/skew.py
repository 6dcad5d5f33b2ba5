"""The clock of a system under test: it runs as time does, and may be moved ahead."""

from __future__ import annotations

import time
from datetime import UTC, datetime, timedelta

__all__ = ["SkewedClock"]


class SkewedClock:
    """Real time and a skew that only grows. `now` is the time of day, `monotonic` the same clock in seconds: what one
    of them says is late, the other does too.

    Unlike `FakeClock` it does not stand still, so work takes the time that it takes and nothing waits for a test to
    move it. Who sleeps by it is not woken by a move: `MemoryBroker.clock_moved` tells a broker.
    """

    def __init__(self) -> None:
        self.skew_s = 0.0
        self._start = time.monotonic()
        self._start_of_day = datetime.now(UTC)

    def monotonic(self) -> float:
        return time.monotonic() + self.skew_s

    def now(self) -> datetime:
        # Not datetime.now() and the skew: the clock of a machine is set now and then, and the two would part.
        return self._start_of_day + timedelta(seconds=self.monotonic() - self._start)

    def advance(self, seconds: float) -> None:
        """Raises `ValueError` for time that runs backwards."""
        if seconds < 0:
            raise ValueError(f"time does not run backwards, got {seconds} s")
        self.skew_s += seconds

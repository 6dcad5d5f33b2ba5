"""How often a supervisor may restart, and how long it waits when that was too often. Pure functions of `now` and
`rng`."""

from __future__ import annotations

import random
from dataclasses import dataclass

from fogactors.errors import SpecError

__all__ = ["Backoff", "Intensity"]


@dataclass(frozen=True, slots=True)
class Intensity:
    """At most `max_restarts` within any `period_s` seconds (OTP's `intensity` and `period`)."""

    max_restarts: int = 3
    period_s: float = 5.0

    def __post_init__(self) -> None:
        if self.max_restarts < 0:
            raise SpecError(f"restart intensity must not be negative, got {self.max_restarts}")
        if not self.period_s > 0:
            raise SpecError(f"restart period must be more than 0 s, got {self.period_s}")

    def record(self, restarts: tuple[float, ...], now: float) -> tuple[tuple[float, ...], bool]:
        """Add a restart at `now` to those that came before; returns the window that matters from here on and whether
        it now holds too many. A restart exactly `period_s` old still counts, as in OTP."""
        window = (*(at for at in restarts if now - at <= self.period_s), now)
        return window, len(window) > self.max_restarts


@dataclass(frozen=True, slots=True)
class Backoff:
    """A delay that grows by `factor` from `first_s` to `max_s`; `jitter` is the part of it that is drawn at random, so
    that a fleet that lost the same broker does not come back in the same instant."""

    first_s: float = 0.2
    max_s: float = 30.0
    factor: float = 2.0
    jitter: float = 0.5

    def __post_init__(self) -> None:
        if not 0 < self.first_s <= self.max_s:
            raise SpecError(f"backoff needs 0 < first_s <= max_s, got {self.first_s} and {self.max_s}")
        if self.factor < 1:
            raise SpecError(f"backoff factor must be at least 1, got {self.factor}")
        if not 0 <= self.jitter <= 1:
            raise SpecError(f"backoff jitter must be within 0 and 1, got {self.jitter}")

    def delay(self, tries: int, rng: random.Random) -> float:
        """Seconds to wait after `tries` waits before this one (0: the first)."""
        # The exponent is capped: 2.0 ** 1100 overflows, and an outage may last for days.
        full = min(self.max_s, self.first_s * self.factor ** min(tries, 64))
        return full * (1 - self.jitter * rng.random())

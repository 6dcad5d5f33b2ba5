"""How one executor behaves, as data."""

from __future__ import annotations

from dataclasses import dataclass

from fogactors.bus.base import MAX_BODY
from fogactors.coord.base import RESULT_TTL_S
from fogactors.tasks.tiers import Tiers

__all__ = ["ExecutorConfig"]


@dataclass(frozen=True, slots=True, kw_only=True)
class ExecutorConfig:
    """How one executor behaves; the keys of `[executor]`, `[tasks]`, `[bus]` and `[coord]` that it needs. Seconds,
    bytes."""

    node: str
    tier: str
    look_ahead: int = 1
    guarantee_every: int = 10
    help_after_s: float = 0.25
    help_grace_s: float = 1.0
    drain_s: float = 20.0
    watchdog_s: float = 10.0
    time_limit_s: float = 1500.0
    result_ttl_s: float = RESULT_TTL_S
    result_inline_bytes: int = 65_536
    publish_timeout_s: float = 10.0
    max_body_bytes: int = MAX_BODY

    @property
    def worker(self) -> str:
        return f"{self.node}/{self.tier}"

    def prefetch(self, tiers: Tiers) -> int:
        """Deliveries in hand from each queue of its own tier."""
        return tiers.get(self.tier).slots + self.look_ahead

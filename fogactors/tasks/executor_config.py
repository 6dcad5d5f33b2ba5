"""How one executor behaves, as data."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime

from fogactors.bus.base import MAX_BODY
from fogactors.coord.base import RESULT_TTL_S
from fogactors.tasks.limits import CONSUMER_TIMEOUT_S, SETTLE_MARGIN_S
from fogactors.tasks.routes import Routes, TierRoutes
from fogactors.tasks.tiers import Tiers
from fogactors.wire.topology import Topology

__all__ = ["ExecutorConfig", "utc_now"]


def utc_now() -> datetime:
    return datetime.now(UTC)


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
    consumer_timeout_s: float = CONSUMER_TIMEOUT_S
    now: Callable[[], datetime] = utc_now
    """The time of day. A test may move it; it must be the one that submitters stamp tasks with."""
    refill_s: float = 0.0
    """How long what waits in a lower lane is held back for the next delivery of a higher one whose window was full, so
    that the broker most likely has more of it. Without a look-ahead, and without this, every slot that comes free would
    go to the lower one: the next of the higher one is still on its way."""
    routes: Routes | None = None
    """To which queues its tasks come, and go back; `None`: those of the tiers."""
    topology: Topology | None = None
    """What is made before a queue is read, where that is this executor's to do."""
    feed: bool = True
    """Whether results are published to `results.success` and `results.failed` as well."""

    @property
    def worker(self) -> str:
        return f"{self.node}/{self.tier}"

    def max_wait_s(self, limit_s: float) -> float:
        """How long a task with this time limit may wait in hand, and still be run and settled before the broker takes
        it back. Seconds."""
        return self.consumer_timeout_s - SETTLE_MARGIN_S / 2 - limit_s

    def routes_in(self, tiers: Tiers) -> Routes:
        return self.routes or TierRoutes(tiers.lightest.name)

    def prefetch(self, tiers: Tiers) -> int:
        """Deliveries in hand from each queue of its own tier."""
        return tiers.get(self.tier).slots + self.look_ahead

"""What a subscription is, and what it counts. Both outlive the actor behind it, which goes with its connection."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

from fogactors.messaging.event import EventHandler
from fogactors.messaging.seen import Seen
from fogactors.tasks.retry import RetryPolicy
from fogactors.wire.topology import Topology

__all__ = ["EventStats", "Plan"]


@dataclass(slots=True)
class EventStats:
    """Counts since the subscription began. `full`: how often its queue was seen to be full, which is looked at every
    few seconds. `abandoned`: given up without a dead letter. `retries_until`: when the last retry that this process has
    published is back, by the loop's clock."""

    handled: int = 0
    duplicates: int = 0
    retried: int = 0
    dead_lettered: int = 0
    abandoned: int = 0
    full: int = 0
    retries_until: float = -math.inf


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What a subscription is. `queue`: empty without a group, then one of its own is opened, bound by `exclusive`;
    `topology`: what is to be there before it is read."""

    queue: str
    handler: EventHandler
    retry: RetryPolicy
    concurrency: int
    prefetch: int
    seen: Seen
    source: str
    topology: Topology = field(default_factory=Topology)
    exclusive: tuple[tuple[str, str], ...] = ()
    max_length: int = 0
    look_s: float = 5.0
    publish_timeout_s: float = 10.0
    stats: EventStats = field(default_factory=EventStats)

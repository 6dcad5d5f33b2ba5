"""The coordination store: results, notices, leases, membership, heartbeats."""

from fogactors.coord.base import (
    RESULT_TTL_S,
    BeatWriter,
    Coord,
    Lease,
    Notices,
    Recorded,
    done_channel,
)
from fogactors.coord.memory import MemoryCoord, MemoryStore

__all__ = [
    "Coord",
    "Lease",
    "Notices",
    "BeatWriter",
    "Recorded",
    "RESULT_TTL_S",
    "done_channel",
    "MemoryCoord",
    "MemoryStore",
]

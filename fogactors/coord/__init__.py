"""The coordination store: results, idempotency keys, dead letters' index, notices, leases, membership, heartbeats."""

from fogactors.coord.base import (
    CANCEL_KEEP_S,
    RESULT_TTL_S,
    BeatWriter,
    Claim,
    Coord,
    Copy,
    Lease,
    Notices,
    Recorded,
    done_channel,
)
from fogactors.coord.letters import LetterIndex, ParkedLetter
from fogactors.coord.memory import MemoryCoord, MemoryStore

__all__ = [
    "Coord",
    "Lease",
    "Claim",
    "Copy",
    "Notices",
    "BeatWriter",
    "Recorded",
    "LetterIndex",
    "ParkedLetter",
    "CANCEL_KEEP_S",
    "RESULT_TTL_S",
    "done_channel",
    "MemoryCoord",
    "MemoryStore",
]

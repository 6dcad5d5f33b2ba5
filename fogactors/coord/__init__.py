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
from fogactors.coord.cluster import CLUSTER_MASTER, CLUSTER_MEMBERS, CLUSTER_STOPPING
from fogactors.coord.letters import LetterIndex, ParkedLetter
from fogactors.coord.memory import MemoryCoord
from fogactors.coord.memory_store import MemoryStore

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
    "CLUSTER_MASTER",
    "CLUSTER_MEMBERS",
    "CLUSTER_STOPPING",
    "RESULT_TTL_S",
    "done_channel",
    "MemoryCoord",
    "MemoryStore",
]

"""What the rest of the system may ask of the coordination store. Two implementations: `memory.py` and `redis.py`.

Results, heartbeats, leases, membership, notices. Everything here is small, and nothing that must not be lost travels by
`notify`: a notice only makes somebody look sooner. All methods raise `CoordUnavailable` when the store is away.
"""

from __future__ import annotations

from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from typing import Literal, Protocol, runtime_checkable

from fogactors.messages import Beat, TaskResult

__all__ = ["RESULT_TTL_S", "BeatWriter", "Coord", "Lease", "Notices", "Recorded", "done_channel"]

RESULT_TTL_S = 900.0
"""How long a result is kept by default. It is also the window in which a task is recorded only once."""

Recorded = Literal["recorded", "duplicate"]


def done_channel(task_id: str) -> str:
    """The channel on which the submitter of this task listens: the part of the id before its last dash."""
    return f"fog:done:{task_id.rpartition('-')[0] or task_id}"


@dataclass(slots=True, frozen=True)
class Lease:
    """The right to be the only one, until `ttl_s` after the last renewal.

    `token` grows with every new holder (a fencing token, after Kleppmann): a write that carries an older one is
    refused.
    """

    name: str
    owner: str
    token: int
    ttl_s: float


class Notices(Protocol):
    """A subscription. `async for payload in notices`; ends only when it is closed. A break is mended unseen, and what
    was sent meanwhile is lost, or it raises `CoordUnavailable` within seconds: then listen again."""

    def __aiter__(self) -> Notices: ...
    async def __anext__(self) -> str: ...


class BeatWriter(Protocol):
    """Writes heartbeats from a thread of its own, so it blocks and is not `async`."""

    def write(self, beat: Beat, ttl_s: float) -> None:
        """Write one beat. Raises `CoordUnavailable`."""
        ...

    def close(self) -> None: ...


@runtime_checkable
class Coord(Protocol):
    """One client's way to the store."""

    async def open(self, timeout: float = 10.0) -> None: ...
    async def close(self) -> None: ...

    # -- results

    async def record(self, result: TaskResult, *, ttl_s: float = RESULT_TTL_S) -> Recorded:
        """Write a result if there is none, or only one of an older generation; then notify `done_channel(task_id)`
        with the task id. `duplicate`: there was one, and it stays. Asked again with the very same result, as a client
        does whose answer was lost, it says `recorded` again."""
        ...

    async def result(self, task_id: str) -> TaskResult | None: ...

    # -- notices (pub/sub: at most once, nothing is replayed)

    async def notify(self, channel: str, payload: str) -> None: ...

    def listen(self, channel: str) -> AbstractAsyncContextManager[Notices]:
        """Subscribe; on entering, the subscription stands."""
        ...

    # -- leases

    async def acquire(self, name: str, owner: str, ttl_s: float) -> Lease | None:
        """Take a lease if it is free or already the owner's (then its token stays). `None`: another holds it."""
        ...

    async def renew(self, lease: Lease) -> None:
        """Extend by its `ttl_s`. Raises `LeaseLost`."""
        ...

    async def release(self, lease: Lease) -> None:
        """Give it up if it is still ours. Idempotent."""
        ...

    async def holder(self, name: str) -> str | None: ...

    # -- membership and heartbeats

    async def join(self, group: str, member: str) -> None: ...
    async def leave(self, group: str, member: str, *, lease: Lease | None = None) -> None:
        """Remove a member. With a lease: only while it holds (its token is checked in the same step), else
        `LeaseLost`."""
        ...

    async def members(self, group: str) -> frozenset[str]: ...

    async def beat(self, beat: Beat, ttl_s: float) -> None: ...
    async def beats(self) -> list[Beat]:
        """The last beat of every node and role that has not run out, sorted by node and role."""
        ...

    def beat_writer(self) -> BeatWriter:
        """A way to write beats from another thread; the caller closes it there."""
        ...

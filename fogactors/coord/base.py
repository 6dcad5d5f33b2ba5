"""What the rest of the system may ask of the coordination store. Two implementations: `memory.py` and `redis.py`.

Results, heartbeats, leases, membership, notices. Everything here is small, and nothing that must not be lost travels by
`notify`: a notice only makes somebody look sooner. All methods raise `CoordUnavailable` when the store is away.
"""

from __future__ import annotations

from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from typing import Final, Literal, Protocol, runtime_checkable

from fogactors.coord.letters import LetterIndex
from fogactors.messages import Beat, TaskResult

__all__ = [
    "CANCEL_KEEP_S",
    "RESULT_TTL_S",
    "UNCOUNTED",
    "BeatWriter",
    "Claim",
    "Coord",
    "Copy",
    "Lease",
    "Notices",
    "Recorded",
    "done_channel",
]

RESULT_TTL_S = 900.0
"""How long a result is kept by default. It is also the window in which a task is recorded only once."""

CANCEL_KEEP_S = 7 * 24 * 3600.0
"""How long a cancellation is remembered by default: as long as a task may lie in a delay, not as long as its result."""

UNCOUNTED: Final = -1
"""For `Coord.begin`: it may run, and nobody counts how often it was begun."""

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


@dataclass(slots=True, frozen=True)
class Claim:
    """Whose task an idempotency key stands for. `confirmed`: its publish was confirmed by the broker; otherwise it
    may or may not have arrived, and is to be published again under the same id."""

    task_id: str
    confirmed: bool


@dataclass(slots=True, frozen=True)
class Copy:
    """One of the copies that there may be of a task's attempt. Who dies between the publish of a retry and its ack
    leaves two, and each would run through all attempts that are left. `mark` tells them apart: another publish of a
    retry has another; `hops` grows with each later republish of the same. `start` names one delivery of it: whoever
    has it in hand, once."""

    task_id: str
    generation: int
    attempt: int
    mark: str
    hops: int
    start: str = ""


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

    def broker_beat(self, node: str, ttl_s: float) -> None:
        """As `Coord.broker_beat`. Raises `CoordUnavailable`."""
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

    # -- cancellations

    async def cancel(
        self, result: TaskResult, *, ttl_s: float = RESULT_TTL_S, keep_s: float = CANCEL_KEEP_S
    ) -> TaskResult:
        """Record a result whose state is `cancelled`, as `record` does, and remember for `keep_s` that this task and
        generation is not to be run. Both in one step. Returns the record that stands: when the task had ended
        otherwise, its result, and nothing is remembered. Idempotent."""
        ...

    async def cancelled(self) -> dict[str, int]:
        """Every task that is not to be run: id to the generation up to which that holds."""
        ...

    # -- idempotency keys

    async def claim(self, key: str, task_id: str, *, ttl_s: float) -> Claim:
        """Take a key for a task, for `ttl_s`, or learn which task has it. Whoever took it gets its own id back,
        unconfirmed; asked again with the same id it gives the same answer."""
        ...

    async def confirm(self, key: str, task_id: str, *, ttl_s: float) -> None:
        """The task that holds the key has been published. Does nothing when another holds it by now."""
        ...

    # -- attempts

    async def begin(self, copy: Copy, *, ttl_s: float) -> int:
        """Whether this copy of a task may run its attempt; remembered for `ttl_s`, or until the record runs out, once
        there is one. 0: a later attempt has begun, or this one in another copy, or in a later republish of the same.
        Otherwise how many starts there are of this very copy, with this one, that nobody has taken back: each but this
        is of a process that has died, or is just about to say that it has not. Asked again with the same it says the
        same."""
        ...

    async def take_back(self, copy: Copy) -> None:
        """This start is over and its process is not: it counts no more. Idempotent."""
        ...

    # -- dead letters

    @property
    def letters(self) -> LetterIndex:
        """The index of the stream of dead letters."""
        ...

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

    # -- the broker cluster; nodes by the names that RabbitMQ gives them, e.g. `rabbit@rabbitmq1`

    async def cluster_join(self, node: str) -> None:
        """Idempotent: a member says so again and again, because Redis may have lost it."""
        ...

    async def cluster_leave(self, node: str, *, lease: Lease) -> None:
        """Remove a member while the lease holds (its token is checked in the same step), else `LeaseLost`."""
        ...

    async def cluster_members(self) -> frozenset[str]: ...

    async def broker_beat(self, node: str, ttl_s: float) -> None:
        """This broker node is there: its heartbeat, a Unix time in whole seconds, lives for `ttl_s` from now."""
        ...

    async def broker_beats(self) -> frozenset[str]:
        """The broker nodes whose heartbeat lives."""
        ...

    async def expire_members(self, lease: Lease, looked_s: float) -> list[str]:
        """Remove all members without a heartbeat, in one step and only while the lease holds, else `LeaseLost`.
        Returns them, sorted.

        Nobody is removed before this lease has looked for `looked_s`, by the store's clock, since its first call: a
        store that was away for longer than a heartbeat lives has none left, though all are well.
        """
        ...

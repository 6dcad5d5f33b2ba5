"""The state of the coordination store in memory, with a Redis' faults as switches."""

from __future__ import annotations

import copy
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any, Literal

import anyio
from anyio.streams.memory import MemoryObjectReceiveStream, MemoryObjectSendStream

from fogactors.coord.base import Claim, Copy, Lease, Recorded, done_channel
from fogactors.coord.cluster import CLUSTER_MEMBERS
from fogactors.coord.expiring import Expiring
from fogactors.coord.memory_letters import LetterTable
from fogactors.errors import CoordUnavailable, LeaseLost
from fogactors.messages import Beat, TaskResult

__all__ = ["NOTICES_BUFFERED", "MemoryStore"]

NOTICES_BUFFERED = 10_000
"""Notices that wait for one slow listener. More are dropped, as Redis drops a client that does not read."""


class MemoryStore:
    """The state that clients share. `clock`: seconds from any origin, never backwards; tests pass their own.

    The default is monotonic, not the time of day: TTLs are durations, and a clock that is set must not end a
    lease.

    Switches, all off at first:

    * `away`: every method of every client raises `CoordUnavailable`. State is kept, as over a cut connection.
    * `full`: what would store something raises `CoordUnavailable`; reading, renewing, giving up and notifying
      work, as on a Redis with `maxmemory` reached and `noeviction`.
    * `drop_notices`: notices are lost without an error, as with a subscriber that was reconnecting.

    `notices_lost` counts notices dropped by the switch or because a listener did not read.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self.away = False
        self.full = False
        self.drop_notices = False
        self.notices_lost = 0
        self._results: Expiring[TaskResult] = Expiring(clock)
        self._cancelled: Expiring[tuple[str, int]] = Expiring(clock)
        self._claims: Expiring[Claim] = Expiring(clock)
        self._attempts: Expiring[Copy] = Expiring(clock)
        self._starts: Expiring[tuple[Copy, set[str]]] = Expiring(clock)
        self._leases: Expiring[Lease] = Expiring(clock)
        self._beats: Expiring[Beat] = Expiring(clock)
        self._broker_beats: Expiring[str] = Expiring(clock)
        # Beats alone are written from other threads; everything else belongs to the loop and needs no lock.
        self._beats_lock = threading.Lock()
        # Apart from the leases, because a token must not start again when its lease has run out.
        self._tokens: dict[str, int] = {}
        self._groups: dict[str, set[str]] = {}
        # Which lease looks who beats, and since when.
        self._watch: tuple[int, float] | None = None
        self._listeners: dict[str, list[MemoryObjectSendStream[str]]] = {}
        self.letters = LetterTable()

    def expire_now(
        self,
        what: Literal["results", "leases", "beats", "broker_beats", "claims", "cancelled", "attempts"],
        key: str | None = None,
    ) -> None:
        """Let an entry run out at once: a task id, a lease's name, `<node>/<role>`, a broker node, an idempotency key
        or (cancelled, attempts) `<generation>:<task id>`; without `key`, all. What is known of attempts goes with the
        result."""
        with self._beats_lock:
            entries = self._expiring()[what]
            if what == "results":
                for result in self._results.values():
                    if key in (None, result.task_id):
                        self._attempts.discard(f"{result.generation}:{result.task_id}")
            if key is None:
                entries.clear()
            else:
                entries.discard(key)

    def sizes(self) -> dict[str, int]:
        """How many of each kind are in memory, also those that ran out and are not swept."""
        sizes = {what: len(entries) for what, entries in self._expiring().items()}
        return sizes | {"letters": len(self.letters)}

    def _expiring(self) -> dict[str, Expiring[Any]]:
        return {
            "results": self._results,
            "leases": self._leases,
            "beats": self._beats,
            "broker_beats": self._broker_beats,
            "claims": self._claims,
            "cancelled": self._cancelled,
            "attempts": self._attempts,
            "starts": self._starts,
        }

    # What clients do. Each step is one piece without an await, as a Redis script is.

    def reach(self, *, storing: bool = False) -> None:
        """Raise `CoordUnavailable` where a Redis in this condition would give no answer, or an error."""
        if self.away:
            raise CoordUnavailable("the coordination store cannot be reached")
        if storing and self.full:
            raise CoordUnavailable("the coordination store is full and takes no writes")

    def record(self, result: TaskResult, ttl_s: float) -> Recorded:
        known = self._results.get(result.task_id)
        if known == result:
            return "recorded"  # asked again for an answer that was lost
        is_news = known is None or known.generation < result.generation
        if is_news:
            # A copy in and a copy out, as a codec would: nobody holds what is in the store.
            self._results.put(result.task_id, copy.copy(result), ttl_s)
            self.publish(done_channel(result.task_id), result.task_id)
        self._attempts.end_with(f"{result.generation}:{result.task_id}", self._results, result.task_id)
        return "recorded" if is_news else "duplicate"

    def result(self, task_id: str) -> TaskResult | None:
        return copy.copy(self._results.get(task_id))

    def cancel(self, result: TaskResult, ttl_s: float, keep_s: float) -> TaskResult:
        self.record(result, ttl_s)
        standing = self._results.get(result.task_id) or result
        if standing.state == "cancelled" and standing.generation == result.generation:
            cancelled = (result.task_id, result.generation)
            self._cancelled.put(f"{result.generation}:{result.task_id}", cancelled, keep_s)
        return copy.copy(standing)

    def cancelled(self) -> dict[str, int]:
        # Sorted, so that of several generations of one task the newest is what stays in the dict.
        return dict(sorted(self._cancelled.values(), key=lambda each: each[1]))

    def claim(self, key: str, task_id: str, ttl_s: float) -> Claim:
        held = self._claims.get(key)
        if held is None:
            held = Claim(task_id, confirmed=False)
            self._claims.put(key, held, ttl_s)
        return held

    def confirm(self, key: str, task_id: str, ttl_s: float) -> None:
        held = self._claims.get(key)
        if held is None or held.task_id == task_id:
            self._claims.put(key, Claim(task_id, confirmed=True), ttl_s)

    def begin(self, mine: Copy, ttl_s: float) -> int:
        key, copy_ = f"{mine.generation}:{mine.task_id}", replace(mine, start="")
        begun = self._attempts.get(key)
        if begun is not None and begun.attempt >= mine.attempt:
            same = (begun.attempt, begun.mark) == (mine.attempt, mine.mark)
            if not same or begun.hops > mine.hops:
                return 0
        of, starts = self._starts.get(key) or (None, set[str]())
        starts = starts | {mine.start} if begun == of == copy_ else {mine.start}
        self._starts.put(key, (copy_, starts), ttl_s)
        self._attempts.put(key, copy_, ttl_s)
        known = self._results.get(mine.task_id)
        if known is not None and known.generation >= mine.generation:
            self._attempts.end_with(key, self._results, mine.task_id)
        return len(starts)

    def take_back(self, mine: Copy) -> None:
        _, starts = self._starts.get(f"{mine.generation}:{mine.task_id}") or (None, set[str]())
        starts.discard(mine.start)

    def bury(self, worker: str) -> None:
        """Let the starts that begin with `<worker>:` stay, whoever takes them back: its process has died."""
        for _, starts in self._starts.values():
            for start in [each for each in starts if each.startswith(f"{worker}:")]:
                starts.remove(start)
                starts.add(f"dead {start}")

    def publish(self, channel: str, payload: str) -> None:
        for listener in self._listeners.get(channel, ()):
            if self.drop_notices:
                self.notices_lost += 1
                continue
            try:
                listener.send_nowait(payload)
            except (anyio.WouldBlock, anyio.BrokenResourceError):
                self.notices_lost += 1

    def subscribe(self, channel: str) -> tuple[MemoryObjectSendStream[str], MemoryObjectReceiveStream[str]]:
        sender, receiver = anyio.create_memory_object_stream[str](NOTICES_BUFFERED)
        self._listeners.setdefault(channel, []).append(sender)
        return sender, receiver

    def unsubscribe(self, channel: str, sender: MemoryObjectSendStream[str]) -> None:
        listeners = self._listeners[channel]
        listeners.remove(sender)
        if not listeners:
            del self._listeners[channel]

    def acquire(self, name: str, owner: str, ttl_s: float) -> Lease | None:
        held = self._leases.get(name)
        if held is not None and held.owner != owner:
            return None
        if held is None:
            self._tokens[name] = self._tokens.get(name, 0) + 1
        lease = Lease(name, owner, self._tokens[name], ttl_s)
        self._leases.put(name, lease, ttl_s)
        return lease

    def require(self, lease: Lease) -> None:
        """Raise `LeaseLost` unless this lease, with this very token, is the one that holds."""
        held = self._leases.get(lease.name)
        if held is None:
            raise LeaseLost(f"lease {lease.name!r} of {lease.owner!r} has run out")
        if held.token != lease.token:
            raise LeaseLost(f"lease {lease.name!r} of {lease.owner!r} is held by {held.owner!r} now")

    def renew(self, lease: Lease) -> None:
        self.require(lease)
        self._leases.put(lease.name, lease, lease.ttl_s)

    def release(self, lease: Lease) -> None:
        held = self._leases.get(lease.name)
        if held is not None and held.token == lease.token:
            self._leases.discard(lease.name)

    def holder(self, name: str) -> str | None:
        held = self._leases.get(name)
        return held.owner if held is not None else None

    def join(self, group: str, member: str) -> None:
        self._groups.setdefault(group, set()).add(member)

    def leave(self, group: str, member: str, lease: Lease | None) -> None:
        if lease is not None:
            self.require(lease)
        self._groups.get(group, set()).discard(member)

    def members(self, group: str) -> frozenset[str]:
        return frozenset(self._groups.get(group, ()))

    def beat(self, beat: Beat, ttl_s: float) -> None:
        with self._beats_lock:
            self._beats.put(f"{beat.node}/{beat.role}", copy.copy(beat), ttl_s)

    def beats(self) -> list[Beat]:
        with self._beats_lock:
            beats = [copy.copy(beat) for beat in self._beats.values()]
        return sorted(beats, key=lambda beat: (beat.node, beat.role))

    def broker_beat(self, node: str, ttl_s: float) -> None:
        with self._beats_lock:
            self._broker_beats.put(node, node, ttl_s)

    def broker_beats(self) -> frozenset[str]:
        with self._beats_lock:
            return frozenset(self._broker_beats.values())

    def expire_members(self, lease: Lease, looked_s: float) -> list[str]:
        self.require(lease)
        now = self._clock()
        if self._watch is None or self._watch[0] != lease.token:
            self._watch = (lease.token, now)
        if now - self._watch[1] < looked_s:
            return []
        gone = self.members(CLUSTER_MEMBERS) - self.broker_beats()
        self._groups.get(CLUSTER_MEMBERS, set()).difference_update(gone)
        return sorted(gone)

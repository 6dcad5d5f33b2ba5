"""The index of dead letters: what is in the stream `dlq.parked`, without the bodies, so that to look costs the broker
nothing and changes no delivery count.

It is a projection of the stream and nothing else: whoever reads the stream from where the index stands, and applies
what it reads, brings it up to date; an index that was wiped is built again from the stream's beginning. So it may be
behind the stream, never ahead of it, but for `mark`.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from datetime import datetime
from typing import Protocol, runtime_checkable

from msgspec import Struct

from fogactors.messages import UTC, DeadLetterFate, LetterState, Reason

__all__ = ["BATCH", "LetterIndex", "ParkedLetter"]

BATCH = 1000
"""Letters that one request reads: large enough that 50,000 take few, small enough that none holds up the store."""


class ParkedLetter(Struct, kw_only=True, omit_defaults=True):
    """One dead letter as the index knows it. `offset`: where its `DeadLetter` stands in the stream; `error`: one
    line; `size`: bytes of its body; `since`: when it came into its `state`, absent for one that was never touched;
    `by`: who brought it there; `replayed_as` as in its fate. All else is the letter's."""

    id: str
    offset: int
    state: LetterState = "parked"
    reason: Reason
    name: str | None = None
    task_id: str | None = None
    generation: int = 0
    revision: int = 0
    queue: str | None = None
    error: str = ""
    attempts: int = 0
    worker: str | None = None
    size: int = 0
    first: UTC
    last: UTC
    correlation_id: str | None = None
    traceparent: str | None = None
    since: UTC | None = None
    by: str = ""
    replayed_as: int | None = None

    @property
    def living(self) -> int:
        """The generation of its task that is the last to have been published, as far as is known here."""
        if self.state != "replayed":
            return self.generation
        return self.generation + 1 if self.replayed_as is None else self.replayed_as


@runtime_checkable
class LetterIndex(Protocol):
    """All methods raise `CoordUnavailable` when the store is away."""

    async def position(self) -> int | None:
        """The stream's offset up to which all is applied; `None` when nothing is."""
        ...

    async def apply(self, after: int | None, records: Sequence[ParkedLetter | DeadLetterFate], upto: int) -> int | None:
        """Apply records of the stream, in its order. `after`: the position that the caller believes the index to have;
        `upto`: the offset of the last record that was read, also where the last ones were none for the index.

        Returns the position afterwards. Where it is not `upto` nothing was applied: the index is elsewhere (it was
        wiped, or another has brought it further), and the stream is to be read again from behind there. Asked again
        with the same records, as a client does whose answer was lost, it returns `upto` again.

        The rules, by `id`: a letter of a newer generation, or of the same one with a newer revision, takes the place of
        the one that is known; one of an older generation or revision is ignored; the very same one changes nothing but
        may bring another offset. A newer generation is `parked`, a newer revision keeps the state. A fate applies to
        the generation that it names and to no other; `purged` takes the letter out, and a copy of it that comes later
        does not bring it back.
        """
        ...

    async def mark(self, fate: DeadLetterFate) -> None:
        """Apply one fate before it comes round by the stream, so that who replays a second time sees the first."""
        ...

    async def get(self, id: str) -> ParkedLetter | None:  # noqa: A002
        ...

    def scan(self, batch: int = BATCH) -> AsyncIterator[list[ParkedLetter]]:
        """All letters in the order of their offsets, `batch` at a time. A letter that changes meanwhile may come
        in its old or its new shape."""
        ...

    async def count(self) -> int: ...

    async def sweep(self, before: datetime) -> int:
        """Forget letters whose `last` lies before, and what is remembered of purged ones of that age; returns how many
        letters. The stream forgets by itself."""
        ...

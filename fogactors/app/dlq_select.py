"""Choosing dead letters, by the index alone."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from dataclasses import dataclass
from datetime import datetime
from fnmatch import fnmatchcase
from typing import Final

from fogactors.coord.base import Coord
from fogactors.coord.letters import ParkedLetter
from fogactors.errors import DeadLetterMissing
from fogactors.messages import LetterState, Reason

__all__ = ["Selection", "find", "get"]

PAGE: Final = 2000
"""Letters of one request: what a list of all of them spends its time on is the number of answers."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Selection:
    """Which letters: those of `ids`, else all that every filter lets through. `task`, `queue`: names, or patterns as a
    shell has them; ages in seconds since a letter was given up on. `states` is no filter for `ids`."""

    ids: tuple[str, ...] = ()
    reason: Reason | None = None
    task: str | None = None
    queue: str | None = None
    older_than_s: float | None = None
    newer_than_s: float | None = None
    states: frozenset[LetterState] = frozenset({"parked"})
    limit: int | None = None

    def takes(self, letter: ParkedLetter, now: datetime) -> bool:
        return (
            letter.state in self.states
            and self.reason in (None, letter.reason)
            and (self.task is None or fnmatchcase(letter.name or "", self.task))
            and (self.queue is None or fnmatchcase(letter.queue or "", self.queue))
            and (self.older_than_s is None or _age_s(letter, now) > self.older_than_s)
            and (self.newer_than_s is None or _age_s(letter, now) < self.newer_than_s)
        )


def _age_s(letter: ParkedLetter, now: datetime) -> float:
    return (now - letter.last).total_seconds()


async def find(coord: Coord, selection: Selection, now: datetime) -> AsyncGenerator[list[ParkedLetter]]:
    """The selected letters in the order of the stream, some at a time. Asks the index alone.

    It ends where the index ended when it began: a letter that was replayed and came back does not come up again. Raises
    `DeadLetterMissing` for the first of `ids` that is not there, before it gives any; `CoordUnavailable`.
    """
    index = coord.letters
    if selection.ids:
        found = [await get(coord, id_) for id_ in dict.fromkeys(selection.ids)]
        yield sorted(found, key=lambda letter: letter.offset)
        return
    left, end = selection.limit, await index.position()
    if end is None:
        return
    async for batch in index.scan(PAGE):
        chosen = [each for each in batch if each.offset <= end and selection.takes(each, now)]
        if left is not None:
            chosen = chosen[:left]
            left -= len(chosen)
        if chosen:
            yield chosen
        if left == 0:
            return


async def get(coord: Coord, id_: str) -> ParkedLetter:
    letter = await coord.letters.get(id_)
    if letter is None:
        raise DeadLetterMissing(f"there is no dead letter {id_!r}; `fogactors dlq list --state all` shows them")
    return letter

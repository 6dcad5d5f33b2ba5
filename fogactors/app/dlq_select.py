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

__all__ = ["Selection", "find", "get", "missing", "no_letter"]

PAGE: Final = 2000
"""Letters of one request: what a list of all of them spends its time on is the number of answers."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Selection:
    """Which letters: those of `ids`, else all that every filter lets through. `reasons`: any of them; `task`, `queue`:
    names, or patterns as a shell has them; ages in seconds since a letter was given up on. `states` is no filter for
    `ids`."""

    ids: tuple[str, ...] = ()
    reasons: frozenset[Reason] = frozenset()
    task: str | None = None
    queue: str | None = None
    older_than_s: float | None = None
    newer_than_s: float | None = None
    states: frozenset[LetterState] = frozenset({"parked"})
    limit: int | None = None

    def takes(self, letter: ParkedLetter, now: datetime) -> bool:
        return (
            letter.state in self.states
            and (not self.reasons or letter.reason in self.reasons)
            and (self.task is None or fnmatchcase(letter.name or "", self.task))
            and (self.queue is None or fnmatchcase(letter.queue or "", self.queue))
            and (self.older_than_s is None or _age_s(letter, now) > self.older_than_s)
            and (self.newer_than_s is None or _age_s(letter, now) < self.newer_than_s)
        )


def _age_s(letter: ParkedLetter, now: datetime) -> float:
    return (now - letter.last).total_seconds()


async def find(coord: Coord, selection: Selection, now: datetime) -> AsyncGenerator[list[ParkedLetter]]:
    """The selected letters in the order of the stream, some at a time. Asks the index alone.

    It ends where the index ended when it began: a letter that was replayed and came back does not come up again. Of
    `ids` those that are there; `missing` says the others. Raises `CoordUnavailable`.
    """
    index = coord.letters
    if selection.ids:
        known = [await index.get(id_) for id_ in dict.fromkeys(selection.ids)]
        found = [letter for letter in known if letter is not None]
        if found:
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


async def missing(coord: Coord, selection: Selection) -> list[str]:
    """Those of `ids` that the index does not have. Raises `CoordUnavailable`."""
    return [id_ for id_ in dict.fromkeys(selection.ids) if await coord.letters.get(id_) is None]


async def get(coord: Coord, id_: str) -> ParkedLetter:
    """Raises `DeadLetterMissing`, `CoordUnavailable`."""
    letter = await coord.letters.get(id_)
    if letter is None:
        raise DeadLetterMissing(no_letter(id_))
    return letter


def no_letter(id_: str) -> str:
    return f"there is no dead letter {id_!r}; `fogactors dlq list --state all` shows them"

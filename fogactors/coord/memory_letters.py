"""The index of dead letters in memory: its rules as a plain table, and one client's way to it."""

from __future__ import annotations

import copy
from collections.abc import AsyncGenerator, Awaitable, Sequence
from datetime import datetime
from typing import Protocol

from msgspec.structs import replace

from fogactors.coord.letters import BATCH, ParkedLetter
from fogactors.messages import DeadLetterFate

__all__ = ["LetterTable", "MemoryLetters"]


class LetterTable:
    """The index that clients share. Each method is one step, as a Redis script is.

    A letter's state is not in the letter but in the fate beside it, as on Redis. A fate whose letter is not here stays
    too: a purged one keeps copies out, and the stream may have forgotten the first copy but not the second.
    """

    def __init__(self) -> None:
        self.position: int | None = None
        self._letters: dict[str, ParkedLetter] = {}
        self._fates: dict[str, DeadLetterFate] = {}

    def __len__(self) -> int:
        return len(self._letters)

    def apply(self, after: int | None, records: Sequence[ParkedLetter | DeadLetterFate], upto: int) -> int | None:
        if self.position == after:
            for record in records:
                if isinstance(record, ParkedLetter):
                    self._add(record)
                else:
                    self.mark(record)
            self.position = upto
        return self.position

    def _add(self, letter: ParkedLetter) -> None:
        known, fate = self._letters.get(letter.id), self._fates.get(letter.id)
        if fate is not None and fate.state == "purged" and fate.generation >= letter.generation:
            return
        age = (letter.generation, letter.revision)
        if known is not None and (known.generation, known.revision) >= age:
            if (known.generation, known.revision) == age:
                known.offset = letter.offset
            return
        self._letters[letter.id] = replace(letter, state="parked", since=None, by="", replayed_as=None)

    def mark(self, fate: DeadLetterFate) -> None:
        letter, before = self._letters.get(fate.id), self._fates.get(fate.id)
        if letter is not None and letter.generation != fate.generation:
            return
        if before is not None and before.generation > fate.generation:
            return
        if before is not None and before.generation == fate.generation and before.state == "purged":
            return  # what comes round by the stream only now was written before the letter was purged
        self._fates[fate.id] = copy.copy(fate)
        if fate.state == "purged":
            self._letters.pop(fate.id, None)

    def get(self, id: str) -> ParkedLetter | None:  # noqa: A002
        letter, fate = self._letters.get(id), self._fates.get(id)
        if letter is None:
            return None
        if fate is None or fate.generation != letter.generation:
            return copy.copy(letter)
        return replace(letter, state=fate.state, since=fate.at, by=fate.by, replayed_as=fate.replayed_as)

    def in_order(self) -> list[str]:
        return sorted(self._letters, key=lambda each: self._letters[each].offset)

    def sweep(self, before: datetime) -> int:
        old = [letter.id for letter in self._letters.values() if letter.last < before]
        for each in old:
            del self._letters[each]
            self._fates.pop(each, None)
        alone = [fate.id for fate in self._fates.values() if fate.at < before and fate.id not in self._letters]
        for each in alone:
            del self._fates[each]
        return len(old)

    def wipe(self) -> None:
        """Forget everything, as a Redis that lost its data."""
        self.position = None
        self._letters.clear()
        self._fates.clear()


class _Reach(Protocol):
    def __call__(self, *, storing: bool = False) -> Awaitable[object]: ...


class MemoryLetters:
    """Implements `LetterIndex`, where the methods are described. `reach` gives way to others and raises what the
    store's condition demands."""

    def __init__(self, table: LetterTable, reach: _Reach) -> None:
        self._table = table
        self._reach = reach

    async def position(self) -> int | None:
        await self._reach()
        return self._table.position

    async def apply(self, after: int | None, records: Sequence[ParkedLetter | DeadLetterFate], upto: int) -> int | None:
        await self._reach(storing=True)
        return self._table.apply(after, records, upto)

    async def mark(self, fate: DeadLetterFate) -> None:
        await self._reach(storing=True)
        self._table.mark(fate)

    async def get(self, id: str) -> ParkedLetter | None:  # noqa: A002
        await self._reach()
        return self._table.get(id)

    async def scan(self, batch: int = BATCH) -> AsyncGenerator[list[ParkedLetter]]:
        await self._reach()
        ids = self._table.in_order()
        for start in range(0, len(ids), batch):
            await self._reach()
            found = [self._table.get(each) for each in ids[start : start + batch]]
            yield [letter for letter in found if letter is not None]

    async def count(self) -> int:
        await self._reach()
        return len(self._table)

    async def sweep(self, before: datetime) -> int:
        await self._reach()
        return self._table.sweep(before)

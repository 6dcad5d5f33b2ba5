"""The index of dead letters on Redis. What stands under which key, and the steps, are in `scripts_letters.py`."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Sequence
from datetime import datetime
from typing import Any, Final, Protocol

from msgspec.structs import replace

from fogactors.coord import scripts_letters as scripts
from fogactors.coord.letters import BATCH, ParkedLetter
from fogactors.errors import WireError
from fogactors.messages import DeadLetterFate
from fogactors.wire.codec import decode, encode

__all__ = ["RedisLetters"]

LARGEST_PAGE: Final = 2000
"""Letters of one answer, whatever the caller wants: no request may hold up the store for long, and Lua hands over some
8,000 values at most."""
SWEEP_BATCH: Final = 500


class _Script(Protocol):
    async def __call__(self, what: str, script: str, keys: list[str], args: list[Any], /) -> Any: ...


class RedisLetters:
    """Implements `LetterIndex`, where the methods are described. `script` runs one, in bounded time."""

    def __init__(self, script: _Script) -> None:
        self._script = script

    async def _run(self, what: str, script: str, *args: Any) -> Any:
        return await self._script(what, script, scripts.KEYS, list(args))

    async def position(self) -> int | None:
        return await self._run("read the position in the dead letters", scripts.POSITION)

    async def apply(self, after: int | None, records: Sequence[ParkedLetter | DeadLetterFate], upto: int) -> int | None:
        args = [arg for record in records for arg in _written(record)]
        return await self._run("index dead letters", scripts.APPLY, "" if after is None else after, upto, *args)

    async def mark(self, fate: DeadLetterFate) -> None:
        id, generation, _, state, body, age = _written(fate)  # noqa: A001
        await self._run("mark a dead letter", scripts.MARK, id, generation, state, body, age)

    async def get(self, id: str) -> ParkedLetter | None:  # noqa: A002
        return _letter(*await self._run("read a dead letter", scripts.LETTER, id))

    async def scan(self, batch: int = BATCH) -> AsyncGenerator[list[ParkedLetter]]:
        # The cursor is an offset, read again from there: what was purged meanwhile shifts no place, and `seen` drops
        # what came before. An offset that is there often comes from a stream that was deleted and began anew.
        offset, of_it, seen = b"-inf", 0, set[bytes]()
        page = min(batch, LARGEST_PAGE)
        while True:
            entries, letters, fates = await self._run("read dead letters", scripts.PAGE, offset, of_it, page)
            ids, offsets = entries[::2], entries[1::2]
            found = [
                _letter(letter, at, fate)
                for id, letter, at, fate in zip(ids, letters, offsets, fates, strict=True)  # noqa: A001
                if id not in seen
            ]
            seen.update(ids)
            if found:
                offset, of_it = offsets[-1], 0
                yield [letter for letter in found if letter is not None]
            elif len(ids) < page:
                return
            else:
                of_it += len(ids)

    async def count(self) -> int:
        return await self._run("count the dead letters", scripts.COUNT)

    async def sweep(self, before: datetime) -> int:
        # To find and to forget are two steps, so that what is counted is not lost with an answer.
        swept = 0
        while True:
            ids, letters = await self._run("sweep dead letters", scripts.DUE, _us(before), SWEEP_BATCH)
            if not ids:
                return swept
            swept += letters
            await self._run("sweep dead letters", scripts.FORGET, _us(before), *ids)


def _written(record: ParkedLetter | DeadLetterFate) -> tuple[Any, ...]:
    """What `APPLY` reads of one record. A letter's state is its fate's, which stands beside it."""
    if isinstance(record, DeadLetterFate):
        return record.id, record.generation, "", record.state, encode(record), _us(record.at)
    letter = replace(record, state="parked", since=None, by="", replayed_as=None)
    return letter.id, letter.generation, letter.revision, letter.offset, encode(letter), _us(letter.last)


def _letter(body: bytes | None, offset: bytes | None, fate_body: bytes | None) -> ParkedLetter | None:
    """One letter out of its three parts; `None` for what is not here or is not ours."""
    if body is None or offset is None:
        return None
    try:
        letter = decode(body, ParkedLetter)
        letter.offset = int(float(offset))
    except (WireError, ValueError, OverflowError):
        return None
    try:
        fate = decode(fate_body, DeadLetterFate) if fate_body is not None else None
    except WireError:
        return letter
    if fate is not None and fate.generation == letter.generation:
        letter.state, letter.since, letter.by, letter.replayed_as = fate.state, fate.at, fate.by, fate.replayed_as
    return letter


def _us(at: datetime) -> int:
    """Microseconds, as fine as a time is and exact in the floats of a sorted set."""
    return round(at.timestamp() * 1_000_000)

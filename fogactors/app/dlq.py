"""What an operator does with dead letters: choose, replay, edit, purge, export. Prints nothing.

Everything is done to one letter after the other and marked at once, in the stream and in the index, so that whoever is
interrupted begins again with the same words and goes on where it stopped. A kill between the publish of a letter and
its mark is the one gap: then that letter is published twice, as the same generation of the same task, of which one end
is recorded.
"""

from __future__ import annotations

import random
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Final

import anyio
import msgspec
from msgspec.structs import replace

from fogactors.app.dlq_reader import PastEvent, StreamReader
from fogactors.app.dlq_select import Selection, find, get, missing, no_letter
from fogactors.bus.base import Bus, Message
from fogactors.coord.base import Coord
from fogactors.coord.letters import ParkedLetter
from fogactors.core import Backoff
from fogactors.errors import (
    AccessRefused,
    BusUnavailable,
    CoordError,
    FogError,
    QueueFull,
    Unroutable,
    WireError,
)
from fogactors.messages import DeadLetter, DeadLetterFate, LetterState, Task
from fogactors.tasks.deadletter import DEAD_LETTER_KEY, DEAD_LETTER_TYPE, publish_fate
from fogactors.tasks.executor_config import utc_now
from fogactors.tasks.replay import Replay, replay_of
from fogactors.tasks.task import TaskDef
from fogactors.wire.codec import MSGPACK, amend, decode, encode
from fogactors.wire.topology import DLQ, PARKED, TASKS

__all__ = ["Operator", "Tally", "edited", "task_of"]

BY: Final = "fogactors dlq"
FULL_WAIT_S: Final = 60.0
"""How long a queue that refuses is waited for in all; then its letters fail, and those of other queues go on."""
INDEXED_S: Final = 5.0
"""How long until the indexer has read what was just published."""
PURGES: Final = 50
"""At once: a purge reads nothing, so its confirms are all that it waits for."""


def task_of(letter: DeadLetter) -> Task:
    """The task that a letter holds. Raises `WireError` when it holds none."""
    try:
        return decode(letter.body, Task, letter.content_type)
    except WireError as error:
        text = f"dead letter {letter.id!r} holds no task that could be edited: {error}"
        raise WireError(text) from error


def edited(letter: DeadLetter, arguments: bytes, definition: TaskDef[..., Any]) -> DeadLetter:
    """The next revision of a letter, with these arguments (a JSON object); every other byte of the task stays. Raises
    `TaskArgumentError`, which names the argument."""
    definition.decode_args(arguments)
    # As they were written: a number that has no place in 64 bits is one for the task to judge.
    is_json = letter.content_type.partition(";")[0].strip().lower() != MSGPACK
    value = msgspec.Raw(arguments) if is_json else msgspec.json.decode(arguments)
    body = amend(letter.body, {"args": value}, letter.content_type)
    return replace(letter, body=body, revision=letter.revision + 1)


@dataclass(slots=True)
class Tally:
    """What became of a selection. `failed`: id to why; `stopped`: somebody asked to, and there is more to do."""

    done: int = 0
    skipped: int = 0
    failed: dict[str, str] = field(default_factory=dict[str, str])
    stopped: bool = False

    @property
    def seen(self) -> int:
        return self.done + self.skipped + len(self.failed)


class _Skipped(Exception):
    """There is nothing to do for this letter; the text says why."""


class _Stopped(Exception):
    """Asked to stop while it waited; the letter is as it was."""


def _no_news(text: str) -> None:
    del text


def _no_progress(tally: Tally) -> None:
    del tally


class Operator:
    """`bus` and `coord` are open, and the caller's to close. `stop`: set to end after the letter that is in hand.
    `tell`: gets a line for each letter that was not done, and for each wait that is long. `tally` is up to date at any
    time, also after an error.

    What concerns one letter (its body is gone, its queue is missing) is in `tally.failed` and the others go on; what
    concerns all (`BusUnavailable`, `AccessRefused`, `CoordError`) is raised.
    """

    def __init__(
        self,
        bus: Bus,
        coord: Coord,
        *,
        publish_timeout_s: float = 10.0,
        full_wait_s: float = FULL_WAIT_S,
        now: Callable[[], datetime] = utc_now,
        stop: anyio.Event | None = None,
        tell: Callable[[str], None] = _no_news,
        on_progress: Callable[[Tally], None] | None = None,
    ) -> None:
        self.tally = Tally()
        self._bus = bus
        self._coord = coord
        self._timeout_s = publish_timeout_s
        self._full_wait_s = full_wait_s
        self._now = now
        self._stop = stop or anyio.Event()
        self._tell = tell
        self._on_progress = on_progress or _no_progress
        self._backoff = Backoff(first_s=0.2, max_s=5.0)
        self._full: set[str] = set()

    # -- looking

    async def get(self, id_: str) -> ParkedLetter:
        """Raises `DeadLetterMissing`."""
        return await get(self._coord, id_)

    async def read(self, entry: ParkedLetter) -> DeadLetter:
        """Raises `DeadLetterMissing` when the stream has forgotten it."""
        async with StreamReader(self._bus) as reader:
            return await reader.letter(entry)

    async def history(self, entry: ParkedLetter) -> list[PastEvent]:
        """All that happened to one id, oldest first. Reads the whole stream, as far as it is indexed."""
        async with StreamReader(self._bus) as reader:
            return await reader.history(entry, max(entry.offset, await self._coord.letters.position() or 0))

    async def lag(self) -> str | None:
        """A line when the index cannot be trusted to be complete, because nobody brings it up to date."""
        dlq = await self._bus.inspect(DLQ)
        if dlq.consumers:
            return None
        wait = f"; {dlq.ready} more wait in {DLQ}, and are not in the index yet" if dlq.ready else ""
        return f"nobody consumes {DLQ}: does dlq-reaper run?{wait}"

    # -- doing

    async def replay(self, selection: Selection, *, rate: float = 0.0, again: bool = False) -> Tally:
        """Publish each letter's message once more, and mark it. `rate`: per second, 0 for no limit. `again`: also
        what was replayed already."""
        async with StreamReader(self._bus) as reader:
            due = anyio.current_time()
            for id_ in await self._name_missing(selection):
                self.tally.failed[id_] = no_letter(id_)
            async for batch in find(self._coord, selection, self._now()):
                for entry in batch:
                    await self._wait(due - anyio.current_time())
                    if rate > 0:
                        due = max(due, anyio.current_time()) + 1.0 / rate
                    if not await self._attempt(entry, lambda entry=entry: self._replay(reader, entry, again=again)):
                        return self.tally
        return self.tally

    async def purge(self, selection: Selection) -> Tally:
        """Mark each letter as purged: the index forgets it. Its body stays in the stream until its time is over."""
        for _ in await self._name_missing(selection):
            self.tally.skipped += 1  # purged before: it is as it shall be
        async for batch in find(self._coord, selection, self._now()):
            for few in _batched(batch, PURGES):
                async with anyio.create_task_group() as tasks:
                    for entry in few:
                        tasks.start_soon(self._attempt, entry, lambda entry=entry: self._mark(entry, "purged"))
                if self.tally.stopped:
                    return self.tally
        return self.tally

    async def export(self, selection: Selection, write: Callable[[DeadLetter], None]) -> Tally:
        """Give each whole letter to `write`."""
        async with StreamReader(self._bus) as reader:

            async def copy(entry: ParkedLetter) -> None:
                write(await reader.letter(entry))

            for id_ in await self._name_missing(selection):
                self.tally.failed[id_] = no_letter(id_)
            async for batch in find(self._coord, selection, self._now()):
                for entry in batch:
                    if not await self._attempt(entry, lambda entry=entry: copy(entry)):
                        return self.tally
        return self.tally

    async def store(self, letter: DeadLetter) -> None:
        """Append an edited letter to the stream. Raises `BusError`, and nothing is changed: unlike a letter that is
        parked, one that is too large is not stored without its body."""
        message = Message(encode(letter), type=DEAD_LETTER_TYPE, correlation_id=letter.correlation_id)
        await self._bus.publish(PARKED, DEAD_LETTER_KEY, message, timeout=self._timeout_s)

    async def wait_indexed(self, letter: DeadLetter) -> bool:
        """Whether the index has a letter that was stored, in time. Until then a replay by id takes the old one."""
        with anyio.move_on_after(INDEXED_S):
            while True:
                known = await self._coord.letters.get(letter.id)
                if known is not None and (known.generation, known.revision) >= (letter.generation, letter.revision):
                    return True
                await anyio.sleep(0.05)
        return False

    async def replay_letter(self, entry: ParkedLetter, letter: DeadLetter) -> None:
        """Publish a letter that is in hand, and mark it. Raises `FogError` where it cannot be."""
        await self._publish(replay_of(letter))
        again = letter.generation + 1 if letter.generation != entry.generation else None
        await self._mark(entry, "replayed", replayed_as=again)

    # -- one letter

    async def _name_missing(self, selection: Selection) -> list[str]:
        unknown = await missing(self._coord, selection)
        for id_ in unknown:
            self._tell(no_letter(id_))
        return unknown

    async def _attempt(self, entry: ParkedLetter, act: Callable[[], Awaitable[None]]) -> bool:
        """Whether to go on."""
        if self._stop.is_set():
            self.tally.stopped = True
            return False
        try:
            await act()
        except _Skipped as skipped:
            self.tally.skipped += 1
            self._tell(f"dead letter {entry.id!r} {skipped}")
        except _Stopped:
            self.tally.stopped = True
            return False
        except (BusUnavailable, AccessRefused, CoordError):
            raise
        except FogError as error:
            self.tally.failed[entry.id] = str(error)
            self._tell(str(error) if entry.id in str(error) else f"dead letter {entry.id!r}: {error}")
        else:
            self.tally.done += 1
        self._on_progress(self.tally)
        return True

    async def _replay(self, reader: StreamReader, entry: ParkedLetter, *, again: bool) -> None:
        # Asked once more: a batch takes seconds at a bounded rate, and the reaper replays too.
        entry_now = await self._coord.letters.get(entry.id)
        if entry_now is None:
            raise _Skipped("was purged meanwhile")
        if entry_now.generation != entry.generation:
            raise _Skipped("was replayed meanwhile and came back; a replay from now on finds it")
        if entry_now.state == "replayed" and not again:
            when = f" at {entry_now.since:%Y-%m-%d %H:%M:%S} UTC" if entry_now.since else ""
            raise _Skipped(f"was replayed already{when} by {entry_now.by or 'somebody'}; --again replays it once more")
        letter = await reader.letter(entry_now)
        if again and letter.task_id is not None:
            # An executor that finds the record of this generation would take it for the same run, and not run it.
            record = await self._coord.result(letter.task_id)
            last = max(record.generation if record is not None else 0, entry_now.living)
            letter = replace(letter, generation=max(last, letter.generation))
        await self.replay_letter(entry_now, letter)

    async def _mark(self, entry: ParkedLetter, state: LetterState, *, replayed_as: int | None = None) -> None:
        # The stream first: the index can be built anew from it, not the other way round.
        fate = DeadLetterFate(
            id=entry.id, generation=entry.generation, state=state, at=self._now(), by=BY, replayed_as=replayed_as
        )
        try:
            await publish_fate(self._bus, fate, timeout=self._timeout_s)
        except (Unroutable, QueueFull) as error:
            # Not this letter's fault alone: the next ones would be published and not marked either.
            raise BusUnavailable(f"the stream {PARKED} does not take that {entry.id!r} was {state}: {error}") from error
        await self._coord.letters.mark(fate)

    async def _publish(self, replay: Replay) -> None:
        if replay.exchange != TASKS:
            # A delay takes any key, and stalls when the queue that it names is not there.
            await self._bus.inspect(replay.key)
        where, tries, deadline = replay.key, 0, anyio.current_time() + self._full_wait_s
        while True:
            try:
                await self._bus.publish(replay.exchange, where, replay.message, timeout=self._timeout_s)
            except QueueFull as error:
                if where in self._full or anyio.current_time() >= deadline:
                    self._full.add(where)
                    raise QueueFull(
                        f"the queue for {where!r} has no room; what is left can be replayed with the same command later"
                    ) from error
                if not tries:
                    self._tell(f"the queue for {where!r} has no room: waiting for it, {self._full_wait_s:g} s at most")
                await self._wait(self._backoff.delay(tries, random.Random()))  # noqa: S311 - jitter
                tries += 1
                if self._stop.is_set():
                    raise _Stopped from error
            else:
                self._full.discard(where)
                return

    async def _wait(self, seconds: float) -> None:
        if seconds > 0:
            with anyio.move_on_after(seconds):
                await self._stop.wait()


def _batched(letters: list[ParkedLetter], size: int) -> Iterator[list[ParkedLetter]]:
    return (letters[start : start + size] for start in range(0, len(letters), size))

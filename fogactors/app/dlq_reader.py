"""Reading `dlq.parked` at chosen offsets. To read a stream settles nothing and counts nothing."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime
from types import TracebackType
from typing import Final

import anyio
import msgspec
from anyio.streams.memory import MemoryObjectReceiveStream, MemoryObjectSendStream

from fogactors.bus.base import Bus, Consumer, Delivery
from fogactors.coord.letters import ParkedLetter
from fogactors.errors import BusError, BusUnavailable, DeadLetterMissing, WireError
from fogactors.messages import DeadLetter, DeadLetterFate
from fogactors.tasks.deadletter import DEAD_LETTER_TYPE, FATE_TYPE
from fogactors.tasks.failures import brief
from fogactors.wire.codec import decode
from fogactors.wire.topology import PARKED

__all__ = ["PastEvent", "StreamReader"]

PREFETCH: Final = 32
"""What is read ahead: bodies may have a megabyte each."""
NEAR: Final = 256
"""Letters that are read past rather than opening the stream anew behind them: a consumer costs some round trips."""
READ_S: Final = 10.0
CLOSE_S: Final = 3.0


@dataclass(frozen=True, slots=True)
class PastEvent:
    """One line of a letter's history. `what`: `parked`, `edited`, `replayed`, `purged`. `at`: of one that was edited,
    when it was given up on: a letter does not say when it was edited."""

    at: datetime
    what: str
    generation: int
    detail: str


class _Head(msgspec.Struct):
    """Enough of a record to see whose it is, without decoding a body of a megabyte."""

    id: str = ""


class StreamReader:
    """`await reader.letter(entry)` with entries in the order of their offsets reads the stream once, forwards, over one
    consumer; any other order works and costs a consumer each time. Memory: `PREFETCH` letters."""

    def __init__(self, bus: Bus) -> None:
        self._bus = bus
        self._consumer: Consumer | None = None
        self._incoming: MemoryObjectReceiveStream[Delivery]
        self._outgoing: MemoryObjectSendStream[Delivery]
        self._why_lost = ""
        self._next = 0
        self._ahead: Delivery | None = None
        self._gone = range(0)

    async def __aenter__(self) -> StreamReader:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None
    ) -> None:
        with anyio.move_on_after(CLOSE_S, shield=True):
            await self._close()

    async def letter(self, entry: ParkedLetter) -> DeadLetter:
        """The letter that the index knows as `entry`. Raises `DeadLetterMissing` when the stream has forgotten it,
        `BusUnavailable` when nothing comes, `QueueMissing`, `AccessRefused`."""
        found = None if entry.offset in self._gone else await self._at(entry.offset)
        if found is None:
            raise DeadLetterMissing(
                f"dead letter {entry.id!r}: the stream {PARKED} no longer has its body, only the index knows it; "
                "`fogactors dlq purge` takes it out"
            )
        letter = _letter(found)
        if letter is None or letter.id != entry.id:
            raise DeadLetterMissing(
                f"dead letter {entry.id!r}: at its place in the stream {PARKED} stands another message; was the stream "
                "deleted? `fogactors dlq purge` takes it out of the index"
            )
        return letter

    async def history(self, entry: ParkedLetter, upto: int) -> list[PastEvent]:
        """All that the stream has of one id, oldest first. Reads all of it up to the offset `upto`."""
        return [event async for record in self._records(upto) if (event := _past(record, entry.id)) is not None]

    async def _records(self, upto: int) -> AsyncIterator[Delivery]:
        await self._open("first")
        while True:
            record = await self._receive()
            yield record
            if _offset(record) >= upto:
                return

    # -- the consumer

    async def _at(self, offset: int) -> Delivery | None:
        """`None`: the stream begins behind it."""
        if self._consumer is None or not self._next <= offset < self._next + NEAR:
            await self._open(offset)
        while True:
            delivery, self._ahead = self._ahead or await self._receive(), None
            at = _offset(delivery)
            if at == offset:
                self._next = offset + 1
                return delivery
            if at > offset:
                # Kept: it may be the next one that is wanted. And what lies between need not be looked for.
                self._ahead, self._next, self._gone = delivery, at, range(offset, at)
                return None

    async def _open(self, offset: int | str) -> None:
        await self._close()
        send, self._incoming = anyio.create_memory_object_stream[Delivery](PREFETCH)
        self._outgoing = send
        self._why_lost, self._ahead = "", None

        def take(delivery: Delivery) -> None:
            # Not refused for want of room: no more than the prefetch is unsettled, and what is taken out is settled.
            with suppress(anyio.BrokenResourceError, anyio.ClosedResourceError):  # we have closed it already
                send.send_nowait(delivery)

        def lost(why: str) -> None:
            self._why_lost = why
            send.close()  # what was delivered before can still be read

        start = "first" if isinstance(offset, str) else offset
        try:
            self._consumer = await self._bus.consume(PARKED, take, prefetch=PREFETCH, on_lost=lost, offset=start)
        except BusError:
            send.close()
            self._incoming.close()
            raise
        self._next = start if isinstance(start, int) else 0

    async def _receive(self) -> Delivery:
        try:
            with anyio.fail_after(READ_S):
                delivery = await self._incoming.receive()
        except TimeoutError:
            raise BusUnavailable(
                f"the stream {PARKED} gave nothing at offset {self._next} within {READ_S:g} s; the broker is slow, or "
                "the stream was deleted and made anew"
            ) from None
        except anyio.EndOfStream:
            raise BusUnavailable(f"while reading the stream {PARKED}: {self._why_lost}") from None
        self._next = _offset(delivery) + 1
        await delivery.ack()
        return delivery

    async def _close(self) -> None:
        consumer, self._consumer = self._consumer, None
        if consumer is not None:
            with suppress(BusError):
                await consumer.close()
            self._outgoing.close()
            self._incoming.close()


def _offset(delivery: Delivery) -> int:
    if delivery.offset is None:
        raise BusUnavailable(f"{PARKED} is no stream; `fogactors topology diff` shows what it should be")
    return delivery.offset


def _letter(record: Delivery) -> DeadLetter | None:
    if record.type != DEAD_LETTER_TYPE:
        return None
    try:
        return decode(record.body, DeadLetter, record.content_type)
    except WireError:
        return None


def _past(record: Delivery, id_: str) -> PastEvent | None:
    try:
        if msgspec.json.decode(record.body, type=_Head).id != id_:
            return None
        if record.type == FATE_TYPE:
            fate = decode(record.body, DeadLetterFate, record.content_type)
            return PastEvent(fate.at, fate.state, fate.generation, f"by {fate.by}" if fate.by else "")
    except (msgspec.MsgspecError, UnicodeError, WireError):
        return None
    letter = _letter(record)
    if letter is None:
        return None
    what = "edited" if letter.revision else "parked"
    return PastEvent(letter.last, what, letter.generation, f"{letter.reason}, {brief(letter.error)}")

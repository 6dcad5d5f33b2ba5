"""Letters of the stream by their offsets: what is read, what is not there, and how often the stream is opened."""

import anyio
import anyio.lowlevel
import pytest

from fogactors.app import dlq_reader
from fogactors.app.dlq_reader import StreamReader
from fogactors.bus import Message
from fogactors.errors import BusUnavailable, DeadLetterMissing
from fogactors.tasks.replay import entry_of
from fogactors.wire.topology import PARKED
from tests.app.dlq_support import desk, letter_of

pytestmark = pytest.mark.asyncio


class Counting:
    """A bus that counts how often it consumes."""

    def __init__(self, bus):
        self._bus = bus
        self.opened = []

    async def consume(self, queue, on_delivery, **options):
        self.opened.append(options["offset"])
        return await self._bus.consume(queue, on_delivery, **options)


def entries(letters):
    return [entry_of(letter, offset) for offset, letter in enumerate(letters)]


async def test_forwards_it_is_one_consumer_however_scattered():
    async with desk() as here:
        letters = [letter_of(f"a-{n}") for n in range(1_000)]
        await here.park(*letters)
        bus = Counting(here.bus)
        async with StreamReader(bus) as reader:
            for entry in entries(letters)[3::100]:
                assert (await reader.letter(entry)).id == entry.id
        assert bus.opened == [3]
        assert here.broker.depths()[PARKED].unsettled == 0
        assert here.broker.depths()[PARKED].consumers == 0


async def test_a_wide_gap_is_jumped_and_backwards_works_too():
    async with desk() as here:
        letters = [letter_of(f"a-{n}") for n in range(700)]
        await here.park(*letters)
        bus, known = Counting(here.bus), entries(letters)
        async with StreamReader(bus) as reader:
            for n in (0, 600, 601, 5, 5):
                assert (await reader.letter(known[n])).id == f"a-{n}"
        assert bus.opened == [0, 600, 5, 5]


async def test_what_the_stream_has_forgotten_is_missing_and_looked_for_once(monkeypatch):
    async with desk() as here:
        letters = [letter_of(f"a-{n}") for n in range(10)]
        await here.park(*letters)
        stream = here.broker.queue(PARKED)
        for stored in stream._log[:6]:
            stored.expires = 0.0
        bus, known = Counting(here.bus), entries(letters)
        async with StreamReader(bus) as reader:
            for entry in known[:6]:
                with pytest.raises(DeadLetterMissing, match="no longer has its body"):
                    await reader.letter(entry)
            for _ in range(2):
                assert (await reader.letter(known[6])).id == "a-6"
        assert bus.opened == [0, 6]


@pytest.mark.parametrize("other", [letter_of("b"), None])
async def test_another_message_in_its_place_is_not_taken_for_it(other):
    async with desk() as here:
        await here.bus.publish(PARKED, "", Message(b"{}")) if other is None else await here.park(other)
        async with StreamReader(here.bus) as reader:
            with pytest.raises(DeadLetterMissing, match="another message"):
                await reader.letter(entry_of(letter_of("a"), 0))


async def test_an_offset_that_never_comes_is_not_waited_for_without_end(monkeypatch):
    monkeypatch.setattr(dlq_reader, "READ_S", 0.1)
    async with desk() as here, StreamReader(here.bus) as reader:
        with anyio.fail_after(5), pytest.raises(BusUnavailable, match="gave nothing at offset 7"):
            await reader.letter(entry_of(letter_of("a"), 7))


async def test_a_lost_connection_is_an_error_at_once():
    async with desk() as here, StreamReader(here.bus) as reader, anyio.create_task_group() as tasks:
        tasks.start_soon(cut, here)
        with anyio.fail_after(5), pytest.raises(BusUnavailable, match="cut by the test"):
            await reader.letter(entry_of(letter_of("a"), 0))


async def cut(here):
    while not here.broker.depths()[PARKED].consumers:
        await anyio.lowlevel.checkpoint()
    here.broker.kill_connection("operator", "cut by the test")

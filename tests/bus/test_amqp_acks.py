"""What is told to the broker of a channel's acks, against what it may know."""

import asyncio

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fogactors.bus.amqp_acks import Acks
from fogactors.bus.amqp_writer import GatheringWriter


class Broker:
    """The unsettled tags of a channel, as `basic.ack` settles them."""

    def __init__(self, tags: int) -> None:
        self.unsettled = set(range(1, tags + 1))

    def ack(self, tag: int, multiple: bool) -> None:
        assert tag in self.unsettled, "the broker closes the channel for an unknown tag"
        self.unsettled -= {each for each in self.unsettled if each <= tag} if multiple else {tag}


@given(
    st.permutations(range(1, 13)), st.lists(st.sampled_from(["ack", "ack", "reject", "keep"]), min_size=12), st.data()
)
def test_what_is_acked_is_told_and_nothing_else_is(order, ends, data):
    acks, broker = Acks(), Broker(12)
    in_hand = set(broker.unsettled)
    for tag, end in zip(order, ends, strict=False):
        if end != "keep":
            in_hand.discard(tag)
        if end == "ack":
            acks.add(tag)
        elif end == "reject":
            broker.ack(tag, False)
            acks.settled(tag)
        if data.draw(st.booleans(), label="the turn ends"):
            for frame in acks.take():
                broker.ack(*frame)
            assert not acks
            assert broker.unsettled == in_hand


def test_neighbours_go_in_one_frame_and_one_alone_as_itself():
    acks = Acks()
    for tag in (2, 1, 3, 5):
        acks.add(tag)
    assert acks.take() == [(3, True), (5, False)]
    acks.add(4)
    assert acks.take() == [(4, False)]


class Writer:
    def __init__(self) -> None:
        self.calls: list[bytes | str] = []
        self.closing = False

    def write(self, data: bytes) -> None:
        self.calls.append(data)

    def is_closing(self) -> bool:
        return self.closing

    def close(self) -> None:
        self.calls.append("close")

    async def drain(self) -> None:
        self.calls.append("drain")


@pytest.mark.asyncio
async def test_what_is_written_in_one_turn_goes_at_once():
    inner = Writer()
    writer = GatheringWriter(inner)
    writer.write(b"a")
    writer.write(b"b")
    assert inner.calls == []
    await asyncio.sleep(0)
    assert inner.calls == [b"ab"]


@pytest.mark.asyncio
async def test_who_waits_or_closes_does_not_overtake_what_was_written():
    inner = Writer()
    writer = GatheringWriter(inner)
    writer.write(b"a")
    await writer.drain()
    writer.write(b"b")
    writer.close()
    assert inner.calls == [b"a", "drain", b"b", "close"]
    writer.write(b"c")
    inner.closing = True
    await asyncio.sleep(0)
    assert inner.calls == [b"a", "drain", b"b", "close"]

"""What a full, an empty and a closed mailbox do, and that nobody waits for ever."""

import tracemalloc
from contextlib import suppress

import anyio
import pytest

from fogactors.core import Actor, ActorExited, ChildSpec, MailboxOverflow, MessagesDiscarded
from fogactors.errors import ActorDead, MailboxFull


async def turns():
    """Let every other task go on until it waits; trio gives no order among those that can run."""
    for _ in range(4):
        await anyio.lowlevel.checkpoint()


@pytest.mark.every_loop
async def test_block_waits_and_is_first_come_first_served(tree, gate):
    async with tree, anyio.create_task_group() as group:
        ref = await gate.grow(tree, mailbox=2)
        for number in range(10):
            group.start_soon(ref.tell, number)
            await turns()
        assert ref.queued == 2
        with pytest.raises(MailboxFull, match=r"root/gate: its mailbox is full \(2 messages\)"):
            ref.tell_nowait("x")
        assert await gate.open(10) == list(range(10))


@pytest.mark.every_loop
async def test_a_waiting_sender_keeps_its_place_when_others_do_not_wait(tree, gate):
    """tell_nowait and ask take room as soon as there is some; who waits must not go to the end of the line for it."""

    async def barge():
        for _ in range(30):
            with suppress(MailboxFull):
                ref.tell_nowait("barged")
            await anyio.lowlevel.checkpoint()

    async with tree, anyio.create_task_group() as group:
        ref = await gate.grow(tree, mailbox=1)
        for number in range(10):
            group.start_soon(ref.tell, number)
            await turns()
        group.start_soon(barge)
        read = await gate.open(10)
        await anyio.sleep(0.01)
        assert [message for message in read if message != "barged"] == list(range(10))


async def test_an_ask_waits_its_turn_behind_blocked_senders(tree):
    """Also one that comes when there is room, before the sender that was woken for it has had its turn."""
    read = []

    class Provoking(Actor):
        async def handle(self, message):
            read.append(message)
            if message == "wait":
                await go.wait()
            if message == "first":
                group.start_soon(self.ctx.ref.ask, "question")

    async with tree, anyio.create_task_group() as group:
        await tree.grow(ChildSpec(id="a", factory=Provoking, mailbox=1))
        for _ in range(20):  # trio runs what is ready in random order
            go = anyio.Event()
            for message in ("wait", "first", "second", "third"):
                group.start_soon(tree["a"].tell, message)
                await turns()
            go.set()
            await anyio.sleep(0.1)
    assert read == ["wait", "first", "second", "third", "question"] * 20


@pytest.mark.every_loop
async def test_reject_refuses_both_ways_and_counts(tree, gate):
    async with tree:
        ref = await gate.grow(tree, mailbox=2, overflow="reject")
        await ref.tell(0)
        ref.tell_nowait(1)
        with pytest.raises(MailboxFull):
            await ref.tell(2)
        with pytest.raises(MailboxFull):
            ref.tell_nowait(3)
        with pytest.raises(MailboxFull):
            await ref.ask(4)
        assert [(event.policy, event.total) for event in tree.recorder.of(MailboxOverflow)] == [
            ("reject", 1),
            ("reject", 2),
        ]
        assert await gate.open(2) == [0, 1]


@pytest.mark.every_loop
async def test_drop_oldest_loses_the_oldest_and_answers_a_question_that_it_drops(tree, gate):
    async with tree, anyio.create_task_group() as group:
        ref = await gate.grow(tree, mailbox=2, overflow="drop_oldest")
        dropped = []

        async def ask():
            with pytest.raises(MailboxFull, match="the question was dropped as the oldest"):
                await ref.ask("question")
            dropped.append("question")

        group.start_soon(ask)
        while not ref.queued:
            await anyio.lowlevel.checkpoint()
        for number in range(5):
            ref.tell_nowait(number)
        while not dropped:
            await anyio.lowlevel.checkpoint()
        assert await gate.open(2) == [3, 4]
        assert [event.total for event in tree.recorder.of(MailboxOverflow)] == [1, 2, 4]


@pytest.mark.every_loop
async def test_a_cancelled_sender_loses_nothing_and_does_not_block_the_others(tree, gate):
    async with tree, anyio.create_task_group() as group:
        ref = await gate.grow(tree, mailbox=1)
        scopes = [anyio.CancelScope() for _ in range(6)]

        async def send(number):
            with scopes[number]:
                await ref.tell(number)

        for number in range(6):
            group.start_soon(send, number)
            await turns()
        scopes[2].cancel()
        gate.opened.set()
        scopes[1].cancel()  # it is the next to be woken
        assert await gate.open(4) == [0, 3, 4, 5]


@pytest.mark.every_loop
async def test_a_cancelled_reader_loses_nothing(tree):
    read = []

    class Impatient(Actor):
        async def run(self):
            while True:
                with anyio.move_on_after(0.0005):
                    read.append(await self.ctx.mailbox.get())
                    if read[-1] == 199:
                        return

    async with tree:
        await tree.grow(ChildSpec(id="a", factory=Impatient, restart="transient"))
        ref = tree["a"]
        for number in range(200):
            await ref.tell(number)
            if number % 3 == 0:
                await anyio.sleep(0.0003)
        await tree.recorder.wait_for(ActorExited, path="root/a")
        assert read == list(range(200))


@pytest.mark.every_loop
@pytest.mark.parametrize("end", ["stop", "kill"])
async def test_the_end_wakes_blocked_senders(tree, gate, end):
    errors = []

    async def send(number):
        try:
            await ref.tell(number)
        except ActorDead as error:
            errors.append(str(error))

    async with tree:
        async with anyio.create_task_group() as group:
            ref = await gate.grow(tree, mailbox=1, restart="temporary", shutdown_s=0.01)
            for number in range(4):
                group.start_soon(send, number)
            await anyio.sleep(0.01)
            getattr(ref, end)()
            if end == "stop":
                gate.opened.set()
        assert len(errors) == 3
        (discarded,) = tree.recorder.of(MessagesDiscarded)
        assert (discarded.tells, discarded.asks) == (1, 0)


async def test_supervision_passes_a_full_mailbox(tree, gate):
    """Also one that is flooded: the request to stop is read next."""
    async with tree:
        ref = await gate.grow(tree, mailbox=3, restart="transient")
        for number in range(3):
            ref.tell_nowait(number)
        ref.stop()
        gate.opened.set()
        exited = await tree.recorder.wait_for(ActorExited, path="root/gate")
        assert exited.exit.kind == "stopped"
        assert gate.read == []
        assert tree.recorder.of(MessagesDiscarded)[0].tells == 3


@pytest.mark.asyncio_loops
@pytest.mark.parametrize("overflow", ["block", "reject", "drop_oldest"])
async def test_behaviour_18_a_producer_that_is_ten_times_faster(tree, overflow):
    """Mailbox bound 1,000: memory stays flat, and the policy does what it says and is counted."""
    read, most, refused = [], 0, 0

    class Slow(Actor):
        async def handle(self, message):
            read.append(message[0])
            for _ in range(10):
                await anyio.lowlevel.checkpoint()

    async with tree:
        await tree.grow(ChildSpec(id="slow", factory=Slow, mailbox=1000, overflow=overflow, shutdown_s=0))
        ref = tree["slow"]
        tracemalloc.start()
        try:
            for number in range(4000):
                try:
                    await ref.tell((number, bytes(1000)))
                except MailboxFull:
                    refused += 1
                most = max(most, ref.queued)
                await anyio.lowlevel.checkpoint()
                if number == 2000:
                    before = tracemalloc.get_traced_memory()[0]
            grown = tracemalloc.get_traced_memory()[0] - before
        finally:
            tracemalloc.stop()
        lost = ref._mailbox.overflowed
        told = [event.total for event in tree.recorder.of(MailboxOverflow)]
        assert most == 1000
        assert grown < 300_000  # the mailbox alone holds 1 MB; 2,000 more messages would be 2 MB
        if overflow == "block":
            assert (lost, refused, told) == (0, 0, [])
            assert read == list(range(len(read)))
            assert len(read) >= 2998
        else:
            assert lost > 2000
            assert told == [2**n for n in range(lost.bit_length())]
            assert refused == (lost if overflow == "reject" else 0)
            assert read == sorted(read)

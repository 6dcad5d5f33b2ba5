"""Timers belong to an incarnation; deadlines of questions come in buckets and are never early."""

import anyio
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fogactors.core import Actor, ActorStarted, ChildSpec
from fogactors.core.timers import TIMED_OUT, Timers
from fogactors.core.waiter import PortableWaiter
from fogactors.testing import run_virtual


class Timed(Actor):
    """Is told what to do with its context, and notes what comes to it and when."""

    def __init__(self, notes, slow_s=0.0):
        self.notes = notes
        self.slow_s = slow_s

    async def handle(self, message):
        if callable(message):
            return message(self.ctx)
        self.notes.append((message, round(anyio.current_time() - self.notes[0], 3)))
        await anyio.sleep(self.slow_s)
        return None


async def grow(tree, **options):
    notes = [anyio.current_time()]
    await tree.grow(ChildSpec(id="a", factory=lambda: Timed(notes, **options)))
    return tree["a"], notes


async def test_send_after(tree):
    async with tree:
        ref, notes = await grow(tree)
        await ref.ask(lambda ctx: ctx.send_after(2, "late") and None)
        await ref.ask(lambda ctx: ctx.send_after(1, "early") and None)
        timer = await ref.ask(lambda ctx: ctx.send_after(1.5, "never"))
        timer.cancel()
        timer.cancel()
        assert not timer.pending
        await anyio.sleep(10)
        assert notes[1:] == [("early", 1), ("late", 2)]


async def test_send_every(tree):
    async with tree:
        ref, notes = await grow(tree)
        timer = await ref.ask(lambda ctx: ctx.send_every(2, "tick"))
        await anyio.sleep(7)
        timer.cancel()
        await anyio.sleep(10)
        assert notes[1:] == [("tick", 2), ("tick", 4), ("tick", 6)]


async def test_ticks_that_were_not_read_are_left_out(tree):
    async with tree:
        ref, notes = await grow(tree, slow_s=5.5)
        await ref.ask(lambda ctx: ctx.send_every(1, "tick") and None)
        await anyio.sleep(18)
        assert notes[1:] == [("tick", 1), ("tick", 6.5), ("tick", 12), ("tick", 17.5)]
        assert ref.queued <= 1


async def test_an_equal_message_of_another_is_not_taken_for_the_tick(tree):
    class NeverEqual(str):
        def __eq__(self, other):
            raise RuntimeError("not comparable")

        __hash__ = str.__hash__

    async with tree:
        ref, notes = await grow(tree, slow_s=0.9)
        await ref.ask(lambda ctx: ctx.send_every(1, NeverEqual("tick")) and None)
        for _ in range(3):
            await ref.tell("".join(["ti", "ck"]))
        await anyio.sleep(3.5)
        assert [at for _, at in notes[1:]] == [0, 0.9, 1.8, 2.7]


@pytest.mark.parametrize("period_s", [0, -1, float("nan")])
async def test_a_period_that_would_never_let_go_is_refused(tree, period_s):
    errors = []

    def try_it(ctx):
        with pytest.raises(ValueError, match="send_every needs a period of more than 0 s") as raised:
            ctx.send_every(period_s, "tick")
        errors.append(raised.value)

    async with tree:
        ref, _ = await grow(tree)
        await ref.ask(try_it)
    assert len(errors) == 1


@pytest.mark.every_loop
async def test_timers_end_with_their_incarnation(tree):
    async with tree:
        ref, notes = await grow(tree)
        await ref.ask(lambda ctx: ctx.send_after(0.05, "after") and None)
        await ref.ask(lambda ctx: ctx.send_every(0.02, "every") and None)
        ref.kill()
        await tree.recorder.wait_for(ActorStarted, path="root/a", incarnation=2)
        await anyio.sleep(0.1)
        assert notes[1:] == []


@settings(deadline=None, max_examples=100)
@given(st.lists(st.floats(0, 30, allow_nan=False), min_size=1, max_size=30))
def test_deadlines_are_never_early_and_at_most_a_bucket_late(timeouts):
    async def main():
        timers = Timers(anyio.current_time)
        late = []

        async def wait(timeout):
            waiter = PortableWaiter()
            due = anyio.current_time() + timeout
            timers.expire_at(due, waiter)
            assert await waiter is TIMED_OUT
            late.append(anyio.current_time() - due)

        async with anyio.create_task_group() as group:
            group.start_soon(timers.run)
            async with anyio.create_task_group() as waiting:
                for timeout in timeouts:
                    waiting.start_soon(wait, timeout)
            timers.close()
        assert all(-1e-9 <= each <= 0.0101 for each in late)
        assert timers._buckets == {}

    run_virtual(main)


async def test_what_was_answered_is_forgotten():
    timers = Timers(anyio.current_time)
    waiter = PortableWaiter()
    bucket = timers.expire_at(anyio.current_time() + 1, waiter)
    timers.forget(bucket, waiter)
    async with anyio.create_task_group() as group:
        group.start_soon(timers.run)
        await anyio.sleep(2)
        timers.close()
    assert not waiter.done()


async def test_what_was_cancelled_or_answered_does_not_stay_until_it_is_due():
    timers, fired = Timers(anyio.current_time), []
    far = anyio.current_time() + 3600
    for number in range(200):
        timers.call_at(far - number, lambda number=number: fired.append(number))
    waiter = PortableWaiter()
    timers.expire_at(far, waiter)
    for number in range(20_000):
        timers.call_at(far + number, lambda: fired.append("cancelled")).cancel()
        answered = PortableWaiter()
        timers.forget(timers.expire_at(far + number, answered), answered)
    assert len(timers._heap) < 2_000
    assert len(timers._buckets) < 2_000
    async with anyio.create_task_group() as group:
        group.start_soon(timers.run)
        await anyio.sleep(3700)
        assert fired == list(reversed(range(200)))
        assert await waiter is TIMED_OUT
        await anyio.sleep(20_000)
        assert (timers._heap, timers._buckets) == ([], {})
        timers.close()

"""An observer must not stop what it observes; and the kit does what users are told."""

import sys

import anyio
import pytest

from fogactors.core import ActorExited, ActorStarted, Events, SubscriberFailed
from fogactors.testing import Crash, EventRecorder, FakeClock, IgnoreStop, Script, run_virtual, virtual_time


class Occurred:
    def __init__(self, path="", at=0.0, n=0):
        self.path, self.at, self.n = path, at, n

    def __repr__(self):
        return f"Occurred({self.n})"


def test_a_subscriber_that_raises_is_removed_and_the_others_go_on():
    events, calls = Events(), []

    def bad(event):
        calls.append(event)
        raise ValueError("no")

    events.subscribe(bad)
    recorder = EventRecorder(events)
    events.emit("one")
    events.emit("two")
    assert calls == ["one"]
    failed, one, two = recorder.events
    assert isinstance(failed, SubscriberFailed)
    assert isinstance(failed.error, ValueError)
    assert (one, two) == ("one", "two")


def test_a_subscriber_may_leave_or_emit_while_it_fails():
    events = Events()

    def leaves_and_raises(event):
        unsubscribe()
        raise ValueError("no")

    def emits_and_raises(event):
        if event == "one":
            events.emit("two")
        raise ValueError("no")

    unsubscribe = events.subscribe(leaves_and_raises)
    events.subscribe(emits_and_raises)
    recorder = EventRecorder(events)
    events.emit("one")
    assert [event for event in recorder.events if isinstance(event, str)] == ["two", "one"]


@pytest.mark.every_loop
async def test_a_failing_subscriber_does_not_hurt_the_tree(tree, script):
    async with tree:
        tree.events.subscribe(lambda event: 1 / 0)
        await tree.grow(script.child("a"))
        await tree["a"].tell(Crash())
        await tree.recorder.wait_for(ActorStarted, path="root/a", incarnation=2)
        assert len(tree.recorder.of(SubscriberFailed)) == 1


# -- EventRecorder


async def test_wait_for_takes_what_came_and_what_comes():
    events = Events()
    with EventRecorder(events) as recorder:
        for number in range(3):
            events.emit(Occurred("a", n=number))
        assert (await recorder.wait_for(Occurred, path="a", n=1)).n == 1
        assert (await recorder.wait_for(Occurred, count=3)).n == 2
        assert (await recorder.wait_for(Occurred, where=lambda event: event.n > 1)).n == 2
        recorder.clear()
        async with anyio.create_task_group() as group:
            for number in (7, 8):
                group.start_soon(lambda number=number: recorder.wait_for(Occurred, n=number))
            await anyio.sleep(1)
            events.emit(Occurred(n=7))
            await anyio.sleep(1)
            events.emit(Occurred(n=8))
        assert [event.n for event in recorder.of(Occurred)] == [7, 8]
    events.emit("nobody hears it")
    assert recorder.of(str) == []


async def test_a_wait_that_fails_says_what_was_seen():
    events = Events()
    recorder = EventRecorder(events)
    events.emit(Occurred("a", n=1))
    with pytest.raises(AssertionError) as raised:
        await recorder.wait_for(Occurred, path="a", n=2, timeout=3)
    assert str(raised.value) == "no Occurred(path='a', n=2) x 1 within 3 s; seen:\n  Occurred(1)"
    assert anyio.current_time() == pytest.approx(3)


async def test_a_misspelt_fact_is_an_error_of_the_test():
    events = Events()
    recorder = EventRecorder(events)
    events.emit(Occurred())
    with pytest.raises(AttributeError):
        await recorder.wait_for(Occurred, numbr=1)


# -- Script


@pytest.mark.every_loop
async def test_the_journal(tree, script):
    async with tree:
        await tree.grow(script.child("a", fail_starts=0), script.child("b", shutdown_s=0.01))
        script["a"].fail_starts = 1
        await tree["a"].tell(Crash())
        await tree.recorder.wait_for(ActorStarted, path="root/a", incarnation=3)
        assert await tree["b"].ask(IgnoreStop()) is None
        assert await tree["b"].ask("still reading") == "still reading"
    assert list(script) == [
        ("started", "root/a", 1),
        ("started", "root/b", 1),
        ("stopped", "root/a", 1),
        ("start failed", "root/a", 2),
        ("started", "root/a", 3),
        ("stopped", "root/b", 1),
        ("stopped", "root/a", 3),
    ]
    assert script.messages == ["still reading"]
    assert tree.recorder.of(ActorExited, "root/b")[0].exit.kind == "killed"


def test_two_at_once_are_noticed():
    script = Script()
    script.begins("a")
    script.begins("a")
    assert script.overlaps == ["a"]


# -- time


def test_run_virtual_returns_the_result_and_does_not_wait():
    async def day(hours):
        await anyio.sleep(hours * 3600)
        return anyio.current_time()

    assert run_virtual(day, 24) == pytest.approx(86_400)


def test_what_never_comes_fails_at_once():
    with pytest.raises(TimeoutError):
        run_virtual(anyio.sleep_forever, within_s=60)


def test_without_trio_the_error_says_what_to_do(monkeypatch):
    monkeypatch.setitem(sys.modules, "trio.testing", None)
    with pytest.raises(RuntimeError, match="virtual time needs trio; install it with: pip install trio"):
        run_virtual(anyio.sleep_forever)


@virtual_time
async def test_the_decorator_takes_fixtures(script):
    await anyio.sleep(3600)
    assert script.journal == []


def test_fake_clock():
    clock = FakeClock(10.0)
    assert clock() == 10
    assert clock.advance(2.5) == 12.5
    assert clock() == 12.5
    with pytest.raises(ValueError, match="time does not run backwards"):
        clock.advance(-1)

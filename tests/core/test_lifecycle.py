"""Starting left to right, stopping in exact reverse, whatever ends the tree."""

import asyncio

import anyio
import pytest

from fogactors.core import (
    Actor,
    ActorExited,
    ActorStarted,
    ActorSystem,
    ChildSpec,
    ChildStuck,
    Intensity,
    StopChild,
    SupervisorSpec,
)
from fogactors.errors import ActorDead, RestartIntensityExceeded, SpecError, StartFailed
from fogactors.testing import Crash, EventRecorder, Hang, IgnoreStop, ScriptedError


def three_levels(script, **options):
    """In start order: a, b, c, d, e, f, g."""

    def child(id_):
        return script.child(id_, **options)

    low = SupervisorSpec(id="low", children=(child("c"), child("d")))
    middle = SupervisorSpec(id="middle", children=(child("b"), low, child("e")))
    return child("a"), middle, child("f"), child("g")


UP, DOWN = list("abcdefg"), list("gfedcba")


@pytest.mark.every_loop
async def test_starts_left_to_right_each_up_before_the_next(tree, script):
    async with tree:
        await tree.grow(*three_levels(script, start_takes_s=0.001))
        assert script.ids("started") == UP
        paths = [event.path.rpartition("/")[2] for event in tree.recorder.of(ActorStarted)]
        assert paths == ["a", "b", "c", "d", "low", "e", "middle", "f", "g", "root"]


@pytest.mark.every_loop
@pytest.mark.parametrize("stop_takes_s", [0, 0.002])
async def test_leaving_stops_in_exact_reverse(tree, script, stop_takes_s):
    async with tree:
        await tree.grow(*three_levels(script, stop_takes_s=stop_takes_s))
    assert script.ids("stopped") == DOWN
    assert {event.exit.kind for event in tree.recorder.of(ActorExited)} == {"stopped"}


@pytest.mark.every_loop
async def test_cancelling_the_whole_tree_stops_in_exact_reverse(tree, script):
    with anyio.CancelScope() as scope:
        async with tree:
            await tree.grow(*three_levels(script, stop_takes_s=0.002))
            scope.cancel()
            await anyio.sleep_forever()
    assert scope.cancelled_caught
    assert script.ids("stopped") == DOWN
    assert {event.exit.kind for event in tree.recorder.of(ActorExited)} == {"stopped"}


@pytest.mark.every_loop
async def test_failure_of_the_root_stops_in_exact_reverse_and_is_raised(tree, script):
    with pytest.raises(RestartIntensityExceeded):  # noqa: PT012
        async with tree:
            await tree.grow(*three_levels(script, stop_takes_s=0.002), intensity=Intensity(0, 5))
            await tree["a"].tell(Crash())
            await anyio.sleep_forever()
    assert script.ids("stopped") == ["a", *DOWN[:-1]]


@pytest.mark.every_loop
async def test_an_error_in_the_body_leaves_as_it_is(tree, script):
    with pytest.raises(KeyError):  # noqa: PT012
        async with tree:
            await tree.grow(*three_levels(script))
            raise KeyError("mine")
    assert script.ids("stopped") == DOWN


async def test_a_root_that_is_killed_ends_the_system(tree, script):
    """Nobody restarts a root: who waits in the body must hear that it is gone."""
    with pytest.raises(ActorDead, match="root was killed"):  # noqa: PT012
        async with tree:
            root = await tree.grow(script.child("a"))
            root.kill()
            await anyio.sleep_forever()


async def test_a_root_that_is_stopped_ends_alone(tree, script):
    async with tree:
        root = await tree.grow(script.child("a"))
        other = await tree.start(script.child("other"))
        await tree.stop(root)
        assert script.ids("stopped") == ["a"]
        assert await other.ask("hello") == "hello"
        with pytest.raises(ActorDead, match="root is not a root"):
            await tree.stop(root)
        await tree.grow(script.child("a"))
        assert await tree["a"].ask("hello") == "hello"


async def test_roots_stop_in_reverse_although_one_ends_meanwhile(tree, script):
    async with tree:
        first = await tree.start(script.child("first"))
        await tree.start(script.child("second"))
        await tree.start(script.child("third", stop_takes_s=1))
        first.stop()
    assert script.ids("stopped") == ["first", "third", "second"]


@pytest.mark.asyncio_loops
async def test_cancellation_from_outside_anyio_stops_in_reverse_and_goes_on():
    """As `asyncio.run` does on Ctrl-C."""
    order = []

    class Noting(Actor):
        async def on_stop(self, exit):  # noqa: A002
            order.append(self.ctx.path)

    async def main():
        async with ActorSystem() as system:
            await system.start(
                SupervisorSpec(id="root", children=tuple(ChildSpec(id=id_, factory=Noting) for id_ in "abc"))
            )
            up.set()
            await asyncio.sleep(10)
        order.append("went on")

    up = asyncio.Event()
    task = asyncio.ensure_future(main())
    await up.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert order == ["root/c", "root/b", "root/a"]


# -- starts


@pytest.mark.every_loop
async def test_a_start_that_fails_stops_those_before_it_in_reverse(tree, script):
    async with tree:
        children = three_levels(script)
        script["e"].fail_starts = 1
        with pytest.raises(
            StartFailed, match=r"root/middle did not come up.*root/middle/e.*told not to come up"
        ) as raised:
            await tree.grow(*children)
        assert script.ids("started") == list("abcd")
        assert script.ids("stopped") == list("dcba")
        cause = raised.value
        while cause.__cause__ is not None:
            cause = cause.__cause__
        assert isinstance(cause, ScriptedError)
        assert tree.tree() == ()


async def test_start_timeout(tree, script):
    async with tree:
        with pytest.raises(StartFailed, match=r"root/b did not come up within 2 s"):
            await tree.grow(script.child("a"), script.child("b", start_takes_s=60, start_s=2))
        assert anyio.current_time() < 3
        assert script.ids("stopped") == ["a"]


async def test_a_restart_that_takes_too_long_is_a_failed_restart(tree, script):
    async with tree:
        await tree.grow(script.child("a", start_s=2), exceeded="pause")
        script["a"].start_takes_s = 60
        await tree["a"].tell(Crash())
        await anyio.sleep(1)
        with pytest.raises(ActorDead, match="root/a is starting"):
            await tree["a"].tell("hello")
        await anyio.sleep(2)
        script["a"].start_takes_s = 0
        await anyio.sleep(3)
        assert tree["a"].is_alive


@pytest.mark.parametrize("where", ["root", "root/middle", "root/middle/low"])
async def test_stop_during_a_slow_restart_ends_it_promptly(tree, script, where):
    """At whatever level the stop comes in, and in reverse order all the same. d is up before its turn comes only when
    the root is stopped."""
    async with tree:
        await tree.grow(*three_levels(script, stop_takes_s=3), exceeded="pause")
        script["d"].start_takes_s = 8
        await tree["middle/low/d"].tell(Crash())
        await anyio.sleep(4)
        before, began = len(script.journal), anyio.current_time()
        tree.ref(where).stop()
        if where != "root":
            await tree.recorder.wait_for(ActorExited, path=where, timeout=60)
        else:
            await tree.stop(tree.root)
        stopping = {"root": "gfedcba", "root/middle": "ecb", "root/middle/low": "c"}[where]
        assert script.ids("stopped", before)[: len(stopping)] == list(stopping)
        assert anyio.current_time() - began < 3 * len(stopping) + 0.1
    assert not tree.recorder.of(ChildStuck)


@pytest.mark.parametrize("how", ["scope", "system"])
async def test_cancellation_during_a_start_stops_what_is_up_in_reverse(tree, script, how):
    """Those that are up take longer to stop than a killed worker may."""
    children = three_levels(script, stop_takes_s=3)
    script["e"].start_takes_s = 8
    if how == "scope":
        async with tree:
            with anyio.move_on_after(2):
                await tree.grow(*children)
            assert script.alive == {}
            assert tree.tree() == ()
    else:
        with anyio.move_on_after(2):
            async with tree:
                await tree.grow(*children)
    assert script.ids("started") == list("abcd")
    assert script.ids("stopped") == list("dcba")
    assert anyio.current_time() == pytest.approx(2 + 4 * 3, abs=0.1)
    assert not tree.recorder.of(ChildStuck)


async def test_a_root_is_not_started_twice_at_once(tree, script):
    async with tree, anyio.create_task_group() as group:
        spec = script.child("a", start_takes_s=1, stop_takes_s=1)
        group.start_soon(tree.start, spec)
        await anyio.sleep(0.5)
        with pytest.raises(StartFailed, match="a is running already"):
            await tree.start(spec)
        await anyio.sleep(1)
        tree.ref("a").stop()
        await anyio.sleep(0.5)
        with pytest.raises(StartFailed, match="a is running already"):
            await tree.start(spec)


# -- stops


@pytest.mark.parametrize(
    ("command", "takes_s"), [(None, 0), (Hang(), 2), (IgnoreStop(), 2)], ids=["obeys", "hangs", "ignores"]
)
async def test_stop_waits_for_the_budget_then_cancels(tree, script, command, takes_s):
    async with tree:
        await tree.grow(script.child("a", shutdown_s=2))
        if command:
            await tree["a"].tell(command)
        await anyio.sleep(0.1)
        began = anyio.current_time()
        await tree.root.ask(StopChild("a"))
        assert anyio.current_time() - began == pytest.approx(takes_s, abs=0.01)
        assert tree.recorder.of(ActorExited)[0].exit.kind == ("killed" if command else "stopped")


async def test_cleanup_that_takes_too_long_is_cut_short(tree, script):
    async with tree:
        await tree.grow(script.child("a", shutdown_s=2, stop_takes_s=60))
        began = anyio.current_time()
        await tree.root.ask(StopChild("a"))
        assert anyio.current_time() - began == pytest.approx(2, abs=0.01)


async def test_a_shutdown_budget_of_zero_means_cancelled_at_once(tree, script):
    async with tree:
        await tree.grow(script.child("a", shutdown_s=0))
    assert tree.recorder.of(ActorExited, "root/a")[0].exit.kind == "killed"


async def test_questions_time_out_during_a_shutdown(tree, script):
    """The clock of asks runs until the last actor is down: a drainer that asks a hanging sibling goes on."""
    errors = []

    class Drainer(Actor):
        async def on_stop(self, exit):  # noqa: A002
            try:
                await self.ctx.sibling("a").ask("help", timeout=0.5)
            except Exception as error:
                errors.append((type(error).__name__, anyio.current_time()))

    with anyio.move_on_after(1):
        async with tree:
            await tree.grow(script.child("a", shutdown_s=0), ChildSpec(id="drainer", factory=Drainer))
            await tree["a"].tell(Hang())
            await anyio.sleep_forever()
    assert errors == [("AskTimeout", pytest.approx(1.5, abs=0.02))]


# -- specifications


@pytest.mark.parametrize(
    ("child", "problem"),
    [
        ({"id": ""}, "a child's id must be a word"),
        ({"id": "a/b"}, "a child's id must be a word without '/', got 'a/b'"),
        ({"restart": "always"}, "restart must be one of permanent, transient, temporary, got 'always'"),
        ({"factory": None}, "factory must be a function"),
        ({"start_s": 0}, "start_s must be more than 0, got 0"),
        ({"shutdown_s": -1}, "shutdown_s must be at least 0 and finite, got -1"),
        ({"shutdown_s": float("inf")}, "shutdown_s must be at least 0 and finite"),
        ({"mailbox": 0}, "mailbox must hold at least 1 message, got 0"),
        ({"overflow": "grow"}, "overflow must be one of block, reject, drop_oldest, got 'grow'"),
    ],
)
async def test_a_wrong_spec_is_refused_before_anything_starts(tree, script, child, problem):
    async with tree:
        with pytest.raises(SpecError, match=problem):
            await tree.grow(script.child("first"), ChildSpec(**{"id": "a", "factory": Actor, **child}))
    assert script.journal == []


@pytest.mark.parametrize(
    ("policy", "problem"),
    [
        ({"strategy": "all"}, "root: strategy must be one of one_for_one, one_for_all, rest_for_one, got 'all'"),
        ({"exceeded": "ignore"}, "root: exceeded must be one of escalate, pause, got 'ignore'"),
        ({"restart": "never"}, "root: restart must be one of"),
        ({"comes_back": "soon"}, "root: comes_back must be one of whole, at_once, got 'soon'"),
    ],
)
async def test_a_wrong_policy_is_refused(tree, policy, problem):
    async with tree:
        with pytest.raises(SpecError, match=problem):
            await tree.grow(**policy)


async def test_two_children_of_one_id_are_refused(tree, script):
    async with tree:
        with pytest.raises(SpecError, match="root: two children have the id 'a'"):
            await tree.grow(script.child("a"), script.child("a"))


async def test_siblings_of_a_root_are_the_other_roots(script):
    class Asking(Actor):
        async def handle(self, message):
            return await self.ctx.sibling("a").ask(message)

    async with ActorSystem() as system:
        EventRecorder(system)
        await system.start(script.child("a"))
        asking = await system.start(ChildSpec(id="asking", factory=Asking))
        assert await asking.ask("hello") == "hello"

"""Who is restarted, with whom, and when it is too often."""

import itertools
import random
from dataclasses import replace

import anyio
import pytest

from fogactors.core import (
    ActorExited,
    ActorStarted,
    Backoff,
    Intensity,
    RestartChild,
    RestartFailed,
    StartChild,
    StopChild,
    SupervisorEscalated,
    SupervisorPaused,
    SupervisorSpec,
    WhichChildren,
)
from fogactors.errors import ActorDead, RestartIntensityExceeded, StartFailed
from fogactors.testing import Crash, Hang, Return, ScriptedError


class Refusal(Exception):
    """Trouble that hurry does not mend."""


OFTEN = Intensity(max_restarts=100, period_s=1)


ENDS = {
    "returned": lambda ref: ref.tell_nowait(Return()),
    "stopped": lambda ref: ref.stop(),
    "failed": lambda ref: ref.tell_nowait(Crash()),
    "killed": lambda ref: ref.kill(),
}

RESTARTED = {
    ("returned", "permanent"): True,
    ("stopped", "permanent"): True,
    ("failed", "permanent"): True,
    ("killed", "permanent"): True,
    ("returned", "transient"): False,
    ("stopped", "transient"): False,
    ("failed", "transient"): True,
    ("killed", "transient"): True,
    ("returned", "temporary"): False,
    ("stopped", "temporary"): False,
    ("failed", "temporary"): False,
    ("killed", "temporary"): False,
}


@pytest.mark.every_loop
@pytest.mark.parametrize(("end", "restart"), RESTARTED)
async def test_restart_matrix(tree, script, end, restart):
    async with tree:
        await tree.grow(script.child("a", restart=restart))
        ENDS[end](tree["a"])
        exited = await tree.recorder.wait_for(ActorExited, path="root/a")
        assert exited.exit.kind == end
        if RESTARTED[end, restart]:
            await tree.recorder.wait_for(ActorStarted, path="root/a", incarnation=2)
            expected = {"a": "running"}
        else:
            expected = {} if restart == "temporary" else {"a": "stopped"}
        assert await tree.states() == expected
        assert tree["a"].is_alive is RESTARTED[end, restart]


@pytest.mark.every_loop
@pytest.mark.parametrize(
    ("strategy", "stopped", "started"),
    [
        ("one_for_one", ["b"], ["b"]),
        ("rest_for_one", ["b", "d", "c"], ["b", "c", "d"]),
        ("one_for_all", ["b", "d", "c", "a"], ["a", "b", "c", "d"]),
    ],
)
async def test_strategy_decides_who_is_restarted_and_in_which_order(tree, script, strategy, stopped, started):
    async with tree:
        await tree.grow(*map(script.child, "abcd"), strategy=strategy)
        before = len(script.journal)
        await tree["b"].tell(Crash())
        await tree.recorder.wait_for(ActorStarted, path=f"root/{started[-1]}", incarnation=2)
        assert script.ids("stopped", before) == stopped
        assert script.ids("started", before) == started


@pytest.mark.parametrize("strategy", ["one_for_one", "rest_for_one", "one_for_all"])
async def test_past_the_intensity_the_supervisor_stops_its_children_and_fails(tree, script, strategy):
    with pytest.raises(RestartIntensityExceeded, match=r"root: b needed more than 2 restarts in 5 s"):  # noqa: PT012
        async with tree:
            limit = Intensity(max_restarts=2, period_s=5)
            await tree.grow(*map(script.child, "abc"), strategy=strategy, intensity=limit)
            for _ in range(3):
                await tree["b"].tell(Crash())
                await anyio.sleep(0.1)
            raise AssertionError("the body goes on")
    assert tree.recorder.of(SupervisorEscalated)[0].restarts == 2
    assert len([life for life in script if life == ("started", "root/b", life.incarnation)]) == 3
    assert script.ids("stopped")[-2:] == ["c", "a"]


@pytest.mark.parametrize(
    ("strategy", "failing", "started"),
    [
        ("one_for_one", "b", ["b"]),
        ("rest_for_one", "c", ["b", "c", "d"]),
        ("one_for_all", "c", ["a", "b", "a", "b", "c", "d"]),
    ],
)
async def test_a_sibling_that_fails_on_restart_is_tried_again(tree, script, strategy, failing, started):
    """With what came up before it, where the strategy says so."""
    async with tree:
        await tree.grow(*map(script.child, "abcd"), strategy=strategy, intensity=Intensity(5, 5))
        script[failing].fail_starts = 1
        before = len(script.journal)
        await tree["b"].tell(Crash())
        await anyio.sleep(1)
        assert script.ids("start failed", before) == [failing]
        assert script.ids("started", before) == started
        failed = tree.recorder.of(RestartFailed)
        assert [(event.path, event.incarnation) for event in failed] == [(f"root/{failing}", 2)]
        assert isinstance(failed[0].error, ScriptedError)
        assert set((await tree.states()).values()) == {"running"}


async def test_failed_restarts_count_against_the_intensity(tree, script):
    with pytest.raises(RestartIntensityExceeded):  # noqa: PT012
        async with tree:
            await tree.grow(script.child("a"), intensity=Intensity(3, 5))
            script["a"].fail_starts = 100
            await tree["a"].tell(Crash())
            await anyio.sleep(1)
    assert script.ids("start failed") == ["a"] * 3


async def test_supervisor_answers_between_two_tries_of_a_restart(tree, script):
    """Each try takes a second; a question is answered after the one that is under way, not after the last."""
    async with tree:
        await tree.grow(script.child("a"), intensity=OFTEN)
        script["a"].start_takes_s, script["a"].fail_starts = 1.0, 20
        await tree["a"].tell(Crash())
        await anyio.sleep(2.5)
        began = anyio.current_time()
        (info,) = await tree.root.ask(WhichChildren(), timeout=5)
        assert info.state == "restarting"
        assert anyio.current_time() - began < 1.0


@pytest.mark.parametrize("strategy", ["one_for_all", "rest_for_one"])
async def test_a_temporary_sibling_is_stopped_with_the_others_and_not_restarted(tree, script, strategy):
    async with tree:
        await tree.grow(script.child("a"), script.child("b", restart="temporary"), script.child("c"), strategy=strategy)
        await tree["a"].tell(Crash())
        await anyio.sleep(1)
        assert await tree.states() == {"a": "running", "c": "running"}
        assert script.ids("stopped") == ["a", "c", "b"]


async def test_healthy_time_between_failures_is_not_counted(tree, script):
    async with tree:
        await tree.grow(script.child("a"), intensity=Intensity(1, 5))
        for _ in range(10):
            await tree["a"].tell(Crash())
            await anyio.sleep(5.1)
        assert tree["a"].is_alive


async def test_escalation_restarts_the_whole_branch(tree, script):
    async with tree:
        branch = SupervisorSpec(
            id="branch", children=tuple(map(script.child, "ab")), intensity=Intensity(1, 5), strategy="one_for_one"
        )
        await tree.grow(script.child("x"), branch, script.child("y"), strategy="rest_for_one")
        before = len(script.journal)
        for _ in range(2):
            await tree["branch/b"].tell(Crash())
            await anyio.sleep(0.1)
        assert script.ids("stopped", before) == ["b", "b", "a", "y"]
        assert script.ids("started", before) == ["b", "a", "b", "y"]
        exited = tree.recorder.of(ActorExited, "root/branch")
        assert isinstance(exited[0].exit.error, RestartIntensityExceeded)


class TestPause:
    """`exceeded="pause"`: a broker that is down is weather, not a bug."""

    backoff = Backoff(first_s=1, max_s=8, factor=2, jitter=0)

    async def grow(self, tree, *children, **policy):
        await tree.grow(
            *children, **{"exceeded": "pause", "intensity": Intensity(1, 5), "backoff": self.backoff, **policy}
        )

    async def test_delays_grow_to_the_maximum(self, tree, script):
        async with tree:
            await self.grow(tree, script.child("a"))
            script["a"].fail_starts = 100
            await tree["a"].tell(Crash())
            await anyio.sleep(60)
            delays = [event.delay_s for event in tree.recorder.of(SupervisorPaused)]
            assert delays[:6] == [1, 2, 4, 8, 8, 8]
            starts = [event.at for event in tree.recorder.of(RestartFailed)]
            assert [round(b - a, 6) for a, b in itertools.pairwise(starts)][1:5] == [2, 4, 8, 8]

    async def test_a_child_may_have_a_pace_of_its_own(self, tree, script):
        async with tree:
            own = replace(script.child("a"), backoff=Backoff(first_s=0.1, max_s=0.2, jitter=0))
            await self.grow(tree, own, script.child("b"))
            for child in ("a", "b"):
                script[child].fail_starts = 100
                await tree[child].tell(Crash())
            await anyio.sleep(10)
            delays = {
                child: [event.delay_s for event in tree.recorder.of(SupervisorPaused) if event.child == child]
                for child in ("a", "b")
            }
            assert delays["a"][:4] == [0.1, 0.2, 0.2, 0.2]
            assert delays["b"][:3] == [1, 2, 4]

    async def test_what_no_hurry_mends_is_tried_at_the_supervisors_pace_and_each_kind_of_trouble_waits_anew(
        self, tree, script
    ):
        async with tree:
            own = replace(script.child("a"), backoff=Backoff(first_s=0.1, max_s=0.1, jitter=0), slow_after=(Refusal,))
            await self.grow(tree, own)
            script["a"].fail_starts = 20
            await tree["a"].tell(Crash())
            await anyio.sleep(1)
            tree.recorder.clear()
            script["a"].error = Refusal
            await anyio.sleep(15.5)
            assert [event.delay_s for event in tree.recorder.of(SupervisorPaused)] == [1, 2, 4, 8, 8]
            tree.recorder.clear()
            script["a"].error = ScriptedError
            await anyio.sleep(8)
            assert [event.delay_s for event in tree.recorder.of(SupervisorPaused)][:3] == [0.1] * 3

    async def test_delays_are_jittered(self, tree, script):
        tree.rng = random.Random(1)
        async with tree:
            await self.grow(tree, script.child("a"), backoff=Backoff(first_s=1, max_s=1, jitter=0.5))
            script["a"].fail_starts = 100
            await tree["a"].tell(Crash())
            await anyio.sleep(30)
            delays = {event.delay_s for event in tree.recorder.of(SupervisorPaused)}
            assert len(delays) > 10
            assert all(0.5 <= delay <= 1 for delay in delays)

    async def test_running_siblings_go_on(self, tree, script):
        async with tree:
            await self.grow(tree, script.child("a"), script.child("b"))
            script["a"].fail_starts = 100
            await tree["a"].tell(Crash())
            await anyio.sleep(100)
            assert await tree["b"].ask("still there") == "still there"
            assert await tree.states() == {"a": "restarting", "b": "running"}

    async def test_a_siblings_single_failure_is_not_delayed_by_the_pause_of_another(self, tree, script):
        async with tree:
            await self.grow(tree, script.child("a"), script.child("b"), intensity=Intensity(1, 5))
            script["a"].fail_starts = 100
            await tree["a"].tell(Crash())
            await anyio.sleep(21)  # tried after 1, 3, 7, 15 and next 23 s, so the window is empty
            await tree["b"].tell(Crash())
            await anyio.sleep(0.1)
            assert tree["b"].is_alive
            await anyio.sleep(60)
            delays = [event.delay_s for event in tree.recorder.of(SupervisorPaused) if event.child == "a"]
            assert delays == sorted(delays)  # and b's good health does not start a's backoff over

    async def test_delays_start_over_after_a_healthy_period(self, tree, script):
        async with tree:
            await self.grow(tree, script.child("a"))
            script["a"].fail_starts = 3
            await tree["a"].tell(Crash())
            await anyio.sleep(20)
            assert tree["a"].is_alive
            tree.recorder.clear()
            script["a"].fail_starts = 2
            await tree["a"].tell(Crash())
            await anyio.sleep(20)
            assert [event.delay_s for event in tree.recorder.of(SupervisorPaused)] == [1, 2]

    async def test_a_child_that_comes_up_and_crashes_at_once_keeps_its_delay(self, tree, script):
        async with tree:
            await self.grow(tree, script.child("a"))
            for incarnation in range(2, 7):
                await tree["a"].tell(Crash())
                await tree.recorder.wait_for(ActorStarted, path="root/a", incarnation=incarnation, timeout=10)
            assert [event.delay_s for event in tree.recorder.of(SupervisorPaused)] == [1, 2, 4, 8]

    async def test_telling_a_paused_child_says_why_it_is_down(self, tree, script):
        async with tree:
            await self.grow(tree, *map(script.child, "abc"), strategy="rest_for_one", intensity=Intensity(0, 5))
            await tree["b"].tell(Crash())
            await anyio.sleep(0.5)
            for id_ in "bc":
                with pytest.raises(ActorDead, match=rf"root/{id_} is down; its supervisor tries again in 1.0 s"):
                    await tree[id_].tell("hello")
            assert await tree["a"].ask("hello") == "hello"
            await anyio.sleep(1)
            assert await tree["c"].ask("hello") == "hello"

    async def test_a_paused_child_that_is_stopped_stays_stopped(self, tree, script):
        async with tree:
            await self.grow(tree, script.child("a"), intensity=Intensity(0, 5))
            await tree["a"].tell(Crash())
            await anyio.sleep(0.5)
            await tree.root.ask(StopChild("a"))
            with pytest.raises(ActorDead, match="root/a is stopped"):
                await tree["a"].tell("hello")
            await anyio.sleep(60)
            assert await tree.states() == {"a": "stopped"}

    async def test_a_pause_that_was_ended_by_hand_does_not_cut_the_next_one_short(self, tree, script):
        async with tree:
            await self.grow(tree, script.child("a"), intensity=Intensity(0, 5))
            await tree["a"].tell(Crash())
            await anyio.sleep(0.5)
            await tree.root.ask(StopChild("a"))
            await tree.root.ask(RestartChild("a"))
            await tree["a"].tell(Crash())
            await anyio.sleep(1.9)  # past the end of the first pause
            assert not tree["a"].is_alive
            await anyio.sleep(0.2)
            assert tree["a"].is_alive

    async def test_the_whole_group_comes_back_under_one_for_all(self, tree, script):
        async with tree:
            await self.grow(tree, *map(script.child, "abc"), strategy="one_for_all", intensity=Intensity(0, 5))
            before = len(script.journal)
            await tree["b"].tell(Crash())
            await anyio.sleep(0.5)
            assert script.ids("stopped", before) == ["b", "c", "a"]
            await anyio.sleep(1)
            assert script.ids("started", before) == ["a", "b", "c"]


class TestComesBack:
    """`comes_back="at_once"`: a supervisor that is restarted is up, whether or not its children can come up."""

    @staticmethod
    def branch(script, *ids, **policy):
        policy = {"comes_back": "at_once", "exceeded": "pause", "backoff": Backoff(1, 1, jitter=0), **policy}
        return SupervisorSpec(id=f"with-{ids[0]}", children=tuple(map(script.child, ids)), **policy)

    async def test_what_cannot_come_up_keeps_nothing_behind_it_down(self, tree, script):
        async with tree:
            branches = (self.branch(script, "a"), self.branch(script, "b"))
            await tree.grow(script.child("link"), *branches, strategy="rest_for_one")
            script["a"].fail_starts = 7
            await tree["link"].tell(Crash())
            await tree.recorder.wait_for(ActorStarted, path="root/with-b/b", incarnation=2, timeout=0.5)
            assert await tree.states() == {"link": "running", "with-a": "running", "with-b": "running"}
            await tree.recorder.wait_for(ActorStarted, path="root/with-a/a", count=2, timeout=10)
            assert tree.recorder.of(SupervisorPaused)[0].path == "root/with-a"
            assert script.ids("started") == ["link", "a", "b", "link", "b", "a"]
            assert len(tree.recorder.of(RestartFailed, "root/with-a/a")) == 7
            assert tree.recorder.of(RestartFailed, "root/with-a") == []

    async def test_what_takes_long_to_come_up_holds_up_nothing_behind_it_and_no_stop(self, tree, script):
        async with tree:
            branches = (self.branch(script, "a"), self.branch(script, "b"))
            await tree.grow(script.child("link"), *branches, strategy="rest_for_one")
            script["a"].start_takes_s = 9
            await tree["link"].tell(Crash())
            await tree.recorder.wait_for(ActorStarted, path="root/with-b/b", incarnation=2, timeout=0.5)
        assert anyio.current_time() < 1

    async def test_its_first_start_is_whole(self, tree, script):
        async with tree:
            spec = self.branch(script, "a", "b")
            script["b"].fail_starts = 1
            with pytest.raises(StartFailed, match="with-a/b did not come up"):
                await tree.grow(spec)
            await tree.grow(script.child("x"))
            script["b"].fail_starts = 2
            for _ in range(2):
                with pytest.raises(StartFailed):
                    await tree.root.ask(StartChild(spec))
            await tree.root.ask(StartChild(spec))
            await tree.root.ask(StopChild("with-a"))
            script["b"].fail_starts = 1
            with pytest.raises(StartFailed):  # by hand, so there is somebody to tell
                await tree.root.ask(RestartChild("with-a"))

    @pytest.mark.parametrize(
        ("strategy", "started"),
        [
            ("one_for_one", ["a", "c", "b"]),
            ("rest_for_one", ["a", "b", "c"]),
            ("one_for_all", ["a", "a", "b", "c"]),
        ],
    )
    async def test_its_strategy_says_who_waits_for_whom(self, tree, script, strategy, started):
        async with tree:
            await tree.grow(self.branch(script, "a", "b", "c", strategy=strategy))
            before = len(script.journal)
            script["b"].fail_starts = 1
            tree["with-a"].kill()
            await anyio.sleep(0.5)
            assert script.ids("started", before) == started

    async def test_past_its_intensity_it_escalates_where_it_does(self, tree, script):
        async with tree:
            spec = self.branch(script, "a", exceeded="escalate", intensity=Intensity(2, 5))
            await tree.grow(spec, exceeded="pause")
            script["a"].fail_starts = 3
            tree["with-a"].kill()
            await tree.recorder.wait_for(SupervisorEscalated, path="root/with-a", timeout=1)
            await tree.recorder.wait_for(ActorStarted, path="root/with-a/a", count=2, timeout=10)


@pytest.mark.every_loop
async def test_behaviour_17_too_many_failures(tree, script):
    """5 failures in 10 s with a limit of 3: escalates, siblings follow the strategy, and whoever holds a ref has an
    error in less than 100 ms."""
    async with tree:
        branch = SupervisorSpec(
            id="branch", children=tuple(map(script.child, "ab")), intensity=Intensity(3, 10), restart="transient"
        )
        await tree.grow(script.child("x"), branch, intensity=Intensity(0, 10), exceeded="pause")
        held = tree["branch/b"]
        for failure in range(1, 5):
            await held.tell(Crash())
            if failure < 4:
                await tree.recorder.wait_for(ActorStarted, path="root/branch/b", incarnation=failure + 1)
        await tree.recorder.wait_for(SupervisorEscalated, path="root/branch")  # so there never is a fifth
        began = anyio.current_time()
        with pytest.raises(ActorDead):
            await held.ask("are you there?", timeout=5)
        assert anyio.current_time() - began < 0.1
        await tree.recorder.wait_for(ActorExited, path="root/branch")
        assert script.ids("stopped")[-2:] == ["b", "a"]
        assert tree["x"].is_alive


@pytest.mark.every_loop
async def test_refs_survive_restarts_of_the_child_and_of_its_supervisor(tree, script):
    async with tree:
        branch = SupervisorSpec(id="branch", children=(script.child("a"),), intensity=Intensity(0, 5))
        await tree.grow(branch)
        held = tree["branch/a"]
        await held.tell(Crash())
        await tree.recorder.wait_for(ActorStarted, path="root/branch/a", incarnation=2)
        assert await held.ask("hello") == "hello"
        assert tree["branch/a"] is held
        tree["branch"].kill()
        await tree.recorder.wait_for(ActorStarted, path="root/branch/a", incarnation=3)
        assert await held.ask("hello") == "hello"


async def test_a_hanging_child_is_killed_when_its_sibling_takes_it_along(tree, script):
    async with tree:
        await tree.grow(script.child("a"), script.child("b", shutdown_s=2), strategy="one_for_all")
        await tree["b"].tell(Hang())
        await tree["a"].tell(Crash())
        await anyio.sleep(1.9)
        assert not tree["a"].is_alive
        await anyio.sleep(0.2)
        assert [event.exit.kind for event in tree.recorder.of(ActorExited, "root/b")] == ["killed"]
        assert await tree["b"].ask("hello") == "hello"

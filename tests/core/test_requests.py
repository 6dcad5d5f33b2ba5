"""What one may ask of a supervisor while it runs, and the tree that one sees."""

import anyio
import pytest

from fogactors.core import (
    ActorStarted,
    Backoff,
    ChildSpec,
    DeleteChild,
    Intensity,
    Node,
    RemoveChild,
    RestartChild,
    StartChild,
    StopChild,
    SupervisorSpec,
    WhichChildren,
)
from fogactors.errors import ActorError, ChildStuckError, NoSuchChild, SpecError, StartFailed
from fogactors.testing import Crash, ScriptedChild, Shield


@pytest.mark.every_loop
async def test_the_life_of_a_dynamic_child(tree, script):
    async with tree:
        await tree.grow(script.child("a"))
        ref = await tree.root.ask(StartChild(script.child("b")))
        assert await ref.ask("hello") == "hello"
        assert await tree.states() == {"a": "running", "b": "running"}
        await tree.root.ask(StopChild("b"))
        await tree.root.ask(StopChild("b"))  # to stop what is stopped is no error, as in OTP
        assert await tree.states() == {"a": "running", "b": "stopped"}
        assert await tree.root.ask(RestartChild("b")) is ref
        assert await ref.ask("hello") == "hello"
        await tree.root.ask(StopChild("b"))
        await tree.root.ask(DeleteChild("b"))
        assert await tree.states() == {"a": "running"}
        await tree.root.ask(StartChild(script.child("b")))
        assert script.journal[-1] == ("started", "root/b", 1)


@pytest.mark.parametrize(
    ("request_", "error", "text"),
    [
        (lambda script: StartChild(script.child("a")), SpecError, "root has a child 'a' already"),
        (lambda script: StartChild(ChildSpec(id="x", factory=None)), SpecError, "root/x: factory must be a function"),
        (
            lambda script: StartChild(script.child("x", fail_starts=1)),
            StartFailed,
            "root/x did not come up: failed: Scr",
        ),
        (lambda script: StopChild("x"), NoSuchChild, "root has no child 'x'; it has: a"),
        (lambda script: RemoveChild("x"), NoSuchChild, "root has no child 'x'; it has: a"),
        (lambda script: RemoveChild("a", script.child("b")), NoSuchChild, "root/a is another child of that id"),
        (lambda script: RestartChild("a"), ActorError, "root/a is running; stop it first"),
        (lambda script: RestartChild("x"), ActorError, "root has no child 'x'"),
        (lambda script: DeleteChild("a"), ActorError, "root/a is running; stop it first"),
        (lambda script: "what?", ActorError, "root is a supervisor and does not know str"),
    ],
)
async def test_a_wrong_request_is_the_askers_problem(tree, script, request_, error, text):
    async with tree:
        await tree.grow(script.child("a"))
        with pytest.raises(error, match=f"^{text}"):
            await tree.root.ask(request_(script))
        await tree.root.tell("a stray message")
        assert await tree.states() == {"a": "running"}
        assert tree["a"].is_alive


async def test_a_temporary_child_is_forgotten_when_it_is_stopped(tree, script):
    async with tree:
        await tree.grow(script.child("a", restart="temporary"))
        await tree.root.ask(StopChild("a"))
        assert await tree.states() == {}


async def test_a_start_that_is_too_slow_is_not_added(tree, script):
    async with tree:
        await tree.grow(script.child("a"))
        with pytest.raises(StartFailed, match="root/b did not come up within 2 s"):
            await tree.root.ask(StartChild(script.child("b", start_takes_s=9, start_s=2)))
        assert await tree.states() == {"a": "running"}


async def test_a_supervisor_as_a_dynamic_child(tree, script):
    """It is restarted with all of its specification; what was added to it at run time is gone, as in OTP."""
    async with tree:
        await tree.grow(script.child("a"))
        ref = await tree.root.ask(StartChild(SupervisorSpec(id="s", children=(script.child("b"), script.child("c")))))
        await ref.ask(StartChild(script.child("d")))
        assert [info.id for info in await ref.ask(WhichChildren())] == ["b", "c", "d"]
        ref.kill()
        await anyio.sleep(0.1)
        assert [info.id for info in await ref.ask(WhichChildren())] == ["b", "c"]
        await tree.root.ask(StopChild("s"))
        await tree.root.ask(DeleteChild("s"))
        assert script.ids("stopped") == ["d", "c", "b", "c", "b"]
        assert tree.incarnations == {"root": 1, "root/a": 1, "root/s/d": 1}


async def test_dynamic_children_stop_first_and_follow_the_strategy(tree, script):
    async with tree:
        await tree.grow(script.child("a"), script.child("b"), strategy="rest_for_one")
        await tree.root.ask(StartChild(script.child("c")))
        await tree["b"].tell(Crash())
        await anyio.sleep(0.1)
    assert script.ids("stopped") == ["b", "c", "c", "b", "a"]


async def test_a_request_during_a_stop_is_answered(tree, script):
    async with tree:
        await tree.grow(script.child("a"))
        errors = []

        async def ask():
            with pytest.raises(ActorError) as raised:
                await tree.root.ask(StartChild(script.child("slow", start_takes_s=9)), timeout=30)
            errors.append(str(raised.value))

        async with anyio.create_task_group() as group:
            group.start_soon(ask)
            await anyio.sleep(1)
            await tree.stop(tree.root)
        assert errors == ["root was stopped meanwhile"]
        assert anyio.current_time() == pytest.approx(1, abs=0.01)


async def test_a_start_of_a_supervisor_can_be_given_up_until_it_is_up(tree, script):
    async with tree:
        await tree.grow(script.child("a"))
        spec = SupervisorSpec(id="s", children=(script.child("quick"), script.child("slow", start_takes_s=9)))
        async with anyio.create_task_group() as starting:

            async def start():
                with pytest.raises(StartFailed, match="root/s did not come up: stopped"):
                    await tree.root.ask(StartChild(spec), timeout=30)

            starting.start_soon(start)
            await anyio.sleep(1)
            tree.supervisors["root/s"].give_up_start()
        assert anyio.current_time() == pytest.approx(1, abs=0.01)
        assert await tree.states() == {"a": "running"}
        assert script.ids("stopped") == ["quick"]
        await tree.root.ask(StartChild(spec), timeout=30)
        tree.supervisors["root/s"].give_up_start()
        await anyio.sleep(1)
        assert await tree.states() == {"a": "running", "s": "running"}


class TestRemove:
    """In one step: whatever fails while it stops, it does not come back; and nobody waits for it but who asked."""

    @pytest.mark.every_loop
    async def test_what_is_removed_is_stopped_and_forgotten(self, tree, script):
        async with tree:
            spec = script.child("b")
            await tree.grow(script.child("a"))
            await tree.root.ask(StartChild(spec))
            await tree.root.ask(RemoveChild("b", spec))
            assert script.ids("stopped") == ["b"]
            assert await tree.states() == {"a": "running"}
            await tree.root.ask(StartChild(script.child("b")))
            assert script.journal[-1] == ("started", "root/b", 1)

    async def test_it_may_be_stopped_or_paused_already(self, tree, script):
        async with tree:
            pausing = {"exceeded": "pause", "intensity": Intensity(0, 5), "backoff": Backoff(30, 30)}
            await tree.grow(script.child("a"), script.child("b"), **pausing)
            await tree.root.ask(StopChild("a"))
            await tree["b"].tell(Crash())
            await anyio.sleep(1)
            assert await tree.states() == {"a": "stopped", "b": "restarting"}
            for id_ in "ab":
                await tree.root.ask(RemoveChild(id_))
            await anyio.sleep(60)
            assert await tree.states() == {}
            assert script.ids("started") == ["a", "b"]

    async def test_several_take_their_time_at_the_same_time_and_the_supervisor_goes_on(self, tree, script):
        async with tree:
            await tree.grow(script.child("x"), *(script.child(each, stop_takes_s=2) for each in "abc"))
            async with anyio.create_task_group() as removing:
                for each in "abca":  # one of them twice: both are told
                    removing.start_soon(tree.root.ask, RemoveChild(each))
                await anyio.sleep(1)
                assert await tree.states() == {"x": "running", "a": "stopping", "b": "stopping", "c": "stopping"}
                await tree["x"].tell(Crash())
                await tree.recorder.wait_for(ActorStarted, path="root/x", incarnation=2, timeout=0.5)
            assert anyio.current_time() == pytest.approx(2, abs=0.01)
            assert await tree.states() == {"x": "running"}

    @pytest.mark.parametrize("strategy", ["one_for_all", "rest_for_one"])
    async def test_a_siblings_failure_meanwhile_does_not_bring_it_back(self, tree, script, strategy):
        async with tree:
            children = (script.child("link"), script.child("a", stop_takes_s=2), script.child("b"))
            await tree.grow(*children, strategy=strategy)
            async with anyio.create_task_group() as removing:
                removing.start_soon(tree.root.ask, RemoveChild("a"))
                await anyio.sleep(1)
                await tree["link"].tell(Crash())
                await tree.recorder.wait_for(ActorStarted, path="root/b", incarnation=2, timeout=5)
            assert await tree.states() == {"link": "running", "b": "running"}
            assert script.ids("started") == ["link", "a", "b", "link", "b"]
            assert script.ids("stopped") == ["link", "b", "a"]

    async def test_its_own_failure_meanwhile_does_not_bring_it_back(self, tree, script):
        async with tree:
            await tree.grow(script.child("a", stop_takes_s=2), script.child("b"))
            async with anyio.create_task_group() as removing:
                removing.start_soon(tree.root.ask, RemoveChild("a"))
                await anyio.sleep(1)
                (life,) = [each for each in tree.supervisors["root"].children if each.spec.id == "a"]
                life.incarnation.kill()
            await anyio.sleep(10)
            assert await tree.states() == {"b": "running"}
            assert script.ids("started") == ["a", "b"]

    async def test_one_that_does_not_end_is_stuck_and_forgotten_when_it_does(self, tree, script):
        async with tree:
            await tree.grow(script.child("a", shutdown_s=1), script.child("b"))
            await tree["a"].tell(Shield())
            await anyio.sleep(0.1)
            for _ in range(2):
                with pytest.raises(ChildStuckError, match="root/a was cancelled and did not end"):
                    await tree.root.ask(RemoveChild("a"))
                assert await tree.states() == {"a": "stuck", "b": "running"}
            script.release()
            await anyio.sleep(0.1)
            assert await tree.states() == {"b": "running"}
            assert script.ids("started") == ["a", "b"]

    async def test_who_asked_is_told_also_when_the_whole_tree_stops_meanwhile(self, tree, script):
        async with anyio.create_task_group() as removing, tree:
            await tree.grow(script.child("a", stop_takes_s=2), script.child("b"))
            removing.start_soon(tree.root.ask, RemoveChild("a"), 100)
            await anyio.sleep(1)
        assert anyio.current_time() == pytest.approx(2, abs=0.01)


async def test_tree_shows_state_restarts_and_queue(tree, script):
    async with tree:
        await tree.grow(
            SupervisorSpec(id="s", children=(script.child("a"),)),
            script.child("b", restart="transient"),
            exceeded="pause",
        )
        tree["b"].stop()
        await tree["s/a"].tell(Crash())
        await anyio.sleep(0.1)
        tree["s/a"].tell_nowait("x")
        assert tree.tree() == (
            Node(
                "root",
                "root",
                "supervisor",
                "running",
                0,
                0,
                (
                    Node(
                        "s",
                        "root/s",
                        "supervisor",
                        "running",
                        0,
                        0,
                        (Node("a", "root/s/a", "worker", "running", 1, 1),),
                    ),
                    Node("b", "root/b", "worker", "stopped", 0, 0),
                ),
            ),
        )


async def test_which_children_are_in_start_order(tree, script):
    async with tree:
        await tree.grow(*map(script.child, "cab"))
        assert [(info.id, info.kind, info.restarts) for info in await tree.root.ask(WhichChildren())] == [
            ("c", "worker", 0),
            ("a", "worker", 0),
            ("b", "worker", 0),
        ]


async def test_a_factory_that_fails_is_a_start_that_failed(tree):
    def factory():
        raise OSError("no such file")

    async with tree:
        with pytest.raises(StartFailed, match="root/a did not come up: failed: OSError: no such file"):
            await tree.grow(ChildSpec(id="a", factory=factory))


def test_scripted_children_are_new_in_each_incarnation(script):
    spec = script.child("a")
    assert isinstance(spec.make(), ScriptedChild)
    assert spec.make() is not spec.make()

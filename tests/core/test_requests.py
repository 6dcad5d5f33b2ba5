"""What one may ask of a supervisor while it runs, and the tree that one sees."""

import anyio
import pytest

from fogactors.core import (
    ChildSpec,
    DeleteChild,
    Node,
    RestartChild,
    StartChild,
    StopChild,
    SupervisorSpec,
    WhichChildren,
)
from fogactors.errors import ActorError, SpecError, StartFailed
from fogactors.testing import Crash, ScriptedChild


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
        (lambda script: StopChild("x"), ActorError, "root has no child 'x'; it has: a"),
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

"""Every question has an answer, an error or a timeout; nobody waits for ever."""

import anyio
import pytest

from fogactors.core import Actor, ActorExited, ChildSpec, StopChild
from fogactors.errors import ActorDead, AskTimeout, RemoteError
from fogactors.testing import Crash, Hang, Return


async def turns():
    """Let every other task go on until it waits; trio gives no order among those that can run."""
    for _ in range(4):
        await anyio.lowlevel.checkpoint()


async def asked(ref, message="question", **options):
    began = anyio.current_time()
    try:
        return await ref.ask(message, **options), anyio.current_time() - began
    except Exception as error:
        return error, anyio.current_time() - began


@pytest.mark.every_loop
async def test_an_answer_and_a_remote_error(tree, script):
    async with tree:
        await tree.grow(script.child("a"))
        assert await tree["a"].ask({"n": 1}) == {"n": 1}
        with pytest.raises(RemoteError, match=r"^ValueError: no good$") as raised:
            await tree["a"].ask(Crash(ValueError("no good")))
        assert (raised.value.type, raised.value.detail) == ("ValueError", "no good")


@pytest.mark.every_loop
@pytest.mark.parametrize(
    "end",
    [
        pytest.param(lambda ref: ref.tell(Crash()), id="crash"),
        pytest.param(lambda ref: ref.tell(Return()), id="return"),
    ],
)
async def test_every_question_in_the_mailbox_is_answered_when_the_actor_ends(tree, script, end):
    async with tree:
        await tree.grow(script.child("a", restart="temporary"))
        ref, answers = tree["a"], []

        async def ask():
            answers.append(await asked(ref))

        async with anyio.create_task_group() as group:
            await end(ref)
            for _ in range(5):
                group.start_soon(ask)
        assert [type(answer) for answer, _ in answers] == [ActorDead] * 5
        assert max(took for _, took in answers) < 0.1


@pytest.mark.parametrize("end", ["stop", "kill"])
@pytest.mark.every_loop
async def test_also_the_question_that_is_being_handled_is_answered(tree, script, end):
    """The one under way and those behind it, without waiting for the cleanup."""
    async with tree:
        await tree.grow(script.child("a", restart="temporary", shutdown_s=0.05, stop_takes_s=0.04))
        ref, answers = tree["a"], {}

        async def ask(name, message):
            answers[name] = (await asked(ref, message))[0]

        async with anyio.create_task_group() as group:
            group.start_soon(ask, "under way", Hang())
            await anyio.sleep(0.001)
            group.start_soon(ask, "queued", "question")
            await anyio.sleep(0.001)
            if end == "kill":
                ref.kill()
            else:
                await tree.root.ask(StopChild("a"))
        assert {name: type(answer) for name, answer in answers.items()} == {"under way": ActorDead, "queued": ActorDead}


async def test_nobody_waits_for_the_cleanup_of_an_actor_that_ended(tree):
    class Fails(Actor):
        async def run(self):
            await fail.wait()
            raise RuntimeError

        async def on_stop(self, exit):  # noqa: A002
            await anyio.sleep(3)

    async def wait_for(call, message):
        began = anyio.current_time()
        with pytest.raises(ActorDead):
            await call(message)
        took[message] = anyio.current_time() - began

    fail, took = anyio.Event(), {}
    async with tree, anyio.create_task_group() as group:
        await tree.grow(ChildSpec(id="a", factory=Fails, restart="temporary", mailbox=1))
        group.start_soon(wait_for, tree["a"].ask, "queued")
        await turns()
        group.start_soon(wait_for, tree["a"].tell, "blocked")
        await turns()
        fail.set()
        await anyio.sleep(0.1)
        await wait_for(tree["a"].tell, "too late")
        assert took == {"queued": 0, "blocked": 0, "too late": 0}


async def test_a_supervisor_that_stops_answers_at_once(tree, script):
    async with tree:
        await tree.grow(script.child("a", stop_takes_s=4))
        tree.root.stop()
        await anyio.sleep(0.1)
        error, took = await asked(tree.root, timeout=10)
        assert (type(error), took) == (ActorDead, 0)
        assert "root is stopping" in str(error)


@pytest.mark.every_loop
async def test_timeout(tree, script):
    async with tree:
        await tree.grow(script.child("a", shutdown_s=0))
        error, took = await asked(tree["a"], Hang(), timeout=0.05)
        assert isinstance(error, AskTimeout)
        assert str(error) == "root/a did not answer Hang within 0.05 s"
        assert 0.05 <= took < 0.2


async def test_a_question_to_a_full_mailbox_times_out_in_time(tree, gate):
    async with tree:
        ref = await gate.grow(tree, mailbox=1)
        await ref.tell("in the way")
        error, took = await asked(ref, timeout=0.5)
        assert isinstance(error, AskTimeout)
        assert 0.5 <= took <= 0.511
        assert await gate.open(1) == ["in the way"]
        assert await ref.ask("next") == "next"
        assert gate.read == ["in the way", "next"]


@pytest.mark.every_loop
async def test_what_nobody_waits_for_any_more_is_not_done(tree, gate):
    async with tree:
        ref = await gate.grow(tree)
        error, _ = await asked(ref, "given up", timeout=0.01)
        assert isinstance(error, AskTimeout)
        with anyio.move_on_after(0.01):
            await ref.ask("cancelled")
        gate.opened.set()
        assert await ref.ask("next") == "next"
        assert gate.read == ["next"]


@pytest.mark.every_loop
async def test_down_and_never_started(tree, script):
    async with tree:
        await tree.grow(script.child("a", restart="temporary"))
        with pytest.raises(ActorDead, match="root/nobody is not started"):
            await tree["nobody"].tell("hello")
        ref = tree["a"]
        ref.stop()
        await tree.recorder.wait_for(ActorExited, path="root/a")
        for call in (ref.tell, ref.ask):
            with pytest.raises(ActorDead, match="root/a is stopped"):
                await call("hello")
        with pytest.raises(ActorDead):
            ref.tell_nowait("hello")


async def test_a_hundred_questions_time_out_together(tree, script):
    async with tree:
        await tree.grow(script.child("a", shutdown_s=0))
        took = []

        async def ask():
            error, seconds = await asked(tree["a"], Hang(), timeout=1)
            assert isinstance(error, AskTimeout)
            took.append(seconds)

        async with anyio.create_task_group() as group:
            for _ in range(100):
                group.start_soon(ask)
        assert min(took) >= 1
        assert max(took) <= 1.011

"""Children that do not end when they are cancelled, and cancellations that nobody asked for."""

import asyncio

import anyio
import pytest

from fogactors.core import Actor, ActorExited, ActorStarted, ChildSpec, ChildStuck, StopChild
from fogactors.errors import ChildStuckError, StartFailed
from fogactors.testing import Crash, Shield


async def test_a_child_that_shields_itself_is_reported_and_nothing_takes_its_place(tree, script):
    with pytest.raises(ChildStuckError, match="root/b was cancelled and did not end"):  # noqa: PT012
        async with tree:
            await tree.grow(script.child("a"), script.child("b", shutdown_s=1), strategy="one_for_all")
            await tree["b"].tell(Shield(100))
            await tree["a"].tell(Crash())
            await anyio.sleep_forever()
    (stuck,) = tree.recorder.of(ChildStuck)
    assert (stuck.path, stuck.waited_s, stuck.at) == ("root/b", 3, pytest.approx(3, abs=0.01))
    assert script.ids("started") == ["a", "b"]


async def test_a_start_that_shields_itself_is_stuck(tree):
    starts = []

    class Shielded(Actor):
        async def on_start(self):
            starts.append(self.ctx.incarnation)
            with anyio.CancelScope(shield=True):
                await anyio.sleep(60)

    async with tree:
        with pytest.raises(StartFailed, match=r"root did not come up within 4 s"):
            await tree.grow(ChildSpec(id="a", factory=Shielded, start_s=1))
    assert starts == [1]
    assert {event.path for event in tree.recorder.of(ChildStuck)} == {"root/a", "root"}


async def test_a_stuck_child_that_ends_after_all_can_be_started_again(tree, script):
    async with tree:
        await tree.grow(script.child("a", shutdown_s=1))
        await tree["a"].tell(Shield())
        await anyio.sleep(0.1)
        with pytest.raises(ChildStuckError):
            await tree.root.ask(StopChild("a"))
        assert await tree.states() == {"a": "stuck"}
        script.release()
        await anyio.sleep(0.1)
        assert await tree.states() == {"a": "stopped"}


# -- cancellations that nobody asked for


def stray_by_future():
    future = asyncio.get_running_loop().create_future()
    asyncio.get_running_loop().call_soon(future.cancel)
    return future


async def stray_by_task():
    asyncio.current_task().cancel()
    await asyncio.sleep(0)


@pytest.mark.asyncio_loops
@pytest.mark.parametrize("stray", [stray_by_future, stray_by_task])
@pytest.mark.parametrize("where", ["on_start", "handle", "on_stop"])
async def test_a_stray_cancellation_is_a_failure_of_that_actor_alone(tree, script, stray, where):
    class Victim(Actor):
        async def on_start(self):
            if where == "on_start" and self.ctx.incarnation == 2:
                await stray()

        async def handle(self, message):
            if where == "handle":
                await stray()
            raise RuntimeError("otherwise it just fails")

        async def on_stop(self, exit):  # noqa: A002
            if where == "on_stop" and self.ctx.incarnation == 1:
                await stray()

    async with tree:
        await tree.grow(script.child("a"), ChildSpec(id="victim", factory=Victim))
        await tree["victim"].tell("go")
        again = 3 if where == "on_start" else 2
        await tree.recorder.wait_for(ActorStarted, path="root/victim", incarnation=again)
        if where == "handle":
            (exited,) = tree.recorder.of(ActorExited)
            assert str(exited.exit).startswith("failed: StrayCancellation")
        await anyio.sleep(0.01)  # the silent end of a task group takes a turn or two
        assert script.ids("stopped") == []
        assert await tree.states() == {"a": "running", "victim": "running"}

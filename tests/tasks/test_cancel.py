"""Cancelling a task and finding one, wherever it is: behaviour 19, on the embedded bus."""

from contextlib import asynccontextmanager
from datetime import UTC, datetime

import anyio
import msgspec
import psutil
import pytest

from fogactors.bus import MemoryBroker, MemoryBus
from fogactors.coord import MemoryCoord, MemoryStore
from fogactors.coord.letters import ParkedLetter
from fogactors.core import ActorStarted
from fogactors.errors import BusUnavailable, CoordRefused, CoordUnavailable, TaskCancelled
from fogactors.messages import DeadLetterFate, TaskResult
from fogactors.tasks.client import Submitter
from fogactors.tasks.events import TaskEnded, TaskStarted
from fogactors.tasks.tracker import THREAD, Cancellation, Tracker, Whereabouts
from fogactors.testing import eventually
from fogactors.wire import fog_topology
from tests.tasks import fog_tasks as tasks
from tests.tasks.harness import Refusing, fog, settled

pytestmark = pytest.mark.asyncio

NOW = datetime(2030, 1, 1, tzinfo=UTC)
WORKER = "node/light"


@asynccontextmanager
async def listening(**config):
    """A system whose executor hears orders already, and a tracker of its own that waits for them for a minute."""
    async with fog(roles=("tier-executor",), **config) as system:
        await system.recorder.wait_for(ActorStarted, path="fogactors/tier-executor-light/control")
        await eventually(
            lambda: any(name.startswith("ctl.guest.node.") for name in system.broker.depths()), "it listens"
        )
        yield system


class alone:  # noqa: N801
    """A tracker, a broker and a store, and nobody who runs anything."""

    async def __aenter__(self):
        self.broker = await MemoryBroker().__aenter__()
        self.broker.declare(fog_topology())
        self.bus, self.store = MemoryBus(self.broker), MemoryStore()
        await self.bus.open()
        self.coord = MemoryCoord(self.store)
        self.tracker = Tracker(self.bus, self.coord, now=lambda: NOW)
        return self

    async def __aexit__(self, *error):
        await self.broker.__aexit__(*error)

    async def record(self, state, generation=0):
        result = TaskResult(
            task_id="a-1", name="t", state=state, generation=generation, worker=WORKER, attempts=2, finished=NOW
        )
        await self.coord.record(result)

    async def replay(self, **fields):
        """What became of its first generation: a dead letter that was published once more."""
        if await self.coord.letters.get("a-1") is None:
            letter = ParkedLetter(id="a-1", task_id="a-1", offset=0, reason="failed", first=NOW, last=NOW)
            assert await self.coord.letters.apply(None, [letter], 0) == 0
        await self.coord.letters.mark(DeadLetterFate(id="a-1", state="replayed", at=NOW, **fields))


# -- cancel


@pytest.mark.parametrize(("kind", "note"), [(tasks.hold, ""), (tasks.block, THREAD)], ids=["loop", "thread"])
async def test_what_runs_is_cancelled_and_a_thread_is_told_of(kind, note):
    async with listening() as system:
        handle = await system.submit(kind, "a")
        await system.recorder.wait_for(TaskStarted, task_id=handle.id)
        with anyio.fail_after(0.9):  # as soon as the executor says so, and not after the second for which it is asked
            answer = await handle.cancel()
        assert answer == Cancellation(task_id=handle.id, state="cancelled", found="running", worker=WORKER, note=note)
        with pytest.raises(TaskCancelled, match=rf"{kind.name} {handle.id} was cancelled"):
            await handle.result(5)
        tasks.lock("a").set()
        await settled(system)
        assert await (await system.submit(tasks.note, "next")).result(5) == "next"


async def test_a_process_that_is_cancelled_is_killed(tmp_path):
    async with listening() as system:
        handle = await system.submit(tasks.stay, tmp_path)
        await eventually((tmp_path / "pid").exists, "it runs", timeout=15)
        pid = int((tmp_path / "pid").read_text())
        assert (await handle.cancel()).note == ""
        await eventually(lambda: not psutil.pid_exists(pid), "the process is gone")
        with pytest.raises(TaskCancelled):
            await handle.result(5)


async def test_what_waits_in_an_executor_is_cancelled_and_never_runs():
    async with listening() as system:
        running = [await system.submit(tasks.hold, name, "gate") for name in "abcd"]
        waiting = await system.submit(tasks.note, "waits")
        await eventually(lambda: sum(d.unsettled for d in system.broker.depths().values()) >= 5, "it is in hand")
        answer = await waiting.cancel()
        assert (answer.state, answer.found, answer.worker) == ("cancelled", "waiting", WORKER)
        tasks.gate("gate").set()
        assert [await handle.result(5) for handle in running] == list("abcd")
        await settled(system)
        assert tasks.runs["waits"] == 0


@pytest.mark.parametrize("delay_s", [None, 1.0], ids=["queued", "delayed"])
async def test_what_lies_in_a_queue_is_cancelled_and_never_runs(delay_s):
    async with listening() as system:
        await system.stop()
        handle = await system.submit(tasks.note.options(delay_s=delay_s), "a")
        answer = await handle.cancel()
        assert (answer.state, answer.found, answer.worker) == ("cancelled", "not held", None)
        assert answer.note == "no executor has it; if it comes to one it is not run"
        with pytest.raises(TaskCancelled):
            await handle.result(0.1)
        assert sum(depth.ready for depth in system.broker.depths().values()) == 1


async def test_what_was_cancelled_in_a_delay_is_not_run_when_it_comes():
    async with listening() as system:
        handle = await system.submit(tasks.note.options(delay_s=1), "a")  # a tenth of it: the ladder is a fast one
        assert (await handle.cancel()).state == "cancelled"
        await system.recorder.wait_for(TaskEnded, task_id=handle.id, state="cancelled")
        await settled(system)
        assert tasks.runs["a"] == 0


async def test_what_has_ended_keeps_its_end_and_says_so():
    async with listening() as system:
        handle = await system.submit(tasks.note, "a")
        await handle.result(5)
        assert await handle.cancel() == Cancellation(
            task_id=handle.id, state="succeeded", found="not held", worker=WORKER, note="it had already succeeded"
        )
        assert await handle.result(5) == "a"


async def test_a_submitter_that_leaves_listens_no_more():
    async with listening() as system:
        async with Submitter(system.bus, MemoryCoord(system.store), system.tiers) as submitter:
            await submitter.where("a-1")
        assert [d.consumers for name, d in system.broker.depths().items() if name.startswith("ctl.guest.order.")] == [0]


async def test_a_second_cancel_says_the_same():
    async with alone() as it:
        answers = [await it.tracker.cancel("a-1", wait_s=0.01) for _ in range(2)]
        assert answers[0] == answers[1]
        assert answers[0].state == "cancelled"
        assert await it.coord.cancelled() == {"a-1": 0}


async def test_a_record_of_a_task_whose_name_nobody_knows_reads_well():
    async with listening() as system:
        await system.submitter._tracker.cancel("a-1", wait_s=0.01)
        with pytest.raises(TaskCancelled, match=r"^a-1 was cancelled$"):
            await system.submitter.handle("a-1").result(1)


async def test_a_replay_of_a_dead_letter_is_cancelled_as_what_it_is():
    async with alone() as it:
        await it.record("failed")
        assert (await it.tracker.cancel("a-1", wait_s=0.01)).note == "it had already failed"
        await it.replay()
        assert (await it.tracker.cancel("a-1", wait_s=0.01)).state == "cancelled"
        assert await it.coord.cancelled() == {"a-1": 1}
        assert (await it.coord.result("a-1")).generation == 1


@pytest.mark.parametrize("ended", ["failed", "cancelled"])
async def test_a_replay_that_waits_for_longer_than_the_old_end_is_kept_is_cancelled(ended):
    async with alone() as it:
        await it.record(ended)
        await it.replay()
        it.store.expire_now("results")
        assert (await it.tracker.cancel("a-1", wait_s=0.01)).state == "cancelled"
        assert await it.coord.cancelled() == {"a-1": 1}


@pytest.mark.parametrize("kept", [True, False], ids=["with its record", "without"])
async def test_one_that_was_replayed_once_more_is_found_and_cancelled_as_what_it_is(kept):
    async with alone() as it:
        await it.replay()
        await it.record("succeeded", generation=1)
        await it.replay(replayed_as=2)
        if not kept:
            it.store.expire_now("results")
        assert (await it.tracker.where("a-1", wait_s=0.01)).state == "queued or unknown"
        assert (await it.tracker.cancel("a-1", wait_s=0.01)).state == "cancelled"
        assert await it.coord.cancelled() == {"a-1": 2}


async def test_a_replay_that_has_ended_keeps_its_end():
    async with alone() as it:
        await it.replay()
        await it.record("succeeded", generation=1)
        assert (await it.tracker.cancel("a-1", wait_s=0.01)).note == "it had already succeeded"
        assert await it.coord.cancelled() == {}


async def test_a_store_that_refuses_keeps_no_executor_from_being_told_or_asked():
    async with listening() as system:
        handle = await system.submit(tasks.hold, "a")
        started = await system.recorder.wait_for(TaskStarted, task_id=handle.id)
        tracker = Tracker(system.bus, Refusing(MemoryCoord(system.store), "cancel", "result"))
        found = await tracker.where(handle.id)
        assert (found.state, found.since) == ("running", started.at)
        with pytest.raises(CoordRefused, match=rf"^{handle.id} is not recorded as .*: no permission; {WORKER} had it"):
            await tracker.cancel(handle.id)
        await system.wait_idle()
        with pytest.raises(CoordRefused, match=rf"^no executor has {handle.id}, and its record cannot be read: no per"):
            await tracker.where(handle.id, wait_s=0.01)
        await tracker.close()


async def test_while_the_store_is_away_the_executors_are_told_and_the_error_says_so():
    async with listening() as system:
        handle = await system.submit(tasks.hold, "a")
        await system.recorder.wait_for(TaskStarted, task_id=handle.id)
        system.store.away = True
        with pytest.raises(CoordUnavailable) as away:
            await handle.cancel()
        assert str(away.value) == (
            f"{handle.id} is not recorded as cancelled: the coordination store cannot be reached; "
            f"{WORKER} had it running and was told; cancel it again"
        )
        await system.wait_idle()


async def test_while_the_broker_is_away_it_is_recorded_and_the_error_says_so():
    async with alone() as it:
        await it.bus.close()
        with anyio.fail_after(4), pytest.raises(BusUnavailable, match=r"^a-1 is recorded as cancelled, but the exec"):
            await it.tracker.cancel("a-1")
        assert (await it.coord.result("a-1")).state == "cancelled"


async def test_with_both_away_it_says_that_nothing_was_done():
    async with alone() as it:
        await it.bus.close()
        it.store.away = True
        with pytest.raises(CoordUnavailable, match=r"not recorded .*; the executors could not be told either .*again$"):
            await it.tracker.cancel("a-1")


# -- where


async def test_where_says_who_has_it_since_when_and_for_which_time():
    async with listening() as system:
        handle = await system.submit(tasks.hold, "a")
        started = await system.recorder.wait_for(TaskStarted, task_id=handle.id)
        with anyio.fail_after(0.9):
            found = await handle.where()
        assert found == Whereabouts(
            task_id=handle.id, state="running", name=tasks.hold.name, worker=WORKER, attempts=1, since=started.at
        )
        tasks.gate("a").set()
        await handle.result(5)
        ended = await handle.where()
        assert (ended.state, ended.worker, ended.attempts, ended.name) == ("succeeded", WORKER, 1, tasks.hold.name)
        assert ended.since >= started.at
        assert msgspec.json.decode(msgspec.json.encode(ended))["since"] == ended.since.isoformat().replace(
            "+00:00", "Z"
        )


async def test_what_waits_in_an_executor_is_found():
    async with listening() as system:
        for name in "abcd":
            await system.submit(tasks.hold, name, "gate")
        handle = await system.submit(tasks.note, "waits")
        await eventually(lambda: sum(d.unsettled for d in system.broker.depths().values()) >= 5, "it is in hand")
        found = await handle.where()
        assert (found.state, found.worker, found.attempts) == ("waiting", WORKER, 1)
        tasks.gate("gate").set()
        await settled(system)


async def test_what_nobody_has_is_queued_or_unknown():
    async with alone() as it:
        assert await it.tracker.where("a-1", wait_s=0.01) == Whereabouts(task_id="a-1", state="queued or unknown")


async def test_a_replay_that_nobody_has_is_no_failure_any_more():
    async with alone() as it:
        await it.record("failed")
        assert (await it.tracker.where("a-1", wait_s=0.01)).state == "failed"
        await it.replay()
        assert (await it.tracker.where("a-1", wait_s=0.01)).state == "queued or unknown"
        await it.record("succeeded", generation=1)
        assert (await it.tracker.where("a-1", wait_s=0.01)).state == "succeeded"


async def test_while_the_store_is_away_the_executors_know_or_nobody_does():
    async with listening() as system:
        handle = await system.submit(tasks.hold, "a")
        await system.recorder.wait_for(TaskStarted, task_id=handle.id)
        system.store.away = True
        assert (await handle.where()).state == "running"
        with pytest.raises(CoordUnavailable, match="no executor has a-1, and its record cannot be read"):
            await system.submitter._tracker.where("a-1", wait_s=0.01)
        system.store.away = False
        tasks.gate("a").set()
        await handle.result(5)


async def test_while_the_broker_is_away_the_record_still_says_how_it_ended():
    async with alone() as it:
        await it.record("expired")
        await it.bus.close()
        assert (await it.tracker.where("a-1")).state == "expired"
        with anyio.fail_after(4), pytest.raises(BusUnavailable):
            await it.tracker.where("a-2")

"""Submitting and waiting: errors that say what to do, and results that come whatever happens to the notices."""

from datetime import UTC, datetime, timedelta

import anyio
import msgspec
import pytest

from fogactors.bus import MemoryBroker, MemoryBus
from fogactors.coord import MemoryCoord, MemoryStore
from fogactors.errors import (
    BusUnavailable,
    NoTierFits,
    QueueFull,
    ResultTimeout,
    SubmitterClosed,
    TaskArgumentError,
    TaskCancelled,
    TaskDefinitionError,
    TaskExpired,
    TaskFailed,
    WorkerLost,
)
from fogactors.messages import ErrorInfo, Task, TaskResult
from fogactors.tasks import client
from fogactors.tasks.client import Submitter
from fogactors.tasks.handle import result_value
from fogactors.tasks.tiers import Tiers
from fogactors.testing.kit import TIERS, eventually
from fogactors.wire import decode, fog_topology
from tests.tasks import fog_tasks as tasks
from tests.tasks.harness import Hanging, fog

pytestmark = pytest.mark.asyncio


class Alone:
    """A submitter, a broker and a store, and nobody who runs anything."""

    def __init__(self, broker, store, submitter):
        self.broker, self.store, self.submitter = broker, store, submitter

    async def record(self, task_id, **fields):
        result = TaskResult(task_id=task_id, name="t", finished=datetime.now(UTC), **fields)
        await MemoryCoord(self.store).record(result)

    async def queued(self, queue):
        bus, got = MemoryBus(self.broker), []
        await bus.open()
        await (await bus.consume(queue, got.append, prefetch=1000)).close()
        await bus.close()
        return [decode(delivery.body, Task) for delivery in got]


class alone:  # noqa: N801
    def __init__(self, wrap=lambda coord: coord):
        self.wrap = wrap

    async def __aenter__(self):
        self.broker = MemoryBroker()
        await self.broker.__aenter__()
        self.broker.declare(fog_topology())
        bus, store = MemoryBus(self.broker), MemoryStore()
        await bus.open()
        self.submitter = Submitter(bus, self.wrap(MemoryCoord(store)), Tiers(TIERS), publish_timeout_s=0.1)
        await self.submitter.__aenter__()
        return Alone(self.broker, store, self.submitter)

    async def __aexit__(self, *error):
        await self.submitter.__aexit__(*error)
        await self.broker.__aexit__(None, None, None)


# -- submitting


async def test_a_task_carries_what_its_definition_and_its_submit_say():
    async with alone() as it:
        heavy = tasks.flaky.options(priority="low", cpu=0.9, memory_mb=100, time_limit=5, deadline_s=60)
        handle = await it.submitter.submit(heavy, "x", failures=2)
        [task] = await it.queued("tasks.low_priority.heavy")
        assert (task.id, task.name, msgspec.json.decode(task.args)) == (
            handle.id,
            tasks.flaky.name,
            {"name": "x", "failures": 2},
        )
        assert (task.tier, task.cpu, task.memory_mb, task.time_limit, task.max_attempts) == ("heavy", 0.9, 100, 5, 3)
        assert task.deadline - task.created == timedelta(seconds=60)
        assert (task.origin, task.correlation_id) == ("tasks.low_priority.heavy", handle.id)


@pytest.mark.parametrize(
    ("delay", "queue"),
    [(0, "tasks.normal"), (0.5, "tasks.normal"), (1, "retry.1"), (30, "retry.16"), (9e4, "retry.65536")],
)
async def test_a_delay_takes_the_largest_step_that_is_not_longer(delay, queue):
    async with alone() as it:
        await it.submitter.submit(tasks.note.options(delay_s=delay), "x")
        assert it.broker.depths()[queue].ready == 1


async def test_a_moment_in_the_past_is_now():
    async with alone() as it:
        await it.submitter.submit(tasks.note.options(not_before=datetime.now(UTC) - timedelta(days=1)), "x")
        assert it.broker.depths()["tasks.normal"].ready == 1


async def test_wrong_arguments_and_impossible_needs_are_refused_before_anything_is_sent():
    async with alone() as it:
        with pytest.raises(TaskArgumentError):
            await it.submitter.submit(tasks.add, 1)
        with pytest.raises(NoTierFits, match="heavy, has"):
            await it.submitter.submit(tasks.note.options(cpu=8), "x")
        with pytest.raises(NoTierFits, match="no tier 'huge'"):
            await it.submitter.submit(tasks.note.options(tier="huge"), "x")
        with pytest.raises(NoTierFits, match="do not fit into tier light"):
            await it.submitter.submit_raw("t", msgspec.Raw(b"{}"), tier="light", cpu=0.6)
        assert not any(each.ready for each in it.broker.depths().values())


async def test_a_time_limit_that_the_broker_would_not_wait_for_is_refused():
    async with alone() as it:
        with pytest.raises(
            TaskDefinitionError, match=r"^task tests\..*note: its time_limit of 1741 s is more than the 174"
        ):
            await it.submitter.submit(tasks.note.options(time_limit=1741), "x")
        with pytest.raises(TaskDefinitionError, match=r"^task t: its time_limit of 1741 s"):
            await it.submitter.submit_raw("t", msgspec.Raw(b"{}"), time_limit=1741)
        await it.submitter.submit(tasks.note.options(time_limit=1740), "x")
        assert [task.time_limit for task in await it.queued("tasks.normal")] == [1740]


async def test_a_task_by_its_name_is_submitted_and_answered():
    async with fog() as system:
        handle = await system.submitter.submit_raw(tasks.add.name, msgspec.Raw(b'{"a": 2, "b": 3}'), priority="high")
        assert await handle.result(5) == 5


async def test_what_the_broker_did_not_take_rides_on_the_error_and_keeps_its_id():
    async with alone() as it:
        it.broker.faults.refuse("tasks.normal")
        with pytest.raises(QueueFull) as refused:
            await it.submitter.submit(tasks.note, "x")
        assert decode(refused.value.unsent.body, Task).id.startswith(it.submitter.id)
        it.broker.faults.down()
        began = anyio.current_time()
        with pytest.raises(BusUnavailable) as away:
            await it.submitter.submit(tasks.note, "x")
        assert anyio.current_time() - began < 1
        assert decode(away.value.unsent.body, Task).name == tasks.note.name


# -- waiting


async def test_a_result_that_was_there_before_anybody_asked():
    async with alone() as it:
        await it.record("a-1", state="succeeded", value=msgspec.Raw(b"7"))
        assert await it.submitter.handle("a-1").result(1) == 7


async def test_many_wait_for_one_result():
    async with fog() as system:
        handle = await system.submit(tasks.hold, "a")
        got = []

        async def wait(each):
            got.append(await each.result(5))

        async with anyio.create_task_group() as group:
            for each in (handle, handle, system.submitter.handle(handle.id)):
                group.start_soon(wait, each)
            await anyio.sleep(0.02)
            tasks.gate("a").set()
        assert got == ["a"] * 3
        assert not system.submitter._waiting


async def test_a_notice_wakes_the_waiting_at_once(monkeypatch):
    monkeypatch.setattr(client, "POLL_S", 60)
    async with fog() as system:
        assert await (await system.submit(tasks.nap, 0.05)).result(5) == 0.05


async def test_a_lost_notice_only_costs_a_poll():
    async with fog() as system:
        system.store.drop_notices = True
        assert await (await system.submit(tasks.nap, 0.05)).result(5) == 0.05
        assert system.store.notices_lost > 0


async def test_a_submitter_listens_again_when_the_store_comes_back(monkeypatch):
    async with fog() as system:
        system.store.away = True
        async with Submitter(system.bus, MemoryCoord(system.store), system.tiers) as submitter:
            handle = await submitter.submit(tasks.hold, "a")
            await eventually(lambda: tasks.runs["a"] == 1, "it runs")
            system.store.away = False
            channel = f"fog:done:{submitter.id}"
            await eventually(lambda: channel in system.store._listeners, "it listens")
            monkeypatch.setattr(client, "POLL_S", 60)
            tasks.gate("a").set()
            assert await handle.result(5) == "a"


async def test_a_timeout_says_of_what_and_for_how_long_and_why():
    async with alone() as it:
        handle = it.submitter.handle("a-1")
        with pytest.raises(ResultTimeout, match=r"^no result of a-1 within 0\.05 s; it may still run$"):
            await handle.result(0.05)
        it.store.away = True
        with pytest.raises(ResultTimeout, match="the coordination store is away: the coordination store cannot be"):
            await handle.result(0.05)
        assert not it.submitter._waiting


@pytest.mark.parametrize("names", [(), ("result",)], ids=["no result", "a store that hangs"])
async def test_on_closing_nobody_goes_on_waiting_for_a_result(names):
    began, ended = anyio.current_time(), []

    async def wait(submitter, task_id):
        with pytest.raises(SubmitterClosed, match=f"no result of {task_id}: .* the task goes on"):
            await submitter.wait(task_id, 60)
        ended.append(task_id)

    async with anyio.create_task_group() as waiting:
        async with alone(lambda coord: Hanging(coord, *names)) as it:
            waiting.start_soon(wait, it.submitter, "a")
            waiting.start_soon(wait, it.submitter, "b")
            await eventually(lambda: len(it.submitter._waiting) == 2, "both wait")
        waiting.start_soon(wait, it.submitter, "later")
    assert sorted(ended) == ["a", "b", "later"]
    assert anyio.current_time() - began < 5
    assert not it.submitter._waiting


async def test_a_store_that_hangs_does_not_hold_a_waiting_longer_than_its_timeout():
    async with alone(lambda coord: Hanging(coord, "result")) as it:
        with pytest.raises(ResultTimeout):
            await it.submitter.handle("a-1").result(0.1)


@pytest.mark.parametrize(
    ("state", "error", "text"),
    [
        ("failed", TaskFailed, "KeyError: 'x'"),
        ("worker_lost", WorkerLost, "t a-1 was given up: 'x'"),
        ("expired", TaskExpired, "t a-1 expired: 'x'"),
        ("cancelled", TaskCancelled, "t a-1 was cancelled"),
    ],
)
async def test_each_end_that_is_no_success_is_an_error_of_its_own(state, error, text):
    result = TaskResult(
        task_id="a-1",
        name="t",
        state=state,
        error=ErrorInfo(type="KeyError", message="'x'"),
        finished=datetime.now(UTC),
    )
    with pytest.raises(error) as raised:
        result_value(result)
    assert str(raised.value) == text
    if state == "failed":
        assert (raised.value.type, raised.value.detail, raised.value.task_id) == ("KeyError", "'x'", "a-1")


async def test_the_bodys_own_error_leaves_a_submitter_as_it_was():
    with pytest.raises(ValueError, match="mine"):
        async with alone():
            raise ValueError("mine")


async def test_ids_are_unique_and_lead_back_to_their_submitter():
    async with alone() as it:
        ids = [(await it.submitter.submit(tasks.note, "x")).id for _ in range(100)]
        assert len(set(ids)) == 100
        assert {each.rpartition("-")[0] for each in ids} == {it.submitter.id}

"""Queues of tasks: on the embedded broker and on RabbitMQ alike. What goes wrong is in `test_taskqueue_trouble.py`."""

from __future__ import annotations

import math
import threading
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Any

import anyio
import anyio.from_thread
import pytest
from msgspec import Struct

from fogactors import PermanentError, RetryableError, RetryPolicy, Skip
from fogactors.bus import Message
from fogactors.core import Events
from fogactors.errors import (
    ConfigError,
    MessageTooLarge,
    ResultTimeout,
    SpecError,
    TaskCancelled,
    TaskExpired,
    TaskFailed,
    TopologyMismatch,
    WireError,
)
from fogactors.messaging import EventBus, QueueTask, TaskHandle, TaskQueue, correlated, correlation_id
from fogactors.tasks.events import TaskDeadLettered, TaskRetried
from fogactors.tasks.orders import Orders
from fogactors.testing import EventRecorder
from fogactors.wire import Exchange, Topology
from fogactors.wire.topology import TASKS
from fogactors.wire.work import declared_work, work_queue

from .conftest import OpenPlace, Place
from .support import DEADLINE_S, Got, eventually, word

pytestmark = pytest.mark.asyncio


@asynccontextmanager
async def queue_at(place: Place, name: str, **options: Any) -> AsyncIterator[TaskQueue]:
    async with TaskQueue(place.url, name, **{"store": place.store, **options}) as queue:
        yield queue


class Gate:
    """A handler that waits to be let through, and knows which tasks it was given."""

    def __init__(self) -> None:
        self.got = Got()
        self.open = anyio.Event()

    async def __call__(self, task: QueueTask[Any]) -> Any:
        self.got.add(task.data)
        await self.open.wait()
        return task.data


# -- from submit to result


async def test_a_task_is_done_by_a_worker_and_its_result_comes_back(open_place: OpenPlace):
    async with open_place() as place, queue_at(place, word()) as queue, queue_at(place, queue.name) as worker:
        seen = Got()

        @worker.handler("research_paper")
        async def research(task: QueueTask[dict[str, str]]) -> dict[str, Any]:
            seen.add(task)
            return {"results": [task.data["query"]]}

        handle = await queue.submit("research_paper", {"query": "print failures"}, priority=7, max_retries=2)
        await worker.start()
        assert await handle.result(timeout=DEADLINE_S) == {"results": ["print failures"]}
        (task,) = seen.all
        assert (task.task_id, task.task_type, task.data) == (handle, "research_paper", {"query": "print failures"})
        assert (task.priority, task.retry_count, task.max_retries, task.queue) == (7, 0, 2, queue.name)
        assert abs(task.submitted - datetime.now(UTC)) < timedelta(minutes=1)
        assert task.correlation_id == handle
        outcome = await handle.outcome(timeout=1)
        assert (outcome.state, outcome.attempts, outcome.worker) == ("succeeded", 1, f"{worker.source}/{queue.name}")


async def test_a_handle_is_the_id_as_text_and_can_be_made_of_it_anywhere(open_place: OpenPlace):
    async with open_place() as place, queue_at(place, word()) as queue:
        queue.register_handler("echo", _echo)
        await queue.start()
        handle = await queue.submit("echo", 7)
        told = f"{handle}"
        assert isinstance(handle, str)
        assert handle == told == handle.task_id
        assert type(handle.task_id) is str
        async with queue_at(place, queue.name) as elsewhere:
            assert await elsewhere.handle(told).result(timeout=DEADLINE_S, returns=int) == 7
            with pytest.raises(WireError, match="not what was asked for"):
                await elsewhere.handle(told).result(timeout=1, returns=str)
        # Text goes into whatever an application sends.
        assert await (await queue.submit("echo", {"task": handle})).result(timeout=DEADLINE_S) == {"task": told}


async def _echo(task: QueueTask[Any]) -> Any:
    return task.data


async def test_what_is_submitted_before_there_is_a_worker_waits_for_one(open_place: OpenPlace):
    name = word()
    async with open_place() as place:
        async with queue_at(place, name) as queue:
            handle = await queue.submit("echo", 1)
            assert await queue.size() == 1
        async with queue_at(place, name) as worker:
            worker.register_handler("echo", _echo)
            await worker.start()
            assert await worker.handle(handle).result(timeout=DEADLINE_S) == 1
            assert await worker.size() == 0


async def test_workers_share_a_queue_and_queues_have_nothing_in_common(open_place: OpenPlace):
    async with open_place() as place, queue_at(place, word()) as one, queue_at(place, one.name) as two:
        gates = {"one": Gate(), "two": Gate()}
        async with queue_at(place, word()) as other:
            others = Got()
            other.register_handler("t", others.hear)
            one.register_handler("t", gates["one"])
            two.register_handler("t", gates["two"])
            for each in (one, two, other):
                await each.start()
            for number in range(2):
                await one.submit("t", number)
            await eventually(lambda: all(len(gate.got.all) == 1 for gate in gates.values()), "each has one")
            await other.submit("t", "other")
            await others.wait(1)
            assert sorted(gates["one"].got.all + gates["two"].got.all) == [0, 1]
            for gate in gates.values():
                gate.open.set()


# -- handlers


class Paper(Struct):
    query: str
    limit: int = 10


@dataclass
class Found:
    at: datetime


async def test_data_and_results_are_typed_by_annotation(open_place: OpenPlace):
    async with open_place() as place, queue_at(place, word()) as queue:
        at = datetime(2026, 1, 2, tzinfo=UTC)

        @queue.handler("paper")
        async def paper(task: QueueTask[Paper]) -> Found:
            assert task.data == Paper("x")
            return Found(at)

        class Service:
            def found(self, task: QueueTask[Found]) -> datetime:
                return task.data.at

        queue.register_handler("found", Service().found)
        queue.register_handler("typed", lambda task: task.data.isoformat(), data_type=datetime)
        await queue.start()
        handle = await queue.submit("paper", Paper("x"))
        assert await handle.result(timeout=DEADLINE_S, returns=Found) == Found(at)
        assert await (await queue.submit("found", Found(at))).result(timeout=DEADLINE_S, returns=datetime) == at
        assert await (await queue.submit("typed", at)).result(timeout=DEADLINE_S) == at.isoformat()
        wrong = await queue.submit("paper", {"query": 7})
        with pytest.raises(TaskFailed, match=r"does not fit.*Expected `str`, got `int`"):
            await wrong.result(timeout=DEADLINE_S)


async def test_a_plain_function_runs_in_a_thread_and_holds_up_nobody(open_place: OpenPlace):
    async with open_place() as place, queue_at(place, word()) as queue:
        go, threads = threading.Event(), list[int]()

        @queue.handler("slow")
        def slow(task: QueueTask[int]) -> int:
            threads.append(threading.get_ident())
            assert go.wait(DEADLINE_S)
            return task.data

        queue.register_handler("quick", _echo)
        await queue.start(concurrency=2)
        blocked = await queue.submit("slow", 1)
        assert await (await queue.submit("quick", 2)).result(timeout=DEADLINE_S) == 2
        go.set()
        assert await blocked.result(timeout=DEADLINE_S) == 1
        assert threads[0] != threading.get_ident()


async def test_whatever_can_be_called_with_a_task_is_a_handler():
    async with TaskQueue(f"memory://{word()}", "t") as queue:

        async def named(name: str, task: QueueTask[Any]) -> str:
            return name

        class Doubles:
            async def __call__(self, task: QueueTask[int]) -> int:
                return task.data * 2

        queue.register_handler("partial", partial(named, "partial"))
        queue.register_handler("object", Doubles())
        queue.register_handler("lambda", lambda task: named("lambda", task))
        await queue.start(concurrency=3)
        results = {name: await queue.submit(name, 4, max_retries=0) for name in ("partial", "object", "lambda")}
        assert await results["partial"].result(timeout=DEADLINE_S) == "partial"
        assert await results["object"].result(timeout=DEADLINE_S) == 8
        with pytest.raises(TaskFailed, match="make it `async def`"):
            await results["lambda"].result(timeout=DEADLINE_S)


async def test_a_conversation_flows_through_tasks_and_events_by_itself(open_place: OpenPlace):
    async with open_place() as place, queue_at(place, word()) as queue, EventBus(place.url, source="shop") as bus:
        s, heard, told = word(), Got(), Got()

        @queue.handler("first")
        async def first(task: QueueTask[Any]) -> None:
            await queue.submit("second")

        @queue.handler("second")
        def second(task: QueueTask[Any]) -> None:
            heard.add_from_thread((task.correlation_id, correlation_id()))
            anyio.from_thread.run(bus.publish, f"{s}.done")

        await bus.subscribe(f"{s}.#", told.hear)
        await queue.start()
        with correlated("request-7"):
            await queue.submit("first")
        (event,) = await told.wait(1)
        assert event.correlation_id == "request-7"
        assert heard.all == [("request-7", "request-7")]
        assert event.causation_id not in (None, "request-7")


# -- priorities


async def test_a_higher_band_goes_first_and_within_one_they_come_in_order(open_place: OpenPlace):
    async with open_place() as place, queue_at(place, word()) as queue:
        order = Got()

        @queue.handler("t")
        async def handle(task: QueueTask[int]) -> None:
            order.add((task.priority, task.data))
            await anyio.sleep(0.02)  # so that all that the broker has to hand over is here before the next is chosen

        for number, priority in enumerate((0, 3, 5, 4, 7, 10, 6, 8, 1)):
            await queue.submit("t", number, priority=priority)
        await queue.start(prefetch=9)
        await order.wait(9)
        first, rest = order.all[0], order.all[1:]
        expected = [(7, 4), (10, 5), (8, 7), (5, 2), (4, 3), (6, 6), (0, 0), (3, 1), (1, 8)]
        expected.remove(first)  # the first starts when it comes, and any queue may be the first that is opened
        assert rest == expected


async def test_a_high_one_waits_behind_no_more_than_what_runs_and_low_ones_get_on(open_place: OpenPlace):
    async with open_place() as place, queue_at(place, word()) as queue:
        order = Got()

        @queue.handler("t")
        async def handle(task: QueueTask[str]) -> None:
            order.add(task.data)
            await anyio.sleep(0.01)

        concurrency = 3
        for _ in range(60):
            await queue.submit("t", "low", priority=0)
        await queue.start(concurrency=concurrency)
        await order.wait(6)
        started = len(order.all)
        await queue.submit("t", "high", priority=9)
        submitted = len(order.all)
        await eventually(lambda: "high" in order.all, "it started")
        # What was started while it was on its way, and one for each slot that was taken when it came.
        assert order.all.index("high") - submitted <= concurrency
        assert started < 60


async def test_while_high_ones_wait_low_ones_get_one_start_in_ten(open_place: OpenPlace):
    async with open_place() as place, queue_at(place, word()) as queue:
        order = Got()

        @queue.handler("t")
        async def handle(task: QueueTask[str]) -> None:
            order.add(task.data)
            await anyio.sleep(0.05)

        for number in range(90):
            await queue.submit("t", *(("low", 0) if number < 30 else ("high", 9)))
        await queue.start(concurrency=2, prefetch=4)
        await order.wait(44)
        lows = order.all[4:44].count("low")  # the first few start before all queues are open
        assert 3 <= lows <= 10  # four, and some more where the broker is slow to hand over the next


@asynccontextmanager
async def levels_at(place: Place, name: str) -> AsyncIterator[TaskQueue]:
    """Skips where the broker is too old, after seeing that this is said."""
    async with queue_at(place, word()) as queue:
        version = queue.session.bus.version
    assert version >= (4, 0)
    if version < (4, 3):
        with pytest.raises(ConfigError, match=rf"needs RabbitMQ 4\.3, and this is 4\.{version[1]}; use 'bands'"):
            async with queue_at(place, name, priority="levels"):
                raise AssertionError
        pytest.skip("levels are refused, as they should be")
    async with queue_at(place, name, priority="levels") as queue:
        yield queue


async def test_levels_are_strict_where_the_broker_knows_them(open_place: OpenPlace):
    async with open_place() as place, levels_at(place, word()) as queue:
        order = Got()

        @queue.handler("t")
        async def handle(task: QueueTask[int]) -> None:
            if task.data == 0 and task.retry_count == 0:
                raise ValueError
            order.add((task.priority, task.data))

        for number, priority in enumerate((0, 10, 3, 7, 3, 10, 4)):
            await queue.submit("t", number, priority)
        await eventually(lambda: _is(queue.size, 7), "all wait in one queue")
        await queue.start()
        await order.wait(7)
        # The one that failed comes back a second later, when all others are done; `priority` is what was submitted.
        assert order.all == [(10, 1), (10, 5), (7, 3), (4, 6), (3, 2), (3, 4), (0, 0)]


async def test_a_delay_of_a_low_level_is_not_held_up_by_those_of_high_ones(open_place: OpenPlace):
    async with open_place() as place, levels_at(place, word()) as queue:
        order = Got()
        queue.register_handler("t", order.hear)
        await queue.start()
        began = anyio.current_time()
        await queue.submit("t", "low", 0, delay=4)
        for _ in range(4):
            await anyio.sleep(0.75)
            await queue.submit("t", "high", 10, delay=4)
        await eventually(lambda: any(task.data == "low" for task in order.all), "it has come")
        assert anyio.current_time() - began < 5.5


async def test_a_busy_worker_holds_no_more_than_its_prefetch(open_place: OpenPlace):
    async with open_place() as place, queue_at(place, word()) as queue:
        gate = Gate()
        queue.register_handler("t", gate)
        for number in range(10):
            await queue.submit("t", number)
        await queue.start(concurrency=2, prefetch=3)
        await gate.got.wait(2)
        await eventually(lambda: _is(queue.size, 7), "three are here")
        gate.open.set()
        await gate.got.wait(10)
        assert gate.got.all == list(range(10))


async def _is(size: Any, wanted: int) -> bool:
    return await size() == wanted


# -- failing


async def test_what_fails_is_tried_again_with_growing_waits_then_a_dead_letter(open_place: OpenPlace):
    events = Events()
    recorder = EventRecorder(events)
    async with open_place() as place, queue_at(place, word(), events=events) as queue:
        seen = Got()

        @queue.handler("fails")
        async def fails(task: QueueTask[Any]) -> None:
            seen.add((task.retry_count, task.max_retries))
            raise ValueError("no luck")

        await queue.start()
        handle = await queue.submit("fails", max_retries=1)
        with pytest.raises(TaskFailed, match="ValueError: no luck"):
            await handle.result(timeout=DEADLINE_S)
        assert seen.all == [(0, 1), (1, 1)]
        (retried,) = recorder.of(TaskRetried)
        assert retried.delay_s == 1
        (dead,) = recorder.of(TaskDeadLettered)
        assert (dead.reason, dead.task_id, dead.origin) == ("failed", handle, work_queue(queue.name))
        assert (await handle.outcome(1)).attempts == 2


async def test_retries_wait_longer_each_time_as_the_handler_or_its_policy_says():
    events = Events()
    recorder = EventRecorder(events)
    async with TaskQueue(f"memory://{word()}", "t", events=events) as queue:

        @queue.handler("policy", retry=RetryPolicy(first_s=1, factor=2, jitter=False))
        async def policy(task: QueueTask[Any]) -> None:
            raise OSError

        @queue.handler("asks")
        async def asks(task: QueueTask[Any]) -> None:
            if task.retry_count < 2:
                raise RetryableError("not now", delay=0.5 + task.retry_count)

        await queue.start()
        await queue.submit("policy", max_retries=2)
        handle = await queue.submit("asks")
        assert await handle.result(timeout=DEADLINE_S) is None
        await recorder.wait_for(TaskDeadLettered, timeout=DEADLINE_S)
        waits = {
            name: [each.delay_s for each in recorder.of(TaskRetried) if each.name == name]
            for name in ("policy", "asks")
        }
        assert waits == {"policy": [1, 2], "asks": [0.5, 1.5]}


async def test_a_permanent_error_is_a_dead_letter_at_once_and_a_retryable_one_ends_as_any(open_place: OpenPlace):
    async with open_place() as place, queue_at(place, word()) as queue:
        runs = Got()

        @queue.handler("never")
        async def never(task: QueueTask[Any]) -> None:
            runs.add("never")
            raise PermanentError("no such printer")

        @queue.handler("later", retry=RetryPolicy(retry_on=()))
        def later(task: QueueTask[Any]) -> None:
            runs.add_from_thread("later")
            raise RetryableError("busy")

        @queue.handler("nothing")
        async def nothing(task: QueueTask[Any]) -> None:
            raise Skip

        await queue.start()
        with pytest.raises(TaskFailed, match="PermanentError: no such printer"):
            await (await queue.submit("never", max_retries=5)).result(timeout=DEADLINE_S)
        with pytest.raises(TaskFailed, match="RetryableError: busy"):
            await (await queue.submit("later", max_retries=1)).result(timeout=DEADLINE_S)
        assert await (await queue.submit("nothing")).result(timeout=DEADLINE_S) is None
        assert runs.all == ["never", "later", "later"]


async def test_a_task_over_its_time_limit_has_failed(open_place: OpenPlace):
    async with open_place() as place, queue_at(place, word()) as queue:
        hangs = anyio.Event()

        @queue.handler("hangs", time_limit=0.1)
        async def hang(task: QueueTask[Any]) -> None:
            try:
                await anyio.sleep_forever()
            finally:
                hangs.set()

        await queue.start()
        for options in ({}, {"time_limit": 0.05}):
            handle = await queue.submit("hangs", max_retries=0, **options)
            with pytest.raises(TaskFailed, match=f"longer than its time limit of {options.get('time_limit', 0.1)} s"):
                await handle.result(timeout=DEADLINE_S)
        assert hangs.is_set()


async def test_a_task_of_a_type_that_nobody_handles_is_a_dead_letter_that_says_so(open_place: OpenPlace):
    async with open_place() as place, queue_at(place, word()) as queue:
        queue.register_handler("known", _echo)
        await queue.start()
        with pytest.raises(TaskFailed, match=rf"worker of {queue.name} has no handler of 'unknown' \(it has: known\)"):
            await (await queue.submit("unknown")).result(timeout=DEADLINE_S)


# -- later, once, not at all


async def test_a_delayed_task_starts_at_its_time_and_holds_up_nobody(open_place: OpenPlace):
    async with open_place() as place, queue_at(place, word()) as queue:
        order = Got()
        queue.register_handler(
            "t", lambda task: order.add_from_thread((task.data, anyio.from_thread.run_sync(anyio.current_time)))
        )
        await queue.start()
        began = anyio.current_time()
        await queue.submit("t", "later", delay=2, priority=10)
        await queue.submit("t", "now", delay=0)
        (first, _), (second, at) = await order.wait(2)
        assert (first, second) == ("now", "later")
        assert 1 <= at - began < 5


async def test_a_task_that_has_not_started_in_time_is_not_run(open_place: OpenPlace):
    async with open_place() as place, queue_at(place, word()) as queue:
        got = Got()
        queue.register_handler("t", got.hear)
        handle = await queue.submit("t", deadline=0.01)
        await anyio.sleep(0.05)
        await queue.start()
        with pytest.raises(TaskExpired):
            await handle.result(timeout=DEADLINE_S)
        assert not got.all


async def test_the_same_key_twice_is_one_task(open_place: OpenPlace):
    async with open_place() as place, queue_at(place, word()) as queue, queue_at(place, queue.name) as other:
        got = Got()
        queue.register_handler("pay", got.hear)
        queue.register_handler("ship", got.hear)
        first = await queue.submit("pay", 1, idempotency_key="order-7")
        again = [await each.submit("pay", 2, idempotency_key="order-7") for each in (queue, other)]
        assert again == [first, first]
        assert await queue.submit("ship", 3, idempotency_key="order-7") != first
        await queue.start()
        await got.wait(2)
        assert await queue.submit("pay", 4, idempotency_key="order-7") == first  # also once it has run
        assert await queue.submit("pay", 5, idempotency_key="order-8") != first
        await got.wait(3)
        assert sorted(task.data for task in got.all) == [1, 3, 5]
        async with queue_at(place, word()) as another:  # a key is its queue's
            assert await another.submit("pay", 6, idempotency_key="order-7") != first


async def test_a_key_is_free_again_after_its_time(open_place: OpenPlace):
    async with open_place() as place, queue_at(place, word(), idempotency_ttl_s=0.3) as queue:
        first = await queue.submit("pay", 1, idempotency_key="order-7")

        async def is_free() -> bool:
            return await queue.submit("pay", 2, idempotency_key="order-7") != first

        await eventually(is_free, "the key is free")


async def test_a_task_is_cancelled_wherever_it_is(open_place: OpenPlace):
    async with open_place() as place, queue_at(place, word()) as queue, queue_at(place, queue.name) as asker:
        gate, ended = Gate(), anyio.Event()

        @queue.handler("runs")
        async def runs(task: QueueTask[Any]) -> None:
            try:
                await gate(task)
            finally:
                ended.set()

        running, queued = await queue.submit("runs", "running"), await queue.submit("runs", "queued")
        delayed = await queue.submit("runs", "delayed", delay=2)
        await queue.start()
        await gate.got.wait(1)
        told = await asker.handle(running).cancel()
        assert (told.state, told.found, told.worker) == ("cancelled", "running", f"{queue.source}/{queue.name}")
        await ended.wait()
        await gate.got.wait(2)
        gate.open.set()
        await queued.result(timeout=DEADLINE_S)
        assert (await delayed.cancel()).found == "not held"
        for handle in (running, delayed):
            with pytest.raises(TaskCancelled):
                await handle.result(timeout=DEADLINE_S)
        assert (await queued.cancel()).state == "succeeded"  # it had ended, and keeps its end
        last = await queue.submit("runs", "last", delay=3)  # behind the one that is not to run
        await last.result(timeout=DEADLINE_S)
        assert gate.got.all == ["running", "queued", "last"]


async def test_a_thread_cannot_be_cancelled_and_the_answer_says_so(open_place: OpenPlace):
    async with open_place() as place, queue_at(place, word()) as queue:
        go, runs = threading.Event(), Got()

        @queue.handler("blocks")
        def blocks(task: QueueTask[Any]) -> None:
            runs.add_from_thread(task.task_id)
            assert go.wait(DEADLINE_S)

        await queue.start()
        handle = await queue.submit("blocks")
        await runs.wait(1)
        told = await handle.cancel()
        assert told.state == "cancelled"
        assert "cannot be stopped" in told.note
        go.set()
        with pytest.raises(TaskCancelled):
            await handle.result(timeout=DEADLINE_S)


# -- what is known of it


async def test_status_and_progress_tell_where_it_is_and_how_far(open_place: OpenPlace):
    async with open_place() as place, queue_at(place, word()) as queue, queue_at(place, queue.name) as asker:
        steps, said, go = {1: anyio.Event(), 2: anyio.Event()}, Got(), anyio.Event()

        @queue.handler("long")
        async def long(task: QueueTask[Any]) -> str:
            said.add("started")
            await steps[1].wait()
            task.progress(0.25, "page 1 of 4")
            said.add("told")
            await steps[2].wait()
            with pytest.raises(ValueError, match="from 0 to 1"):
                task.progress(25)
            return "done"

        handle = await asker.submit("long")
        status = await handle.status()
        assert (status.state, status.progress) == ("queued or unknown", None)
        await queue.start()
        await said.wait(1)
        status = await handle.status()
        assert (status.state, status.attempts, status.progress) == ("running", 1, None)
        assert status.worker == f"{queue.source}/{queue.name}"
        steps[1].set()
        await said.wait(2)
        status = await handle.status()
        assert (status.progress, status.note) == (0.25, "page 1 of 4")
        assert await handle.progress() == 0.25
        go.set()
        steps[2].set()
        assert await handle.result(timeout=DEADLINE_S) == "done"
        status = await handle.status()
        assert (status.state, status.name, status.attempts) == ("succeeded", "long", 1)
        assert await handle.progress() == 1


async def test_a_worker_answers_pings_and_leaves_other_orders_to_others(open_place: OpenPlace):
    async with open_place() as place, queue_at(place, word(), source="node-7") as queue:
        queue.register_handler("t", _echo)
        await queue.start()
        orders = Orders(queue.session.bus)
        role = f"task-queue-{queue.name}"
        (reply,) = await orders.ask("ping", role=role, enough=bool)
        assert (reply.node, reply.role, reply.error) == ("node-7", role, None)
        assert await orders.ask("drain", role=role, wait_s=0.2) == []
        assert await (await queue.submit("t", 1)).result(timeout=DEADLINE_S) == 1
        await orders.close()


async def test_a_result_that_is_not_there_in_time_is_said_so(open_place: OpenPlace):
    async with open_place() as place, queue_at(place, word()) as queue:
        handle = await queue.submit("t")
        with pytest.raises(ResultTimeout, match=f"no result of {handle} within 0.1 s"):
            await handle.result(timeout=0.1)


# -- without a store, with another exchange, by another hand


async def test_without_a_store_tasks_are_done_and_what_needs_one_is_refused(open_place: OpenPlace):
    async with open_place() as place:
        if place.url.startswith("memory:"):
            pytest.skip("there it has the store of its URL")
        async with queue_at(place, word(), store=None) as queue:
            got, gate = Got(), Gate()

            @queue.handler("fails")
            async def fails(task: QueueTask[Any]) -> None:
                got.add(task.retry_count)
                if task.retry_count == 0:
                    raise ValueError

            queue.register_handler("waits", gate)
            await queue.start(concurrency=2)
            await queue.submit("fails")
            await got.wait(2)
            handle = await queue.submit("waits", "x")
            await gate.got.wait(1)
            assert (await handle.status()).state == "running"
            for what in (handle.result(1), handle.cancel(), queue.submit("t", idempotency_key="k")):
                with pytest.raises(ConfigError, match=rf"{queue.name}: .* it has no store; give it one"):
                    await what
            gate.open.set()


async def test_another_exchange_and_a_declared_queue(open_place: OpenPlace):
    async with open_place() as place:
        name, exchange = word(), f"{word()}.tasks"
        with pytest.raises(TopologyMismatch, match=r"exchange .* is missing"):
            async with queue_at(place, name, exchange=exchange):
                raise AssertionError
        async with queue_at(place, word()) as any_queue:
            await any_queue.session.bus.declare(Topology(exchanges=(Exchange(exchange, "direct"),)))
            with pytest.raises(TopologyMismatch, match=f"queue '?{name}.* is missing.*actors.toml"):
                async with queue_at(place, name, exchange=exchange, declared=True):
                    raise AssertionError
            topology = declared_work(name, exchange, max_length=5)
            for each in topology.queues:
                await place.limit(each)
            await any_queue.session.bus.declare(topology)
        for declared in (True, False):
            async with queue_at(place, name, exchange=exchange, declared=declared) as queue:
                runs = Got()

                @queue.handler("t")
                async def handle(task: QueueTask[Any], runs: Got = runs) -> Any:
                    runs.add(task.data)
                    if task.data == "fails" and task.retry_count == 0:
                        raise ValueError
                    return task.data

                await queue.start()
                handles = [
                    await queue.submit("t", data, priority=p) for data, p in (("low", 0), ("high", 9), ("fails", 5))
                ]
                later = await queue.submit("t", "later", delay=1)
                results = [await each.result(timeout=DEADLINE_S) for each in (*handles, later)]
                assert results == ["low", "high", "fails", "later"]
                assert len(runs.all) == 5


async def test_a_foreign_task_needs_no_more_than_the_required_fields(open_place: OpenPlace):
    async with open_place() as place, queue_at(place, word()) as queue:
        got = Got()
        queue.register_handler("t", got.hear)
        await queue.start()
        key = work_queue(queue.name)
        body = b'{"schema":"task/1","id":"shell-1","name":"t","args":[1],"created":"2025-11-16T12:00:00Z","new":1}'
        await queue.session.bus.publish(TASKS, key, Message(body))
        (task,) = await got.wait(1)
        assert (task.task_id, task.data, task.priority, task.max_retries) == ("shell-1", [1], 5, 0)
        assert await queue.handle("shell-1").result(timeout=DEADLINE_S) is None


# -- what is refused


async def test_what_is_wrong_is_said_at_once(open_place: OpenPlace):
    async with open_place() as place, queue_at(place, word(), max_body=800) as queue:
        for priority in (-1, 11, 2.5):
            with pytest.raises(ConfigError, match="a priority is a whole number from 0 to 10"):
                await queue.submit("t", priority=priority)  # pyright: ignore[reportArgumentType]
        for options in ({"max_retries": -1}, {"delay": -1}, {"delay": math.nan}, {"time_limit": 0}, {"deadline": 0}):
            with pytest.raises(ConfigError, match=next(iter(options))):
                await queue.submit("t", **options)  # pyright: ignore[reportArgumentType]
        for wrong in ("", "a b", "x" * 201):
            with pytest.raises(ConfigError, match="type of a task"):
                await queue.submit(wrong)
            with pytest.raises(ConfigError, match="type of a task"):
                queue.register_handler(wrong, _echo)
        with pytest.raises(WireError, match="no JSON form"):
            await queue.submit("t", object())
        with pytest.raises(MessageTooLarge):
            await queue.submit("t", "x" * 800)
        with pytest.raises(ConfigError, match="time_limit"):
            await queue.submit("t", time_limit=10_000)
        with pytest.raises(ConfigError, match="no handler"):
            await queue.start()
        with pytest.raises(ConfigError, match="cannot handle tasks"):
            queue.register_handler("t", lambda: None)  # pyright: ignore[reportArgumentType]
        with pytest.raises(ConfigError, match="at most 1740 s"):
            queue.register_handler("t", _echo, time_limit=1800)
        queue.register_handler("t", _echo)
        with pytest.raises(ConfigError, match="already"):
            queue.register_handler("t", _echo)
        with pytest.raises(ConfigError, match="concurrency"):
            await queue.start(concurrency=2, prefetch=1)
        await queue.start()
        with pytest.raises(SpecError, match="already"):
            await queue.start()
        await queue.stop()
        await queue.stop()  # it does not work any more
        await queue.start()


async def test_a_queue_that_cannot_be_is_refused():
    for name in ("", "a b", ".a", "x" * 101, "tasks.high", "tasks.low"):
        with pytest.raises(ConfigError, match="cannot be a task queue"):
            TaskQueue("memory://", name)
    for wrong in ({"priority": "strict"}, {"result_ttl_s": 0}, {"idempotency_ttl_s": math.inf}):
        with pytest.raises(ConfigError, match=next(iter(wrong))):
            TaskQueue("memory://", "t", **wrong)  # pyright: ignore[reportArgumentType]
    with pytest.raises(ConfigError, match="URL of a store"):
        async with TaskQueue("memory://", "t", store="http://x"):
            raise AssertionError
    with pytest.raises(RuntimeError, match="not open"):
        await TaskQueue("memory://", "t").submit("t")
    with pytest.raises(RuntimeError, match="not open"):
        await TaskHandle("x", TaskQueue("memory://", "t")).status()

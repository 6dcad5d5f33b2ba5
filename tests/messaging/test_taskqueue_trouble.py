"""Queues of tasks when something goes wrong, on the embedded broker and on RabbitMQ alike."""

from __future__ import annotations

import logging
import os
import signal
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from typing import Any

import anyio
import pytest

from fogactors import PermanentError
from fogactors.bus import Delivery, Message
from fogactors.core import Events
from fogactors.errors import BusUnavailable, CoordUnavailable, QueueFull
from fogactors.messages import DeadLetter
from fogactors.messaging import QueueTask, TaskQueue, embedded_broker
from fogactors.messaging.embedded import embedded_store
from fogactors.tasks.deadletter import from_delivery
from fogactors.tasks.events import TaskDeadLettered, TaskEnded, TaskHandedBack, TaskStarted
from fogactors.tasks.replay import replay_of
from fogactors.testing import EventRecorder
from fogactors.wire import Queue
from fogactors.wire.topology import DLQ, work_policy
from fogactors.wire.work import work_queue

from .conftest import MemoryPlace, OpenPlace, Place
from .support import DEADLINE_S, Got, eventually, word

RECENTLY = datetime(2026, 1, 2, tzinfo=UTC)

WORKER = """
import sys
import anyio
from fogactors import QueueTask, TaskQueue

async def main(url, name, store):
    async with TaskQueue(url, name, store=store, source="mortal") as queue:

        @queue.handler("long")
        async def long(task: QueueTask[object]) -> None:
            print("began", task.task_id, flush=True)
            await anyio.sleep_forever()

        await queue.run()

anyio.run(main, *sys.argv[1:])
"""


@asynccontextmanager
async def queue_at(place: Place, name: str, **options: Any) -> AsyncIterator[tuple[TaskQueue, EventRecorder]]:
    events = Events()
    async with TaskQueue(place.url, name, **{"store": place.store, "events": events, **options}) as queue:
        yield queue, EventRecorder(events)


async def letters(queue: TaskQueue, count: int) -> list[DeadLetter]:
    """So many dead letters of one queue, which lie in `dlq` because no reaper runs here."""
    found: dict[str, DeadLetter] = {}

    def take(delivery: Delivery) -> None:
        letter = from_delivery(delivery, at=RECENTLY)
        if (letter.origin or "").startswith(work_queue(queue.name)):
            found[letter.id] = letter

    consumer = await queue.session.bus.consume(DLQ, take, prefetch=1000)
    await eventually(lambda: len(found) >= count, f"{count} dead letters")
    await consumer.close()
    return sorted(found.values(), key=lambda letter: letter.id)


@asynccontextmanager
async def mortal_worker(place: Place, name: str) -> AsyncIterator[tuple[anyio.Event, Callable[[], None]]]:
    """A worker that begins a task and never ends it: an event for when it has begun, and what kills it. In a process of
    its own, or where the broker is in this one the loss of its connection stands for that of its process."""
    began = anyio.Event()
    if isinstance(place, MemoryPlace):
        with anyio.CancelScope() as scope:
            async with queue_at(place, name, source="mortal") as (queue, _), anyio.create_task_group() as tasks:

                @queue.handler("long")
                async def long(task: QueueTask[Any]) -> None:
                    began.set()
                    await anyio.sleep_forever()

                await queue.start()

                def kill() -> None:
                    place.broker.kill_connection(queue.session.name)
                    tasks.start_soon(queue.stop)  # it does not come back

                yield began, kill
                scope.cancel()
        return
    command = [sys.executable, "-c", WORKER, place.url, name, place.store]
    async with await anyio.open_process(command, stderr=None) as process, anyio.create_task_group() as tasks:

        async def listen() -> None:
            assert process.stdout is not None
            await process.stdout.receive()
            began.set()

        tasks.start_soon(listen)
        yield began, lambda: os.kill(process.pid, signal.SIGKILL)
        tasks.cancel_scope.cancel()


# -- workers that die


@pytest.mark.asyncio
async def test_a_task_whose_worker_is_killed_runs_again_and_has_one_end(open_place: OpenPlace):
    async with open_place() as place, queue_at(place, word()) as (queue, recorder):
        async with mortal_worker(place, queue.name) as (began, kill):
            handle = await queue.submit("long", 7)
            with anyio.fail_after(DEADLINE_S):
                await began.wait()

            @queue.handler("long")
            async def long(task: QueueTask[int]) -> int:
                assert task.retry_count == 0  # a crash is no failure of the task
                return task.data

            await queue.start()
            assert (await handle.status()).worker == f"mortal/{queue.name}"
            kill()
            assert await handle.result(timeout=DEADLINE_S) == 7
        assert len(recorder.of(TaskEnded)) == 1
        assert await queue.size() == 0


@pytest.mark.parametrize("stored", [True, False])
@pytest.mark.asyncio
async def test_what_takes_its_worker_down_each_time_is_a_dead_letter_and_its_neighbours_are_not(
    open_place: OpenPlace, stored: bool
):
    async with open_place() as place, queue_at(place, word(), store=place.store if stored else None) as (queue, _):
        got, runs = Got(), Got()

        @queue.handler("t")
        async def handle(task: QueueTask[Any]) -> None:
            if task.data == "poison":
                runs.add(task.task_id)
                queue.session.ref("worker").kill()
                await anyio.sleep_forever()
            got.add(task.data)

        handles = [await queue.submit("t", data) for data in (1, "poison", 2, 3)]
        await queue.start(concurrency=2)
        await eventually(lambda: set(got.all) == {1, 2, 3}, "the others are done")
        await eventually(lambda: len(runs.all) == 4, "it ran four times")
        await queue.session.bus.wait_open()
        (letter,) = await letters(queue, 1)
        assert (letter.reason, letter.task_id, letter.attempts) == ("worker_lost", handles[1], 4)


# -- the connection


@pytest.mark.asyncio
async def test_all_that_was_submitted_is_done_while_connections_break(open_place: OpenPlace):
    name = word()
    async with open_place() as place, queue_at(place, name) as (queue, _), queue_at(place, name) as (worker, recorder):
        done = set[int]()

        @worker.handler("t")
        async def handle(task: QueueTask[int]) -> int:
            done.add(task.data)
            return task.data

        await worker.start(concurrency=10)
        handles: list[Any] = []
        for number in range(200):
            if number in (50, 120):
                started = len(recorder.of(TaskStarted))
                place.cut()
            for attempt in range(3):
                try:
                    handles.append(await queue.submit("t", number, number % 11, idempotency_key=f"n-{number}"))
                    break
                except BusUnavailable:  # it may have arrived: the same once more is the same task
                    assert attempt < 2
            if number in (90, 160):
                await eventually(lambda n=started: len(recorder.of(TaskStarted)) > n, "the worker is back")
        assert len(set(handles)) == 200
        assert [await each.result(timeout=DEADLINE_S) for each in handles] == list(range(200))
        assert done == set(range(200))


@pytest.mark.asyncio
async def test_a_submit_without_a_broker_is_an_error_in_time_and_the_worker_comes_back_with_it(open_place: OpenPlace):
    async with open_place() as place, queue_at(place, word(), publish_timeout_s=0.2) as (queue, _):
        got = Got()
        queue.register_handler("t", got.hear)
        await queue.start()
        place.down()
        await eventually(lambda: not queue.session.bus.is_open, "the connection is lost")
        with anyio.fail_after(2), pytest.raises(BusUnavailable):
            await queue.submit("t", 1)
        place.up()
        await queue.session.bus.wait_open()
        await queue.submit("t", 2)
        await eventually(lambda: any(task.data == 2 for task in got.all), "the worker is back")


@pytest.mark.asyncio
async def test_queues_that_somebody_deletes_are_made_again(open_place: OpenPlace):
    async with open_place() as place, queue_at(place, word()) as (queue, _), queue_at(place, word()) as (other, _):
        got = Got()
        queue.register_handler("t", got.hear)
        await queue.start()
        for band in ("high", "normal"):
            await other.session.bus.delete(work_queue(queue.name, band))

        async def is_back() -> bool:
            infos = [await other.session.bus.inspect(work_queue(queue.name, band)) for band in ("high", "normal")]
            return all(info.consumers == 1 for info in infos)

        await eventually(lambda: _true(is_back), "they are read again")
        for priority in (0, 5, 10):
            await queue.submit("t", priority, priority)
        await got.wait(3)


async def _true(condition: Callable[[], Any]) -> bool:
    try:
        return await condition()
    except Exception:
        return False


# -- a queue that is full, a store that is away


@pytest.mark.asyncio
async def test_a_full_queue_refuses_and_holds_up_no_other(open_place: OpenPlace):
    name = word()
    async with open_place() as place:
        for band in ("high", "normal", "low"):
            await place.limit(Queue(work_queue(name, band), policy=work_policy(20)))
        async with queue_at(place, name) as (queue, _), queue_at(place, word()) as (other, _):
            accepted: list[Any] = []

            async def fill() -> None:
                for number in range(100):
                    accepted.append(await queue.submit("t", number))

            with pytest.raises(QueueFull) as refused:
                await fill()
            assert refused.value.unsent is not None
            assert 20 <= len(accepted) < 50
            # What comes back from a delay to the full queue waits in its room, and the ladder goes on.
            late = [await queue.submit("t", f"late {number}", delay=1) for number in range(40)]
            got = Got()
            other.register_handler("t", got.hear)
            await other.start()
            await other.submit("t", "in time", delay=1)
            await got.wait(1)
            done = Got()
            queue.register_handler("t", done.hear)
            await queue.start(concurrency=5)
            await done.wait(len(accepted) + len(late))
            await queue.submit("t", "last")


@pytest.mark.asyncio
async def test_while_the_store_is_away_tasks_are_done_and_keys_are_refused():
    url = f"memory://{word()}"
    async with TaskQueue(url, "t", events=Events()) as queue:
        got = Got()
        queue.register_handler("t", got.hear)
        embedded_store(url).away = True
        with pytest.raises(CoordUnavailable):
            await queue.submit("t", 1, idempotency_key="k")
        assert await queue.size() == 0
        await queue.start()
        handle = await queue.submit("t", 2)
        await got.wait(1)
        with pytest.raises(CoordUnavailable, match="cancel it again"):
            await handle.cancel()
        pending = embedded_broker(url).depths()["results.pending"]
        await eventually(lambda: embedded_broker(url).depths()["results.pending"].ready == 1, f"it waits: {pending}")
        embedded_store(url).away = False
        await queue.submit("t", 3, idempotency_key="k")
        await got.wait(2)
        assert [task.data for task in got.all] == [2, 3]


# -- dead letters


@pytest.mark.asyncio
@pytest.mark.parametrize("priority", [9, 5, 1])
async def test_a_dead_letter_says_why_and_a_replay_goes_back_to_where_it_came_from(
    open_place: OpenPlace, priority: int
):
    async with open_place() as place, queue_at(place, word()) as (queue, recorder):
        got, broken = Got(), True

        @queue.handler("t")
        async def handle(task: QueueTask[str]) -> str:
            if broken:
                raise PermanentError("no such printer")
            got.add(task)
            return task.data

        await queue.start()
        handle_ = await queue.submit("t", "x", priority)
        await recorder.wait_for(TaskDeadLettered, timeout=DEADLINE_S)
        (letter,) = await letters(queue, 1)
        assert (letter.reason, letter.task_id, letter.attempts, letter.name) == ("failed", handle_, 1, "t")
        assert letter.origin == recorder.of(TaskDeadLettered)[0].origin
        assert letter.worker == f"{queue.source}/{queue.name}"
        assert letter.error is not None
        assert (letter.error.type, letter.error.message) == ("PermanentError", "no such printer")
        assert "in handle" in (letter.error.traceback or "")
        broken = False
        replay = replay_of(letter)
        await queue.session.bus.publish(replay.exchange, replay.key, replay.message)
        (task,) = await got.wait(1)
        assert (task.task_id, task.priority, task.retry_count) == (handle_, priority, 0)

        async def is_done() -> bool:
            return (await handle_.outcome(timeout=1)).state == "succeeded"

        await eventually(is_done, "the record is that of the replay")
        assert await handle_.result(timeout=1) == "x"


@pytest.mark.asyncio
async def test_bytes_that_are_no_task_are_a_dead_letter_at_once(open_place: OpenPlace):
    async with open_place() as place, queue_at(place, word()) as (queue, _):
        queue.register_handler("t", lambda task: None)
        await queue.start()
        key = work_queue(queue.name)
        await queue.session.bus.publish(queue.exchange, key, Message(b"\x00 no task", message_id=f"{queue.name}-m"))
        (letter,) = await letters(queue, 1)
        assert (letter.id, letter.reason, letter.body) == (f"{queue.name}-m", "malformed", b"\x00 no task")


# -- stopping


@pytest.mark.asyncio
async def test_on_leaving_what_runs_ends_and_the_rest_goes_back_uncounted(open_place: OpenPlace):
    async with open_place() as place:
        name, got, began, go = word(), Got(), anyio.Event(), anyio.Event()
        recorders = list[EventRecorder]()

        async def leave() -> None:
            async with queue_at(place, name) as (queue, recorder):
                recorders.append(recorder)

                @queue.handler("t")
                async def slow(task: QueueTask[int]) -> None:
                    began.set()
                    await go.wait()
                    await queue.submit("t", task.data + 10)  # the connection is still there
                    got.add(task.data)

                for number in range(3):
                    await queue.submit("t", number)
                await queue.start(prefetch=3)
                await began.wait()

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(leave)
            await began.wait()
            await recorders[0].wait_for(TaskHandedBack, count=2, timeout=DEADLINE_S)
            assert not got.all
            go.set()
        assert got.all == [0]
        async with queue_at(place, name) as (queue, _):

            @queue.handler("t")
            async def handle(task: QueueTask[int]) -> None:
                assert task.retry_count == 0
                got.add(task.data)

            await queue.start()
            await got.wait(4)
        assert sorted(got.all) == [0, 1, 2, 10]


@pytest.mark.asyncio
async def test_what_does_not_end_within_the_drain_is_handed_back():
    url = f"memory://{word()}"
    async with TaskQueue(url, "t") as queue:
        began, got = anyio.Event(), Got()

        async def hangs(task: QueueTask[Any]) -> None:
            began.set()
            await anyio.sleep_forever()

        queue.register_handler("t", hangs)
        handle = await queue.submit("t", 1)
        await queue.start(drain_s=0.05)
        await began.wait()
        await queue.stop()
        async with TaskQueue(url, "t") as other:
            other.register_handler("t", got.hear)
            await other.start()
            await got.wait(1)
            assert await handle.result(timeout=DEADLINE_S) is None
        assert got.all[0].retry_count == 0


@pytest.mark.asyncio
async def test_a_stop_waits_as_long_as_the_drain_may_take(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("fogactors.messaging.session.ORDER_S", 0.1)
    async with TaskQueue(f"memory://{word()}", "t") as queue:
        began, got = anyio.Event(), Got()

        @queue.handler("t")
        async def slow(task: QueueTask[Any]) -> None:
            began.set()
            await anyio.sleep(0.5)
            got.add(task)

        await queue.submit("t")
        await queue.start(drain_s=5)
        await began.wait()
        await queue.stop()
        assert len(got.all) == 1
        await queue.start()  # it has come to its end


# -- what is told


@pytest.mark.asyncio
async def test_a_failure_is_logged_when_nobody_subscribed_to_facts(
    open_place: OpenPlace, caplog: pytest.LogCaptureFixture
):
    async with open_place() as place, TaskQueue(place.url, word(), store=place.store) as queue:

        @queue.handler("t")
        async def fails(task: QueueTask[Any]) -> None:
            raise ValueError("no luck")

        await queue.start()
        with caplog.at_level(logging.INFO, logger="fogactors.tasks"):
            handle = await queue.submit("t", max_retries=1)
            await handle.outcome(timeout=DEADLINE_S)
        lines = [(each.levelname, each.getMessage()) for each in caplog.records if each.name == "fogactors.tasks"]
        assert lines == [
            ("WARNING", f"t {handle}: attempt 1: ValueError: no luck; again in 1 s"),
            (
                "ERROR",
                f"t {handle} of {work_queue(queue.name)}: given up (failed): ValueError: no luck; it is a dead letter",
            ),
        ]

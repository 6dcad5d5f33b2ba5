"""A queue of tasks on a broker of its own, which is restarted and killed."""

from __future__ import annotations

import os

import anyio
import pytest

from fogactors import QueueTask, TaskQueue
from fogactors.core import Events
from fogactors.errors import BusUnavailable
from fogactors.messaging import TaskHandle
from fogactors.tasks.events import TaskStarted
from fogactors.testing import EventRecorder
from tests.integration.own import Own

pytestmark = [pytest.mark.services, pytest.mark.versions, pytest.mark.asyncio]

BACK_S = 30.0


@pytest.fixture(scope="module")
def own():
    with Own.open(os.environ.get("RABBITMQ") or "4.3") as own:
        yield own


@pytest.mark.parametrize("kill", [False, True])
async def test_nothing_that_was_submitted_is_lost_when_the_broker_restarts(own: Own, kill: bool):
    url, store, events = own.services.amqp_url, own.services.redis_url, Events()
    recorder, first, runs = EventRecorder(events), True, list[int]()
    async with (
        TaskQueue(url, "restart.tasks", store=store, events=events) as worker,
        TaskQueue(url, "restart.tasks", store=store) as queue,
    ):

        @worker.handler("t")
        async def handle(task: QueueTask[int]) -> int:
            runs.append(task.data)
            if first:
                await anyio.sleep_forever()  # until its connection is lost, and with it this run
            return task.data

        await worker.start(concurrency=2)
        handles: list[TaskHandle] = [await queue.submit("t", number, number % 11) for number in range(20)]
        handles.append(await queue.submit("t", 20, delay=4))
        await recorder.wait_for(TaskStarted, count=2, timeout=BACK_S)
        async with anyio.create_task_group() as tasks:

            async def submit() -> None:
                """Meanwhile: each ends in time, with the broker's word or an error; with a key it can be repeated."""
                for number in range(21, 24):
                    while len(handles) == number:
                        try:
                            handles.append(await queue.submit("t", number, idempotency_key=f"n-{number}-{kill}"))
                        except BusUnavailable:
                            await anyio.sleep(0.2)

            first = False
            tasks.start_soon(submit)
            await own.restart_broker(kill=kill)
        assert [await each.result(timeout=BACK_S) for each in handles] == list(range(24))
        assert sorted(set(runs)) == list(range(24))
        assert await queue.size() == 0

"""How a worker on a queue of one's own begins and ends, also when that is cut short."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from typing import Any

import anyio
import pytest

from fogactors.core import ChildSpec
from fogactors.errors import BusUnavailable
from fogactors.messaging import QueueTask, TaskQueue

from .conftest import OpenPlace, Place
from .support import DEADLINE_S, Got, eventually, word

pytestmark = pytest.mark.asyncio


@asynccontextmanager
async def queue_at(place: Place, name: str) -> AsyncGenerator[TaskQueue]:
    async with TaskQueue(place.url, name, store=place.store) as queue:
        yield queue


def _is_stopping(queue: TaskQueue) -> bool:
    leaves = [leaf for root in queue.session.actors.tree() for child in root.children for leaf in child.children]
    return any(leaf.id == "worker" and leaf.state == "stopping" for leaf in leaves)


async def test_while_a_worker_drains_its_tasks_are_found_and_cancelled_as_ever(open_place: OpenPlace):
    async with open_place() as place:
        name, began, log = word(), Got(), list[str]()
        async with queue_at(place, name) as worker, queue_at(place, name) as asker:

            @worker.handler("t")
            async def slow(task: QueueTask[Any]) -> None:
                began.add(task.task_id)
                try:
                    await anyio.sleep(DEADLINE_S)
                    log.append("effect")
                finally:
                    log.append("ended")

            handles = [await asker.submit("t") for _ in range(2)]
            await worker.start(concurrency=2, drain_s=DEADLINE_S)
            await began.wait(2)
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(worker.stop)
                await eventually(lambda: _is_stopping(worker), "it takes no more")
                assert (await handles[0].status()).state == "running"
                for each in handles:
                    told = await each.cancel()
                    assert (told.state, told.found) == ("cancelled", "running")
            assert log == ["ended", "ended"]
            await worker.start()  # it has stopped with both of its parts


@pytest.mark.parametrize("child", ["control", "worker"])
@pytest.mark.parametrize("cancelled", [False, True])
async def test_a_start_that_fails_half_way_is_taken_back(child: str, cancelled: bool, monkeypatch: pytest.MonkeyPatch):
    async with TaskQueue(f"memory://{word()}", "t") as queue:
        got, real = Got(), queue.session.start
        queue.register_handler("t", got.hear)

        async def start(spec: ChildSpec, *, timeout: float) -> Any:
            if spec.id == child and not cancelled:
                raise BusUnavailable("as asked")
            ref = await real(spec, timeout=timeout)
            if spec.id == child:
                scope.cancel()  # it is there, and nobody will hear of it
                await anyio.sleep_forever()
            return ref

        monkeypatch.setattr(queue.session, "start", start)
        with anyio.CancelScope() as scope:
            if cancelled:
                await queue.start()
            else:
                with pytest.raises(BusUnavailable):
                    await queue.start()
        assert scope.cancelled_caught == cancelled
        handle = await queue.submit("t", 1)
        assert (await handle.status()).state == "queued or unknown"
        assert not got.all
        monkeypatch.undo()
        await queue.start()
        await handle.result(timeout=DEADLINE_S)


async def test_a_stop_that_was_cut_short_can_be_called_again():
    async with TaskQueue(f"memory://{word()}", "t") as queue:
        began, go, got = Got(), anyio.Event(), Got()

        @queue.handler("t")
        async def slow(task: QueueTask[Any]) -> None:
            began.add(task)
            await go.wait()
            got.add(task.data)

        await queue.submit("t", 1)
        await queue.start()
        await began.wait(1)
        with anyio.move_on_after(0.05):
            await queue.stop()
        go.set()
        await queue.stop()
        await queue.start()
        assert got.all == [1]

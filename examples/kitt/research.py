"""The research worker: three tasks at a time, the most urgent first."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import anyio
from anyio.abc import TaskStatus

from examples.kitt import names
from fogactors import EventBus, TaskQueue
from fogactors.app.settings import Settings
from fogactors.messaging import QueueTask


@dataclass
class Query:
    query: str
    max_results: int = 10


async def run(
    settings: Settings, stop: anyio.Event, *, task_status: TaskStatus[None] = anyio.TASK_STATUS_IGNORED
) -> None:
    url = settings.bus.url
    async with (
        EventBus(url, source="research-worker", exchange=names.EVENTS) as bus,
        TaskQueue(url, names.RESEARCH, exchange=names.TASKS, declared=True, store=settings.coord.url) as queue,
    ):

        @queue.handler("research_paper")
        async def research(task: QueueTask[Query]) -> dict[str, Any]:
            found = [f"{task.data.query}, part {number + 1}" for number in range(task.data.max_results)]
            await bus.publish("research.task.completed", {"query": task.data.query, "papers": len(found)})
            return {"papers": found}

        await queue.start(concurrency=3)
        task_status.started()
        await stop.wait()  # on leaving, what is in hand is done first

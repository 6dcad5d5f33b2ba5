"""The audit service: hears everything, also what happened while it was not there."""

from __future__ import annotations

from typing import Any

import anyio
from anyio.abc import TaskStatus

from examples.kitt import names
from fogactors import Event, EventBus
from fogactors.app.settings import Settings


async def log(event: Event[dict[str, Any]]) -> None:
    names.say(f"audit: {event.timestamp:%H:%M:%S} {event.event_type} by {event.source}, of {event.correlation_id[:8]}")


async def run(
    settings: Settings, stop: anyio.Event, *, task_status: TaskStatus[None] = anyio.TASK_STATUS_IGNORED
) -> None:
    async with EventBus(settings.bus.url, source="audit-service", exchange=names.EVENTS) as bus:
        await bus.subscribe("#", log, queue="audit.events", concurrency=4)
        task_status.started()
        await stop.wait()  # on leaving, what is in hand is done first

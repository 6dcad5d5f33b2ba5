"""The notification service: tells people what has ended."""

from __future__ import annotations

from typing import Any

import anyio
from anyio.abc import TaskStatus

from examples.kitt import names
from fogactors import Event, EventBus
from fogactors.app.settings import Settings

SAYS = {
    "fabrication.print.completed": "{job_id} is printed",
    "fabrication.print.failed": "{job_id} has failed",
    "research.task.completed": "{papers} papers on {query}",
}


async def run(
    settings: Settings, stop: anyio.Event, *, task_status: TaskStatus[None] = anyio.TASK_STATUS_IGNORED
) -> None:
    async with EventBus(settings.bus.url, source="notification-service", exchange=names.EVENTS) as bus:

        async def notify(event: Event[dict[str, Any]]) -> None:
            if event.event_type in SAYS:
                text = SAYS[event.event_type].format(**event.data)
                names.say(f"notification: {text}")
                await bus.publish("notification.user.told", {"text": text})

        await bus.subscribe("#", notify, queue="notifications")
        task_status.started()
        await stop.wait()  # on leaving, what is in hand is done first

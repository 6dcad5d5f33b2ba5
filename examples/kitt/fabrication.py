"""The fabrication service: prints what the brain asks for, tells what happens, and says what a print would cost."""

from __future__ import annotations

from dataclasses import dataclass, replace

import anyio
from anyio.abc import TaskStatus

from examples.kitt import names
from fogactors import Event, EventBus, RPCServer
from fogactors.app.settings import Settings

DENSITY_G_CM3 = {"pla_black_esun": 1.24, "petg_clear": 1.27, "pla_damp": 1.24}
USD_A_GRAM = 0.02


@dataclass
class Part:
    volume_cm3: float
    material_id: str


@dataclass
class Cost:
    cost_usd: float
    material_grams: float


@dataclass
class Job:
    job_id: str
    printer_id: str
    material_id: str
    dried: bool = False


def estimate_print_cost(part: Part) -> Cost:
    """A plain function: it runs in a thread. A material that is unknown is the caller's `RemoteError`."""
    grams = part.volume_cm3 * DENSITY_G_CM3[part.material_id]
    return Cost(cost_usd=round(grams * USD_A_GRAM, 2), material_grams=round(grams, 1))


async def run(
    settings: Settings, stop: anyio.Event, *, task_status: TaskStatus[None] = anyio.TASK_STATUS_IGNORED
) -> None:
    url = settings.bus.url
    async with (
        EventBus(url, source="fabrication-service", exchange=names.EVENTS) as bus,
        EventBus(url, source="fabrication-service-later", exchange=names.TASKS) as later,
        RPCServer(url, names.ESTIMATE, exchange=names.RPC) as server,
    ):

        async def print_it(job: Job) -> None:
            await bus.publish("fabrication.print.started", job)
            if job.material_id == "pla_damp" and not job.dried:
                await bus.publish("fabrication.print.failed", job)
            else:
                await bus.publish("fabrication.print.completed", job)

        async def requested(event: Event[Job]) -> None:
            await print_it(event.data)

        async def own(event: Event[Job]) -> None:
            """Of the queue of all that fabrication tells, and of what comes back to it from its wait."""
            if event.event_type == "fabrication.print.failed":
                await later.publish(names.RETRY, replace(event.data, dried=True))
            elif event.event_type == names.RETRY:
                await print_it(event.data)

        server.register_handler(estimate_print_cost)
        await bus.subscribe("brain.print.requested", requested, group="fabrication", data_type=Job)
        await bus.subscribe("fabrication.#", own, queue="fabrication.events", data_type=Job)
        # Last: who is answered may take it that the rest is there, and ask for a print. What is published before the
        # group of a first start has its queue is heard by nobody.
        await server.start()
        task_status.started()
        await stop.wait()  # on leaving, what is in hand is done first

"""All of KITT with one command: `python -m examples.kitt`; one service alone: `python -m examples.kitt audit`.

With the broker inside all services are tasks of this process. On a RabbitMQ, which `FOGACTORS_BUS__URL`,
`FOGACTORS_BUS__MANAGEMENT_URL` and `FOGACTORS_COORD__URL` name, each is a process of its own, and the virtual host, the
exchanges, the queues and their limits are made first.
"""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack, suppress
from typing import Any

import anyio

from examples.kitt import audit, fabrication, names, notification, research
from fogactors import Event, EventBus, RPCClient, TaskQueue
from fogactors.app.settings import Settings
from fogactors.app.topology import apply_topology, is_embedded
from fogactors.errors import NoSuchService

SERVICES: dict[str, Callable[..., Awaitable[None]]] = {
    "fabrication": fabrication.run,
    "audit": audit.run,
    "notification": notification.run,
    "research": research.run,
}
JOBS = [
    fabrication.Job("print_1", "bamboo_h2d", "pla_black_esun"),
    fabrication.Job("print_2", "bamboo_h2d", "pla_damp"),
    fabrication.Job("print_3", "bamboo_h2d", "petg_clear"),
]
STARTS_S = 30.0
"""For a service to come up."""
PATIENT_S = 30.0
"""A retry that is due within so long is waited for."""


async def brain(settings: Settings) -> None:
    """Asks what a part would cost, has something looked up, and has three things printed."""
    url = settings.bus.url
    told: set[str] = set()
    news = anyio.Event()

    async def hear(event: Event[dict[str, Any]]) -> None:
        told.add(event.data["text"])
        news.set()

    async with AsyncExitStack() as stack:
        bus = await stack.enter_async_context(EventBus(url, source="brain", exchange=names.EVENTS))
        client = await stack.enter_async_context(RPCClient(url, exchange=names.RPC))
        queue = await stack.enter_async_context(
            TaskQueue(url, names.RESEARCH, exchange=names.TASKS, declared=True, store=settings.coord.url)
        )
        await bus.subscribe("notification.user.told", hear)
        part = fabrication.Part(volume_cm3=125.5, material_id="pla_black_esun")
        cost = await _answer(client, part)
        names.say(f"brain: {part.volume_cm3:g} cm3 of {part.material_id} would cost {cost.cost_usd:.2f} USD")
        handle = await queue.submit("research_paper", {"query": "print failures", "max_results": 3}, priority=8)
        for job in JOBS:
            await bus.publish("brain.print.requested", job)
        papers = await handle.result(timeout=STARTS_S)
        names.say(f"brain: task {handle[:8]} found {len(papers['papers'])} papers")
        wait_s = next(each.message_ttl_s for each in settings.queues if each.name == names.RETRY)
        wanted = {"print_1 is printed", "print_2 has failed", "print_3 is printed", "3 papers on print failures"}
        if wait_s <= PATIENT_S:
            wanted.add("print_2 is printed")
        with anyio.fail_after(STARTS_S + PATIENT_S):
            while not wanted <= told:
                await news.wait()
                news = anyio.Event()
        if wait_s > PATIENT_S:
            names.say(f"brain: print_2 is in {names.RETRY}, and will be printed again in {wait_s:g} s")
    names.say("brain: done")


async def _answer(client: RPCClient, part: fabrication.Part) -> fabrication.Cost:
    """The services come up in any order."""
    with anyio.fail_after(STARTS_S):
        while True:
            with suppress(NoSuchService):
                return await client.call(names.ESTIMATE, part, timeout=10, returns=fabrication.Cost)
            await anyio.sleep(0.1)


async def all_of_it(settings: Settings) -> None:
    applied = await apply_topology(settings, create_vhost=True)
    for difference in applied.left:
        names.say(f"topology: {difference}")
    stop = anyio.Event()
    async with anyio.create_task_group() as tasks:
        for name, run in SERVICES.items():
            if is_embedded(settings):
                await tasks.start(run, settings, stop)
            else:
                tasks.start_soon(process, name, stop)
        await brain(settings)
        stop.set()


async def one(run: Callable[..., Awaitable[None]], settings: Settings) -> None:
    """One service until SIGTERM or Ctrl-C."""
    stop = anyio.Event()
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(run, settings, stop)
        with anyio.open_signal_receiver(signal.SIGTERM, signal.SIGINT) as signals:
            async for _ in signals:
                break
        stop.set()


async def process(service: str, stop: anyio.Event) -> None:
    """One service, as a process that ends with this one."""
    command = [sys.executable, "-m", "examples.kitt", service]
    running = await anyio.open_process(command, stdin=None, stdout=None, stderr=None, env=dict(os.environ))
    async with running, anyio.create_task_group() as tasks:

        async def ended() -> None:
            code = await running.wait()
            if not stop.is_set():
                raise RuntimeError(f"{service} has ended with {code}")

        tasks.start_soon(ended)
        try:
            await stop.wait()
        finally:
            with suppress(ProcessLookupError):
                running.terminate()
            with anyio.move_on_after(STARTS_S, shield=True):
                await running.wait()


def main() -> None:
    settings = names.settings()
    if sys.argv[1:]:
        anyio.run(one, SERVICES[sys.argv[1]], settings)
    else:
        anyio.run(all_of_it, settings)


if __name__ == "__main__":
    main()

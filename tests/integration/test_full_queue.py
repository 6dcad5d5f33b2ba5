"""A queue that is full, and many delays that end in it: nobody else's delay takes longer for it, and none is lost."""

from __future__ import annotations

import time
from dataclasses import replace

import anyio
import pytest

from fogactors.bus.base import Delivery
from fogactors.bus.management import Management
from fogactors.errors import QueueFull
from fogactors.messages import Task
from fogactors.tasks.client import Submitter
from fogactors.wire import Topology, fog_topology
from fogactors.wire.codec import decode
from tests.integration import worker_tasks as tasks
from tests.integration.fog import apply_topology, connected, own_vhost, submitting, until

pytestmark = [pytest.mark.services, pytest.mark.versions, pytest.mark.asyncio]

FULL = "tasks.low_priority"
STUCK = 3_000
"""More than the broker's dead letter worker of one queue has in flight (`dead_letter_worker_consumer_prefetch`)."""
LATE_S = 10.0
PROBES = 5


def limited(topology: Topology) -> Topology:
    """With a queue that is soon full."""
    queues = (
        replace(each, policy=replace(each.policy, max_length=10)) if each.name == FULL else each
        for each in topology.queues
    )
    return replace(topology, queues=tuple(queues))


@pytest.fixture
def services(shared_services):
    with own_vhost(shared_services) as own:
        anyio.run(apply_topology, own, limited(fog_topology()))
        yield own


async def fill(submitter: Submitter) -> int:
    """Until it refuses; how many it took."""
    for taken in range(100):
        try:
            await submitter.submit(tasks.nap.options(priority="low"), 0)
        except QueueFull:
            return taken
    raise AssertionError(f"{FULL} refuses nothing")


async def test_delays_that_end_in_a_full_queue_hold_up_no_other_queues(services, record_property):
    probes: dict[str, float] = {}
    waited: set[str] = set()

    def arrived(delivery: Delivery) -> None:
        probes[decode(delivery.body, Task).id] = time.monotonic()
        waited.add(delivery.death.queue)

    async with connected(services) as bus, submitting(services) as submitter:
        taken = await fill(submitter)
        async with anyio.create_task_group() as group:
            for _ in range(STUCK):
                group.start_soon(submitter.submit, tasks.nap.options(priority="low", delay_s=1), 0)

        async def are_over() -> bool:
            return (await bus.inspect("retry.1")).ready == 0

        await until(are_over, "the delays are over")
        await bus.consume("tasks.normal", arrived, prefetch=100)
        took: list[float] = []
        for _ in range(PROBES):
            began = time.monotonic()
            handle = await submitter.submit(tasks.nap.options(delay_s=1), 0)
            await until(lambda handle=handle: handle.id in probes, "a delay of one second", 1 + LATE_S)
            took.append(probes[handle.id] - began)
        assert waited == {"retry.1"}, "an executor learns from it on which step a task has waited"
        record_property("seconds", [round(each, 2) for each in took])
        assert (await bus.inspect(FULL)).ready <= taken

        async with Management.open(services.management_url, services.vhost) as management:
            await management.apply_policies(fog_topology())

        async def all_are_there() -> bool:
            return (await bus.inspect(FULL)).ready == taken + STUCK

        await until(all_are_there, f"{taken} + {STUCK} in {FULL}")

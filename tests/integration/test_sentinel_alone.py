"""A cluster of one node: what needs a real broker and no second one."""

from __future__ import annotations

import anyio
import pytest

from tests.integration.brokers import Brokers
from tests.integration.fog import until
from tests.services.releases import version_here

pytestmark = [pytest.mark.services, pytest.mark.versions]


def test_an_alarm_is_told_of_and_so_is_its_end_and_the_stop_is_in_order():
    with Brokers.open(version_here()) as brokers:
        node = brokers.nodes[0]
        node.start(CLUSTER__NODES=node.name, CLUSTER__WATCH_S="1")
        anyio.run(_alarm, brokers)


async def _alarm(brokers: Brokers) -> None:
    node = brokers.nodes[0]
    async with brokers.notices() as told:

        def seen(*, on: bool) -> bool:
            return any(
                (each.what, each.on, each.node, each.detail) == ("alarm", on, node.name, "memory") for each in told
            )

        async def set_up() -> bool:
            return "dlq.parked" in await node.replicas()

        await until(set_up, "the topology", 90)
        await node.ctl.run("rabbitmqctl", "-q", "set_vm_memory_high_watermark", "0")
        await until(lambda: seen(on=True), f"the alarm is told: {told}")
        await node.ctl.run("rabbitmqctl", "-q", "set_vm_memory_high_watermark", "absolute", "1GiB")
        await until(lambda: seen(on=False), f"its end is told: {told}")
    assert await node.stop(timeout=120) == 0

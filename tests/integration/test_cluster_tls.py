"""A cluster whose clients speak TLS: its sentinels are clients too."""

from __future__ import annotations

from functools import partial
from typing import Any

import aiormq
import anyio
import pytest

from tests.integration.brokers import Brokers
from tests.integration.fog import until

pytestmark = [pytest.mark.services, pytest.mark.slow]


@pytest.mark.parametrize("version", ["4.3", "4.0"])
def test_sentinels_form_a_cluster_whose_clients_speak_tls_and_one_that_lost_its_volume_joins_it(version):
    with Brokers.open(version, tls=True) as brokers:
        brokers.start()
        anyio.run(_forms_and_joins, brokers)


async def _forms_and_joins(brokers: Brokers) -> None:
    await brokers.wait_whole()
    sent = await brokers.publish(50, "tls")
    node, marks = brokers.nodes[2], brokers.marks()
    node.kill9()
    node.wipe()
    node.start()
    await brokers.wait_whole()
    assert brokers.plans(marks) == {"ForgetThenJoin", "Join"}
    assert await brokers.take_all() == sent

    names = {each.name for each in brokers.nodes}
    await until(partial(_sentinels, brokers, names), "each sentinel is on the bus, over TLS", 60)
    with pytest.raises((aiormq.AMQPError, OSError)):
        await aiormq.connect(node.amqp_url)


async def _sentinels(brokers: Brokers, names: set[str]) -> bool:
    found: list[dict[str, Any]] = await anyio.to_thread.run_sync(brokers.nodes[0].api, "/connections") or []
    assert all(each["ssl"] for each in found if "ssl" in each)
    return {each.get("node") for each in found if each.get("user") == "sentinel"} == names

"""The configuration files of the images, taken by real servers: each refuses a key that it does not know."""

from __future__ import annotations

import re

import pytest
import redis
import redis.asyncio

from tests.images.conf import IMAGES, PLACE, rabbitmq_conf, redis_conf, redis_manner
from tests.images.servers import running
from tests.services import RabbitMQ, RedisServer


async def fill(client) -> None:
    for n in range(100):
        await client.set(f"fill-{n}", "x" * 100_000)


def test_the_references_faults_are_not_taken_over():
    broker, store = rabbitmq_conf(), redis_conf()
    assert broker["cluster_partition_handling"] != "autoheal"
    assert "load_definitions" not in broker
    assert store["maxmemory-policy"] == "noeviction"
    assert store["appendfsync"] == "always"
    assert not {"requirepass", "rename-command", "activedefrag"} & store.keys()
    assert not any("${" in value for value in store.values())


@pytest.mark.services
@pytest.mark.asyncio
@pytest.mark.parametrize("version", ["4.3", "4.0"])
async def test_rabbitmq_takes_every_line_and_uses_it(version):
    settings = {key: value for key, value in rabbitmq_conf().items() if key not in PLACE}
    advanced = (IMAGES / "rabbitmq/advanced.config").read_text()
    async with running(RabbitMQ(version, settings=settings, advanced=advanced)) as server:
        in_force = re.sub(r"\s+", "", await server.ctl("environment"))
        limit = int(await server.ctl("eval", "vm_memory_monitor:get_memory_limit()."))
        between_nodes = await server.ctl(
            "eval", "{net_kernel:get_net_ticktime(), element(5, sys:get_state(net_kernel))}."
        )
    assert between_nodes.split() == ["{30,3000}"]
    assert limit == pytest.approx(0.6 * 1536 * 2**20, rel=0.001)
    for term in (
        "{consumer_timeout,1800000}",
        "{dead_letter_worker_consumer_prefetch,1000}",
        "{dead_letter_worker_publisher_confirm_timeout,5000}",
        '{disk_free_limit,"2GB"}',
        "{quorum_cluster_size,3}",
        '{queue_leader_locator,<<"balanced">>}',
        "{cluster_partition_handling,pause_minority}",
        "{poll_interval,1000}",
    ):
        assert term in in_force, term


@pytest.mark.services
@pytest.mark.asyncio
async def test_redis_takes_every_line_and_evicts_nothing():
    async with (
        running(RedisServer(config=redis_manner() | {"maxmemory": "4mb"})) as server,
        redis.asyncio.from_url(server.url) as client,
    ):
        await client.set("kept", "1")
        with pytest.raises(redis.exceptions.OutOfMemoryError):
            await fill(client)
        assert await client.get("kept") == b"1"
        in_force = await client.config_get("*")
    assert {name: in_force[name] for name in ("appendonly", "appendfsync", "save", "io-threads", "maxclients")} == {
        "appendonly": "yes",
        "appendfsync": "always",
        "save": "",
        "io-threads": "1",
        "maxclients": "10000",
    }

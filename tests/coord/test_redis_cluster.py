"""The broker cluster's keys on Redis are those of the scheduler before us, byte for byte."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator

import pytest
import pytest_asyncio

from fogactors.coord import CLUSTER_MASTER
from fogactors.coord.redis import RedisCoord
from fogactors.errors import LeaseLost
from tests.coord.far import client, far, lose_the_answer
from tests.services import RedisServer

pytestmark = [pytest.mark.services, pytest.mark.asyncio]

ONE, TWO = "rabbit@rabbitmq1", "rabbit@rabbitmq2"


@pytest_asyncio.fixture
async def coord(server: RedisServer) -> AsyncIterator[RedisCoord]:
    async with client(server.url) as coord:
        await coord._client.flushdb()
        yield coord


async def test_the_keys_are_those_of_the_reference_and_all_else_is_under_fog(coord: RedisCoord):
    redis = coord._client
    await coord.acquire(CLUSTER_MASTER, ONE, 90)
    await coord.cluster_join(ONE)
    await coord.broker_beat(ONE, 90)
    assert await redis.get("rabbitmq:cluster:master") == ONE.encode()
    assert await redis.smembers("rabbitmq:cluster:members") == {ONE.encode()}
    assert abs(int(await redis.get(f"rabbitmq:node:{ONE}:heartbeat")) - time.time()) < 5
    assert 80 < await redis.ttl(f"rabbitmq:node:{ONE}:heartbeat") <= 90
    others = {key.decode() for key in await redis.keys("*") if not key.startswith(b"rabbitmq:")}
    assert others == {"fog:fence:rabbitmq:cluster:master", "fog:brokers"}


async def test_a_member_that_beats_by_a_script_of_its_own_is_seen_and_stays(coord: RedisCoord):
    await coord._client.sadd("rabbitmq:cluster:members", ONE, TWO)
    await coord._client.set(f"rabbitmq:node:{ONE}:heartbeat", int(time.time()), ex=90)
    assert await coord.broker_beats() == {ONE}
    lease = await coord.acquire(CLUSTER_MASTER, ONE, 90)
    assert await coord.expire_members(lease, 0) == [TWO]


@pytest.mark.usefixtures("coord")
async def test_a_lost_answer_removes_nobody_else(server: RedisServer):
    async with far(server) as (coord, proxy):
        for node in (ONE, TWO):
            await coord.cluster_join(node)
        await lose_the_answer(proxy, coord.broker_beat(ONE, 90))
        lease = await coord.acquire(CLUSTER_MASTER, ONE, 90)
        await lose_the_answer(proxy, coord.expire_members(lease, 0))
        assert await coord.cluster_members() == {ONE}
        await coord.release(lease)
        with pytest.raises(LeaseLost):
            await coord.expire_members(lease, 0)

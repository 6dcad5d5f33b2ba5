"""The broker cluster's members, heartbeats and leases: what every store does with them."""

import threading

import anyio
import pytest

from fogactors.coord import CLUSTER_MASTER, CLUSTER_MEMBERS, CLUSTER_STOPPING
from fogactors.errors import CoordUnavailable, LeaseLost

pytestmark = pytest.mark.asyncio

ONE, TWO, THREE = "rabbit@rabbitmq1", "rabbit@rabbitmq2", "rabbit@rabbitmq3"


async def test_members_join_as_often_as_they_like_and_leave(coord, other):
    assert await coord.cluster_members() == frozenset()
    for node in (ONE, TWO, ONE):
        await coord.cluster_join(node)
    assert await other.cluster_members() == {ONE, TWO}
    lease = await other.acquire(CLUSTER_MASTER, TWO, 30)
    for node in (ONE, THREE):
        await other.cluster_leave(node, lease=lease)
    assert await coord.cluster_members() == {TWO}
    assert await coord.members(CLUSTER_MEMBERS) == {TWO}


async def test_who_lost_the_master_lease_removes_nobody(coord, other, harness):
    await coord.cluster_join(ONE)
    old = await coord.acquire(CLUSTER_MASTER, TWO, 1)
    await harness.advance(1.1)
    with pytest.raises(LeaseLost):
        await coord.expire_members(old, 0)
    new = await other.acquire(CLUSTER_MASTER, TWO, 30)  # the same node, restarted: the token tells them apart
    with pytest.raises(LeaseLost):
        await coord.expire_members(old, 0)
    with pytest.raises(LeaseLost):
        await coord.cluster_leave(ONE, lease=old)
    assert await coord.cluster_members() == {ONE}
    assert await other.expire_members(new, 0) == [ONE]


async def test_nobody_is_removed_before_this_lease_has_looked_for_long_enough(coord, other, harness):
    """All heartbeats may be gone because the store was away."""
    await coord.cluster_join(ONE)
    lease = await coord.acquire(CLUSTER_MASTER, ONE, 60)
    assert await coord.expire_members(lease, 1) == []
    await harness.advance(1.1)
    await coord.release(lease)
    lease = await other.acquire(CLUSTER_MASTER, TWO, 60)  # who holds it now has not looked yet
    assert await other.expire_members(lease, 1) == []
    await harness.advance(0.6)
    assert await other.expire_members(lease, 1) == []
    await harness.advance(0.6)
    assert await other.expire_members(lease, 1) == [ONE]


async def test_two_leases_of_the_cluster_are_two(coord, other):
    master = await coord.acquire(CLUSTER_MASTER, ONE, 30)
    assert await other.acquire(CLUSTER_STOPPING, TWO, 30) is not None
    assert await other.acquire(CLUSTER_MASTER, TWO, 30) is None
    assert await other.holder(CLUSTER_MASTER) == ONE
    await coord.release(master)
    assert (await other.acquire(CLUSTER_MASTER, TWO, 30)).token > master.token


async def test_a_heartbeat_lives_until_it_runs_out(coord, other, harness):
    assert await coord.broker_beats() == frozenset()
    await coord.broker_beat(ONE, 1)
    await coord.broker_beat(TWO, 1)
    await coord.broker_beat(TWO, 60)
    assert await other.broker_beats() == {ONE, TWO}
    await harness.advance(1.1)
    assert await other.broker_beats() == {TWO}
    await coord.broker_beat(ONE, 60)
    assert await other.broker_beats() == {ONE, TWO}


async def test_members_without_a_heartbeat_go_and_the_others_stay(coord, other, harness):
    for node in (THREE, ONE, TWO):
        await coord.cluster_join(node)
    await coord.broker_beat(ONE, 1)
    await coord.broker_beat(TWO, 60)
    lease = await other.acquire(CLUSTER_MASTER, TWO, 60)
    assert await other.expire_members(lease, 0) == [THREE]
    assert await other.expire_members(lease, 0) == []
    await harness.advance(1.1)
    assert await other.expire_members(lease, 0) == [ONE]
    assert await coord.cluster_members() == {TWO}
    await coord.broker_beat(ONE, 60)  # it beats again, and is a member when it says so
    assert await coord.cluster_members() == {TWO}
    await coord.cluster_join(ONE)
    assert await other.expire_members(lease, 0) == []
    assert await coord.cluster_members() == {ONE, TWO}


async def test_a_writer_in_a_thread_writes_a_brokers_heartbeat(coord, harness):
    def write() -> None:
        writer = coord.beat_writer()
        writer.broker_beat(ONE, 60)
        writer.broker_beat(TWO, 1)
        writer.close()
        with pytest.raises(CoordUnavailable):
            writer.broker_beat(THREE, 60)

    thread = threading.Thread(target=write)
    thread.start()
    with anyio.fail_after(5):
        while thread.is_alive():
            await coord.broker_beats()
    assert await coord.broker_beats() == {ONE, TWO}
    await harness.advance(1.1)
    assert await coord.broker_beats() == {ONE}

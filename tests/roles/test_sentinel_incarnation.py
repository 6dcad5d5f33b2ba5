"""Which of the volumes that a node has had is its last."""

from __future__ import annotations

import anyio
import pytest

from fogactors.errors import CoordRefused, CoordUnavailable
from fogactors.roles.sentinel.incarnation import incarnation_key
from fogactors.roles.sentinel.state import (
    BrokerStarted,
    ClusterRefused,
    ClusterSettled,
    StaleData,
)
from fogactors.testing.kit import eventually
from tests.roles.sentinel_stage import A, B, C, Stage, running, stage

pytestmark = pytest.mark.asyncio


async def known(here: Stage) -> frozenset[str]:
    return await here.sentinel.coord.members(incarnation_key(A))


async def until_known(here: Stage, *numbers: int) -> None:
    with anyio.fail_after(10):
        while await known(here) != {str(number) for number in numbers}:  # noqa: ASYNC110 - nobody tells of it
            await anyio.sleep(0.02)


async def test_a_cluster_that_begins_is_a_new_incarnation_of_its_node(tmp_path):
    async with stage(tmp_path, A, watch_s=0.1) as here:
        here.says(A, A, A)
        late = 4_102_444_800_000  # of a host whose clock was wrong: ours must be later all the same
        await here.sentinel.coord.join(incarnation_key(A), str(late))
        async with running(here) as recorder:
            await recorder.wait_for(ClusterSettled)
            await until_known(here, late + 1)
        assert here.sentinel.data.incarnation() == late + 1
        assert not here.recorder.of(StaleData)


async def test_one_that_joins_is_a_new_incarnation_once_it_is_a_member(tmp_path):
    async with stage(tmp_path, A, B, C, watch_s=0.1) as here:
        here.registered = {"other", "third"}
        for peer in (B, C):
            here.says(peer, f"{B} {C}", f"{B} {C}")
        await here.sentinel.coord.join(incarnation_key(A), "5")
        async with running(here) as recorder:
            await recorder.wait_for(BrokerStarted)
            mine = here.sentinel.data.incarnation()
            assert mine > 5
            assert await known(here) == {"5"}  # until then the older may still come back
            for node in (A, B, C):
                here.says(node, f"{A} {B} {C}", f"{A} {B} {C}")
            await recorder.wait_for(ClusterSettled)
            await until_known(here, mine)


async def test_a_redis_that_does_not_know_the_key_yet_keeps_nobody_from_beginning(tmp_path):
    """Brokers are updated before Redis, whose rules are of the version before."""
    async with stage(tmp_path, A) as here:
        here.says(A, A, A)
        refused = here.sentinel.coord.members

        async def members(group: str) -> frozenset[str]:
            if group == incarnation_key(A):
                raise CoordRefused("no permission")
            return await refused(group)

        here.sentinel.coord.members = members
        async with running(here) as recorder:
            await recorder.wait_for(ClusterSettled)
        assert here.sentinel.data.incarnation() > 0


async def test_the_volume_of_an_earlier_incarnation_is_refused_and_left_alone(tmp_path):
    async with stage(tmp_path, A, B, C) as here:
        here.data.mkdir(parents=True)
        (here.data / "kept").touch()
        here.sentinel.data.begin(4)
        here.registered = {"other", "third"}
        for peer in (B, C):
            here.says(peer, f"{A} {B} {C}", f"{B} {C}")
        await here.sentinel.coord.join(incarnation_key(A), "5")
        async with running(here) as recorder:
            refused = await recorder.wait_for(ClusterRefused)
            assert f"older than what {A} ran with last" in refused.why
            assert here.sentinel.why == refused.why  # what a probe is told
            assert not any("rabbitmq-server" in call for call in here.calls)
            assert (here.data / "kept").exists()
            await here.sentinel.coord.leave(incarnation_key(A), "5")  # people know better
            await recorder.wait_for(BrokerStarted)


async def test_data_of_a_version_that_wrote_no_incarnation_gets_one_when_it_has_settled(tmp_path):
    async with stage(tmp_path, A, watch_s=0.1) as here:
        here.data.mkdir(parents=True)
        (here.data / "kept").touch()
        here.says(A, A, A)
        async with running(here) as recorder:
            await recorder.wait_for(ClusterSettled)
            await eventually(lambda: here.sentinel.data.incarnation() > 0, "it has an incarnation")
            await until_known(here, here.sentinel.data.incarnation())
            await here.sentinel.coord.leave(incarnation_key(A), str(here.sentinel.data.incarnation()))
            await until_known(here, here.sentinel.data.incarnation())  # a Redis that lost it is told again


@pytest.mark.parametrize("fault", [CoordUnavailable("away"), CoordRefused("another password")])
async def test_a_redis_that_does_not_say_keeps_nobody_from_starting(tmp_path, fault):
    async with stage(tmp_path, A, watch_s=0.1) as here:
        here.data.mkdir(parents=True)
        (here.data / "kept").touch()
        here.sentinel.data.begin(4)
        here.says(A, A, A)
        await here.sentinel.coord.join(incarnation_key(A), "5")
        silent = here.sentinel.coord.members

        async def members(group: str) -> frozenset[str]:
            if fault is not None and group == incarnation_key(A):
                raise fault
            return await silent(group)

        here.sentinel.coord.members = members
        async with running(here) as recorder:
            await recorder.wait_for(ClusterSettled)
            assert here.sentinel.data.incarnation() == 4
            fault = None
            # It runs in its cluster now, so whatever else there is of it is older from here on.
            stale = await recorder.wait_for(StaleData, own=4, known=5)
            assert stale.broker == A
            await until_known(here, here.sentinel.data.incarnation())
            assert here.sentinel.data.incarnation() > 5

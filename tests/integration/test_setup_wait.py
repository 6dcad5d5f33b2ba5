"""A role that starts before the broker is set up: `[bus] setup_wait_s`."""

from __future__ import annotations

from dataclasses import replace
from urllib.parse import quote

import anyio
import pytest

from fogactors.app.services import Remote, topology_of
from fogactors.app.settings import BusSettings, CoordSettings, Settings
from fogactors.errors import AccessRefused, TopologyMismatch
from tests.integration.fog import DEADLINE_S, apply_topology

pytestmark = [pytest.mark.services, pytest.mark.asyncio]


def settings(services, wait_s: float, url: str = "") -> Settings:
    bus = BusSettings(url=url or services.amqp_url, boot_wait_s=DEADLINE_S, setup_wait_s=wait_s)
    return Settings(bus=bus, coord=CoordSettings(url=services.redis_url))


async def opened(asked: Settings, up: anyio.Event) -> None:
    async with Remote.open(asked, topology_of(asked)):
        up.set()


async def test_it_waits_for_the_queues_that_somebody_is_about_to_make(bare):
    up = anyio.Event()
    with anyio.fail_after(2 * DEADLINE_S):
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(opened, settings(bare, DEADLINE_S), up)
            with anyio.move_on_after(1.5):  # the second look is over by then, and nothing is there
                await up.wait()
            assert not up.is_set()
            await apply_topology(bare)
            await up.wait()


async def test_it_waits_for_its_user_as_well(services):
    url = services.as_user("late", "late-password").amqp_url
    up = anyio.Event()
    try:
        with anyio.fail_after(2 * DEADLINE_S):
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(opened, settings(services, DEADLINE_S, url), up)
                with anyio.move_on_after(1.5):
                    await up.wait()
                assert not up.is_set()
                services.api("PUT", "/users/late", {"password": "late-password", "tags": ""})
                all_of_it = {"configure": ".*", "write": ".*", "read": ".*"}
                services.api("PUT", f"/permissions/{quote(services.vhost, safe='')}/late", all_of_it)
                await up.wait()
    finally:
        services.api("DELETE", "/users/late")


async def test_it_ends_with_the_same_words_when_the_time_is_over(bare):
    with pytest.raises(TopologyMismatch, match=r"is missing \(and "):
        await opened(settings(bare, 1.0), anyio.Event())
    nobody = bare.as_user("nobody", "x").amqp_url
    with pytest.raises(AccessRefused, match=r"the broker \(\[bus\] url\) refuses"):
        await opened(settings(bare, 1.0, nobody), anyio.Event())


async def test_what_is_different_is_not_waited_for(services):
    asked = settings(services, 10 * DEADLINE_S)
    wanted = topology_of(asked)
    other = replace(wanted.exchanges[0], type="headers")
    with anyio.fail_after(DEADLINE_S), pytest.raises(TopologyMismatch, match="another topology"):
        async with Remote.open(asked, replace(wanted, exchanges=(other, *wanted.exchanges[1:]))):
            pass

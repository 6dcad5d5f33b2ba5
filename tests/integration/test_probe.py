"""Probes of real processes on real services."""

import json

import pytest

from tests.integration.fog import until
from tests.integration.page import free_port

pytestmark = [pytest.mark.services, pytest.mark.asyncio]


async def probe(fog, question, port):
    done = await fog.start("probe", question, "--json", PROBE__PORT=port).wait()
    return done.code, json.loads(done.out)["facts"]


async def test_a_role_that_waits_for_its_broker_lives_and_is_not_ready(fog):
    port, closed = str(free_port()), free_port()
    role = fog.start(
        "run", "dlq-reaper", PROBE__PORT=port, BUS__URL=f"amqp://a:b@127.0.0.1:{closed}/x", BUS__BOOT_WAIT_S="60"
    )

    async def lives():
        return (await probe(fog, "livez", port))[0] == 0

    await until(lives, f"it lives: {role}")
    assert await probe(fog, "readyz", port) == (1, {"loop": "ok", "program": "starting"})
    assert (await role.stop()).code == 0


async def test_a_role_is_ready_with_its_broker_and_its_store_and_says_which_is_missing(fog):
    port, lonely = str(free_port()), str(free_port())
    role = fog.start("run", "dlq-reaper", PROBE__PORT=port)
    other = fog.start("run", "dlq-reaper", PROBE__PORT=lonely, COORD__URL=f"redis://127.0.0.1:{free_port()}/0")
    for each in (role, other):
        await each.line("dlq-reaper is up")

    async def ready():
        return (await probe(fog, "readyz", port))[0] == 0

    await until(ready, f"it is ready: {role}")
    code, facts = await probe(fog, "readyz", lonely)
    wrong = {name for name, text in facts.items() if text != "ok"}
    assert (code, wrong) == (1, {"redis"}), facts
    assert (await probe(fog, "livez", lonely))[0] == 0
    assert (await role.stop()).code == 0

"""What a program tells probes of its roles and of the store."""

import json
from dataclasses import replace

import anyio
import pytest

from fogactors.app.probe import ask
from fogactors.app.program import Program
from fogactors.app.settings import ProbeSettings, Settings
from fogactors.core import ActorStarted, Events, RestartFailed, SupervisorPaused
from fogactors.errors import AccessRefused
from fogactors.observe.probe import probing
from fogactors.roles.health import Health, StoreWatch, store_watch
from fogactors.tasks.registry import Registry
from fogactors.testing import EventRecorder
from fogactors.testing.kit import eventually
from fogactors.testing.kit import fog as any_fog

pytestmark = pytest.mark.asyncio


def facts(health):
    health.look()
    return health.report("readyz", 0.0).facts


async def test_the_store_is_asked_again_and_again(monkeypatch):
    monkeypatch.setattr("fogactors.roles.health.STORE_EVERY_S", 0.01)
    health = Health()
    async with any_fog(roles=()) as system:
        from fogactors.coord import MemoryCoord

        await system.actors.start(store_watch(MemoryCoord(system.store), health))
        await eventually(lambda: facts(health)["redis"] == "ok", "the store is there")
        system.store.away = True
        await eventually(lambda: "cannot be reached" in facts(health)["redis"], "it is away")
        system.store.away = False
        await eventually(lambda: facts(health)["redis"] == "ok", "it is back")


async def test_what_a_store_watch_has_not_asked_yet_is_not_ready():
    class Silent:
        async def open(self, timeout):
            await anyio.sleep_forever()

    health = Health()
    async with any_fog(roles=()) as system:
        spec = store_watch(Silent(), health)
        await system.actors.start(spec)
        assert facts(health)["redis"] == "not asked yet"
        assert isinstance(spec.children[0].make(), StoreWatch)


async def test_a_fact_that_was_not_asked_yet_is_no_good_sign():
    health = Health()
    health.program = "ok"
    health.ready("broker", lambda: None)
    assert health.report("readyz", 0.0).facts["broker"] == "not asked yet"
    assert facts(health)["broker"] == "ok"


async def test_a_program_is_ready_when_its_roles_are_connected():
    settings, events = replace(Settings(), probe=ProbeSettings(port=1)), Events()
    recorder, health = EventRecorder(events), Health()
    async with Program.start(settings, ("dlq-reaper",), events=events, registry=Registry(), health=health) as program:
        await eventually(lambda: set(facts(health).values()) == {"ok"}, f"ready: {facts(health)}")
        assert set(facts(health)) == {"loop", "program", "redis", "broker/dlq-reaper"}
        broker = program.services.broker
        broker.faults.down("closed on Sundays")
        away = "not connected: closed on Sundays"
        await eventually(lambda: facts(health)["broker/dlq-reaper"] == away, "the broker is away")
        broker.faults.up()
        await recorder.wait_for(ActorStarted, path="fogactors/dlq-reaper/reaper", incarnation=2)
        assert facts(health)["broker/dlq-reaper"] == "ok"
    assert facts(health)["program"] == "stopping"


async def test_a_broker_that_refuses_the_login_is_named_and_not_knocked_at_at_the_pace_of_a_failover():
    settings, events = replace(Settings(), probe=ProbeSettings(port=1)), Events()
    recorder, health = EventRecorder(events), Health()
    async with Program.start(settings, ("dlq-reaper",), events=events, registry=Registry(), health=health) as program:
        broker = program.services.broker
        broker.faults.login_refused = "mq:5672 refuses user 'reaper': wrong name or password"
        broker.faults.drop_connections()
        slow = await recorder.wait_for(
            SupervisorPaused, where=lambda event: event.delay_s > 2 * settings.bus.reconnect_max_s, timeout=10
        )
        assert slow.path == "fogactors/dlq-reaper"
        refused = "not connected: mq:5672 refuses user 'reaper': wrong name or password"
        assert facts(health)["broker/dlq-reaper"] == refused
        assert isinstance(recorder.of(RestartFailed)[-1].error, AccessRefused)
        broker.faults.login_refused = None
        await recorder.wait_for(ActorStarted, path="fogactors/dlq-reaper/reaper", incarnation=2, timeout=5)
        assert facts(health)["broker/dlq-reaper"] == "ok"


async def test_whoever_asks_nobody_is_told_so():
    with probing("127.0.0.1", 0) as health:
        assert json.dumps(health.report("livez", 0.0).facts) == '{"loop": "ok"}'
    answer = ask("livez", "127.0.0.1", 1)
    assert answer == {"ok": False, "facts": {"probe": "no answer from 127.0.0.1:1: Connection refused"}}

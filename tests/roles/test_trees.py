"""What the roles' trees look like, and what a link does."""

from dataclasses import replace

import pytest

from fogactors.bus import MemoryBroker, MemoryBus
from fogactors.bus.link import link_spec
from fogactors.core import ActorExited, ActorStarted, ActorSystem, Backoff
from fogactors.errors import BusUnavailable, NoTierFits, StartFailed
from fogactors.roles import ROLES, up_tree
from fogactors.roles.base import DRAIN_MARGIN_S
from fogactors.roles.reports import MetricsConfig
from fogactors.testing import EventRecorder
from tests.tasks.harness import fog


def context():
    from fogactors.app.program import role_context
    from fogactors.app.services import Embedded
    from fogactors.app.settings import Settings

    return role_context(Settings(), Embedded(MemoryBroker()))


def test_executors_start_last_and_so_stop_first():
    names = tuple(name for name, role in ROLES.items() if not role.runs_broker)
    tree = up_tree(context(), names, ("light", "heavy"))
    assert [child.id for child in tree.children] == [
        "metrics",
        "heartbeat",
        "dlq-reaper",
        "tier-executor-light",
        "tier-executor-heavy",
    ]


def test_only_the_roles_that_were_asked_for():
    assert [child.id for child in up_tree(context(), ("dlq-reaper",), ("light",)).children] == ["metrics", "dlq-reaper"]
    assert [child.id for child in up_tree(context(), ("heartbeat",), ("light",)).children] == ["heartbeat"]


def test_a_sink_needs_a_port_and_its_endpoint_stands_on_no_broker():
    assert up_tree(context(), ("metrics-sink",), ()).children == ()
    made = replace(context(), metrics=MetricsConfig(port=1))
    endpoint, sink = up_tree(made, ("metrics-sink",), ()).children
    assert (endpoint.id, [child.id for child in endpoint.children]) == ("metrics-endpoint", ["endpoint"])
    assert [child.id for child in sink.children] == ["link", "sink", "control"]


def test_no_reports_without_an_interval():
    made = replace(context(), metrics=MetricsConfig(interval_s=0))
    assert [child.id for child in up_tree(made, ("dlq-reaper",), ()).children] == ["dlq-reaper"]


def test_whatever_stands_on_a_connection_comes_and_goes_with_its_link_and_weather_is_no_bug():
    for child in up_tree(context(), ("dlq-reaper", "tier-executor"), ("light",)).children[1:]:
        assert (child.strategy, child.exceeded, child.children[0].id) == ("rest_for_one", "pause", "link")


def test_an_executor_has_time_to_drain_and_room_for_all_that_may_be_delivered():
    made = context()
    for tier in made.tiers:
        [tree] = ROLES["tier-executor"].trees(made, (tier.name,))
        executor = tree.children[1]
        config = made.executor(tier.name)
        assert executor.shutdown_s == config.drain_s + DRAIN_MARGIN_S
        assert executor.mailbox >= 3 * config.prefetch(made.tiers) + 3 * len(made.tiers.smaller_than(tier.name))


def test_a_tier_that_does_not_exist_is_refused():
    with pytest.raises(NoTierFits, match="there are: light, medium, heavy"):
        ROLES["tier-executor"].trees(context(), ("huge",))


@pytest.mark.asyncio
async def test_a_link_fails_with_the_reason_when_its_connection_is_lost():
    async with MemoryBroker() as broker, ActorSystem() as system:
        recorder = EventRecorder(system)
        bus = MemoryBus(broker, name="a")
        await system.start(replace(link_spec(bus, Backoff()), restart="temporary"))
        assert bus.is_open
        broker.kill_connection("a", "somebody pulled the plug")
        event = await recorder.wait_for(ActorExited, path="link")
        assert isinstance(event.exit.error, BusUnavailable)
        assert "somebody pulled the plug" in str(event.exit.error)
        system._failure = None  # the root's own end is what was tested


@pytest.mark.asyncio
async def test_a_link_that_cannot_connect_does_not_start():
    async with MemoryBroker() as broker, ActorSystem() as system:
        broker.faults.down("closed on Sundays")
        with pytest.raises(StartFailed, match="closed on Sundays"):
            await system.start(link_spec(MemoryBus(broker), Backoff()))


@pytest.mark.asyncio
async def test_roles_are_strangers_to_each_others_connections():
    async with fog(serve=("light", "heavy")) as system:
        system.kill("tier-executor-heavy")
        await system.recorder.wait_for(ActorStarted, path="fogactors/tier-executor-heavy/executor", incarnation=2)
        assert {event.path.split("/")[1] for event in system.recorder.of(ActorExited)} == {"tier-executor-heavy"}

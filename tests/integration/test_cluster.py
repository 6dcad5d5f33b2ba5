"""Three real RabbitMQ nodes, each below its sentinel: they form, heal and stop, and nothing that was confirmed is lost.

The cluster is shared by the tests of a module, each of which finds it whole and leaves it whole.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import suppress
from typing import Any

import anyio
import pytest

from fogactors.app.probe import ask
from fogactors.bus import Bus, Delivery, Message
from fogactors.errors import BusError
from fogactors.messages import NodeMetrics
from fogactors.wire.codec import decode
from fogactors.wire.topology import TASKS
from tests.integration.broker_node import Node
from tests.integration.brokers import Brokers
from tests.integration.fog import until
from tests.integration.page import free_port
from tests.services.releases import RABBITMQ, version_here

pytestmark = [pytest.mark.services, pytest.mark.asyncio]

DESTRUCTIVE = {"Bootstrap", "ForgetThenJoin", "WipeThenJoin", "Join"}


@pytest.fixture(
    scope="module",
    params=[each if each == version_here() else pytest.param(each, marks=pytest.mark.slow) for each in RABBITMQ],
)
def started(request: pytest.FixtureRequest) -> Iterator[Brokers]:
    with Brokers.open(request.param) as brokers:
        brokers.start()
        yield brokers


@pytest.fixture
def brokers(started: Brokers) -> Brokers:
    anyio.run(started.wait_whole)
    anyio.run(started.wait_settled)
    return started


@pytest.mark.versions
async def test_three_blank_nodes_form_one_cluster(brokers):
    names = {node.name for node in brokers.nodes}
    status = [await node.ctl.status() for node in brokers.nodes]

    assert [each.members for each in status] == [each.running for each in status] == [names] * 3
    assert sum(row["action"] == "Bootstrap" for node in brokers.nodes for row in node.events("ClusterPlanned")) == 1
    assert await brokers.master() in names
    await until(lambda: _is(brokers.members, names), "all of them are members in Redis")
    users = {each["name"] for each in await anyio.to_thread.run_sync(brokers.nodes[0].api, "/users")}
    assert users == {"admin", "sentinel", "worker1", "submitter", "reaper"}  # and no guest
    flags = await anyio.to_thread.run_sync(brokers.nodes[0].api, "/feature-flags")
    assert {each["state"] for each in flags if each["stability"] == "stable"} == {"enabled"}
    async with brokers.coord() as coord:
        assert await coord.broker_beats() == names


async def test_a_node_that_is_killed_comes_back_with_its_data(brokers):
    sent = await brokers.publish(100, "killed")
    master = await brokers.node_of_master()
    node = next(each for each in brokers.nodes if each is not master)
    marks = brokers.marks()

    node.kill9()
    sent |= await brokers.publish(50, "meanwhile")  # the two that are left go on
    node.start()
    await brokers.wait_whole()

    assert brokers.plans(marks) == {"Start"}
    assert await brokers.take_all() == sent


async def test_behaviour_3_a_node_is_killed_at_500_messages_a_second(brokers, record_property):
    node = brokers.nodes[1]
    confirmed: set[str] = set()
    refused: set[str] = set()
    enough = anyio.Event()

    async def publish(bus: Bus, id_: str) -> None:
        try:
            await bus.publish(TASKS, "normal", Message(id_.encode(), message_id=id_), timeout=20.0)
            confirmed.add(id_)
        except BusError:
            refused.add(id_)

    async def load(number: int) -> None:
        """A third of it, at a node of its own while that lives."""
        nodes, sent, began = (brokers.nodes[number],), 0, anyio.current_time()
        while not enough.is_set():
            async with brokers.bus(*nodes) as bus, anyio.create_task_group() as publishes:
                while bus.is_open and not enough.is_set():
                    publishes.start_soon(publish, bus, f"{number}-{sent}")
                    sent += 1
                    await anyio.sleep_until(began + sent * 3 / 500)
            nodes = ()

    with anyio.fail_after(120):
        async with anyio.create_task_group() as loads:
            for number in range(3):
                loads.start_soon(load, number)
            await until(lambda: len(confirmed) >= 1000, "a load")
            node.kill9()
            before = len(confirmed)
            await until(lambda: len(confirmed) >= before + 1000, "the others go on")
            node.start()
            enough.set()
    await brokers.wait_whole()

    record_property("confirmed, refused", (len(confirmed), len(refused)))
    # All publishes have ended, so what was not confirmed has raised.
    there = await brokers.take_all()
    assert confirmed <= there <= confirmed | refused


async def test_the_master_lease_moves_when_its_holder_is_killed(brokers):
    master = await brokers.node_of_master()
    master.kill9()

    async def moved() -> bool:
        return await brokers.master() not in (None, master.name)

    await until(moved, "another master", timeout=6 + 10)
    await until(lambda: _lacks(brokers.members, master.name), "who beats no more is no member", timeout=60)
    master.start()
    await brokers.wait_whole()
    await until(lambda: _has(brokers.members, master.name), "it is a member again")


@pytest.mark.parametrize("which", ["the master", pytest.param("another", marks=pytest.mark.slow)])
async def test_a_node_that_lost_its_volume_is_forgotten_and_joins(brokers, which):
    sent = await brokers.publish(100, "wiped")
    master = await brokers.node_of_master()
    node = master if which == "the master" else next(each for each in brokers.nodes if each is not master)
    marks = brokers.marks()

    node.kill9()
    node.wipe()
    node.start()
    await brokers.wait_whole()

    assert brokers.plans(marks) == {"ForgetThenJoin", "Join"}
    assert await brokers.take_all() == sent


async def test_a_sentinel_lives_before_its_server_is_ready_with_it_and_reports_what_it_sees(brokers):
    node, port = brokers.nodes[2], free_port()
    node.kill9()
    others = dict.fromkeys((each.host for each in brokers.nodes[:2]), 1)
    await until(lambda: _reports(brokers, others), "the others report that a node is down", 90)

    node.start(PROBE__PORT=str(port), METRICS__INTERVAL_S="2")
    await until(lambda: ask("livez", "127.0.0.1", port)["ok"], "it lives")
    answer = ask("readyz", "127.0.0.1", port)  # at once: a node that has its data takes some seconds and no more
    assert not answer["ok"], answer
    await brokers.wait_whole()
    await until(lambda: ask("readyz", "127.0.0.1", port)["ok"], f"ready: {ask('readyz', '127.0.0.1', port)}")
    whole = dict.fromkeys((each.host for each in brokers.nodes), 0)
    await until(lambda: _reports(brokers, whole), "all report that all is well", 90)


@pytest.mark.slow
async def test_a_volume_lost_while_another_is_down_waits_for_it(brokers):
    sent = await brokers.publish(100, "two-troubles")
    wiped, down, _ = brokers.nodes
    wiped.kill9()
    down.kill9()
    wiped.wipe()
    marks = brokers.marks()
    wiped.start()

    def waits() -> bool:
        return any(
            "only when all others run" in row["why"] for row in wiped.events("ClusterPlanned")[marks[wiped.name] :]
        )

    await until(waits, "it waits, and says for whom", timeout=60)
    assert not brokers.plans(marks) & DESTRUCTIVE
    down.start()
    await brokers.wait_whole()

    assert await brokers.take_all() == sent


@pytest.mark.parametrize("seed", [1, pytest.param(2, marks=pytest.mark.slow)])
async def test_all_killed_at_once_and_started_in_any_order(brokers, seed):
    sent = await brokers.publish(200, "power")
    order = random.Random(seed).sample(brokers.nodes, k=3)
    marks = brokers.marks()

    for node in brokers.nodes:
        node.kill9()
    for node in order:
        node.start()
        await anyio.sleep(random.Random(seed).uniform(0, 3))
    await brokers.wait_whole()

    assert brokers.plans(marks) == {"Start"}
    assert await brokers.take_all() == sent


@pytest.mark.slow
async def test_a_power_cut_in_which_redis_stays_dead(brokers):
    sent = await brokers.publish(50, "no-redis")
    for node in brokers.nodes:
        node.kill9()
    await brokers.redis.kill9()
    brokers.start()
    try:
        await brokers.wait_whole()
        assert await brokers.take_all() == sent
    finally:
        await brokers.redis.restart()
    await until(lambda: _is(brokers.members, {node.name for node in brokers.nodes}), "members again in Redis", 60)
    await brokers.node_of_master()


async def test_majority_down_destroys_nothing_and_says_so(brokers):
    sent = await brokers.publish(50, "minority")
    alone, *others = brokers.nodes
    marks = brokers.marks()
    async with brokers.notices() as told:
        for node in others:
            node.kill9()

        def lost(*, on: bool) -> bool:
            last = [each for each in told if each.what == "quorum_lost" and each.seen_by == alone.name][-1:]
            return [each.on for each in last] == [on]

        await until(lambda: lost(on=True), "quorum_lost is told", 60)
        said = next(each for each in told if each.what == "quorum_lost")
        assert all(node.name in said.detail for node in others)
        others[0].start()
        await until(lambda: lost(on=False), "it is over when one is back", 120)
    others[1].start()
    await brokers.wait_whole()

    assert brokers.plans(marks) == {"Start"}
    assert await brokers.take_all() == sent


@pytest.mark.slow
async def test_forgotten_while_it_kept_its_data(brokers):
    sent = await brokers.publish(50, "forgotten")
    node, peer, _ = brokers.nodes
    marks = brokers.marks()
    node.kill9()
    await until(lambda: _lacks(peer.running, node.name), "its peers see that it is gone")
    await peer.ctl.forget(node.name, via=peer.name)
    node.start(CLUSTER__FORGOTTEN_S="10")
    await brokers.wait_whole()

    assert {"WipeThenJoin", "Join"} <= brokers.plans(marks)
    assert (node.data / "fog-aside").is_dir()
    assert await brokers.take_all() == sent


async def test_a_stop_drains_and_ends_with_0(brokers):
    node = brokers.nodes[2]
    assert await node.stop(timeout=120) == 0

    steps = [(row["step"], row["outcome"]) for row in node.events("StopTurn")][-4:]
    assert steps == [("turn", "ours"), ("quorum without us", "done"), ("drain", "done"), ("server stopped", "in order")]
    async with brokers.coord() as coord:
        assert await coord.holder("fog:cluster:stopping") is None
    node.start()
    await brokers.wait_whole()


@pytest.mark.slow
async def test_two_that_are_told_to_stop_at_once_go_one_after_the_other(brokers):
    """As when a whole stack is deployed anew."""
    third, *both = brokers.nodes
    lowest = 3
    for node in both:
        node.process.terminate()
    for _ in both:
        ended: list[Node] = []

        async def one_ended(ended: list[Node] = ended) -> bool:
            nonlocal lowest
            if running := await third.running():
                lowest = min(lowest, len(running))
            ended[:] = [node for node in both if node.process.poll() is not None]
            return bool(ended)

        await until(one_ended, "one has stopped", 150)
        for node in ended:
            assert node.process.returncode == 0
            node.start()
    await brokers.wait_whole()
    assert lowest == 2


async def _reports(brokers: Brokers, wanted: dict[str, int]) -> bool:
    """Whether the last reports within some seconds say that so many nodes are down, by the host that says it."""
    found: dict[str, int] = {}

    def take(delivery: Delivery) -> None:
        report = decode(delivery.body, NodeMetrics)
        assert report.role == "node-sentinel"
        found[report.node] = report.process.cluster.get("node_down", 0) if report.process else 0

    with suppress(BusError):  # a node goes or comes
        async with brokers.bus() as bus:
            await bus.consume("metrics.node", take, prefetch=1000)
            with anyio.move_on_after(12):
                while not wanted.items() <= found.items():  # noqa: ASYNC110 - they come when they come
                    await anyio.sleep(0.1)
    return wanted.items() <= found.items()


async def _is(ask: Any, wanted: set[str]) -> bool:
    return await ask() == wanted


async def _has(ask: Any, name: str) -> bool:
    return name in await ask()


async def _lacks(ask: Any, name: str) -> bool:
    found = await ask()
    return bool(found) and name not in found

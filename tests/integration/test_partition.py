"""Three brokers on hosts of their own that cannot hear each other for a while: who serves, what is told, that they are
one cluster again, and that nothing that was confirmed is lost.
"""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, suppress
from itertools import pairwise

import anyio
import pytest

from fogactors.bus import Message
from fogactors.errors import BusError
from fogactors.messages import ClusterChange
from fogactors.wire.topology import TASKS
from tests.integration.broker_node import Node
from tests.integration.brokers import Brokers
from tests.integration.fog import until

pytestmark = [pytest.mark.services, pytest.mark.asyncio, pytest.mark.slow]

LANES = {"high_priority": "tasks.high_priority", "normal": "tasks.normal", "low_priority": "tasks.low_priority"}
"""Keys and their queues, of which each node leads one or so."""
CUT_S = 60.0
"""Twice `net_ticktime`, after which the brokers give each other up."""
HEALED_S = 30.0
SILENT_S = 5.0


@pytest.fixture(scope="module", params=["4.3", "4.0"])
def started(request: pytest.FixtureRequest) -> Iterator[Brokers]:
    with Brokers.open(request.param, lan=True) as brokers:
        brokers.start()
        yield brokers


@pytest.fixture
def brokers(started: Brokers) -> Brokers:
    anyio.run(started.wait_whole)
    anyio.run(started.wait_settled)
    return started


class Load:
    """Publishes to every lane all the time. `confirmed`: lane to id to when, by `time.monotonic`."""

    def __init__(self, brokers: Brokers, tag: str, *nodes: Node) -> None:
        self._brokers = brokers
        self._tag = tag
        self._nodes = nodes
        self.confirmed: dict[str, dict[str, float]] = {lane: {} for lane in LANES}

    async def run(self, lane: str) -> None:
        count = 0
        while True:
            with suppress(BusError):  # it is lost, or not ours to tell: only what was confirmed counts
                async with self._brokers.bus(*self._nodes) as bus:
                    while True:
                        count += 1
                        id_ = f"{self._tag}-{lane}-{count}"
                        await bus.publish(TASKS, lane, Message(id_.encode(), message_id=id_), timeout=20.0)
                        self.confirmed[lane][id_] = time.monotonic()
                        await anyio.sleep(0.05)
            await anyio.sleep(0.2)

    def silence_s(self, since: float, until: float) -> float:
        """The longest time in which some lane confirmed nothing."""
        longest = 0.0
        for confirmed in self.confirmed.values():
            times = [since, *(at for at in confirmed.values() if since <= at <= until), until]
            longest = max(longest, *(after - before for before, after in pairwise(times)))
        return longest

    async def flowing(self) -> None:
        marks = {lane: len(ids) for lane, ids in self.confirmed.items()}
        await until(
            lambda: all(len(ids) > marks[lane] + 10 for lane, ids in self.confirmed.items()), "every lane confirms"
        )


@asynccontextmanager
async def under_load(brokers: Brokers, *loads: Load) -> AsyncIterator[None]:
    """What was confirmed, and afterwards is not there, fails the test."""
    async with anyio.create_task_group() as tasks:
        for load in loads:
            for lane in LANES:
                tasks.start_soon(load.run, lane)
        for load in loads:
            await load.flowing()
        yield
        tasks.cancel_scope.cancel()
    for lane, queue in LANES.items():
        there = await brokers.take_all(queue)
        confirmed = {id_ for load in loads for id_ in load.confirmed[lane]}
        assert len(confirmed) > 0
        assert confirmed <= there, f"lost: {sorted(confirmed - there)[:10]}"


def still_on(told: list[ClusterChange]) -> set[tuple[str, str, str, str]]:
    facts: set[tuple[str, str, str, str]] = set()
    for each in told:
        fact = (each.what, each.node, each.detail, each.seen_by)
        facts.add(fact) if each.on else facts.discard(fact)
    return facts


async def test_a_node_that_is_cut_off_serves_nobody_and_is_in_one_cluster_again(brokers, record_property):
    alone = await brokers.node_of_master()
    others = [node for node in brokers.nodes if node is not alone]
    marks = brokers.marks()
    majority, minority = Load(brokers, "majority", *others), Load(brokers, "minority", alone)
    names = {node.name for node in others}

    async with brokers.notices() as told, under_load(brokers, majority, minority):

        def said(what: str, about: Node, by: Node, *, on: bool) -> bool:
            about_it = (what, about.name, by.name)
            last = [each for each in told if (each.what, each.node, each.seen_by) == about_it][-1:]
            return [each.on for each in last] == [on]

        began = time.monotonic()
        with brokers.lan.cut(alone.host):
            await until(lambda: said("quorum_lost", alone, alone, on=True), "who is cut off says so", CUT_S)
            for other in others:
                await until(lambda by=other: said("node_down", alone, by, on=True), "the others say so too", CUT_S)

            async def moved() -> bool:
                return await brokers.master() in names

            await until(moved, "one of the majority is the master", 30)
            assert await others[0].running() == names
            await anyio.sleep(max(0.0, began + CUT_S - time.monotonic()))  # the length of the fault
        healed = time.monotonic()
        await brokers.wait_whole(HEALED_S)
        whole_s = time.monotonic() - healed
        silence_s = majority.silence_s(began, healed)
        record_property("one cluster after, s", round(whole_s, 1))
        record_property("longest silence of a lane of the majority, s", round(silence_s, 1))
        await until(lambda: said("quorum_lost", alone, alone, on=False), "it is over", 30)
        for other in others:
            await until(lambda by=other: said("node_down", alone, by, on=False), "the others see it again", 30)
        await minority.flowing()

    assert silence_s < SILENT_S
    assert brokers.plans(marks) == set()
    assert [row for node in brokers.nodes for row in node.events("BrokerExited")] == []


async def test_a_cut_that_is_over_before_it_is_noticed_changes_nothing(brokers):
    marks = brokers.marks()
    async with under_load(brokers, Load(brokers, "blip")):
        with brokers.lan.cut(brokers.nodes[0].host):
            await anyio.sleep(10)  # a third of what the brokers wait
        await brokers.wait_whole(HEALED_S)
    assert brokers.plans(marks) == set()


async def test_a_cut_that_is_over_as_soon_as_one_side_has_noticed(brokers, record_property):
    """The moment in which they differ on who is there."""
    alone, *others = brokers.nodes
    marks = brokers.marks()
    async with brokers.notices() as told, under_load(brokers, Load(brokers, "edge", *others)):
        with brokers.lan.cut(alone.host):
            await until(lambda: any(each.what == "node_down" and each.on for each in told), "one has noticed", CUT_S)
        healed = time.monotonic()
        await until(lambda: not still_on(told), "all who told of something tell that it is over", 2 * HEALED_S)
        await brokers.wait_whole(2 * HEALED_S)
        record_property("one cluster after, s", round(time.monotonic() - healed, 1))
    status = [await node.ctl.status() for node in brokers.nodes]
    assert [each.partitions for each in status] == [{}] * 3
    assert brokers.plans(marks) == set()

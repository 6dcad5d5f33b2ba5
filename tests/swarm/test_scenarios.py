"""The failover scenarios on the real stack, under load, with an account of every confirmed task.

Each leaves a row in failover.json (see failover.py). FOG_SWARM_RATE: tasks per second, by default 500.
"""

import os
import random
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import pytest

from tests.swarm import failover
from tests.swarm.faults import kill_container, overlay_cut
from tests.swarm.images import build
from tests.swarm.ledger import read, silences
from tests.swarm.shell import SwarmFailed, wait_for
from tests.swarm.stack import BROKERS, TASK_QUEUES, LoadRun, Stack
from tests.swarm.testbed import Testbed

pytestmark = pytest.mark.swarm
RATE = float(os.environ.get("FOG_SWARM_RATE", "500"))
SEED = int(os.environ.get("FOG_SWARM_SEED") or time.time())
COLD_START_S = 120.0
FAULT_S = 60.0
MASTER = "rabbitmq:cluster:master"
LEASE_S = 15.0
"""[cluster] lease_s"""


@pytest.fixture(scope="module", params=["4.3"])
def version(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture(scope="module")
def stack(bed: Testbed, version: str) -> Stack:
    """Deployed on hosts that have the images, and whole: the cold start is measured here."""
    stack = Stack(bed, build(bed, version))
    stack.prepare()
    stack.pull()
    began = time.monotonic()
    stack.deploy()
    stack.wait_whole(2 * COLD_START_S)
    stack.cold_start_s = time.monotonic() - began
    return stack


@dataclass
class Scenario:
    """What one scenario measures: `at` is the moment of its fault, `whole_at` that of the healed cluster."""

    stack: Stack
    load: LoadRun
    at: float = 0.0
    whole_at: float = 0.0
    figures: dict[str, Any] = field(default_factory=dict[str, Any])

    def strike(self) -> None:
        self.at = time.time()

    def wait_whole(self, timeout: float) -> float:
        """Seconds from the fault to three members, all replicas and consumers on every task queue."""
        self.stack.wait_whole(timeout)
        self.whole_at = time.time()
        return self.whole_at - self.at


@contextmanager
def scenario(stack: Stack, name: str, version: str) -> Iterator[Scenario]:
    """A load before, during and after; at the end nothing that was confirmed may be missing."""
    stack.wait_whole(120)
    with LoadRun(stack, stack.bed.folder / f"load-{name.replace(' ', '-')}", rate=RATE) as load:
        load.wait_confirmed(int(5 * min(RATE, 100)), timeout=90)
        it = Scenario(stack, load)
        yield it
        load.wait_confirmed(int(min(RATE, 100)), timeout=60)
        report = load.finish()
    quiet = silences(read(load.folder / "ledger"), TASK_QUEUES, it.at, it.whole_at)
    it.figures["first confirm again on every task queue, s"] = round(max(quiet.values()), 2)
    failover.record(name, version, SEED, RATE, it.figures, report, quiet)
    assert report["lost"] == []
    assert set(report["states"]) <= {"succeeded"}, report["states"]


def kill(stack: Stack, *brokers: str) -> None:
    """All of them at the same moment, as near as two cores can."""
    targets = [(stack.bed.hosts[BROKERS[name]], stack.container(name, BROKERS[name])) for name in brokers]
    with ThreadPoolExecutor() as pool:
        list(pool.map(lambda target: kill_container(*target), targets))


@pytest.mark.slow
def test_a_cold_start_is_whole_in_two_minutes(stack: Stack, version: str) -> None:
    failover.record("cold start", version, SEED, RATE, {"whole, s": round(stack.cold_start_s, 1)})
    assert stack.problems() == []
    assert len(stack.redis("smembers", "rabbitmq:cluster:members").split()) == 3
    assert stack.cold_start_s < COLD_START_S


@pytest.mark.slow
def test_a_killed_node_comes_back_and_nothing_is_lost(stack: Stack, version: str) -> None:
    with scenario(stack, "one node killed", version) as it:
        it.strike()
        kill(stack, "rabbitmq2")
        it.figures["whole, s"] = round(it.wait_whole(120), 1)
    assert it.figures["whole, s"] < 45


@pytest.mark.slow
def test_when_the_master_is_killed_another_takes_its_lease(stack: Stack, version: str) -> None:
    master = stack.redis("get", MASTER)
    with scenario(stack, "the master killed", version) as it:
        it.strike()
        kill(stack, master.partition("@")[2])
        wait_for("another master", lambda: stack.redis("get", MASTER) not in ("", master), timeout=60)
        it.figures["another master, s"] = round(time.time() - it.at, 1)
        it.figures["whole, s"] = round(it.wait_whole(120), 1)
    assert it.figures["another master, s"] < LEASE_S + 10
    assert it.figures["whole, s"] < 45


@pytest.mark.parametrize("time_of_five", [1, 2, *(pytest.param(n, marks=pytest.mark.slow) for n in (3, 4, 5))])
def test_all_three_killed_at_once_come_back_with_all_that_was_confirmed(
    stack: Stack, version: str, time_of_five: int
) -> None:
    with scenario(stack, f"all three killed {time_of_five}", version) as it:
        brokers = list(BROKERS)
        random.Random(SEED + time_of_five).shuffle(brokers)
        it.strike()
        kill(stack, *brokers)
        it.figures["whole, s"] = round(it.wait_whole(240), 1)
    assert it.figures["whole, s"] < 120


@pytest.mark.slow
@pytest.mark.parametrize("broker", ["rabbitmq3", "rabbitmq1"])
def test_a_node_whose_volume_is_wiped_becomes_a_member_again(stack: Stack, version: str, broker: str) -> None:
    with scenario(stack, f"volume of {broker} wiped", version) as it:
        it.strike()
        kill(stack, broker)
        stack.wipe(broker)
        it.figures["whole, s"] = round(it.wait_whole(240), 1)
    assert it.figures["whole, s"] < 90


@pytest.mark.slow
def test_messages_flow_while_redis_is_away_for_a_minute(stack: Stack, version: str) -> None:
    with scenario(stack, "Redis killed, away for a minute", version) as it:
        it.strike()
        kill_container(stack.bed.hosts["manager1"], stack.container("redis", "manager1"))
        stack.scale("redis", 0)
        time.sleep(FAULT_S)  # the length of the fault, not a wait for anything
        stack.scale("redis", 1)
        wait_for("Redis", lambda: answers(stack), timeout=60)
        back = time.time()
        beats = "rabbitmq:node:*:heartbeat"
        wait_for("a heartbeat of each broker", lambda: len(stack.redis("keys", beats).split()) == 3, timeout=60)
        it.figures["heartbeats after Redis, s"] = round(time.time() - back, 1)
        it.wait_whole(60)
    assert it.figures["heartbeats after Redis, s"] < 10
    assert it.figures["first confirm again on every task queue, s"] < 5


def answers(stack: Stack) -> bool:
    try:
        return stack.redis("ping") == "PONG"
    except SwarmFailed:
        return False


@pytest.mark.slow
def test_a_node_cut_off_for_a_minute_is_in_one_cluster_again(stack: Stack, version: str) -> None:
    with scenario(stack, "one node's traffic cut for a minute", version) as it:
        it.strike()
        with overlay_cut(stack.bed.hosts, BROKERS["rabbitmq2"]):
            time.sleep(FAULT_S)  # the length of the fault, not a wait for anything
        healed = time.time()
        it.wait_whole(120)
        it.figures["one cluster after healing, s"] = round(it.whole_at - healed, 1)
    assert it.figures["one cluster after healing, s"] < 30

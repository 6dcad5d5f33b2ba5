"""What all scenarios have in common: a load before, during and after, an account at the end, a row in failover.json."""

import os
import random
import re
import time
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, field
from typing import Any

from tests.swarm import failover
from tests.swarm.client import LoadRun
from tests.swarm.failover import FIRST_CONFIRM
from tests.swarm.faults import kill_container
from tests.swarm.ledger import read, runs_of, silences
from tests.swarm.shell import SwarmFailed, wait_for
from tests.swarm.stack import BROKERS, TASK_QUEUES, Stack

RATE = float(os.environ.get("FOG_SWARM_RATE", "500"))
"""Tasks per second."""
SEED = int(os.environ.get("FOG_SWARM_SEED") or time.time())
RABBITMQ = os.environ.get("FOG_SWARM_RABBITMQ", "4.3")
TLS = os.environ.get("FOG_SWARM_TLS", "off") == "on"
SERVERS = f"{RABBITMQ}, TLS" if TLS else RABBITMQ
TAKEN_BACK = ("Bootstrap", "Join", "ForgetThenJoin", "WipeThenJoin")
"""Actions of `cluster/plan.py` that no node with data may take."""
HIGH_WAIT = "high priority, p99 of waits, s"
NO_RUN = "no task ran for, s"


@dataclass
class Scenario:
    """What one scenario measures: `at` is the moment of its fault, `whole_at` that of the healed cluster."""

    stack: Stack
    load: LoadRun
    at: float = 0.0
    whole_at: float = 0.0
    figures: dict[str, Any] = field(default_factory=dict[str, Any])
    report: dict[str, Any] = field(default_factory=dict[str, Any])

    def strike(self) -> None:
        self.at = time.time()

    def wait_whole(self, timeout: float) -> float:
        """Seconds from the fault to three members, all replicas and consumers on every task queue."""
        self.stack.wait_whole(timeout)
        self.whole_at = time.time()
        return self.whole_at - self.at

    def planned(self, *brokers: str) -> list[dict[str, Any]]:
        """What these sentinels, or all, have planned since the fault, and why."""
        found = [event for broker in brokers or BROKERS for event in self.stack.events(broker, self.at)]
        return [event for event in found if event["event"] == "ClusterPlanned"]


@contextmanager
def scenario(
    stack: Stack, name: str, rate: float = RATE, *, again: bool = False, must: Mapping[str, float] | None = None
) -> Iterator[Scenario]:
    """A load before, during and after; at the end nothing that was confirmed may be missing, and each figure that is in
    `must` be less than there. `again`: a publish that raised is repeated, as an application does it."""
    stack.wait_settled(180)
    stack.wait_whole(120)
    folder = re.sub(r"[^a-z0-9]+", "-", f"{name} {stack.tag}".lower())
    with LoadRun(stack, stack.bed.folder / f"load-{folder}", rate=rate, again=again) as load:
        load.wait_confirmed(int(5 * min(rate, 100)), timeout=90)
        it = Scenario(stack, load)
        yield it
        load.wait_confirmed(int(min(rate, 100)), timeout=60)
        it.report = load.finish()
    entries = read(load.folder / "ledger")
    quiet = silences(entries, TASK_QUEUES, it.at, it.whole_at)
    it.figures[FIRST_CONFIRM] = round(max(quiet.values()), 2)
    runs = runs_of(entries, stack.traces(load.folder.name), it.at, it.whole_at)
    it.figures[NO_RUN] = round(runs.pause_s, 2)
    high = [wait for lane, wait in it.report["wait_p99_s"].items() if "high_priority" in lane]
    it.figures[HIGH_WAIT] = max(high, default=0.0)
    if again:
        it.figures["publishes repeated"] = it.report["repeated"]
    it.report |= {key: value for key, value in asdict(runs).items() if key != "pause_s"}
    failover.record(name, SERVERS, SEED, rate, it.figures, it.report, quiet, stack.versions, must)
    assert it.report["lost"] == []
    assert set(it.report["states"]) <= {"succeeded"}, it.report["states"]
    assert runs.unseen == 0  # or the number of those that ran again means nothing
    assert failover.missed(it.figures, must or {}) == {}


def kill(stack: Stack, *brokers: str) -> None:
    """All of them at the same moment, as near as two cores can. Swarm starts them again after two seconds."""
    targets = [(stack.bed.hosts[BROKERS[name]], stack.container(name, BROKERS[name])) for name in brokers]
    with ThreadPoolExecutor() as pool:
        list(pool.map(lambda target: kill_container(*target), targets))


@contextmanager
def kept_down(stack: Stack, *brokers: str) -> Iterator[None]:
    """Killed at the same moment, and not started again before the end, unless the test does."""
    kill(stack, *brokers)
    stack.scale(0, *brokers)

    def ended() -> bool:
        left = [name for name in brokers if stack.states_of(name)]
        if left:
            # What Swarm was about to start again may escape the order, and is started after each kill, for ever.
            stack.scale(0, *left)
        for name in left:
            with suppress(SwarmFailed):
                kill_container(stack.bed.hosts[BROKERS[name]], stack.container(name, BROKERS[name]))
        return not left

    try:
        # Docker's scheduler takes the ports of a task that it has not yet seen gone for taken, and does not look again.
        wait_for(f"the end of {', '.join(brokers)}", ended, timeout=60)
        yield
    finally:
        stack.scale(1, *brokers)


def start_in_random_order(stack: Stack, brokers: list[str], order: random.Random) -> list[str]:
    """One after the other, with up to five seconds between them; the order."""
    brokers = order.sample(brokers, len(brokers))
    for number, broker in enumerate(brokers):
        if number:
            time.sleep(order.uniform(0, 5))  # part of the fault, not a wait for anything
        stack.scale(1, broker)
    return brokers


def from_redis(stack: Stack, *command: str) -> str:
    """What it answers; nothing while it does not."""
    try:
        return stack.redis(*command)
    except SwarmFailed:
        return ""


def wait_coordination(stack: Stack, beats: int, since: float, timeout: float) -> float:
    """Until Redis answers, somebody is master, and so many brokers have beaten since then (seconds since the epoch):
    what Redis kept from before its end does not count. The seconds that it took from now."""
    began = time.monotonic()

    keys = (*(f"rabbitmq:node:rabbit@{name}:heartbeat" for name in BROKERS), failover.MASTER)

    def there() -> bool:
        found = from_redis(stack, "mget", *keys).split()  # one question, and no word for a key that is not there
        # Whole seconds of Redis' own clock.
        fresh = [at for at in found if at.isdecimal() and int(at) >= int(since)]
        return len(fresh) >= beats and any("@" in each for each in found)

    wait_for(f"a master and the heartbeats of {beats} brokers", there, timeout=timeout, every=0.5)
    return time.monotonic() - began

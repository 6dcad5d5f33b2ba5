"""The failover scenarios on the real stack, under load, with an account of every confirmed task.

Each leaves a row in failover.json (see failover.py). FOG_SWARM_RATE: tasks per second, by default 500, which is more
than two cores run: what is marked `overload` is for that rate too. FOG_SWARM_RABBITMQ: the brokers' version,
FOG_SWARM_TLS=on: all of it with TLS; `make failover` runs what matters there.
"""

import json
import random
import time

import pytest

from tests.swarm import failover
from tests.swarm.client import run_client
from tests.swarm.failover import FIRST_CONFIRM, MASTER
from tests.swarm.faults import kill_container, link_down, overlay_cut, powered_off
from tests.swarm.images import above_base_mb, retag
from tests.swarm.scenario import (
    HIGH_WAIT,
    NO_RUN,
    RATE,
    SEED,
    SERVERS,
    TAKEN_BACK,
    from_redis,
    kept_down,
    kill,
    scenario,
    start_in_random_order,
    wait_coordination,
)
from tests.swarm.shell import wait_for
from tests.swarm.stack import BROKERS, VHOST, Stack

pytestmark = pytest.mark.swarm
WHOLE = "whole, s"
ABOVE_BASE = "image fogactors above its base, MB"
FAULT_S = 60.0
LEASE_S = 15.0
"""[cluster] lease_s"""
SERVES_S = 10.0
"""What serves all through a fault of a minute is silent for less, on two cores that run five hosts."""


@pytest.mark.versions
def test_a_cold_start_is_whole_in_two_minutes(stack: Stack) -> None:
    figures = {WHOLE: round(stack.cold_start_s, 1), ABOVE_BASE: above_base_mb(stack.bed, stack.tag)}
    must = {WHOLE: 120.0, ABOVE_BASE: 150.0}
    failover.record("cold start", SERVERS, SEED, 0, figures, versions=stack.versions, must=must)
    assert stack.problems() == []
    assert len(stack.redis("smembers", "rabbitmq:cluster:members").split()) == 3
    beats = {f"fog:beat:fog-node-{n}-1:tier-executor-{tier}" for n, tier in enumerate(("light", "medium", "heavy"), 1)}
    assert beats <= set(stack.redis("smembers", "fog:beats").split())
    assert failover.missed(figures, must) == {}


@pytest.mark.slow
@pytest.mark.parametrize("rate", [100.0, 200.0, 300.0, 500.0])
def test_a_load_without_a_fault(stack: Stack, rate: float) -> None:
    """For a minute: which rate these machines carry, so that one knows what a scenario at another rate says."""
    with scenario(stack, f"no fault, {rate:g} tasks/s", rate) as it:
        it.strike()
        time.sleep(FAULT_S)  # the length of the measurement
        it.wait_whole(30)
        ran = sum(it.at <= at <= it.whole_at for _, at in stack.traces(it.load.folder.name))
        it.figures["tasks run a second"] = round(ran / (it.whole_at - it.at), 1)
    assert it.report["refused"] == {}


@pytest.mark.slow
def test_the_main_job_runs_on_the_swarm(stack: Stack) -> None:
    began = time.monotonic()
    said = json.loads(run_client(stack, "demo", "--no-workers", "--no-live", "--json", timeout=600))
    figures = {name: said[name] for name in ("files", "tasks", "succeeded", "failed", "lost", "tasks_per_s")}
    figures["seconds"] = round(time.monotonic() - began, 1)
    failover.record("the main job", SERVERS, SEED, 0, figures, versions=stack.versions)
    assert said["lost"] == said["not_run"] == 0
    assert said["succeeded"] > 0


@pytest.mark.overload
@pytest.mark.slow
@pytest.mark.versions
@pytest.mark.parametrize("time_of_five", range(1, 6))
def test_a_killed_node_comes_back_and_nothing_is_lost(stack: Stack, time_of_five: int) -> None:
    """Five times: how soon the first confirm comes depends on what the node led."""
    broker = random.Random(SEED + time_of_five).choice(list(BROKERS))
    with scenario(stack, f"one node killed {time_of_five}", must={WHOLE: 45, FIRST_CONFIRM: 5}) as it:
        it.figures["node"] = broker
        it.strike()
        kill(stack, broker)
        it.figures[WHOLE] = round(it.wait_whole(120), 1)
        it.figures["noticed by the others after, s"] = stack.heard_down(broker, it.at)


@pytest.mark.overload
@pytest.mark.slow
def test_when_the_master_is_killed_another_takes_its_lease(stack: Stack) -> None:
    master = stack.redis("get", MASTER)
    with scenario(stack, "the master killed", must={"another master, s": LEASE_S + 10, WHOLE: 45}) as it:
        it.strike()
        kill(stack, master.partition("@")[2])
        wait_for("another master", lambda: stack.redis("get", MASTER) not in ("", master), timeout=60, every=2)
        it.figures["another master, s"] = round(time.time() - it.at, 1)
        it.figures[WHOLE] = round(it.wait_whole(120), 1)


@pytest.mark.overload
@pytest.mark.parametrize("time_of_five", [1, 2, *(pytest.param(n, marks=pytest.mark.slow) for n in (3, 4, 5))])
def test_all_three_killed_at_once_come_back_with_all_that_was_confirmed(stack: Stack, time_of_five: int) -> None:
    order = random.Random(SEED + time_of_five)
    with scenario(stack, f"all three killed {time_of_five}", must={WHOLE: 120}) as it:
        it.strike()
        with kept_down(stack, *BROKERS):
            started = start_in_random_order(stack, list(BROKERS), order)
        it.figures["started"] = ", ".join(started)
        it.figures[WHOLE] = round(it.wait_whole(240), 1)


@pytest.mark.overload
@pytest.mark.slow
def test_with_the_majority_down_nothing_is_destroyed_and_one_that_returns_heals_it(stack: Stack) -> None:
    with scenario(stack, "the majority down for a minute") as it:
        it.strike()
        with kept_down(stack, "rabbitmq2", "rabbitmq3"):
            told = wait_for("quorum_lost", lambda: quorum_lost(stack, it.at), timeout=FAULT_S)
            it.figures["quorum_lost"] = told
            time.sleep(max(0.0, it.at + FAULT_S - time.time()))  # the length of the fault
            stack.scale(1, "rabbitmq2")
            back = time.time()
            it.load.wait_confirmed(1, timeout=120)
            it.figures["first confirm after one returned, s"] = round(time.time() - back, 1)
        it.wait_whole(180)
        done = [event["action"] for event in it.planned() if event["action"] in TAKEN_BACK]
    assert told == "rabbit@rabbitmq2, rabbit@rabbitmq3"
    assert done == []


def quorum_lost(stack: Stack, since: float) -> str:
    """The nodes that a sentinel names."""
    for event in stack.events("rabbitmq1", since):
        if event["event"] == "ClusterChanged" and event["what"] == "quorum_lost" and event["on"]:
            return event["detail"]
    return ""


@pytest.mark.overload
@pytest.mark.slow
@pytest.mark.versions
@pytest.mark.parametrize("broker", ["rabbitmq3", "rabbitmq1"])
def test_a_node_whose_volume_is_wiped_becomes_a_member_again(stack: Stack, broker: str) -> None:
    with scenario(stack, f"volume of {broker} wiped", must={WHOLE: 90}) as it:
        it.strike()
        with kept_down(stack, broker):
            stack.wipe(broker)
        it.figures[WHOLE] = round(it.wait_whole(240), 1)


@pytest.mark.overload
@pytest.mark.slow
def test_a_node_wiped_while_another_is_down_waits_for_it(stack: Stack) -> None:
    must = {"whole after the other was started, s": 120}  # two that boot, one after the other
    with scenario(stack, "volume of rabbitmq2 wiped while rabbitmq3 was down", must=must) as it:
        it.strike()
        with kept_down(stack, "rabbitmq3"):
            it.load.wait_confirmed(int(5 * min(RATE, 100)), timeout=60)  # which rabbitmq3 does not have
            with kept_down(stack, "rabbitmq2"):
                stack.wipe("rabbitmq2")
            wait_for("the wait of the blank node", lambda: waits_for(it.planned("rabbitmq2")), timeout=90)
            done = [event["action"] for event in it.planned() if event["action"] in TAKEN_BACK]
            assert done == []
        back = time.time()
        it.wait_whole(240)
        it.figures["whole after the other was started, s"] = round(it.whole_at - back, 1)
        done = [event["action"] for event in it.planned("rabbitmq2") if event["action"] in TAKEN_BACK]
    assert set(done) == {"ForgetThenJoin", "Join"}


def waits_for(planned: list[dict[str, str]]) -> bool:
    return any(event["action"] == "Wait" and "rabbit@rabbitmq3" in event["why"] for event in planned)


@pytest.mark.overload
@pytest.mark.slow
def test_messages_flow_while_redis_is_away_for_a_minute(stack: Stack) -> None:
    must = {"heartbeats after Redis, s": 10, FIRST_CONFIRM: 5, NO_RUN: 5}
    with scenario(stack, "Redis killed, away for a minute", must=must) as it:
        it.strike()
        kill_container(stack.bed.hosts["manager1"], stack.container("redis", "manager1"))
        stack.scale(0, "redis")
        time.sleep(FAULT_S)  # the length of the fault, not a wait for anything
        again = time.time()
        stack.scale(1, "redis")
        wait_for("Redis", lambda: from_redis(stack, "ping") == "PONG", timeout=60)
        it.figures["heartbeats after Redis, s"] = round(wait_coordination(stack, 3, again, 60), 1)
        it.wait_whole(60)


@pytest.mark.overload
@pytest.mark.slow
def test_a_node_cut_off_for_a_minute_is_in_one_cluster_again(stack: Stack) -> None:
    must = {"one cluster after healing, s": 30, FIRST_CONFIRM: SERVES_S}
    with scenario(stack, "one node's traffic cut for a minute", must=must) as it:
        it.strike()
        with overlay_cut(stack.bed.hosts, BROKERS["rabbitmq2"]):
            time.sleep(FAULT_S)  # the length of the fault, not a wait for anything
        healed = time.time()
        it.wait_whole(120)
        it.figures["one cluster after healing, s"] = round(it.whole_at - healed, 1)


@pytest.mark.overload
@pytest.mark.slow
def test_a_host_without_its_link_is_done_without(stack: Stack) -> None:
    [reaper], [sink] = stack.hosts_of("dlq-reaper"), stack.hosts_of("metrics-sink")
    host = next(name for name in (reaper, sink, "manager3") if name != "manager1")
    moving = [name for name, at in (("dlq-reaper", reaper), ("metrics-sink", sink)) if at == host]
    must = {"whole after the link, s": 120, FIRST_CONFIRM: SERVES_S}
    with scenario(stack, "a host's link down for a minute", must=must) as it:
        it.figures["host"] = " ".join((host, *moving))
        it.strike()
        with link_down(stack.bed.hosts, host):
            for service in moving:
                wait_for(f"{service} elsewhere", lambda: host not in stack.hosts_of(service), timeout=FAULT_S)  # noqa: B023
            time.sleep(max(0.0, it.at + FAULT_S - time.time()))  # the length of the fault
        back = time.time()
        stack.wait_settled(240)  # it ends what it has given up there, the broker too, and starts it anew
        it.wait_whole(240)
        it.figures["whole after the link, s"] = round(it.whole_at - back, 1)


@pytest.mark.overload
@pytest.mark.slow
@pytest.mark.parametrize("time_of_three", [1, 2, 3])
def test_the_host_of_rabbitmq1_and_redis_is_lost_for_a_minute(stack: Stack, time_of_three: int) -> None:
    """Three times: how soon the others find Redis depends on what the engines have told each other."""
    must = {"coordination after the host, s": 10, FIRST_CONFIRM: SERVES_S, NO_RUN: SERVES_S}
    with scenario(stack, f"host of rabbitmq1 and Redis lost for a minute {time_of_three}", must=must) as it:
        it.strike()
        with powered_off(stack.bed.hosts, "manager1"):
            time.sleep(max(0.0, it.at + FAULT_S - time.time()))  # the length of the fault
            again = time.time()
        it.figures["coordination after the host, s"] = round(wait_coordination(stack, 2, again, 120), 1)
        it.figures[WHOLE] = round(it.wait_whole(240), 1)


@pytest.mark.slow
def test_a_copy_brings_back_what_redis_and_the_broker_had(stack: Stack) -> None:
    folder, exchange = stack.bed.folder / "copy", f"/exchanges/{VHOST}/kept.by.a.copy"
    stack.redis("set", "fog:kept", "before")
    stack.api(exchange, method="PUT", body='{"type":"topic","durable":true}')
    stack.make("backup", "--out", str(folder), host="manager1")
    stack.redis("set", "fog:kept", "after")
    stack.api(exchange, method="DELETE")
    stack.make("restore", str(folder), "--yes", host="manager1")
    assert stack.redis("get", "fog:kept") == "before"
    assert "kept.by.a.copy" in stack.exchanges()
    with scenario(stack, "after a restore") as it:
        it.strike()
        it.wait_whole(60)


@pytest.mark.slow
def test_an_update_of_everything_fails_nothing(stack: Stack) -> None:
    tag = f"{stack.tag}-next"
    retag(stack.bed, stack.tag, tag)
    stack.pull(tag)
    with scenario(stack, "rolling update of the whole stack", again=True, must={HIGH_WAIT: 10}) as it:
        it.strike()
        stack.update(tag)
        it.figures["updated, s"] = round(time.time() - it.at, 1)
        it.wait_whole(120)
    assert it.report["refused"] == {}
    assert all(image.endswith(f":{tag}") for image in stack.images())


@pytest.mark.slow
def test_a_raw_deploy_of_everything_loses_nothing(stack: Stack) -> None:
    """`docker stack deploy`, which changes the three brokers and Redis in the same second: the brokers take turns. It
    is no silent update: who connects anew finds none of them for half a minute, as if Swarm withdrew the name of a task
    that is told to stop.
    """
    tag = f"{stack.tag}-raw"
    retag(stack.bed, stack.tag, tag)
    stack.pull(tag)
    with scenario(stack, "all services changed by one docker stack deploy", again=True) as it:
        it.strike()
        stack.deploy(tag)
        wait_for("the tasks of the new images", lambda: stack.runs(tag), timeout=900)
        it.figures["updated, s"] = round(time.time() - it.at, 1)
        it.wait_whole(120)
        stops = {broker: stop_of(stack, broker, it.at) for broker in BROKERS}
    assert stops == {broker: {"turn": "ours", "quorum without us": "done"} for broker in BROKERS}


def stop_of(stack: Stack, broker: str, since: float) -> dict[str, str]:
    """How its sentinel came to its turn to stop, and whether some queue still needed it then."""
    stops = [event for event in stack.events(broker, since) if event["event"] == "StopTurn"]
    return {event["step"]: event["outcome"] for event in stops if event["step"] in ("turn", "quorum without us")}


@pytest.mark.slow
def test_new_passwords_reach_everything_and_lose_nothing(stack: Stack) -> None:
    with scenario(stack, "new passwords by an update", again=True) as it:
        it.strike()
        stack.renew("MQ_NODE1_PASS", "MQ_NODE3_PASS", "FOG_SENTINEL_PASS", "FOG_REAPER_PASS", "FOG_METRICS_PASS")
        it.figures["updated, s"] = round(time.time() - it.at, 1)
        it.wait_whole(120)
    for login in ("worker1", "worker2", "worker3", "sentinel", "reaper", "metrics"):
        stack.in_broker("rabbitmqctl", "authenticate_user", login, stack.passwords[login])
    assert it.report["refused"] == {}

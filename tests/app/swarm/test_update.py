"""`fogactors swarm update`: one broker at a time, and none while another is not back; then Redis, and tier by tier."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from fogactors.app.swarm.env import PASSWORDS, generated
from fogactors.app.swarm.stack import read_stack
from tests.app.swarm.client import on_services, service, task
from tests.app.swarm.test_inside import NODES, QUEUES, STATUS

STACK = str(Path(__file__).parents[3] / "swarm" / "stack.yml")
NAMES = list(read_stack(Path(STACK), {}).services)
TIERS = ["fog-node-1", "fog-node-2", "fog-node-3"]
NO_NODE = "no suitable node (1 node not available for new tasks)"
SHORT = [{**QUEUES[0], "online": NODES[:2]}]


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    monkeypatch.setattr("fogactors.app.swarm.services._POLL_S", 0.01)
    monkeypatch.setattr("fogactors.app.swarm.update._POLL_S", 0.01)


@pytest.fixture
def running(fog, client):
    """A stack that is up and whole, and a complete .env."""
    Path(".env").write_text("".join(f"{name}={value}\n" for name, value in generated(PASSWORDS).items()))
    client.on("secret ls", "")
    client.on("secret create", "id\n")
    client.on("stack deploy", "")
    client.on("ps", "c0ffee\n")
    found = [service(name) for name in NAMES]
    on_services(client, (found, [task(each) for each in found]))
    return found


def order(client) -> list[str]:
    """Each deploy as the services in its files, `all` for the stack itself, and each time that replicas are counted."""
    seen: list[str] = []
    for call in client.calls():
        if call.words[:2] == ["stack", "deploy"]:
            texts = {Path(name).name: text for name, text in call.files.items()}
            seen.append("all" if "stack.yml" in texts else "+".join(json.loads(texts["0.json"])["services"]))
        elif "list_queues" in call.words:
            seen.append("?")
    return seen


def whole(client) -> None:
    client.on("exec", STATUS, has="cluster_status")
    client.on("exec", QUEUES, has="list_queues")


def test_brokers_go_one_by_one_and_each_waits_for_members_and_replicas(fog, client, running):
    short = json.dumps(SHORT)
    whole = json.dumps(QUEUES)
    two = json.dumps({**STATUS, "running_nodes": NODES[:2]})
    one = json.dumps(STATUS)
    # before: whole; after the first: a member is missing, then a replica, then whole; the rest: whole at once
    client.on("exec", one, whole, two, short, one, short, one, whole, one, whole, one, whole, one, whole)
    old = [f"fog_redis_conf_0000000{day}" for day in (1, 2)]
    client.on("config ls", "".join(f"{name}\n" for name in old))
    client.on("config inspect", [{"CreatedAt": name[-1], "Spec": {"Name": name}} for name in old])
    client.on("config rm", "")
    code, out, err = fog("swarm", "update", "--file", STACK)
    assert code == 0, err
    brokers = ["rabbitmq1", "?", "?", "?", "rabbitmq2", "?", "rabbitmq3", "?"]
    assert order(client) == ["?", *brokers, "redis", *TIERS, "all", "?"]
    assert err.splitlines() == [
        "rabbitmq1 (1 of 3)",
        "waiting for the cluster: 2 of 3 brokers run; rabbit@rabbitmq3 is a member and does not run; "
        "1 of 1 queues lack replicas (dlq)",
        "waiting for the cluster: 1 of 1 queues lack replicas (dlq)",
        "rabbitmq2 (2 of 3)",
        "rabbitmq3 (3 of 3)",
        "redis",
        *TIERS,
        "all else",
        f"removed, because nothing uses them any more: {old[0]}",
    ]
    assert "rabbitmq3" in out
    variables = [call.environment["FOG_SECRET_ERLANG_COOKIE"] for call in client.calls("stack deploy")]
    assert len(variables) == 8
    assert len(set(variables)) == 1


ONE_MISSES = {**STATUS, "running_nodes": NODES[:2]}
ITS_OWN = [{**QUEUES[0], "online": NODES[:2]}, {**QUEUES[1], "members": NODES[:2], "online": NODES[:2]}]


@pytest.mark.parametrize(
    ("status", "queues", "missing"),
    [
        (STATUS, SHORT, "1 of 1 queues lack replicas (dlq)"),
        (
            {**STATUS, "running_nodes": NODES[:1]},
            [],
            "1 of 3 brokers run; rabbit@rabbitmq2 is a member and does not run; "
            "rabbit@rabbitmq3 is a member and does not run",
        ),
        (
            ONE_MISSES,
            [{**QUEUES[0], "online": NODES[:1]}],
            "2 of 3 brokers run; rabbit@rabbitmq3 is a member and does not run; 1 of 1 queues lack replicas (dlq)",
        ),
        (
            {**ONE_MISSES, "partitions": {NODES[0]: [NODES[1]]}},
            QUEUES,
            "2 of 3 brokers run; rabbit@rabbitmq3 is a member and does not run; "
            "partition: rabbit@rabbitmq1 does not see rabbit@rabbitmq2",
        ),
    ],
)
def test_none_is_stopped_while_the_cluster_is_not_whole(fog, client, running, status, queues, missing):
    client.on("exec", status, queues)
    code, _, err = fog("swarm", "update", "--file", STACK)
    assert code == 2
    assert err == (
        f"fogactors: the brokers' cluster is not whole, so none may be stopped: {missing}; `fogactors swarm deploy` "
        "changes all of them all the same, and waits for no replica\n"
    )
    assert client.calls("stack deploy") == []


def test_the_one_broker_that_does_not_run_is_changed_first(fog, client, running):
    """A mistake in rabbitmq.conf: the sentinel lives, so docker has rolled nothing back."""
    # before; after the first: still away, then whole; the others: whole at once
    client.on("exec", ONE_MISSES, ONE_MISSES, STATUS, has="cluster_status")
    client.on("exec", ITS_OWN, ITS_OWN, QUEUES, has="list_queues")
    code, _, err = fog("swarm", "update", "--file", STACK)
    assert code == 0, err
    brokers = ["rabbitmq3", "?", "?", "rabbitmq1", "?", "rabbitmq2", "?"]
    assert order(client) == ["?", *brokers, "redis", *TIERS, "all", "?"]
    assert err.splitlines()[:2] == ["rabbitmq3 does not run, so it is the first", "rabbitmq3 (1 of 3)"]


def test_the_others_are_asked_when_the_broker_of_this_host_is_the_one(fog, client, running):
    client.on("exec", err="Error: unable to connect to node rabbit@rabbitmq1\n", code=69)
    before = ({**STATUS, "running_nodes": NODES[1:]}, QUEUES)
    client.on("exec", *before, *(STATUS, QUEUES) * 4, has="rabbit@rabbitmq3")
    code, _, err = fog("swarm", "update", "--file", STACK)
    assert code == 0, err
    deployed = [each for each in order(client) if each != "?"]
    assert deployed == ["rabbitmq1", "rabbitmq2", "rabbitmq3", "redis", *TIERS, "all"]
    assert err.startswith("rabbitmq1 does not run, so it is the first\nrabbitmq1 (1 of 3)\n")


def test_brokers_that_do_not_answer_are_not_stopped(fog, client, running):
    client.on("exec", err="Error: unable to connect\n", code=69)
    code, _, err = fog("swarm", "update", "--file", STACK)
    assert code == 2
    assert err.startswith("fogactors: the brokers' cluster is not whole, so none may be stopped: none answers: docker")
    assert err.endswith(" and waits for no replica\n")
    assert client.calls("stack deploy") == []


def test_a_broker_without_a_host_is_not_waited_for(fog, client, running):
    client.on("exec", ONE_MISSES, ITS_OWN)
    tasks = [
        task(
            each, *(("pending",) if each["ID"] == "id-rabbitmq3" else ()), err=NO_NODE * (each["ID"] == "id-rabbitmq3")
        )
        for each in running
    ]
    on_services(client, (running, tasks))
    code, _, err = fog("swarm", "update", "--file", STACK)
    assert code == 2
    assert err == (
        f"fogactors: rabbitmq3 does not run, and no host can have it: {NO_NODE}; bring its host back, or give its "
        "place to another with `fogactors swarm label`\n"
    )
    assert client.calls("stack deploy") == []


def test_it_ends_at_the_broker_that_does_not_come_back(fog, client, running):
    client.on("exec", STATUS, has="cluster_status")
    client.on("exec", QUEUES, SHORT, has="list_queues")
    code, _, err = fog("swarm", "update", "--file", STACK, "--step", "1")
    assert code == 1
    assert order(client)[:2] == ["?", "rabbitmq1"]
    assert "rabbitmq2" not in order(client)
    assert "fogactors: rabbitmq1: the brokers' cluster is not whole after 1 s: " in err
    assert err.endswith("; rabbitmq2, rabbitmq3, redis and all else have not been touched\n")


def test_it_ends_when_docker_rolls_a_broker_back(fog, client, running):
    whole(client)
    back = service("rabbitmq1", update="rollback_completed")
    found = [back, *running[1:]]
    on_services(client, (found, [task(each) for each in found]))
    code, _, err = fog("swarm", "update", "--file", STACK)
    assert code == 1
    assert order(client) == ["?", "rabbitmq1"]
    assert "fogactors: rabbitmq1: an update was given up: rabbitmq1 1/1, rollback_completed;" in err


def test_executors_that_need_the_new_redis_are_not_touched_without_it(fog, client, running):
    whole(client)
    found = [service(name, update="rollback_completed") if name == "redis" else service(name) for name in NAMES]
    on_services(client, (found, [task(each) for each in found]))
    code, _, err = fog("swarm", "update", "--file", STACK)
    assert code == 1
    assert [each for each in order(client) if each != "?"] == ["rabbitmq1", "rabbitmq2", "rabbitmq3", "redis"]
    assert "fogactors: redis: an update was given up: redis 1/1, rollback_completed;" in err
    assert err.endswith("; fog-node-1, fog-node-2, fog-node-3 and all else have not been touched\n")


def test_a_tier_that_is_rolled_back_keeps_nothing_from_the_others(fog, client, running):
    whole(client)
    found = [service(name, update="rollback_completed") if name == TIERS[0] else service(name) for name in NAMES]
    on_services(client, (found, [task(each) for each in found]))
    code, _, err = fog("swarm", "update", "--file", STACK)
    assert code == 1
    *before, last = [each for each in order(client) if each != "?"]
    assert before == ["rabbitmq1", "rabbitmq2", "rabbitmq3", "redis", *TIERS]
    assert last.split("+") == [name for name in NAMES if name != TIERS[0]]  # or docker would try it once more
    assert "\nfogactors: fog-node-1: an update was given up: fog-node-1 1/1, rollback_completed; " in err
    assert err.endswith("; all else was updated\n")


def test_tiers_whose_host_is_down_are_waited_for_when_all_else_is_done(fog, client, running):
    whole(client)
    lost = {f"id-{name}" for name in TIERS[1:]}
    tasks = [task(each, "pending", err=NO_NODE) if each["ID"] in lost else task(each) for each in running]
    on_services(client, (running, tasks))
    code, _, err = fog("swarm", "update", "--file", STACK, "--step", "1")
    assert code == 1
    assert [each for each in order(client) if each != "?"][-5:] == ["redis", *TIERS, "all"]
    said = f"fog-node-2 0/1, {NO_NODE}; fog-node-3 0/1, {NO_NODE}"
    assert err.splitlines()[4:] == [
        *TIERS,
        "all else",
        f"waiting for {said}",
        f"fogactors: fog-node-2, fog-node-3: not up within 1 s: {said}; `docker service ps` shows more; "
        "all else was updated",
    ]


def test_late_tiers_are_named_also_when_the_rest_fails(fog, client, running):
    whole(client)
    late = (TIERS[0], "dlq-reaper")
    found = [service(name, update="paused") if name in late else service(name) for name in NAMES]
    on_services(client, (found, [task(each) for each in found]))
    code, _, err = fog("swarm", "update", "--file", STACK)
    assert code == 1
    assert "\nfogactors: fog-node-1: an update was given up: fog-node-1 1/1, paused; " in err
    assert "; all else: an update was given up: dlq-reaper 1/1, paused; " in err


def test_a_stack_that_is_not_there_is_for_deploy(fog, client, running):
    on_services(client, ([], []))
    code, _, err = fog("swarm", "update", "--file", STACK)
    assert code == 2
    assert "rabbitmq1, rabbitmq2, rabbitmq3 not there; `fogactors swarm deploy` is for" in err


def test_it_is_done_on_a_host_with_a_broker(fog, client, running):
    client.on("ps", "")
    code, _, err = fog("swarm", "update", "--file", STACK)
    assert code == 2
    assert "no container of rabbitmq1, rabbitmq2, rabbitmq3 runs on this host; do it on one where one does" in err
    assert client.calls("stack deploy") == []

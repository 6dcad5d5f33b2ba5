"""`fogactors swarm update`: one broker at a time, and none while another is not back; one tier at a time."""

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
    assert order(client) == ["?", "rabbitmq1", "?", "?", "?", "rabbitmq2", "?", "rabbitmq3", "?", *TIERS, "all", "?"]
    assert err.splitlines() == [
        "rabbitmq1 (1 of 3)",
        "waiting for the cluster: 2 of 3 brokers run; rabbit@rabbitmq3 is a member and does not run; "
        "1 of 1 queues lack replicas (dlq)",
        "waiting for the cluster: 1 of 1 queues lack replicas (dlq)",
        "rabbitmq2 (2 of 3)",
        "rabbitmq3 (3 of 3)",
        *TIERS,
        "all else",
        f"removed, because nothing uses them any more: {old[0]}",
    ]
    assert "rabbitmq3" in out
    variables = [call.environment["FOG_SECRET_ERLANG_COOKIE"] for call in client.calls("stack deploy")]
    assert len(variables) == 7
    assert len(set(variables)) == 1


def test_none_is_stopped_while_the_cluster_is_not_whole(fog, client, running):
    client.on("exec", STATUS, SHORT)
    code, _, err = fog("swarm", "update", "--file", STACK)
    assert code == 2
    assert err == (
        "fogactors: the brokers' cluster is not whole, so none may be stopped: 1 of 1 queues lack replicas (dlq)\n"
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
    assert err.endswith("; rabbitmq2, rabbitmq3 and all else have not been touched\n")


def test_it_ends_when_docker_rolls_a_broker_back(fog, client, running):
    client.on("exec", json.dumps(STATUS), json.dumps(QUEUES))
    back = service("rabbitmq1", update="rollback_completed")
    found = [back, *running[1:]]
    on_services(client, (found, [task(each) for each in found]))
    code, _, err = fog("swarm", "update", "--file", STACK)
    assert code == 1
    assert order(client) == ["?", "rabbitmq1"]
    assert "fogactors: rabbitmq1: an update was given up: rabbitmq1 1/1, rollback_completed;" in err


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

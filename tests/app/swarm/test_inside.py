"""What brokers and Redis say of themselves, asked in their containers."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from fogactors.app.swarm.inside import view_of

STACK = str(Path(__file__).parents[3] / "swarm" / "stack.yml")
NODES = ["rabbit@rabbitmq1", "rabbit@rabbitmq2", "rabbit@rabbitmq3"]
STATUS = {"disk_nodes": NODES, "running_nodes": NODES, "alarms": [], "partitions": {}}
QUEUES = [
    {"name": "dlq", "type": "quorum", "members": NODES, "online": NODES},
    {"name": "dlq.parked", "type": "stream", "members": NODES, "online": NODES},
    {"name": "ctl.x", "type": "classic", "members": "", "online": ""},
]


@pytest.mark.parametrize(
    ("status", "queues", "lacking"),
    [
        ({}, QUEUES, []),
        (
            {"running_nodes": NODES[:2]},
            [{**QUEUES[0], "online": NODES[:2]}],
            [
                "2 of 3 brokers run",
                "rabbit@rabbitmq3 is a member and does not run",
                "1 of 1 queues lack replicas (dlq)",
            ],
        ),
        ({"disk_nodes": NODES[:1], "running_nodes": NODES[:1]}, [], ["1 of 3 brokers run"]),
        ({}, [{**QUEUES[0], "members": NODES[:2], "online": NODES[:2]}], ["1 of 1 queues lack replicas (dlq)"]),
        ({"alarms": [{"node": NODES[0], "resource": "memory"}]}, QUEUES, ["alarm: memory on rabbit@rabbitmq1"]),
        (
            {"partitions": {NODES[0]: [NODES[1]], NODES[1]: []}},
            QUEUES,
            ["partition: rabbit@rabbitmq1 does not see rabbit@rabbitmq2"],
        ),
    ],
)
def test_what_keeps_a_cluster_from_being_whole(status, queues, lacking):
    assert view_of({**STATUS, **status}, queues, 3).lacking(3) == lacking


def test_the_command_asks_a_broker_on_this_host(fog, client):
    client.on("ps", "", "c0ffee\n")
    client.on("exec", STATUS, f"Listing queues\n{json.dumps(QUEUES)}")
    code, out, err = fog("swarm", "rabbitmq", "--file", STACK)
    assert (code, err) == (0, "")
    assert out.endswith("queues   2 replicated\nwhole: all members run, and all queues have all their replicas\n")
    asked = [call.words[4] for call in client.calls("ps")]
    assert asked == [f"label=com.docker.swarm.service.name=fog_rabbitmq{n}" for n in (1, 2)]
    first, second = client.calls("exec")
    assert first.words[1:3] == ["c0ffee", "sh"]
    assert first.words[6:] == ["rabbitmqctl", "-q", "cluster_status", "--formatter", "json"]
    assert second.words[6:11] == ["rabbitmqctl", "-q", "list_queues", "-p", "/fog"]


def test_the_command_exits_1_when_something_is_missing_and_says_where_to_ask(fog, client):
    client.on("ps", "c0ffee\n")
    client.on("exec", {**STATUS, "running_nodes": NODES[:2]}, QUEUES)
    code, out, _ = fog("swarm", "rabbitmq", "--file", STACK, "--json")
    assert code == 1
    assert json.loads(out)["lacking"][0] == "2 of 3 brokers run"
    client.on("ps", "")
    code, _, err = fog("swarm", "rabbitmq", "--file", STACK)
    assert code == 2
    assert err.startswith("fogactors: no container of rabbitmq1, rabbitmq2, rabbitmq3 runs on this host; do it on one")


def test_redis_is_asked_with_the_password_that_never_leaves_its_container(fog, client):
    client.on("ps", "c0ffee\n")
    client.on("exec", "PONG\n", "# Server\r\nredis_version:8.0.2\r\nmaxmemory_human:512.00M\r\n")
    code, out, err = fog("swarm", "redis")
    assert (code, err) == (0, "")
    assert out.split() == ["ping", "PONG", "redis_version", "8.0.2", "maxmemory_human", "512.00M"]
    first = client.calls("exec")[0]
    assert first.words[-2:] == ["-e", "PING"]
    assert "$FOGACTORS_USERS__REDIS__PASSWORD_FILE" in first.words[4]

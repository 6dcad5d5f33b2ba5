"""Which node gets which place, and what docker is told."""

from __future__ import annotations

import json

import pytest

from fogactors.app.swarm.labels import PLACES, Change, plan_labels
from fogactors.app.swarm.nodes import SwarmNode
from fogactors.errors import ConfigError
from tests.app.swarm.client import node, on_nodes


def swarm_node(name: str, *, manager: bool = False, **labels: str) -> SwarmNode:
    return SwarmNode(
        f"id-{name}", name, manager, labels={key.replace("_", "-"): value for key, value in labels.items()}
    )


FIVE = [
    *(swarm_node(name, manager=True) for name in ("m1", "m2", "m3")),
    *(swarm_node(name) for name in ("w1", "w2")),
]
FRESH = {
    "m1": {"manager-master": "true"},
    "m2": {"manager-rep1": "true"},
    "m3": {"manager-rep2": "true"},
    "w1": {"worker1": "true", "fog": "1"},
    "w2": {"worker2": "true", "fog": "3"},
}


def after(found: list[SwarmNode], changes: list[Change]) -> dict[str, dict[str, str]]:
    labels = {each.name: dict(each.labels) for each in found}
    for change in changes:
        for key in change.remove:
            del labels[change.node][key]
        labels[change.node] |= change.add
    return labels


def test_a_fresh_swarm_is_labelled_by_name():
    changes = plan_labels(FIVE, {})
    assert after(FIVE, changes) == FRESH
    assert len(changes) == len(PLACES)


def test_a_second_time_there_is_nothing_to_do():
    there = [swarm_node(name, manager=name < "n", **FRESH[name]) for name in FRESH]
    assert plan_labels(there, {}) == []


def test_labels_without_a_value_get_one():
    old = [
        swarm_node("a", manager=True, manager_rep2=""),
        swarm_node("b", manager=True, manager_master=""),
        swarm_node("c", manager=True, manager_rep1=""),
        swarm_node("d", worker2=""),
        swarm_node("e", worker1=""),
    ]
    assert after(old, plan_labels(old, {})) == {
        "a": {"manager-rep2": "true"},
        "b": {"manager-master": "true"},
        "c": {"manager-rep1": "true"},
        "d": {"worker2": "true", "fog": "3"},
        "e": {"worker1": "true", "fog": "1"},
    }


def test_workers_that_change_places_keep_one_fog_each():
    there = [swarm_node(name, manager=name < "n", **FRESH[name]) for name in FRESH]
    changes = plan_labels(there, {"worker1": "w2", "worker2": "w1"})
    assert after(there, changes) == {
        **FRESH,
        "w1": {"worker2": "true", "fog": "3"},
        "w2": {"worker1": "true", "fog": "1"},
    }


def test_a_place_that_moves_leaves_nothing_behind():
    there = [
        *(swarm_node(name, manager=name < "n", **FRESH[name]) for name in FRESH),
        swarm_node("w3"),
        swarm_node("w4", fog="1"),
    ]
    changes = plan_labels(there, {"worker1": "w3"})
    assert after(there, changes) == {**FRESH, "w1": {}, "w3": FRESH["w1"], "w4": {"fog": "1"}}


def test_managers_may_run_tasks_too():
    found = FIVE[:3]
    assert after(found, plan_labels(found, {"worker1": "m1", "worker2": "m2"})) == {
        "m1": FRESH["m1"] | FRESH["w1"],
        "m2": FRESH["m2"] | FRESH["w2"],
        "m3": FRESH["m3"],
    }


def test_one_machine_may_have_all_brokers_when_asked():
    found = [swarm_node("m", manager=True), swarm_node("w")]
    asked = {"manager-master": "m", "manager-rep1": "m", "manager-rep2": "m", "worker1": "m", "worker2": "w"}
    assert after(found, plan_labels(found, asked)) == {
        "m": {"manager-master": "true", "manager-rep1": "true", "manager-rep2": "true", "worker1": "true", "fog": "1"},
        "w": {"worker2": "true", "fog": "3"},
    }


@pytest.mark.parametrize(
    ("found", "asked", "wrong"),
    [
        (FIVE, {"worker1": "x"}, "there is no node 'x'; there are m1, m2, m3, w1, w2"),
        (FIVE, {"manager-rep1": "w1"}, "manager-rep1 must be a manager, and w1 is none: `docker node promote w1`"),
        (FIVE, {"worker1": "w1", "worker2": "w1"}, "worker1 and worker2 must be two nodes, and both are w1"),
        (
            FIVE[1:],
            {},
            "manager-rep2 has no node: this swarm has no manager that is free; let another one join, or name",
        ),
        (FIVE[:4], {}, "worker2 has no node: this swarm has no worker that is free"),
        (
            [*FIVE[:3], swarm_node("w1", worker1="true"), swarm_node("w2", worker1="true")],
            {},
            "worker1 is on w1, w2: say which one, e.g. --worker1 w1",
        ),
    ],
)
def test_what_cannot_be_is_said(found, asked, wrong):
    with pytest.raises(ConfigError) as error:
        plan_labels(found, asked)
    assert str(error.value).startswith(wrong)


def test_the_command_tells_docker(fog, client):
    on_nodes(
        client,
        node("w2", labels={"worker1": "true", "fog": "1"}),
        node("w1"),
        *(node(name, manager=True) for name in ("m3", "m1", "m2")),
    )
    client.on("node update", "")
    code, out, err = fog("swarm", "label", "--dry-run")
    assert (code, err) == (0, "")
    assert client.calls("node update") == []
    assert out.splitlines() == [
        "m1: manager-master=true",
        "m2: manager-rep1=true",
        "m3: manager-rep2=true",
        "w1: worker2=true, fog=3",
    ]
    code, out, _ = fog("swarm", "label", "--worker1", "w1", "--json")
    assert code == 0
    assert json.loads(out)["done"] is True
    assert [call.words[2:] for call in client.calls("node update")] == [
        ["--label-add", "manager-master=true", "id-m1"],
        ["--label-add", "manager-rep1=true", "id-m2"],
        ["--label-add", "manager-rep2=true", "id-m3"],
        ["--label-rm", "worker1", "id-w2"],
        ["--label-add", "worker1=true", "--label-add", "fog=1", "id-w1"],
        ["--label-add", "worker2=true", "--label-add", "fog=3", "id-w2"],
    ]


def test_the_command_on_a_worker_says_what_docker_says(fog, client):
    client.on("node ls", err="Error: This node is not a swarm manager.", code=1)
    code, _, err = fog("swarm", "label")
    assert code == 1
    assert err == "fogactors: docker node ls --quiet ended with 1: Error: This node is not a swarm manager.\n"

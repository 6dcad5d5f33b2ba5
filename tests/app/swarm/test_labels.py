"""Which node gets which place, and what docker is told."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

import pytest

from fogactors.app.swarm import labels
from fogactors.app.swarm.labels import BROKERS, PLACES, Change, choose, consequences, plan_labels
from fogactors.app.swarm.nodes import SwarmNode
from fogactors.app.swarm.stack import read_stack
from fogactors.errors import ConfigError
from tests.app.swarm.client import node, on_nodes


def swarm_node(name: str, *, manager: bool = False, ready: bool = True, id: str = "", **labels: str) -> SwarmNode:  # noqa: A002
    named = {key.replace("_", "-"): value for key, value in labels.items()}
    return SwarmNode(id or f"id-{name}", name, manager, ready, labels=named)


def plan(found: list[SwarmNode], asked: Mapping[str, str]) -> list[Change]:
    return plan_labels(found, choose(found, asked))


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
    """Labels by id, without its `id-`."""
    have = {each.id: dict(each.labels) for each in found}
    for change in changes:
        for key in change.remove:
            del have[change.id][key]
        have[change.id] |= change.add
    return {key.removeprefix("id-"): value for key, value in have.items()}


def test_a_fresh_swarm_is_labelled_by_name():
    changes = plan(FIVE, {})
    assert after(FIVE, changes) == FRESH
    assert len(changes) == len(PLACES)


def test_a_second_time_there_is_nothing_to_do():
    there = [swarm_node(name, manager=name < "n", **FRESH[name]) for name in FRESH]
    assert plan(there, {}) == []


def test_labels_without_a_value_get_one():
    old = [
        swarm_node("a", manager=True, manager_rep2=""),
        swarm_node("b", manager=True, manager_master=""),
        swarm_node("c", manager=True, manager_rep1=""),
        swarm_node("d", worker2=""),
        swarm_node("e", worker1=""),
    ]
    assert after(old, plan(old, {})) == {
        "a": {"manager-rep2": "true"},
        "b": {"manager-master": "true"},
        "c": {"manager-rep1": "true"},
        "d": {"worker2": "true", "fog": "3"},
        "e": {"worker1": "true", "fog": "1"},
    }


def test_workers_that_change_places_keep_one_fog_each():
    there = [swarm_node(name, manager=name < "n", **FRESH[name]) for name in FRESH]
    changes = plan(there, {"worker1": "w2", "worker2": "w1"})
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
    changes = plan(there, {"worker1": "w3"})
    assert after(there, changes) == {**FRESH, "w1": {}, "w3": FRESH["w1"], "w4": {"fog": "1"}}


def test_managers_may_run_tasks_too():
    found = FIVE[:3]
    assert after(found, plan(found, {"worker1": "m1", "worker2": "m2"})) == {
        "m1": FRESH["m1"] | FRESH["w1"],
        "m2": FRESH["m2"] | FRESH["w2"],
        "m3": FRESH["m3"],
    }


def test_one_machine_may_have_all_brokers_when_asked():
    found = [swarm_node("m", manager=True), swarm_node("w")]
    asked = {"manager-master": "m", "manager-rep1": "m", "manager-rep2": "m", "worker1": "m", "worker2": "w"}
    assert after(found, plan(found, asked)) == {
        "m": {"manager-master": "true", "manager-rep1": "true", "manager-rep2": "true", "worker1": "true", "fog": "1"},
        "w": {"worker2": "true", "fog": "3"},
    }


def test_places_stay_together_on_one_machine_also_when_another_is_free():
    all_three = {"manager_master": "true", "manager_rep1": "true", "manager_rep2": "true"}
    found = [
        swarm_node("m0", manager=True),
        swarm_node("m1", manager=True, **all_three, worker1="true", fog="1"),
        swarm_node("w", worker2="true", fog="3"),
    ]
    assert plan(found, {}) == []
    assert plan(found, {"worker1": "m1", "manager-rep1": "m1"}) == []


UP = [swarm_node(name, manager=name < "n", **FRESH[name]) for name in FRESH]
OLD = swarm_node("m2", manager=True, ready=False, id="id-old", manager_rep1="true")
NEW = swarm_node("m2", manager=True, id="id-new")
OTHERS = [each for each in UP if each.name != "m2"]


@pytest.mark.parametrize("pair", [(OLD, NEW), (NEW, OLD)])
def test_of_two_nodes_of_one_name_the_one_that_is_up_is_meant(pair):
    found = [*pair, *OTHERS]
    changes = plan(found, {"manager-rep1": "m2"})
    assert after(found, changes) == {
        **{name: FRESH[name] for name in FRESH if name != "m2"},
        "old": {},
        "new": FRESH["m2"],
    }
    assert {change.node for change in changes} == {"m2 (id-old)", "m2 (id-new)"}
    assert plan(found, {"manager-rep1": "id-new"}) == changes
    # The same host, so its volume is as new as ever.
    assert consequences(found, choose(found, {"manager-rep1": "m2"}), "fog", running=True) == []


@pytest.mark.parametrize("pair", [(OLD, NEW), (NEW, OLD)])
def test_a_place_stays_with_a_node_that_is_down_and_that_is_said(pair):
    found = [*pair, *OTHERS]
    chosen = choose(found, {})
    assert plan_labels(found, chosen) == []
    assert consequences(found, chosen, "fog", running=True) == [
        "manager-rep1 is on m2 (id-old), which takes no tasks: it is down, drained or paused; "
        "--manager-rep1 id-new gives it to the other m2"
    ]
    both = [swarm_node("m2", manager=True, id="id-new", manager_rep1="true"), OLD, *OTHERS]
    assert plan(both, {}) == [Change("m2 (id-old)", "id-old", "manager-rep1", {}, ("manager-rep1",))]


def test_a_worker_that_is_down_is_said():
    found = [*UP[:4], swarm_node("w2", ready=False, **FRESH["w2"])]
    assert consequences(found, choose(found, {}), "fog", running=True) == [
        "worker2 is on w2, which takes no tasks: it is down, drained or paused; --worker2 NODE gives it to another"
    ]


SPARE = [swarm_node("m4", manager=True), swarm_node("m5", manager=True)]


def test_a_broker_that_moves_leaves_a_volume_that_must_not_come_back():
    found = [*UP, *SPARE]
    (said,) = consequences(found, choose(found, {"manager-rep1": "m4"}), "fog", running=True)
    assert said == (
        "rabbitmq2 begins without data on m4, and is taken in again once the others run; its volume on m2 is out of "
        "date from now on: `docker volume rm fog_rabbitmq2-data` there before manager-rep1 ever comes back to it"
    )
    (said,) = consequences(found, choose(found, {"manager-master": "m4"}), "fog", running=True)
    assert said.startswith("rabbitmq1 begins without data on m4,")
    assert said.endswith("; Redis goes with it, and has no data there until `fogactors swarm restore`")


@pytest.mark.parametrize(
    ("found", "asked", "wrong"),
    [
        (
            [*UP, *SPARE],
            {"manager-rep1": "m4", "manager-rep2": "m5"},
            "manager-rep1 would go from m2 to m4 and manager-rep2 from m3 to m5 at once",
        ),
        (
            [*UP, *SPARE],
            {"manager-rep1": "m3"},
            "manager-rep1 would go from m2 to m3 and manager-rep2 from m3 to m2 at once",
        ),
        (
            [*UP[:2], swarm_node("m3", manager=True, ready=False, **FRESH["m3"]), *UP[3:], *SPARE],
            {"manager-rep1": "m4"},
            "manager-rep1 would go from m2 to m4 while manager-rep2 is on m3, which takes no tasks",
        ),
        (
            [*UP[:2], *UP[3:], *SPARE],
            {"manager-rep1": "m4"},
            "manager-rep1 would go from m2 to m4 while manager-rep2 has only now got m2",
        ),
    ],
)
def test_two_brokers_are_never_taken_away_from_a_stack_that_runs(found, asked, wrong):
    chosen = choose(found, asked)
    with pytest.raises(ConfigError) as error:
        consequences(found, chosen, "fog", running=True)
    assert str(error.value) == (
        f"{wrong}, and two brokers that begin without data have no majority to take them in; move one when "
        "`fogactors swarm rabbitmq` says that the cluster is whole, and the next when it says so again"
    )
    assert consequences(found, chosen, "fog", running=False)


def test_a_free_node_that_takes_no_tasks_gets_a_place_last():
    found = [swarm_node("m0", manager=True, ready=False), *FIVE]
    assert after(found, plan(found, {})) == {"m0": {}, **FRESH}


def test_a_broker_whose_host_is_gone_may_move():
    found = [UP[0], swarm_node("m2", manager=True, ready=False, **FRESH["m2"]), *UP[2:], *SPARE]
    (said,) = consequences(found, choose(found, {"manager-rep1": "m4"}), "fog", running=True)
    assert said.startswith("rabbitmq2 begins without data on m4")


def test_places_are_those_of_the_stack():
    stack = read_stack(Path(__file__).parents[3] / "swarm" / "stack.yml", {})
    for place, broker in BROKERS.items():
        assert stack.constraint(broker) == f"node.labels.{place} == true"
        assert f"{broker}-data" in [each["source"] for each in stack.services[broker]["volumes"] if "source" in each]
    assert stack.constraint("redis") == f"node.labels.{labels.MASTER} == true"
    assert list(BROKERS.values()) == stack.brokers


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
        (
            [swarm_node("m2", manager=True, id="id-1"), NEW],
            {"manager-rep1": "m2"},
            "2 nodes are called m2, and more than one is up: say which by its id, id-1 or id-new",
        ),
        (
            [swarm_node("m2", manager=True, ready=False, id="id-1"), OLD],
            {"manager-rep1": "m2"},
            "2 nodes are called m2, and none takes tasks; `docker node rm` with the id of the one that is gone for "
            "good, id-1 or id-old",
        ),
        (
            [OLD, swarm_node("m2", manager=True, ready=False, id="id-1", manager_rep1="true"), *FIVE],
            {},
            "manager-rep1 is on m2 (id-old), m2 (id-1): say which one, e.g. --manager-rep1 id-old",
        ),
    ],
)
def test_what_cannot_be_is_said(found, asked, wrong):
    with pytest.raises(ConfigError) as error:
        choose(found, asked)
    assert str(error.value).startswith(wrong)


def test_the_command_tells_docker(fog, client):
    on_nodes(
        client,
        node("w2", labels={"worker1": "true", "fog": "1"}),
        node("w1"),
        *(node(name, manager=True) for name in ("m3", "m1", "m2")),
    )
    client.on("node update", "")
    client.on("service ls", "")
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


def test_the_command_warns_and_refuses(fog, client):
    five = [node(each.name, manager=each.manager, labels=dict(each.labels)) for each in UP]
    on_nodes(client, *five, *(node(name, manager=True) for name in ("m4", "m5")))
    client.on("node update", "")
    client.on("service ls", "fog_rabbitmq1\n")
    code, _, err = fog("swarm", "label", "--manager-rep1", "m4", "--manager-rep2", "m5")
    assert code == 2
    assert err.startswith("fogactors: manager-rep1 would go from m2 to m4 and manager-rep2 from m3 to m5 at once, ")
    assert client.calls("node update") == []
    code, out, err = fog("swarm", "label", "--manager-rep1", "m4")
    assert (code, out) == (0, "m2: without manager-rep1\nm4: manager-rep1=true\n")
    assert err.startswith("warning: rabbitmq2 begins without data on m4, ")
    code, out, _ = fog("swarm", "label", "--manager-rep1", "m4", "--dry-run", "--json")
    assert json.loads(out)["warnings"] == [err.removeprefix("warning: ").rstrip()]
    client.on("service ls", "")
    assert fog("swarm", "label", "--manager-rep1", "m4", "--manager-rep2", "m5", "--dry-run")[0] == 0


def test_the_command_does_not_say_that_all_is_well_with_a_host_that_is_down(fog, client):
    five = [node(each.name, manager=each.manager, labels=dict(each.labels), ready=each.name != "w1") for each in UP]
    on_nodes(client, *five)
    client.on("service ls", "fog_rabbitmq1\n")
    code, out, err = fog("swarm", "label")
    assert (code, out) == (0, "")
    assert err.startswith("warning: worker1 is on w1, which takes no tasks: it is down, drained or paused; ")
    on_nodes(client, *(node(each.name, manager=each.manager, labels=dict(each.labels)) for each in UP))
    assert fog("swarm", "label") == (0, "all labels are there already\n", "")


def test_the_command_on_a_worker_says_what_docker_says(fog, client):
    client.on("node ls", err="Error: This node is not a swarm manager.", code=1)
    code, _, err = fog("swarm", "label")
    assert code == 1
    assert err == "fogactors: docker node ls --quiet ended with 1: Error: This node is not a swarm manager.\n"

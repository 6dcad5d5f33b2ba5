"""What a node's own words mean for whoever listens."""

from __future__ import annotations

import pytest

from fogactors.cluster.ctl import Status
from fogactors.roles.sentinel.watcher import Fact, facts_of

A, B, C = NODES = ("rabbit@a", "rabbit@b", "rabbit@c")
ALL = frozenset(NODES)


def status(running=ALL, members=ALL, **more):
    return Status(members=frozenset(members), running=frozenset(running), **more)


@pytest.mark.parametrize(
    ("seen", "critical", "facts"),
    [
        (None, "", set()),
        (status(), "", set()),
        (status({A, B}), "", {Fact("node_down", C)}),
        (status({A, B}, {A, B}), "", {Fact("node_down", C)}),
        (status({A, B}), "tasks.normal", {Fact("node_down", C), Fact("quorum_critical", A, "tasks.normal")}),
        (
            status({A}),
            "tasks.normal",
            {Fact("node_down", B), Fact("node_down", C), Fact("quorum_lost", A, "rabbit@b, rabbit@c")},
        ),
        (status(alarms=frozenset({(B, "memory")})), "", {Fact("alarm", B, "memory")}),
        (status(partitions={A: (B, C)}), "", {Fact("partition", A, B), Fact("partition", A, C)}),
    ],
)
def test_facts(seen, critical, facts):
    assert facts_of(seen, NODES, critical, A) == facts

"""Dead letters that come back: which ways are found, and which are none."""

from __future__ import annotations

import pytest

from fogactors.wire import Binding, Exchange, Policy, Queue, Topology, fog_topology
from fogactors.wire.circles import circles

DLX, WORK = Exchange("x", "topic"), Exchange("in", "topic")
LIMITED = Policy(dead_letter_exchange="x", delivery_limit=3)
BY_HAND = Policy(dead_letter_exchange="x")
WAIT = Policy(message_ttl_ms=1000, dead_letter_exchange="", dead_letter_routing_key="work")


def way(
    policy: Policy, wait: Policy = WAIT, *, key: str = "#", arrives: str = "a.b", kind: str = "topic"
) -> list[tuple[str, ...]]:
    return circles(
        Topology(
            (Exchange("x", kind), WORK),
            (Queue("work", policy=policy), Queue("wait", policy=wait), Queue("rest")),
            (Binding("in", arrives, "work"), Binding("x", key, "wait"), Binding("x", "#", "rest")),
        )
    )


def test_the_systems_own_has_none():
    assert circles(fog_topology()) == []


@pytest.mark.parametrize(
    "policy",
    [
        LIMITED,
        Policy(dead_letter_exchange="x", message_ttl_ms=5),
        Policy(dead_letter_exchange="x", max_length=5),
        Policy(dead_letter_exchange="x", max_length=5, overflow="drop-head"),
    ],
)
def test_what_goes_round_by_itself_is_found(policy):
    assert ("work", "wait", "work") in way(policy)


def test_what_only_a_consumer_sends_round_is_meant():
    assert way(BY_HAND) == []
    assert way(Policy(dead_letter_exchange="x", max_length=5, overflow="reject-publish")) == []


def test_what_waits_for_nobody_ends_there():
    assert way(LIMITED, Policy()) == []


@pytest.mark.parametrize(
    ("key", "arrives", "found"),
    [
        ("a.b", "a.b", True),
        ("a.c", "a.b", False),
        ("a.*", "a.b", True),
        ("*.b", "a.*", True),
        ("*.c", "a.b", False),
        ("#.b", "a.#", True),
        ("a.#.c", "a.#", True),
        ("a.#.c.#", "b.#", False),
        ("*.*.*", "a.b", False),
        ("#", "#", True),
        ("a.b.c", "a.*", False),
        ("work", "a.b", True),  # what came back from waiting has the queue's name as its key
    ],
)
def test_by_a_topic_exchange_only_where_keys_meet(key, arrives, found):
    assert bool(way(LIMITED, key=key, arrives=arrives)) is found


def test_a_key_of_its_own_decides():
    assert way(Policy(dead_letter_exchange="x", dead_letter_routing_key="a.c", delivery_limit=1), key="a.b") == []
    assert way(Policy(dead_letter_exchange="x", dead_letter_routing_key="a.b", delivery_limit=1), key="a.b")


def test_by_a_direct_and_by_a_fanout_exchange():
    assert way(LIMITED, key="a.*", kind="direct") == []
    assert way(LIMITED, key="a.b", kind="direct")
    assert way(LIMITED, key="", kind="fanout")


def test_straight_back_is_a_circle_whatever_the_reason():
    itself = Queue("q", policy=BY_HAND)
    assert circles(Topology((DLX,), (itself,), (Binding("x", "#", "q"),))) == [("q", "q")]


def test_over_several_queues():
    hop = {
        name: Policy(message_ttl_ms=1, dead_letter_exchange="", dead_letter_routing_key=to)
        for name, to in ("ab", "bc", "ca")
    }
    queues = tuple(Queue(name, policy=policy) for name, policy in hop.items())
    assert ("a", "b", "c", "a") in circles(Topology(queues=queues))
    assert circles(Topology(queues=queues[:2])) == []

"""The topology against the design's tables, row by row, and what `validate` refuses."""

from __future__ import annotations

from dataclasses import replace

import pytest

from fogactors.errors import SpecError
from fogactors.messages import PRIORITIES
from fogactors.wire import (
    Binding,
    Exchange,
    Policy,
    Queue,
    Topology,
    fog_topology,
    retry_exchange,
    task_key,
    task_queue,
)
from fogactors.wire.topology import RETRY_STEPS_S, Family, due_queue, is_waiting_room
from fogactors.wire.work import band_of, declared_work, work_queue, work_room, work_topology

EXCHANGES = {
    "tasks.direct": "direct",
    "results.topic": "topic",
    "metrics.topic": "topic",
    "system.fanout": "fanout",
    "events.topic": "topic",
    "rpc.direct": "direct",
    "dlx": "topic",
    "dlq.parked": "fanout",
    **{f"retry.{step}": "fanout" for step in (1, 4, 16, 64, 256, 1024, 4096, 16384, 65536)},
}
KEYS = [
    f"{priority}{ending}"
    for priority in ("high_priority", "normal", "low_priority")
    for ending in ("", ".medium", ".heavy")
]
TASK_POLICY = Policy(
    max_length=10_000,
    overflow="reject-publish",
    delivery_limit=20,
    dead_letter_exchange="dlx",
    dead_letter_routing_key="task.failed",
    dead_letter_strategy="at-least-once",
)
FEED = Policy(max_length=50_000, overflow="drop-head", delivery_limit=-1)
QUEUES = {
    **{f"tasks.{key}": ("quorum", TASK_POLICY) for key in KEYS},
    **{
        f"retry.{step}": (
            "quorum",
            Policy(
                overflow="reject-publish",
                delivery_limit=-1,
                message_ttl_ms=step * 1000,
                dead_letter_exchange="",
                dead_letter_routing_key=None,
                dead_letter_strategy="at-least-once",
            ),
        )
        for step in (1, 4, 16, 64, 256, 1024, 4096, 16384, 65536)
    },
    **{
        f"due.tasks.{key}": (
            "quorum",
            Policy(
                overflow="reject-publish",
                delivery_limit=-1,
                message_ttl_ms=0,
                dead_letter_exchange="",
                dead_letter_routing_key=f"tasks.{key}",
                dead_letter_strategy="at-least-once",
            ),
        )
        for key in KEYS
    },
    "results.success": ("quorum", FEED),
    "results.failed": ("quorum", FEED),
    "results.pending": ("quorum", Policy(delivery_limit=-1)),
    "metrics.node": ("quorum", Policy(max_length=100_000, overflow="drop-head", delivery_limit=-1)),
    "dlq": ("quorum", Policy(delivery_limit=-1)),
    "dlq.parked": ("stream", Policy(max_age_s=86_400)),
}
BINDINGS = {
    *(("tasks.direct", key, f"tasks.{key}") for key in KEYS),
    *((f"retry.{step}", "", f"retry.{step}") for step in (1, 4, 16, 64, 256, 1024, 4096, 16384, 65536)),
    ("results.topic", "results.success.#", "results.success"),
    ("results.topic", "results.failed.#", "results.failed"),
    ("results.topic", "results.pending", "results.pending"),
    ("metrics.topic", "metrics.node.#", "metrics.node"),
    ("dlx", "#", "dlq"),
    ("dlq.parked", "", "dlq.parked"),
}


def test_exchanges_are_the_table():
    assert {each.name: each.type for each in fog_topology().exchanges} == EXCHANGES


def test_queues_and_policies_are_the_table():
    topology = fog_topology(retention_s=86_400)
    assert {each.name: (each.type, each.policy) for each in topology.queues} == QUEUES


def test_bindings_are_the_table():
    assert {(each.exchange, each.key, each.queue) for each in fog_topology().bindings} == BINDINGS


def test_the_family_of_event_queues_drops_its_oldest():
    events, *_ = fog_topology(events_max_length=7).families
    assert (events.prefix, events.policy) == ("events.", Policy(max_length=7, overflow="drop-head"))
    assert not any(each.name.startswith(events.prefix) for each in fog_topology().queues)


def test_the_family_of_request_queues_goes_with_its_servers_and_refuses_what_is_too_much():
    *_, requests = fog_topology().families
    policy = Policy(max_length=10_000, overflow="reject-publish", expires_ms=60_000)
    assert (requests.prefix, requests.policy) == ("rpc.", policy)


def test_the_families_behind_task_queues_refuse_what_is_too_much_and_lose_nothing():
    _, queues, rooms, _ = fog_topology().families
    assert (queues.prefix, queues.policy) == ("work.", QUEUES["tasks.normal"][1])
    assert rooms.prefix == "due.work."
    # Its policy can name no queue, so what leaves a room goes to `tasks.direct` with the key that it came with.
    assert rooms.policy == Policy(
        overflow="reject-publish",
        message_ttl_ms=0,
        dead_letter_exchange="tasks.direct",
        dead_letter_strategy="at-least-once",
    )


@pytest.mark.parametrize("exchange", ["tasks.direct", "kitty.tasks"])
def test_a_task_queue_is_three_queues_with_a_waiting_room_each(exchange):
    topology = work_topology("research.tasks", exchange)
    names = ["work.research.tasks.high", "work.research.tasks", "work.research.tasks.low"]
    assert {each.name for each in topology.queues} == {*names, *(f"due.{name}" for name in names)}
    assert {(each.exchange, each.key, each.queue) for each in topology.bindings} == {
        *((exchange, name, name) for name in names),
        *(("tasks.direct", due_queue(name), name) for name in names),
    }
    assert [work_queue("research.tasks", band) for band in PRIORITIES] == names
    one = work_topology("research.tasks", exchange, levels=True)
    assert [each.name for each in one.queues] == ["work.research.tasks", "due.work.research.tasks"]


def test_a_declared_task_queue_has_its_plain_name_and_policies_of_its_own():
    topology = declared_work("research.tasks", "kitty.tasks", max_length=5)
    (fog_topology() + Topology((Exchange("kitty.tasks", "direct"),)) + topology).validate()
    queues = {each.name: each.policy for each in topology.queues}
    for name in ("research.tasks.high", "research.tasks", "research.tasks.low"):
        assert queues[name] == replace(QUEUES["tasks.normal"][1], max_length=5)
        assert queues[work_room(name)].dead_letter_routing_key == name
    assert len(queues) == 6
    assert {(each.exchange, each.key) for each in topology.bindings} == {
        ("kitty.tasks", each.queue) for each in topology.bindings
    }


def test_eleven_priorities_are_three_bands():
    assert [band_of(each) for each in range(11)] == ["low"] * 4 + ["normal"] * 3 + ["high"] * 4
    for wrong in (-1, 11, 2.5):
        with pytest.raises(ValueError, match="0 to 10"):
            band_of(wrong)


def test_nothing_bound_to_dlx_receives_the_parked_copies():
    assert [each.queue for each in fog_topology().bindings if each.exchange == "dlx"] == ["dlq"]


@pytest.mark.parametrize(
    ("priority", "tier", "key"),
    [
        ("high", "light", "high_priority"),
        ("normal", "light", "normal"),
        ("low", "light", "low_priority"),
        ("high", "medium", "high_priority.medium"),
        ("low", "heavy", "low_priority.heavy"),
    ],
)
def test_task_names(priority, tier, key):
    assert task_key(priority, tier) == key
    assert task_queue(priority, tier) == f"tasks.{key}"


def test_the_first_tier_is_the_light_one():
    topology = fog_topology(tiers=("nano", "giant"))
    assert task_queue("normal", "nano", light="nano") == "tasks.normal"
    tasks = {each.name for each in topology.queues if each.name.startswith("tasks.normal")}
    assert tasks == {"tasks.normal", "tasks.normal.giant"}


@pytest.mark.parametrize("tiers", [(), ("light", "light")])
def test_tiers_must_be_named_once(tiers):
    with pytest.raises(SpecError, match="tiers"):
        fog_topology(tiers=tiers)


def test_retry_exchange_knows_only_its_steps():
    assert [retry_exchange(step) for step in RETRY_STEPS_S][:3] == ["retry.1", "retry.4", "retry.16"]
    with pytest.raises(SpecError, match="2 s"):
        retry_exchange(2)


def test_only_task_queues_have_waiting_rooms():
    assert due_queue("tasks.normal.heavy") == "due.tasks.normal.heavy"
    assert due_queue("mine") == "mine"
    topology = fog_topology()
    assert {due_queue(f"tasks.{key}") for key in KEYS} == {q.name for q in topology.queues if is_waiting_room(q.name)}


def test_lookup():
    topology = fog_topology()
    assert topology.queue("dlq").type == "quorum"
    assert topology.exchange("dlx").type == "topic"
    with pytest.raises(SpecError, match="'nope'"):
        topology.queue("nope")
    with pytest.raises(SpecError, match="'nope'"):
        topology.exchange("nope")


def test_adding_a_users_own_keeps_what_both_say_once():
    mine = Topology(
        exchanges=(Exchange("events.topic", "topic"),),
        queues=(Queue("mine"),),
        bindings=(Binding("events.topic", "photo.#", "mine"),),
    )
    both = fog_topology() + mine
    both.validate()
    assert len(both.exchanges) == len(fog_topology().exchanges)
    assert both.queue("mine") == Queue("mine")


FULL = Policy(overflow="reject-publish", dead_letter_exchange="dlx", dead_letter_strategy="at-least-once")


@pytest.mark.parametrize(
    ("extra", "says"),
    [
        (Topology(exchanges=(Exchange("dlx", "direct"),)), "exchange 'dlx' is there twice"),
        (Topology(queues=(Queue("dlq", policy=FEED),)), "queue 'dlq' is there twice"),
        (Topology(bindings=(Binding("nowhere", "#", "dlq"),)), "unknown exchange 'nowhere'"),
        (Topology(bindings=(Binding("dlx", "#", "nothing"),)), "unknown queue 'nothing'"),
        (Topology(queues=(Queue("q", policy=replace(FULL, overflow="drop-head")),)), "at-least-once needs"),
        (Topology(queues=(Queue("q", policy=replace(FULL, overflow=None)),)), "at-least-once needs"),
        (
            Topology(queues=(Queue("q", policy=replace(FULL, dead_letter_exchange=None)),)),
            "at-least-once needs",
        ),
        (Topology(queues=(Queue("q", policy=Policy(delivery_limit=0)),)), "discards silently"),
        (Topology(families=(Family("q.", Policy(delivery_limit=0)),)), r"q\.\*': a delivery limit"),
        (Topology(families=(Family("events.", Policy()),)), "family 'events.' is there twice"),
        (Topology(queues=(Queue("q", policy=Policy(dead_letter_exchange="gone")),)), "'gone' is unknown"),
    ],
)
def test_validate_refuses(extra, says):
    with pytest.raises(SpecError, match=says) as caught:
        (fog_topology() + extra).validate()
    assert "\n" not in str(caught.value)


def test_validate_accepts_a_limit_that_dead_letters():
    (fog_topology() + Topology(queues=(Queue("q", policy=replace(FULL, delivery_limit=0)),))).validate()

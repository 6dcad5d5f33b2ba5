"""Where a dead letter goes when it is published once more, and with which bytes."""

from datetime import UTC, datetime, timedelta
from typing import get_args

import msgspec
import pytest

from fogactors.errors import FogError
from fogactors.messages import DeadLetter, ErrorInfo, Reason, Task
from fogactors.tasks.replay import ERROR_LIMIT, DlqConfig, DlqPolicy, entry_of, replay_of
from fogactors.wire import JSON, MSGPACK, decode, encode

NOW = datetime(2030, 1, 1, tzinfo=UTC)
TASK = Task(
    id="a-1",
    name="t",
    created=NOW,
    priority="high",
    attempt=3,
    max_attempts=3,
    hops=5,
    generation=1,
    crashes=2,
    deadline=NOW,
    not_before=NOW,
)


def letter(body=None, **fields):
    known = {"id": "a-1", "reason": "failed", "generation": 1, "origin": "tasks.high_priority", "correlation_id": "c"}
    return DeadLetter(body=encode(TASK) if body is None else body, **(known | {"first": NOW, "last": NOW} | fields))


@pytest.mark.parametrize("content_type", [JSON, MSGPACK])
def test_a_task_goes_back_through_its_exchange_as_a_fresh_generation(content_type):
    replay = replay_of(letter(encode(TASK, content_type), content_type=content_type))
    assert (replay.exchange, replay.key, replay.is_task) == ("tasks.direct", "high_priority", True)
    message = replay.message
    assert (message.type, message.content_type, message.correlation_id) == ("task", content_type, "c")
    assert message.message_id == ""
    again = decode(message.body, Task, content_type)
    assert (again.generation, again.attempt, again.crashes, again.hops) == (2, 1, 0, 6)
    assert (again.deadline, again.not_before) == (None, None)
    assert (again.id, again.name, again.max_attempts, again.created) == ("a-1", "t", 3, NOW)


@pytest.mark.parametrize("codec", [msgspec.json, msgspec.msgpack])
def test_fields_of_a_newer_version_survive(codec):
    fields = {"schema": "task/2", "id": "a", "name": "t", "created": NOW, "tenant": {"weights": [1, 2.5, None]}}
    content_type = JSON if codec is msgspec.json else MSGPACK
    again = codec.decode(replay_of(letter(codec.encode(fields), content_type=content_type)).message.body)
    assert (again["schema"], again["tenant"]) == ("task/2", fields["tenant"])


@pytest.mark.parametrize(
    ("origin", "key"),
    [("tasks.normal.heavy", "normal.heavy"), ("tasks.low_priority", "low_priority")],
)
def test_the_key_is_what_the_queue_is_bound_with(origin, key):
    assert replay_of(letter(origin=origin)).key == key


def test_a_task_of_a_queue_of_somebody_elses_goes_by_the_ladder():
    replay = replay_of(letter(origin="elsewhere"))
    assert (replay.exchange, replay.key) == ("retry.1", "elsewhere")
    assert decode(replay.message.body, Task).generation == 2


@pytest.mark.parametrize("origin", ["work.research.tasks.high", "research.tasks"])
def test_a_task_of_a_queue_of_a_users_own_goes_through_its_waiting_room(origin):
    body = encode(msgspec.structs.replace(TASK, level=9))
    replay = replay_of(letter(body, origin=origin))
    assert (replay.exchange, replay.key, replay.is_task) == ("retry.1", f"due.{origin}", True)
    assert decode(replay.message.body, Task).level == 9


@pytest.mark.parametrize(("delay_s", "step"), [(0.5, 1), (5, 4), (300, 256), (1e6, 65536)])
def test_one_for_later_waits_on_the_ladder(delay_s, step):
    due = NOW + timedelta(seconds=delay_s)
    replay = replay_of(letter(), not_before=due, now=NOW)
    assert (replay.exchange, replay.key) == (f"retry.{step}", "due.tasks.high_priority")
    assert decode(replay.message.body, Task).not_before == due
    assert replay_of(letter(), not_before=due).exchange == "retry.1"


@pytest.mark.parametrize(
    ("origin", "key"), [("tasks.normal", "due.tasks.normal"), ("results.pending", "results.pending")]
)
def test_what_is_no_task_goes_as_it_was_to_the_queue_that_it_came_from(origin, key):
    replay = replay_of(letter(b"\x00\xff", origin=origin, content_type="text/xml", reason="malformed"))
    assert (replay.exchange, replay.key, replay.is_task) == ("retry.1", key, False)
    assert (replay.message.body, replay.message.content_type) == (b"\x00\xff", "text/xml")


def test_the_tasks_own_word_for_its_queue_will_do():
    body = encode(msgspec.structs.replace(TASK, origin="tasks.low_priority"))
    assert replay_of(letter(body, origin=None)).key == "low_priority"


@pytest.mark.parametrize(
    ("fields", "why"),
    [
        ({"origin": None}, "dead letter 'a-1' cannot be replayed: the queue that it came from is not known"),
        ({"body": b""}, "dead letter 'a-1' cannot be replayed: it holds no body"),
    ],
)
def test_what_cannot_be_replayed_says_why(fields, why):
    with pytest.raises(FogError) as raised:
        replay_of(letter(**fields))
    assert str(raised.value) == why


# -- policies


def test_a_policy_counts_generations():
    policy = DlqPolicy(replay_after_s=1, max_replays=2)
    assert [policy.replays(letter(generation=n)) for n in range(4)] == [True, True, False, False]
    assert not DlqPolicy(replay_after_s=0, max_replays=2).replays(letter(generation=0))


def test_a_policy_purges_by_age():
    entry = entry_of(letter(), 7)
    policy = DlqPolicy(retention_s=60)
    assert [policy.purges(entry, NOW + timedelta(seconds=s)) for s in (59.9, 60)] == [False, True]
    assert not DlqPolicy().purges(entry, NOW + timedelta(days=365))


def test_a_reason_without_a_policy_is_only_kept():
    config = DlqConfig(policies={"failed": DlqPolicy(replay_after_s=1)})
    assert [reason for reason in get_args(Reason) if config.policy(reason).replays(letter(generation=0))] == ["failed"]


# -- the index


def test_an_entry_says_what_its_letter_says():
    error = ErrorInfo(type="ValueError", message="first\nsecond " + "x" * 1000)
    entry = entry_of(letter(b"abc", error=error, task_id="a-1", name="t", revision=3, attempts=4, worker="w"), 7)
    assert (entry.id, entry.offset, entry.state, entry.reason, entry.queue) == (
        "a-1",
        7,
        "parked",
        "failed",
        "tasks.high_priority",
    )
    assert (entry.generation, entry.revision, entry.attempts, entry.worker, entry.size) == (1, 3, 4, "w", 3)
    assert entry.error.startswith("ValueError: first second x")
    assert len(entry.error) == ERROR_LIMIT
    assert (entry.first, entry.last, entry.correlation_id) == (NOW, NOW, "c")

"""What a dead letter says, whoever wrote it."""

from datetime import UTC, datetime, timedelta
from types import SimpleNamespace

import pytest
from msgspec.structs import replace

from fogactors.bus.base import Death
from fogactors.errors import BusUnavailable, MessageTooLarge
from fogactors.messages import DeadLetter, ErrorInfo, Task
from fogactors.tasks.deadletter import DEAD_LETTER_TYPE, from_delivery, publish_letter, result_of
from fogactors.tasks.failures import brief, error_info
from fogactors.wire import decode, encode
from fogactors.wire.topology import TASK_DELIVERY_LIMIT

NOW = datetime(2030, 1, 2, tzinfo=UTC)
TASK = Task(id="a-1", name="t", created=datetime(2030, 1, 1, tzinfo=UTC), attempt=2, generation=1, correlation_id="c")


RUNS = TASK_DELIVERY_LIMIT + 1
"""Of what the broker gives up."""


def delivery(body=None, **fields):
    return SimpleNamespace(
        **{
            "body": encode(TASK) if body is None else body,
            "type": "task",
            "content_type": "application/json",
            "queue": "dlq",
            "death": None,
            "delivery_count": 0,
            "message_id": "m-1",
            "correlation_id": None,
        }
        | fields
    )


def test_what_the_broker_gave_up_on_is_a_lost_worker():
    letter = from_delivery(delivery(death=Death("tasks.normal", "delivery_limit")), NOW)
    assert (letter.reason, letter.origin, letter.task_id, letter.generation) == (
        "worker_lost",
        "tasks.normal",
        "a-1",
        1,
    )
    assert (letter.first, letter.last, letter.attempts) == (TASK.created, NOW, 2 - 1 + RUNS)
    result = result_of(letter)
    assert (result.state, result.attempts, result.generation, result.correlation_id) == (
        "worker_lost",
        1 + RUNS,
        1,
        "c",
    )


def test_runs_of_a_lost_task_are_those_of_its_envelope_and_the_brokers():
    """Two attempts failed, the third ended with its worker once before its last republish, and each time behind it."""
    body = encode(replace(TASK, attempt=3, crashes=1))
    # In `dlq` the broker counts on: for each reaper that died, and that is none of the task's runs.
    letter = from_delivery(delivery(body, death=Death("tasks.normal", "delivery_limit"), delivery_count=25), NOW)
    assert letter.attempts == 2 + 1 + RUNS


@pytest.mark.parametrize(("reason", "runs"), [("rejected", 2), ("expired", 1), ("maxlen", 1)])
def test_what_never_reached_a_consumer_has_not_run(reason, runs):
    assert from_delivery(delivery(death=Death("tasks.normal", reason)), NOW).attempts == runs


@pytest.mark.parametrize("body", [b"\xff", encode(TASK)])
@pytest.mark.parametrize("message_id", ["", "m-1"])
def test_the_same_entry_has_the_same_id_whenever_it_is_delivered(body, message_id):
    later = NOW + timedelta(seconds=5)
    again = from_delivery(delivery(body, message_id=message_id, delivery_count=1), later)
    assert again.id == from_delivery(delivery(body, message_id=message_id), NOW).id
    other = from_delivery(delivery(b"other", message_id=message_id and "m-2"), NOW)
    assert again.id != other.id


def test_what_is_read_here_says_who_read_it():
    death = Death("tasks.normal", "delivery_limit")
    for body, kind in ((b"\xff", ""), (b"\xff", DEAD_LETTER_TYPE), (encode(TASK), "task")):
        assert from_delivery(delivery(body, type=kind, death=death), NOW, "node/dlq-reaper").worker == "node/dlq-reaper"
    written = from_delivery(delivery(death=death), NOW, "edge-1")
    assert from_delivery(delivery(encode(written), type=DEAD_LETTER_TYPE), NOW, "node/dlq-reaper").worker == "edge-1"


def test_a_queue_that_only_delayed_it_is_not_its_origin():
    delayed = Death("retry.1", "expired")
    assert from_delivery(delivery(b"\xff", queue="tasks.normal", death=delayed), NOW).origin == "tasks.normal"
    assert from_delivery(delivery(b"\xff", death=Death("tasks.normal", "rejected")), NOW).origin == "tasks.normal"
    assert from_delivery(delivery(b"\xff"), NOW).origin is None  # written to the exchange of dead letters itself
    assert from_delivery(delivery(encode(replace(TASK, origin="tasks.normal"))), NOW).origin == "tasks.normal"


@pytest.mark.parametrize("reason", ["rejected", "expired", "maxlen"])
def test_what_it_dropped_for_another_reason_is_rejected(reason):
    letter = from_delivery(delivery(death=Death("tasks.normal", reason)), NOW)
    assert (letter.reason, result_of(letter).state) == ("rejected", "failed")
    assert reason in letter.error.message


def test_a_letter_of_ours_is_read_as_it_is():
    letter = from_delivery(delivery(death=Death("tasks.normal", "delivery_limit")), NOW)
    assert from_delivery(delivery(encode(letter), type=DEAD_LETTER_TYPE), NOW) == letter


@pytest.mark.parametrize("kind", ["task", DEAD_LETTER_TYPE, ""])
def test_bytes_that_are_nothing_have_a_letter_and_no_end(kind):
    letter = from_delivery(delivery(b"\xff", type=kind, queue="tasks.low_priority"), NOW)
    assert (letter.reason, letter.body, letter.id, letter.origin) == ("malformed", b"\xff", "m-1", "tasks.low_priority")
    assert letter.error.message
    assert result_of(letter) is None


def test_the_states_that_reasons_lead_to():
    for reason, state in (("expired", "expired"), ("worker_lost", "worker_lost"), ("time_limit", "failed")):
        letter = DeadLetter(id="a", reason=reason, body=b"", task_id="a", first=NOW, last=NOW)
        assert result_of(letter).state == state


def test_a_result_carries_no_traceback():
    error = ErrorInfo(type="ValueError", message="x", traceback="secret")
    letter = DeadLetter(id="a", reason="failed", body=b"", task_id="a", error=error, first=NOW, last=NOW)
    assert result_of(letter).error == ErrorInfo(type="ValueError", message="x")


class Bus:
    def __init__(self, limit):
        self.limit, self.sent = limit, []

    async def publish(self, exchange, key, message, **_):
        if len(message.body) > self.limit:
            raise MessageTooLarge(unsent=message)
        self.sent.append(decode(message.body, DeadLetter))


@pytest.mark.asyncio
async def test_a_letter_that_is_too_large_goes_without_its_body_and_says_so():
    bus = Bus(1000)
    letter = DeadLetter(id="a", reason="failed", body=b"x" * 1000, first=NOW, last=NOW)
    await publish_letter(bus, "dlx", letter, timeout=1)
    assert bus.sent[0].body == b""
    assert bus.sent[0].error.message == "(its body of 1000 bytes was too large to be kept)"
    assert len(letter.body) == 1000


@pytest.mark.asyncio
async def test_another_error_is_the_callers():
    class Away:
        async def publish(self, *_, **__):
            raise BusUnavailable

    with pytest.raises(BusUnavailable):
        await publish_letter(
            Away(), "dlx", DeadLetter(id="a", reason="failed", body=b"", first=NOW, last=NOW), timeout=1
        )


# -- failures as data


def test_a_failure_is_bounded_and_can_be_encoded_whatever_it_says():
    error = error_info(ValueError("\udcff" + "x" * 10_000))
    assert error.message.startswith("\\udcff")
    assert len(error.message) < 5_000
    assert len(error.traceback) <= 20_000
    encode(error)


def test_errors_of_ours_need_no_traceback():
    assert error_info(BusUnavailable()).traceback is None
    assert "ValueError" in error_info(ValueError("x")).traceback


def test_brief():
    assert [brief(None), brief(ErrorInfo(type="A")), brief(ErrorInfo(type="A", message="b"))] == ["", "A", "A: b"]

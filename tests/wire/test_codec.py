"""The codec's refusals, and what it does beyond handing bytes to msgspec."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta, timezone

import msgspec
import pytest
from msgspec import Raw

from fogactors.errors import WireError
from fogactors.messages import Event, Task, TaskResult
from fogactors.wire import JSON, MSGPACK, decode, encode

AT = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
TASK = b'{"schema":"task/1","id":"a-1","name":"n","created":"2026-01-02T03:04:05Z"}'


def task(**more) -> Task:
    return Task(id="a-1", name="n", created=AT, **more)


@pytest.mark.parametrize(
    ("body", "says"),
    [
        (b"", "Task: Input data was truncated"),
        (b"nonsense", "JSON is malformed"),
        (b"[]", "Expected `object`, got `array`"),
        (b'{"id":"a"}', "missing required field `name`"),
        (TASK.replace(b'"n"', b"5"), "Expected `str`, got `int` - at `$.name`"),
        (TASK.replace(b"Z", b""), "timezone component - at `$.created`"),
        (TASK.replace(b"task/1", b"event/1"), "the body is a 'event', expected schema 'task/1'"),
        (b'{"schema":"event/1","event_id":"e"}', "the body is a 'event', expected schema 'task/1'"),
        (TASK.replace(b"task/1", b"task/0"), "'task/0' names no version"),
        (TASK.replace(b"task/1", b"task"), "'task' names no version"),
        (TASK.replace(b"task/1", b"task/" + b"9" * 5000 + b"x"), "names no version"),
        (TASK.replace(b"a-1", b"\xff"), "utf-8"),
        (TASK.replace(b'"n"', b'"n","args":' + b"[" * 100_000), "recursion"),
    ],
)
def test_a_bad_body_is_a_wire_error_of_one_short_line(body, says):
    with pytest.raises(WireError) as caught:
        decode(body, Task)
    assert says in str(caught.value)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 200


@pytest.mark.parametrize("body", [b"", b"\xc1", msgspec.msgpack.encode({"schema": "event/1"})])
def test_bad_messagepack_is_a_wire_error(body):
    with pytest.raises(WireError, match="Task: "):
        decode(body, Task, MSGPACK)


def test_messagepack_that_json_cannot_hold_says_where():
    body = msgspec.msgpack.encode({"id": "a", "name": "n", "created": AT, "args": msgspec.msgpack.Ext(5, b"x")})
    with pytest.raises(WireError, match=r"at `\$\.args`"):
        decode(body, Task, MSGPACK)


@pytest.mark.parametrize("version", ["task/2", "task/17"])
def test_any_later_version_is_read(version):
    assert decode(TASK.replace(b"task/1", version.encode()), Task).schema == version


def test_a_body_without_schema_is_read_as_what_was_asked_for():
    assert decode(TASK.replace(b'"schema":"task/1",', b""), Task).id == "a-1"


@pytest.mark.parametrize("content_type", [JSON, "", "Application/JSON; charset=utf-8"])
def test_content_types_that_mean_json(content_type):
    assert decode(TASK, Task, content_type).id == "a-1"


@pytest.mark.parametrize("content_type", ["text/plain", "application/x-python-serialize"])
def test_unknown_content_types(content_type):
    with pytest.raises(WireError, match="unknown content type"):
        decode(TASK, Task, content_type)
    with pytest.raises(WireError, match="unknown content type"):
        encode(task(), content_type)


def test_raw_fields_are_json_in_memory_whatever_the_wire():
    args = Raw(b'{"path":"/x","n":[1,2.5,null,true]}')
    sent = task(args=args)
    body = encode(sent, MSGPACK)
    assert msgspec.msgpack.decode(body)["args"] == {"path": "/x", "n": [1, 2.5, None, True]}
    assert bytes(decode(body, Task, MSGPACK).args) == bytes(args)
    assert sent.args is args


def test_a_default_stays_out_of_messagepack_and_comes_back_as_json():
    body = encode(task(), MSGPACK)
    assert "args" not in msgspec.msgpack.decode(body)
    assert bytes(decode(body, Task, MSGPACK).args) == b"{}"


def test_an_absent_value_stays_absent():
    result = TaskResult(task_id="a-1", name="n", state="failed", finished=AT)
    for content_type in (JSON, MSGPACK):
        assert decode(encode(result, content_type), TaskResult, content_type).value is None


def test_times_are_written_in_utc():
    east = timezone(timedelta(hours=2))
    sent = task(not_before=datetime(2026, 1, 2, 5, 4, 5, tzinfo=east))
    assert b'"not_before":"2026-01-02T03:04:05Z"' in encode(sent)
    assert sent.not_before.tzinfo is east


@pytest.mark.parametrize("content_type", [JSON, MSGPACK])
def test_a_time_without_offset_is_refused_at_the_writer(content_type):
    bad = Event(event_id="e", event_type="a.b.c", timestamp=datetime(2026, 1, 2), source="s")
    with pytest.raises(WireError, match=r"without an offset - at `\$\.timestamp`"):
        encode(bad, content_type)


@pytest.mark.parametrize("args", [b"{", b"123456789012345678901234567890"])
def test_raw_json_that_messagepack_cannot_hold_is_refused_at_the_writer(args):
    with pytest.raises(WireError, match="cannot be encoded as application/msgpack"):
        encode(task(args=Raw(args)), MSGPACK)


def test_text_that_is_no_unicode_is_refused_at_the_writer():
    with pytest.raises(WireError, match="surrogates"):
        encode(task(correlation_id="\ud800"))


@pytest.mark.parametrize("content_type", [JSON, MSGPACK])
def test_a_null_that_was_written_is_not_an_absent_value(content_type):
    result = TaskResult(task_id="a-1", name="n", state="succeeded", value=Raw(b"null"), finished=AT)
    assert bytes(decode(encode(result, content_type), TaskResult, content_type).value) == b"null"

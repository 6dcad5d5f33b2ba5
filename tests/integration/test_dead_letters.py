"""What cannot be run, on a real broker: a dead letter at its first delivery, with its reason; and the consumer goes on.

Behaviour 13 of what users ask for, second half.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from datetime import UTC, datetime
from uuid import uuid4

import msgspec
import pytest
from msgspec import Raw

from fogactors.bus import Message
from tests.integration.fog import Fog, connected, parked, store, submitting, until

pytestmark = [pytest.mark.services, pytest.mark.asyncio]

MIB = 1024 * 1024


def task(fog: Fog, id_: str, name: str = "add", **fields: object) -> bytes:
    body = {"schema": "task/1", "id": id_, "name": f"{fog.module}.{name}", "args": {"a": 1}, "created": now()}
    return json.dumps({**body, **fields}).encode()


def now() -> str:
    return datetime.now(UTC).isoformat()


def event(fog: Fog, id_: str) -> bytes:
    body = {"schema": "event/1", "event_id": id_, "event_type": "a.b.c", "timestamp": now(), "source": "test"}
    return json.dumps(body).encode()


@dataclass(frozen=True)
class Poison:
    """`says`: in the text of the error; `kept`: whether the letter holds the bytes; `is_task`: whether it has an id to
    record a result under."""

    make: object
    reason: str
    error: str
    says: str
    content_type: str = "application/json"
    is_task: bool = False
    kept: bool = True


POISONS = {
    "garbage": Poison(lambda fog, id_: b"\x00\xff garbage", "malformed", "WireError", "Task: "),
    "nothing": Poison(lambda fog, id_: b"", "malformed", "WireError", "Task: "),
    "another schema": Poison(event, "malformed", "WireError", "the body is a 'event', expected schema 'task/1'"),
    "unknown task": Poison(
        lambda fog, id_: task(fog, id_, "nope"), "unknown_task", "UnknownTask", "no task is named", is_task=True
    ),
    "wrong arguments": Poison(
        lambda fog, id_: task(fog, id_, args={"a": "x"}), "bad_arguments", "TaskArgumentError", "'a'", is_task=True
    ),
    "2 MiB of a task": Poison(
        lambda fog, id_: task(fog, id_, args={"a": 1, "b": "x" * 2 * MIB}),
        "rejected",
        "MessageTooLarge",
        "bytes, more than 1048576; submit a reference to the data instead",
        is_task=True,
        kept=False,
    ),
    "2 MiB of garbage": Poison(
        lambda fog, id_: b"\x00" * 2 * MIB, "malformed", "WireError", "its body of 2097152 bytes was too", kept=False
    ),
    "unknown content type": Poison(
        task, "malformed", "WireError", "unknown content type 'text/xml'", content_type="text/xml"
    ),
    "messagepack garbage": Poison(
        lambda fog, id_: b"\xc1\xc1", "malformed", "WireError", "Task: ", content_type="application/msgpack"
    ),
}


async def test_each_is_parked_with_its_reason_and_the_consumer_goes_on(fog):
    await fog.role("dlq-reaper")
    executor = await fog.executor()
    async with (
        store(fog.services) as coord,
        submitting(fog.services) as submitter,
        connected(fog.services, max_body=4 * MIB) as raw,
        parked(fog.services) as letter,
    ):
        for name, poison in POISONS.items():
            id_ = f"poison-{uuid4().hex}"
            body = poison.make(fog, id_)
            message = Message(body, message_id=id_, content_type=poison.content_type, correlation_id="order-7")
            began = datetime.now(UTC)
            await raw.publish("tasks.direct", "normal", message)
            good = await submitter.submit_raw(f"{fog.module}.add", Raw(b'{"a": 41}'))
            assert await good.result(10) == 42, name

            found = await letter(id_)
            assert (found.reason, found.error.type, found.origin) == (poison.reason, poison.error, "tasks.normal"), name
            assert poison.says in found.error.message, name
            assert (found.body, found.content_type) == (body if poison.kept else b"", poison.content_type), name
            assert found.worker.endswith("/light")
            assert began < found.last < datetime.now(UTC)
            if poison.is_task:
                result = await submitter.handle(id_).outcome(10)  # recorded after the letter is sent
                assert (result.state, result.error.type, result.attempts) == ("failed", poison.error, found.attempts)
                assert (found.task_id, found.attempts) == (id_, 1 if poison.reason == "bad_arguments" else 0), name
            else:
                assert await coord.result(id_) is None
                assert (found.task_id, found.correlation_id) == (None, "order-7"), name
        for queue in ("tasks.normal", "dlq", "retry.1"):
            assert (await raw.inspect(queue)).ready == 0
    assert (await executor.stop()).code == 0
    assert len(executor.logged("TaskDeadLettered")) == len(POISONS)  # one ERROR each
    assert not executor.logged("ActorExited")


async def test_garbage_among_the_dead_letters_is_parked_as_well(fog):
    reaper = await fog.role("dlq-reaper")
    async with connected(fog.services) as raw, parked(fog.services) as letter:
        for type_, content_type in (("dead_letter", "application/json"), ("", "application/msgpack")):
            id_ = f"poison-{uuid4().hex}"
            await raw.publish("dlx", "task.failed", Message(b"\xc1", type_, id_, content_type))
            found = await letter(id_)
            assert (found.reason, found.body) == ("malformed", b"\xc1")
            assert found.worker.endswith("/dlq-reaper")
        await raw.publish("results.topic", "results.pending", Message(b"no result", "result", "poison-last"))
        found = await letter("poison-last")
        assert (found.reason, found.body, found.origin) == ("malformed", b"no result", "results.pending")
        assert (await raw.inspect("dlq")).ready == 0
    assert not reaper.logged("ActorExited")


@pytest.mark.parametrize("content_type", ["application/json", "application/msgpack"])
async def test_fields_of_a_newer_version_survive_a_retry(fog, content_type):
    """A writer of version 2, an executor of version 1, and a reader of version 2 behind it."""
    mark = fog.folder / f"mark-{uuid4().hex}"
    id_ = f"newer-{uuid4().hex}"
    fields = {
        "schema": "task/2",
        "id": id_,
        "name": f"{fog.module}.twice",
        "args": {"mark": str(mark)},
        "created": datetime.now(UTC),
        "max_attempts": 2,
        "tenant": {"name": "küche", "weights": [1, 2.5, None]},
    }
    codec = msgspec.json if content_type == "application/json" else msgspec.msgpack
    seen: list[dict] = []
    await fog.executor()
    async with connected(fog.services) as bus, submitting(fog.services) as submitter:
        # A queue beside tasks.normal cannot see a retry, which goes to its queue alone: so it is met on the ladder.
        spy = await bus.open_exclusive(f"spy-{id_}", (("retry.1", ""),))
        await bus.consume(spy, lambda each: seen.append(codec.decode(each.body)), prefetch=10)
        await bus.publish("tasks.direct", "normal", Message(codec.encode(fields), "task", "", content_type))
        assert await submitter.handle(id_).result(20) == "at last"
        await until(lambda: bool(seen), "the retry")
    (again,) = seen
    assert (again["schema"], again["tenant"], again["attempt"]) == ("task/2", fields["tenant"], 2)
    assert mark.read_text() == "xx"

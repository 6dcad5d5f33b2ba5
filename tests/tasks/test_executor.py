"""What becomes of a task, whatever it does: exactly one recorded end, and an executor that goes on."""

import sys
from datetime import UTC, datetime, timedelta

import anyio
import msgspec
import pytest

from fogactors.errors import TaskExpired, TaskFailed, WorkerLost
from fogactors.messages import Task
from fogactors.tasks.events import (
    TaskDeadLettered,
    TaskEnded,
    TaskRefused,
    TaskRetried,
    TaskStarted,
    ThreadAbandoned,
    WorkerCrashed,
)
from fogactors.tasks.retry import RetryPolicy
from fogactors.tasks.thread import Thread
from fogactors.testing.kit import eventually
from fogactors.wire import encode
from fogactors.wire.topology import retry_exchange
from tests.tasks import fog_tasks as tasks
from tests.tasks.harness import fog, message, publish, settled

pytestmark = pytest.mark.asyncio


# -- good tasks


async def test_a_task_runs_in_the_loop_in_a_thread_and_in_a_process(tmp_path):
    (tmp_path / "pid").touch()
    async with fog() as system:
        tasks.lock("thread").set()
        async with anyio.create_task_group() as group:
            for task, args, value in (
                (tasks.add, (1, 2), 3),
                (tasks.block, ("thread",), "thread"),
                (tasks.stay, (tmp_path,), "second"),
            ):
                handle = await system.submit(task, *args)

                async def check(handle=handle, value=value):
                    assert await handle.result(10) == value

                group.start_soon(check)
        await settled(system)
        assert {event.state for event in system.recorder.of(TaskEnded)} == {"succeeded"}
        assert system.ready("results.success") == 3


# -- bad tasks


@pytest.mark.parametrize("task", [tasks.bad, tasks.bad_thread], ids=["loop", "thread"])
@pytest.mark.parametrize(
    ("how", "kind", "text"),
    [
        ("raise", "ValueError", "nope"),
        ("exit", "SystemExit", "3"),
        ("interrupt", "KeyboardInterrupt", ""),
        ("memory", "MemoryError", "not enough"),
        ("stop", ("StopIteration", "RuntimeError"), ""),
        ("cancelled", "CancelledError", ""),
        ("unprintable", "Unprintable", "<its text raised RuntimeError>"),
        ("surrogate", "OSError", "no such file: \\udcff"),
        ("long", "ValueError", "x" * 4000),
        ("object", "TaskResultError", "cannot be sent"),
        ("large", "ResultTooLarge", "70002 bytes"),
    ],
)
async def test_a_task_that_misbehaves_fails_with_its_own_error_and_takes_nobody_with_it(task, how, kind, text):
    async with fog() as system:
        neighbour = await system.submit(tasks.hold, "neighbour")
        handle = await system.submit(task, how)
        with pytest.raises(TaskFailed) as failed:
            await handle.result(5)
        assert failed.value.type in (kind if isinstance(kind, tuple) else (kind,))
        assert text in failed.value.detail
        tasks.gate("neighbour").set()
        assert await neighbour.result(5) == "neighbour"
        await settled(system)
        assert tasks.runs["neighbour"] == 1
        await system.recorder.wait_for(TaskDeadLettered, task_id=handle.id, reason="failed")
        assert [event.state for event in system.recorder.of(TaskEnded) if event.task_id == handle.id] == ["failed"]


async def test_a_task_that_cancels_itself_and_returns_does_not_hit_the_executor():
    async with fog() as system:
        handle = await system.submit(tasks.bad, "cancel_itself")
        with pytest.raises(TaskFailed, match="CancelledError"):
            await handle.result(5)
        await settled(system)


async def test_a_task_with_nothing_to_do_succeeds_without_a_value():
    async with fog() as system:
        assert await (await system.submit(tasks.bad, "skip")).result(5) is None


@pytest.mark.parametrize("task", [tasks.hang, tasks.hang_process])
async def test_a_task_that_hangs_ends_at_its_time_limit(task):
    async with fog() as system:
        with pytest.raises(TaskFailed, match=r"TimeLimitExceeded: .*limit of") as failed:
            await (await system.submit(task)).result(5)
        assert "cannot be stopped" not in str(failed.value)
        await settled(system)
        assert system.dead_letters[0].reason == "time_limit"


async def test_a_thread_keeps_its_share_after_its_time_limit_until_it_ends():
    async with fog() as system:
        with pytest.raises(TaskFailed, match="it is a thread and cannot be stopped, so it may still run"):
            await (await system.submit(tasks.hang_thread, "t")).result(5)
        await system.recorder.wait_for(ThreadAbandoned, name=tasks.hang_thread.name)
        load = await system.load()
        assert load.running == 0
        assert load.free == load.size - system.tiers.lightest.share
        tasks.lock("t").set()
        await system.wait_idle()


async def test_a_thread_that_had_no_time_to_begin_leaves_nothing_behind():
    async with fog() as system:
        with pytest.raises(TaskFailed, match="TimeLimitExceeded"):
            await (await system.submit(tasks.hang_thread.options(time_limit=1e-9), "t")).result(5)
        await settled(system)
        assert not system.recorder.of(ThreadAbandoned)


async def test_a_thread_that_begins_when_nobody_waits_any_more_does_not_run():
    thread = Thread(tasks.block, ("late",))
    assert not thread.abandon(lambda: pytest.fail("it has not begun"))
    thread.run()
    assert tasks.runs["late"] == 0


async def test_a_task_that_kills_its_process_is_given_up_after_four_deliveries():
    async with fog() as system:
        handle = await system.submit(tasks.die)
        with pytest.raises(WorkerLost, match="its worker died every time"):
            await handle.result(20)
        assert len(system.recorder.of(WorkerCrashed)) == 4
        assert (await handle.outcome(1)).attempts == 4
        letter = await system.recorder.wait_for(TaskDeadLettered, task_id=handle.id)
        assert letter.reason == "worker_lost"
        await settled(system)


async def test_where_no_process_starts_the_task_goes_back_uncounted_and_waits_for_better_times(monkeypatch, tmp_path):
    (tmp_path / "pid").touch()
    real = sys.executable
    async with fog() as system:
        monkeypatch.setattr("sys.executable", "/nowhere/python")
        handle = await system.submit(tasks.stay, tmp_path)
        await eventually(lambda: system.ready(retry_exchange(1)) == 1, "it waits in retry.1")
        assert not system.recorder.of(WorkerCrashed)
        monkeypatch.setattr("sys.executable", real)
        assert await handle.result(10) == "second"
        assert (await handle.outcome(1)).attempts == 1


# -- retries


async def test_a_failed_attempt_is_followed_by_another_until_one_succeeds():
    async with fog() as system:
        handle = await system.submit(tasks.flaky, "a", 1)
        assert await handle.result(5) == 2
        assert (await handle.outcome(1)).attempts == 2
        event = system.recorder.of(TaskRetried)[0]
        assert (event.attempt, event.delay_s, event.error) == (1, 0.2, "ConnectionError: failure 1")
        await settled(system)


async def test_attempts_never_pass_the_cap():
    async with fog() as system:
        policy = RetryPolicy(attempts=2, first_s=0.1, jitter=False)
        handle = await system.submit(tasks.flaky.options(retry=policy), "a", 99)
        with pytest.raises(TaskFailed, match="ConnectionError: failure 2"):
            await handle.result(5)
        assert (tasks.runs["a"], (await handle.outcome(1)).attempts) == (2, 2)
        await settled(system)


async def test_a_task_may_ask_for_the_time_of_its_next_attempt():
    async with fog() as system:
        assert await (await system.submit(tasks.again, "a", 0.3)).result(5) == 2
        assert system.recorder.of(TaskRetried)[0].delay_s == 0.3


async def test_a_task_that_comes_before_its_time_is_put_off_without_an_attempt():
    async with fog(skip_delays=False) as system:
        not_before = system.now() + timedelta(seconds=20)
        early = message(tasks.note, args=b'{"name": "x"}', not_before=not_before)
        await publish(system, early)
        await eventually(lambda: system.ready(retry_exchange(16)) == 1, "it waits on the ladder")
        system.advance(19)
        result = await system.submitter.handle("foreign-1").outcome(5)
        assert (result.state, result.attempts) == ("succeeded", 1)
        assert system.recorder.of(TaskStarted)[0].at > not_before - timedelta(seconds=1)
        await settled(system)


async def test_a_delayed_submit_waits_on_the_ladder():
    async with fog() as system:
        handle = await system.submit(tasks.note.options(delay_s=1.0), "later")
        assert system.ready(retry_exchange(1)) == 1
        assert tasks.runs["later"] == 0
        await handle.result(5)


async def test_what_did_not_start_by_its_deadline_is_not_run():
    async with fog() as system:
        for name in "abcd":
            await system.submit(tasks.hold, name, "all")
        handle = await system.submit(tasks.note.options(deadline_s=0.05), "late")
        await anyio.sleep(0.1)
        tasks.gate("all").set()
        with pytest.raises(TaskExpired, match="had not started"):
            await handle.result(5)
        assert tasks.runs["late"] == 0
        result = await handle.outcome(1)
        assert (result.attempts, result.started) == (0, None)
        await settled(system)
        assert system.dead_letters[0].reason == "expired"


async def test_the_deadline_is_for_the_first_start_only():
    async with fog() as system:
        assert await (await system.submit(tasks.flaky.options(deadline_s=0.4), "a", 1)).result(5) == 2


# -- what cannot be run at all

REFUSED = {
    "garbage": (lambda: b"\x00garbage", "malformed", None),
    "another schema": (lambda: b'{"schema": "event/1", "id": "foreign-1"}', "malformed", None),
    "a field is missing": (lambda: b'{"schema": "task/1", "id": "foreign-1"}', "malformed", None),
    "unknown task": (
        lambda: encode(Task(id="foreign-1", name="no.such", created=datetime.now(UTC))),
        "unknown_task",
        "UnknownTask",
    ),
    "bad arguments": (lambda: message(tasks.add, args=b'{"a": "x", "b": 1}'), "bad_arguments", "TaskArgumentError"),
    "too large for the tier": (lambda: message(tasks.add, cpu=0.6), "rejected", "NoTierFits"),
    "less than nothing": (lambda: message(tasks.add, cpu=-1.0), "rejected", "NoTierFits"),
}


@pytest.mark.parametrize(("body", "reason", "error"), REFUSED.values(), ids=REFUSED)
async def test_what_cannot_be_run_is_a_dead_letter_at_its_first_delivery(body, reason, error):
    async with fog() as system:
        body = body()
        await publish(system, body, message_id="m-1")
        event = await system.recorder.wait_for(TaskDeadLettered, reason=reason)
        await settled(system)
        await eventually(lambda: system.ready("dlq.parked") == 1, "parked")
        letter = system.dead_letters[0]
        assert (letter.reason, letter.body, letter.origin) == (reason, body, "tasks.normal")
        assert letter.error is not None
        assert letter.error.message
        if error is not None:
            assert event.task_id == "foreign-1"
            with pytest.raises(TaskFailed, match=error):
                await system.submitter.handle("foreign-1").result(1)
        # The consumer goes on.
        assert await (await system.submit(tasks.add, 1, 1)).result(5) == 2
        assert (await system.load()).free == system.tiers.lightest.size


async def test_a_refusal_is_told_with_what_is_known_of_the_task():
    async with fog() as system:
        await publish(system, REFUSED["unknown task"][0](), key="high_priority")
        event = await system.recorder.wait_for(TaskRefused)
        assert (event.task_id, event.name, event.lane_tier, event.priority) == ("foreign-1", "no.such", "light", "high")


@pytest.mark.parametrize("kind", ["runs", "unknown", "dies"])
async def test_a_submitter_of_another_kind_gets_its_reply_whatever_the_end(kind):
    name = {"runs": tasks.add, "unknown": None, "dies": tasks.die}[kind]
    async with fog() as system:
        replies = []
        queue = await system.bus.open_exclusive("", (("results.topic", "reply.me"),))
        await system.bus.consume(queue, replies.append, prefetch=10)
        body = encode(
            Task(
                id="foreign-1",
                name=name.name if name else "no.such",
                args=msgspec.Raw(b'{"a": 1, "b": 2}' if kind == "runs" else b"{}"),
                created=datetime.now(UTC),
                reply_to="reply.me",
            )
        )
        await publish(system, body)
        await eventually(lambda: len(replies) == 1, "a reply", timeout=15)
        result = await system.submitter.handle("foreign-1").outcome(1)
        assert result.state.encode() in replies[0].body
        assert system.ready("results.success") + system.ready("results.failed") == 1

"""Redis away: messages flow on, results wait on the bus and come home, and both ends of it are told in one line."""

from __future__ import annotations

import os
import signal
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from uuid import uuid4

import anyio
import msgspec
import pytest
import redis
from msgspec import Raw

from tests.integration.fog import DEADLINE_S, Fog, connected, submitting, until
from tests.services import RedisServer, ServiceUnavailable, skip_or_fail

pytestmark = [pytest.mark.services, pytest.mark.asyncio]


@asynccontextmanager
async def own_redis(fog: Fog) -> AsyncIterator[RedisServer]:
    """One that this test may stop; the commands of `fog` use it from here on."""
    server = RedisServer()
    try:
        await server.start()
    except ServiceUnavailable as error:
        skip_or_fail(error)
    fog.services = replace(fog.services, redis_url=server.url)
    try:
        yield server
    finally:
        with anyio.CancelScope(shield=True):
            await server.stop(grace_s=0)


async def test_down_at_boot_is_no_reason_not_to_start(fog):
    async with own_redis(fog) as server:
        await server.kill9()
        reaper = await fog.role("dlq-reaper")
        executor = await fog.executor()
        submit = fog.start_submit("add", "a=40", "b=2")
        await executor.line("ResultUnrecorded")
        await server.restart()
        done = await submit.wait()
        assert (done.code, done.out) == (0, "42\n")
        assert [(await each.stop()).code for each in (reaper, executor)] == [0, 0]


@pytest.mark.parametrize("how", ["killed", "frozen"])
async def test_away_under_load(fog, tmp_path, how):
    trace, feed = tmp_path / "trace", Counter()
    trace.touch()
    async with own_redis(fog) as server:
        executor = await fog.executor()
        async with submitting(fog.services) as submitter, connected(fog.services) as bus:
            queue = await bus.open_exclusive(f"feed-{uuid4().hex}", (("results.topic", "results.success.#"),))
            await bus.consume(queue, lambda each: feed.update([each.correlation_id]), prefetch=1000)
            task, names = f"{fog.module}.append", [f"task-{n}" for n in range(100 if how == "killed" else 40)]
            handles = [await submitter.submit_raw(task, line(trace, name)) for name in names[:20]]
            await until(lambda: lines(trace) >= 5, "the first of them")
            if how == "killed":
                await server.kill9()
            else:
                os.kill(server.pid, signal.SIGSTOP)
            handles += [await submitter.submit_raw(task, line(trace, name)) for name in names[20:]]

            async def waiting() -> bool:
                # More than an executor holds at once: so those before have been acked.
                return (await bus.inspect("results.pending")).ready >= 10

            await until(waiting, "results on the bus")
            if how == "killed":
                await server.restart()
            else:
                os.kill(server.pid, signal.SIGCONT)
            await fog.role("dlq-reaper")
            results = [await handle.outcome(DEADLINE_S) for handle in handles]
            values = [(each.state, msgspec.json.decode(each.value), each.attempts) for each in results]
            assert values == [("succeeded", name, 1) for name in names]
            ids = dict.fromkeys((handle.id for handle in handles), 1)
            await until(lambda: len(feed) == len(ids), "every notice")
            assert (feed, lines(trace)) == (ids, len(ids)), "once each"
        await until(lambda: len(executor.logged("ResultUnrecorded")) == 2, "that it is over")
        told = [(each["level"], each["away"]) for each in executor.logged("ResultUnrecorded")]
        assert told == [("warning", True), ("warning", False)]
        assert (await executor.stop()).code == 0
        assert not executor.logged("ActorExited")


@pytest.mark.parametrize("seconds", [12, pytest.param(60, marks=pytest.mark.slow)])
async def test_stopped_for_long_under_load_and_an_executor_dies_meanwhile(fog, tmp_path, seconds):
    trace, per_s, tick_s = tmp_path / "trace", 40, 0.1
    trace.touch()
    async with own_redis(fog) as server, submitting(fog.services) as submitter, connected(fog.services) as bus:
        reaper = await fog.role("dlq-reaper")
        executors = [await fog.executor()]
        task, handles, late = f"{fog.module}.append", [], []
        await (await submitter.submit_raw(task, line(trace, "first"))).outcome(DEADLINE_S)
        os.kill(server.pid, signal.SIGSTOP)
        until_s = anyio.current_time() + seconds
        while anyio.current_time() < until_s:
            for _ in range(int(per_s * tick_s)):
                handles.append(await submitter.submit_raw(task, line(trace, f"task-{len(handles)}", 0.02)))
            if len(executors) == 1 and anyio.current_time() > until_s - seconds / 2:
                executors[0].kill9()
                executors.append(fog.start("run", "tier-executor", "--tier", "light", "-i", fog.module))
            late.append((await bus.inspect("tasks.normal")).ready)
            await anyio.sleep(tick_s)
        await until(lambda: lines(trace) > len(handles), "all have run while the store was away")
        os.kill(server.pid, signal.SIGCONT)
        results = [await handle.outcome(DEADLINE_S) for handle in handles]
        assert [msgspec.json.decode(each.value) for each in results] == [f"task-{n}" for n in range(len(handles))]
        # Nothing was blocked: what came in a second was gone in the next, but for the time without an executor.
        assert max(late[: len(late) // 2 - 1]) <= 2 * per_s
        (first, second), in_hand = executors, 3 * 5
        assert [each["away"] for each in first.logged("ResultUnrecorded")] == [True]
        await until(lambda: [each["away"] for each in second.logged("ResultUnrecorded")] == [True, False], "it is over")
        assert second.logged("ResultUnrecorded")[-1]["unrecorded"] >= len(handles) // 8, "counted"
        # The store could not say what had run already, so what the dead executor had in hand may have run twice; those
        # of which it had told the end as well are counted.
        twice = lines(trace) - 1 - len(handles)
        counted = sum(len(each.logged("DuplicateResult")) for each in (*executors, reaper))
        assert 0 <= counted <= twice <= in_hand
        assert (await second.stop()).code == 0
        assert not second.logged("ActorExited") + reaper.logged("ActorExited")


async def test_a_permission_that_is_taken_away_is_no_task_s_fault(fog):
    name = f"fog-{uuid4().hex[:8]}"
    everything = ("on", ">secret", "~*", "&*", "+@all")
    with redis.Redis.from_url(fog.services.redis_url) as admin:
        try:
            admin.execute_command("ACL", "SETUSER", name, *everything)
            url = f"redis://{name}:secret@{fog.services.redis_url.rpartition('@')[2]}"
            reaper = await fog.role("dlq-reaper", COORD__URL=url)
            executor = await fog.executor(COORD__URL=url)
            admin.execute_command("ACL", "SETUSER", name, "-@write", "-@scripting")
            submit = fog.start_submit("add", "a=1")
            told = await executor.line("ResultUnrecorded")
            assert "Redis refuses" in told
            admin.execute_command("ACL", "SETUSER", name, *everything)
            assert (await submit.wait()).out == "2\n"
            assert [(await each.stop()).code for each in (reaper, executor)] == [0, 0]
            assert not executor.logged("ActorExited") + reaper.logged("ActorExited")
        finally:
            admin.execute_command("ACL", "DELUSER", name)


def line(path: Path, text: str, seconds: float = 0.0) -> Raw:
    return Raw(msgspec.json.encode({"path": str(path), "line": text, "seconds": seconds}))


def lines(path: Path) -> int:
    return len(path.read_text().splitlines())

"""Cancelling and finding tasks through real services. Behaviour 19 of what users ask for: pending, delayed, running in
the loop, in a thread, in a process; `cancelled` within 5 s, and what cannot be cancelled says so.
"""

from __future__ import annotations

import json
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from urllib.parse import quote

import anyio
import psutil
import pytest
from msgspec import Raw

from fogactors.tasks.client import Handle, Submitter
from fogactors.tasks.tracker import THREAD
from tests.integration.fog import Command, Fog, connected, submitting, until

pytestmark = [pytest.mark.services, pytest.mark.asyncio]

WITHIN_S = 5.0
MODULE = "ticking"
TASKS = '''
"""Tasks that leave a mark as long as they run."""

import asyncio
import os
import time
from pathlib import Path

from fogactors import RetryPolicy, task


def tick(path: Path) -> None:
    with path.open("a") as file:
        file.write(".")


@task
async def in_loop(folder: Path) -> None:
    try:
        while True:
            tick(folder / "ticks")
            await asyncio.sleep(0.02)
    finally:
        (folder / "ended").touch()


@task
def in_thread(folder: Path) -> None:
    while not (folder / "stop").exists():
        tick(folder / "ticks")
        time.sleep(0.02)
    (folder / "ended").touch()


@task(process=True)
def in_process(folder: Path) -> None:
    (folder / "pid").write_text(str(os.getpid()))
    while True:
        tick(folder / "ticks")
        time.sleep(0.02)


@task(retry=RetryPolicy(attempts=3, first_s=4.0, jitter=False))
async def fails(folder: Path) -> None:
    tick(folder / "ticks")
    raise ConnectionError("not yet")


@task
async def once(folder: Path) -> int:
    tick(folder / "ticks")
    return 1
'''


class Ticking:
    """Submits them, by their names."""

    def __init__(self, fog: Fog, submitter: Submitter) -> None:
        self.fog, self.submitter = fog, submitter
        self.folder = fog.folder

    async def submit(self, name: str, **fields: object) -> Handle[object]:
        args = Raw(json.dumps({"folder": str(self.folder)}).encode())
        return await self.submitter.submit_raw(f"{MODULE}.{name}", args, tier="light", **fields)

    async def executor(self) -> Command:
        return await self.fog.role("tier-executor", "--tier", "light", "-i", MODULE)

    @property
    def ticks(self) -> int:
        path = self.folder / "ticks"
        return path.stat().st_size if path.exists() else 0


@asynccontextmanager
async def ticking(fog: Fog) -> AsyncIterator[Ticking]:
    (fog.folder / f"{MODULE}.py").write_text(TASKS)
    async with submitting(fog.services) as submitter:
        yield Ticking(fog, submitter)


async def cancelled(handle: Handle[object], found: str, note: str = "") -> None:
    """Cancel it, and have its end within the time that is promised."""
    began = time.monotonic()
    answer = await handle.cancel()
    assert (answer.state, answer.found) == ("cancelled", found)
    assert answer.note == note or found == "not held"
    assert (await handle.outcome(WITHIN_S)).state == "cancelled"
    assert time.monotonic() - began < WITHIN_S


@pytest.mark.versions
@pytest.mark.parametrize("kind", ["in_loop", "in_thread", "in_process"])
async def test_what_runs_is_cancelled_within_five_seconds(fog, kind):
    async with ticking(fog) as it:
        await it.executor()
        handle = await it.submit(kind)
        await until(lambda: it.ticks > 0, "it runs")
        found = await handle.where()
        assert (found.state, found.attempts, found.name) == ("running", 1, f"{MODULE}.{kind}")
        await cancelled(handle, "running", THREAD if kind == "in_thread" else "")
        match kind:
            case "in_loop":
                await until((it.folder / "ended").exists, "it was ended", WITHIN_S)
            case "in_process":
                pid = int((it.folder / "pid").read_text())
                await until(lambda: not psutil.pid_exists(pid), "its process was killed", WITHIN_S)
            case _:
                so_far = it.ticks
                await until(lambda: it.ticks > so_far, "it runs on, as was said", WITHIN_S)
                (it.folder / "stop").touch()
                await until((it.folder / "ended").exists, "its own end", WITHIN_S)
        assert (await handle.outcome(1)).state == "cancelled"
        assert (await handle.where()).state == "cancelled"


@pytest.mark.versions
async def test_what_is_pending_or_delayed_is_cancelled_and_not_run_by_an_executor_that_starts_later(fog):
    async with ticking(fog) as it, connected(fog.services) as bus:
        pending = await it.submit("once")
        delayed = await it.submit("once", not_before=datetime.now(UTC) + timedelta(seconds=3))
        assert [(await handle.where()).state for handle in (pending, delayed)] == ["queued or unknown"] * 2
        for handle in (pending, delayed):
            await cancelled(handle, "not held")
        await it.executor()

        async def all_gone() -> bool:
            return not any([(await bus.inspect(queue)).ready for queue in ("tasks.normal", "retry.1")])

        await until(all_gone, "both came to the executor")
        assert await (await it.submit("once")).result(10) == 1
        assert it.ticks == 1  # the last one's


@pytest.mark.versions
async def test_what_waits_for_its_next_attempt_is_cancelled(fog):
    async with ticking(fog) as it, connected(fog.services) as bus:
        await it.executor()
        handle = await it.submit("fails", max_attempts=3)

        async def ready() -> int:
            return (await bus.inspect("retry.4")).ready

        async def waits() -> bool:
            return await ready() == 1

        async def has_come_back() -> bool:
            return await ready() == 0

        await until(waits, "it waits for its second attempt")
        await cancelled(handle, "not held")
        await until(has_come_back, "it is due")
        assert await (await it.submit("once")).result(10) == 1
        assert it.ticks == 2  # one attempt, and the other task
        assert (await handle.outcome(1)).state == "cancelled"


async def test_the_commands(fog):
    async with ticking(fog) as it:
        executor = await it.executor()
        words = ("submit", f"{MODULE}.in_loop", f"folder={it.folder}", "--tier", "light", "--no-wait")
        submitted = await fog.run(*words)
        assert submitted.code == 0
        running, done = it.submitter.handle(submitted.out.strip()), await it.submit("once")
        assert await done.result(10) == 1
        await until(lambda: it.ticks > 1, "it runs")

        where = await fog.run("where", running.id)
        assert (where.code, where.err) == (0, "")
        assert where.out.startswith(f"{running.id}: running on ")
        found = json.loads((await fog.run("where", done.id, "--json")).out)
        assert (found["state"], found["name"], found["attempts"]) == ("succeeded", f"{MODULE}.once", 1)

        both = await fog.run("cancel", running.id, done.id)
        assert both.code == 1  # because one had ended otherwise
        first, second = both.out.splitlines()
        assert first.startswith(f"{running.id}: cancelled, it was running on ")
        assert second == f"{done.id}: succeeded; it had already succeeded"
        again = await fog.run("cancel", running.id, "--json")
        assert (again.code, [each["state"] for each in json.loads(again.out)]) == (0, ["cancelled"])
        assert not executor.logged("actor_exited")


async def test_a_redis_that_is_away_is_said_and_the_executor_ends_the_task_all_the_same(fog):
    async with ticking(fog) as it:
        await it.executor()
        handle = await it.submit("in_loop")
        await until(lambda: it.ticks > 0, "it runs")
        elsewhere = replace(fog.services, redis_url="redis://127.0.0.1:1/0")
        done = await fog.run("cancel", handle.id, services=elsewhere)
        assert (done.code, done.out, len(done.said)) == (1, "", 1)
        assert f"fogactors: {handle.id} is not recorded as cancelled: " in done.err
        assert " had it running and was told; cancel it again" in done.err
        assert (await handle.outcome(WITHIN_S)).state == "cancelled"  # the executor has a Redis, and records it


async def test_a_broker_that_is_away_is_said_and_what_redis_knows_is_done_all_the_same(fog):
    async with ticking(fog) as it:
        await it.executor()
        done = await it.submit("once")
        assert await done.result(10) == 1
        waiting = await it.submit("once", not_before=datetime.now(UTC) + timedelta(hours=1))
        elsewhere = replace(fog.services, amqp_url="amqp://a:b@127.0.0.1:1/x")
        quick = {"services": elsewhere, "BUS__BOOT_WAIT_S": "1"}
        found = await fog.run("where", done.id, **quick)  # its record is enough
        assert (found.code, found.err) == (0, "")
        unknown = await fog.run("where", waiting.id, **quick)
        assert (unknown.code, unknown.out, len(unknown.said)) == (3, "", 1)
        assert "the broker ([bus] url) cannot be reached: " in unknown.err
        cancelled = await fog.run("cancel", waiting.id, **quick)
        assert (cancelled.code, cancelled.out, len(cancelled.said)) == (3, "", 1)
        assert (
            f"fogactors: {waiting.id} is recorded as cancelled, but the executors could not be told: " in cancelled.err
        )
        assert (await waiting.outcome(WITHIN_S)).state == "cancelled"


async def test_a_thousand_orders_share_one_queue(fog):
    async with ticking(fog) as it:
        before = time.monotonic()
        async with anyio.create_task_group() as tasks:
            for number in range(1000):
                tasks.start_soon(it.submitter.cancel, f"nobodys-{number}")
        took_s = time.monotonic() - before
        path = f"/queues/{quote(fog.services.vhost, safe='')}?columns=name"
        names = [each["name"] for each in fog.services.api("GET", path)]
        assert len([name for name in names if ".order." in name and name.startswith("ctl.")]) == 1
        assert took_s < 30  # together, and not one after the other, each of which waits for answers for a second


async def test_a_key_submitted_by_two_processes_makes_one_task(fog):
    async with ticking(fog) as it:
        words = ("submit", f"{MODULE}.once", f"folder={it.folder}", "--tier", "light", "--key", "order-7", "--json")
        first, second = fog.start(*words), fog.start(*words)
        await it.executor()
        results = [json.loads((await each.wait()).out) for each in (first, second)]
        assert results[0]["task_id"] == results[1]["task_id"]
        assert it.ticks == 1

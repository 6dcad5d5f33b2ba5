"""The main job in separate processes, while an executor and the broker are killed -9: nothing is lost, each result is
recorded once. `RABBITMQ=4.0` has it on the older broker."""

from __future__ import annotations

import json
import os
import random
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import psutil
import pytest
import redis.asyncio

from fogactors.messages import TaskResult
from fogactors.wire import decode
from tests.integration.fog import Command, Fog, Services, connected, until
from tests.integration.own import Own

pytestmark = [pytest.mark.services, pytest.mark.asyncio]

FILES = 600
TASKS = 3 * FILES
JOB_S = 180.0


@pytest.fixture(scope="module")
def own():
    with Own.open(os.environ.get("RABBITMQ") or "4.3") as own:
        yield own


@pytest.fixture
def fog(own, tmp_path):
    fog = Fog(Services("", ""), tmp_path)
    yield fog
    fog.clean_up()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Modules of all three priorities, enough of them to keep a small machine busy for some 20 s."""
    folder, rng = tmp_path / "modules", random.Random(1)
    folder.mkdir()
    for number in range(FILES):
        lines = (
            f"def function_{n}(a, b={rng.random()}):\n    return a * {rng.random()} + b"
            for n in range(rng.choice((20, 400, 800)))
        )
        (folder / f"module_{number}.py").write_text("\n\n\n".join(lines) + "\n")
    return folder


async def test_a_killed_executor_and_a_killed_broker_lose_nothing_and_record_nothing_twice(
    own, fog, folder, tmp_path, record_property
):
    out = tmp_path / "rows"
    urls = ("--amqp", own.broker.amqp_url, "--redis", own.redis.url)
    demo = fog.start("demo", str(folder), *urls, "--out", str(out), "--no-live", "--json")
    done = share_done(out)
    await until(lambda: done() > 0.2 or demo.process.poll() is not None, f"a fifth of the work of {demo}", JOB_S)
    assert demo.process.poll() is None, str(demo)
    [victim] = executors(demo, "heavy")
    await until(lambda: unacked(own, "heavy"), "deliveries to it without an ack")
    victim.kill()
    executor_killed_at = done()
    await until(lambda: [each.pid for each in executors(demo, "heavy")] not in ([], [victim.pid]), "its replacement")

    await until(lambda: done() > max(0.45, executor_killed_at + 0.1), "more of the work", JOB_S)
    await until(lambda: unacked(own), "deliveries without an ack")
    await own.broker.kill9()
    broker_killed_at = done()
    boot = await own.broker.restart()
    assert 0.2 < executor_killed_at < broker_killed_at < 0.8

    ended = await demo.wait(JOB_S)
    assert ended.code == 0, str(demo)
    report = json.loads(ended.out)
    assert (report["tasks"], report["succeeded"], report["lost"]) == (TASKS, TASKS, 0)
    rows = [json.loads(line) for line in out.read_text().splitlines()]
    assert len({(row["path"], row["kind"]) for row in rows}) == len(rows) == TASKS
    assert max(row["attempts"] for row in rows) > 1  # what was unacked at a kill came once more
    await each_recorded_once(own)
    record_property("killed_at", (round(executor_killed_at, 2), round(broker_killed_at, 2)))
    record_property("again", sum(row["attempts"] > 1 for row in rows))
    record_property("seconds", (report["seconds"], round(boot.port_open_s, 1)))


def share_done(out: Path) -> Callable[[], float]:
    """What part of the tasks has its row."""
    return lambda: out.read_bytes().count(b"\n") / TASKS if out.exists() else 0.0


def executors(demo: Command, tier: str) -> list[psutil.Process]:
    """The processes that serve a tier."""
    found: list[psutil.Process] = []
    for child in demo.children():
        with suppress(psutil.NoSuchProcess):
            if child.cmdline()[3:7] == ["run", "tier-executor", "--tier", tier]:
                found.append(child)
    return found


async def unacked(own: Own, tier: str = "") -> bool:
    """Whether there are deliveries without an ack at this moment: rabbitmqctl asks the queues, while the management API
    remembers. `tier`: on its queues."""
    columns = ("name", "messages_unacknowledged")
    text = await own.broker.ctl("list_queues", "--vhost", "/fog", "--no-table-headers", *columns)
    counts = dict(line.split("\t") for line in text.splitlines() if "\t" in line)
    return any(int(count) for queue, count in counts.items() if queue.startswith("tasks.") and queue.endswith(tier))


async def each_recorded_once(own: Own) -> None:
    """One record for each task, and one notice of it in the feed: it is written where a record was."""
    async with redis.asyncio.from_url(own.redis.url) as client:
        keys = [key async for key in client.scan_iter("fog:result:*", count=1000)]
    assert len(keys) == TASKS
    ids: list[str] = []
    async with connected(own.services) as bus:
        for queue in ("results.success", "results.failed"):
            ready = len(ids) + (await bus.inspect(queue)).ready
            await bus.consume(
                queue, lambda delivery: ids.append(decode(delivery.body, TaskResult).task_id), prefetch=10_000
            )
            await until(lambda ready=ready: len(ids) == ready, f"{ready} notices, there are {len(ids)}")
    assert len(ids) == len(set(ids))
    assert {f"fog:result:{id_}".encode() for id_ in ids} <= set(keys)

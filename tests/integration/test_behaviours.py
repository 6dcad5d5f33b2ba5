"""Behaviours 1, 4, 9, 14 and 16 of what users ask for, against a real broker and a real store."""

from __future__ import annotations

import gc
import random
import time
from pathlib import Path
from urllib.parse import quote, urlsplit
from uuid import uuid4

import anyio
import psutil
import pytest

from fogactors.app.settings import BusSettings
from fogactors.bus.base import Delivery, Message
from fogactors.coord.redis import RedisCoord
from fogactors.core import ActorExited
from fogactors.errors import BusUnavailable
from fogactors.messages import DeadLetter, Task, TaskResult
from fogactors.tasks.client import Submitter
from fogactors.tasks.events import TaskStarted
from fogactors.tasks.registry import default_registry
from fogactors.tasks.settle import DEATHS_ALLOWED
from fogactors.testing.proxy import TcpProxy
from fogactors.wire import decode
from fogactors.wire.topology import DLQ
from tests.integration import worker_tasks as tasks
from tests.integration.fog import Services, apply_topology, connected, submitting, until
from tests.integration.own import running, through

pytestmark = [pytest.mark.services, pytest.mark.asyncio]

AGAIN_S = 15.0
PREFETCH = 4 + 1


@pytest.fixture
def fog(fog, monkeypatch):
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parents[2]))
    fog.module = tasks.__name__
    return fog


async def notices(services: Services, feed: str = "results.success") -> list[str]:
    """The ids in the feed of results, which are taken out of it: one for each record that was written."""
    ids: list[str] = []
    async with connected(services) as bus:
        ready = (await bus.inspect(feed)).ready
        deliveries = []
        await bus.consume(feed, deliveries.append, prefetch=1000)
        await until(lambda: len(deliveries) == ready, f"{ready} notices")
        for delivery in deliveries:
            ids.append(decode(delivery.body, TaskResult).task_id)
            await delivery.ack()
    return ids


# -- 1: a worker dies, or is taken for dead


@pytest.mark.versions
async def test_what_a_killed_executor_had_in_hand_runs_again_soon_and_is_recorded_once(fog, tmp_path):
    first = await fog.executor()
    async with submitting(fog.services) as submitter:
        handle = await submitter.submit(tasks.wait_once, tmp_path)
        await until((tmp_path / "run 1").exists, "the first run")
        await fog.executor()
        killed = time.monotonic()
        first.kill9()
        await until((tmp_path / "run 2").exists, "the second run", AGAIN_S)
        took = time.monotonic() - killed
        result = await handle.outcome(AGAIN_S)
    assert took < AGAIN_S
    assert (result.state, result.attempts, bytes(result.value)) == ("succeeded", 2, b"2")
    assert (await notices(fog.services)).count(handle.id) == 1


@pytest.mark.versions
async def test_the_late_end_of_one_that_was_taken_for_dead_is_a_duplicate(fog, tmp_path):
    at = urlsplit(fog.services.amqp_url)
    async with TcpProxy.to(at.hostname, at.port) as proxy, submitting(fog.services) as submitter:
        away = through(fog.services, proxy.port)
        late = await fog.executor(services=away, NODE__NAME="late")
        handle = await submitter.submit(tasks.wait_once, tmp_path)
        await until((tmp_path / "run 1").exists, "the first run")
        other = await fog.executor(NODE__NAME="other")
        proxy.stall()  # `late` hears nothing of its end
        await close_connections(fog.services, "late/")
        result = await handle.outcome(AGAIN_S)
        assert (result.worker, bytes(result.value)) == ("other/light", b"2")
        (tmp_path / "go").touch()
        await until(lambda: bool(late.logged("DuplicateResult")), f"a duplicate from {late}")
        [duplicate] = late.logged("DuplicateResult")
        assert duplicate["message_id"] == handle.id
        assert not other.logged("DuplicateResult")
        assert (await handle.outcome(1)).worker == "other/light"
        assert (await notices(fog.services)).count(handle.id) == 1


async def close_connections(services: Services, name: str) -> None:
    """As a broker does that has heard nothing of a client for too long."""
    path = f"/vhosts/{quote(services.vhost, safe='')}/connections"

    def named() -> list[str]:
        return [
            each["name"]
            for each in services.api("GET", path)
            if each.get("client_properties", {}).get("connection_name", "").startswith(name)
        ]

    await until(lambda: len(named()) >= 2, f"the connections of {name}")
    for each in named():
        services.api("DELETE", f"/connections/{quote(each, safe='')}")


# -- 4: the broker cannot be reached


@pytest.mark.parametrize("how", ["gone", "silent"])
async def test_a_submit_without_a_broker_ends_in_time_every_time_and_leaves_nothing_behind(services, how):
    at = urlsplit(services.amqp_url)
    async with TcpProxy.to(at.hostname, at.port) as proxy:
        away = through(services, proxy.port)
        bus = BusSettings(url=away.amqp_url, publish_timeout_s=2.0)
        async with running(away, default_registry, bus=bus) as system:
            await system.submitter.submit(tasks.nap, 0)
            if how == "gone":
                proxy.refusing = True
                proxy.cut()
                await system.recorder.wait_for(ActorExited, path="submitter/link")
            else:
                proxy.stall()
            took, early, unsent, memory = [], [], [], []

            async def submit() -> None:
                began = time.monotonic()
                with pytest.raises(BusUnavailable) as caught:
                    await system.submitter.submit(tasks.nap, 0)
                took.append(time.monotonic() - began)
                # What is on its way when the kernel gives up a silent broker is told so at once, not at its deadline.
                if took[-1] < 1.99 and "the connection was lost" not in str(caught.value):
                    early.append(str(caught.value))
                unsent.append(caught.value.unsent)

            for _ in range(4):
                async with anyio.create_task_group() as group:
                    for _ in range(200):
                        group.start_soon(submit)
                del unsent[:-1]
                gc.collect()
                memory.append(psutil.Process().memory_info().rss >> 20)
            proxy.refusing = False
            proxy.resume()
            with anyio.fail_after(AGAIN_S):
                await resubmitted(system.submitter, unsent[0])
    assert early == []
    assert max(took) >= 1.99
    assert max(took) < 2.5
    assert memory[-1] - memory[0] < 10, memory
    async with connected(services) as bus:
        await bus.purge("tasks.normal")


async def resubmitted(submitter: Submitter, unsent: Message) -> None:
    """As a caller does it: a link that hung may be given up only now, and its error carries the message once more."""
    while True:
        try:
            await submitter.resubmit(unsent)
        except BusUnavailable as error:
            unsent = error.unsent or unsent
        else:
            return


# -- 9: a retry that is not, or not known to be, published


@pytest.mark.versions
async def test_killed_between_a_retry_and_the_ack_it_runs_once_more_within_its_cap_and_is_recorded_once(fog, tmp_path):
    cap, at = tasks.fail.retry.attempts, urlsplit(fog.services.amqp_url)
    retries: list[Task] = []
    async with (
        TcpProxy.to(at.hostname, at.port) as proxy,
        submitting(fog.services) as submitter,
        connected(fog.services) as bus,
    ):
        spy = await bus.open_exclusive("", (("retry.1", ""),))
        await bus.consume(spy, lambda delivery: retries.append(decode(delivery.body, Task)), prefetch=1000)
        first = await fog.executor(services=through(fog.services, proxy.port))
        await (await submitter.submit(tasks.nap, 0)).result(AGAIN_S)  # so that its channels are open
        handle = await submitter.submit(tasks.fail, tmp_path)
        await until((tmp_path / "run 1").exists, "the first run")
        proxy.half_open()  # the confirm of the retry is lost
        (tmp_path / "go").touch()
        await until(lambda: bool(retries), f"the retry of {first}")
        first.kill9()
        other = await fog.executor()
        outcome = await handle.outcome(AGAIN_S)
        assert (outcome.state, outcome.attempts) == ("failed", cap)
        await until(lambda: bool(other.logged("DuplicateResult")), f"the other copy comes to its end in {other}")
        assert (await notices(fog.services, "results.failed")).count(handle.id) == 1
    assert max(task.attempt for task in retries) == cap
    assert len(list(tmp_path.glob("run *"))) <= cap + 1


@pytest.fixture
def restricted(bare):
    """A user that may publish anything but a retry; its name is its password."""
    anyio.run(apply_topology, bare)
    user = f"fog-test-{uuid4().hex[:6]}"
    bare.api("PUT", f"/users/{user}", {"password": user, "tags": ""})
    permissions = {"configure": "^ctl[.]", "write": "^(?!retry[.])", "read": ".*"}
    bare.api("PUT", f"/permissions/{quote(bare.vhost, safe='')}/{user}", permissions)
    yield user
    bare.api("DELETE", f"/users/{user}")


@pytest.mark.versions
async def test_a_retry_that_is_not_taken_leaves_the_task_with_the_broker_which_delivers_it_again(fog, bare, tmp_path):
    await apply_topology(bare)
    executor = await fog.executor(services=bare)
    async with submitting(bare) as submitter:
        handle = await submitter.submit(tasks.fail, tmp_path, 2)
        await until((tmp_path / "run 1").exists, f"the first run in {executor}")
        bare.api("DELETE", f"/exchanges/{quote(bare.vhost, safe='')}/retry.1")
        (tmp_path / "go").touch()
        outcome = await handle.outcome(AGAIN_S)
        assert (outcome.state, outcome.attempts, bytes(outcome.value)) == ("succeeded", 2, b"2")


@pytest.mark.versions
async def test_a_task_whose_retries_are_never_taken_is_given_up_as_it_was(fog, bare, restricted, tmp_path):
    (tmp_path / "go").touch()
    executor = await fog.executor(services=bare.as_user(restricted, restricted), BUS__PUBLISH_TIMEOUT_S="0.5")
    async with submitting(bare) as submitter, connected(bare) as bus:
        handle = await submitter.submit(tasks.fail, tmp_path)
        letters: list[Delivery] = []
        await bus.consume(DLQ, letters.append, prefetch=1)
        await until(lambda: bool(letters), f"{executor} gives the task up")
    letter = decode(letters[0].body, DeadLetter)
    assert (letter.reason, letter.origin) == ("worker_lost", "tasks.normal")
    assert (decode(letter.body, Task).id, decode(letter.body, Task).attempt) == (handle.id, 1)
    assert len(list(tmp_path.glob("run *"))) == DEATHS_ALLOWED + 1


# -- 14: blocking code in a handler


async def test_a_second_of_blocking_code_stops_no_heartbeat_and_is_told_of_by_name(fog):
    times = {"HEARTBEAT__INTERVAL_S": "0.1", "HEARTBEAT__TTL_S": "0.5", "HEARTBEAT__LOOP_BLOCKED_S": "0.5"}
    up = fog.start("up", "--tier", "light", "-i", fog.module, NODE__NAME="blocked", **times)
    await up.line(" is up ")
    async with submitting(fog.services) as submitter:
        handle = await submitter.submit(tasks.block_loop, 1.0)
        beats, _ = await watch_beats(fog.services, "blocked", handle)
    assert len([beat for beat in beats if beat.lag_s > 0]) >= 5
    assert max(beat.lag_s for beat in beats) > 0.5
    [alarm] = up.logged("LoopBlocked")
    assert alarm["what"] == f"task {tasks.block_loop.name} {handle.id}"
    assert "in block_loop" in alarm["where"]
    assert alarm["level"] == "error"


async def test_a_connection_survives_half_a_minute_of_blocked_loop(fog):
    """With the defaults: alarm and AMQP heartbeat both at 30 s."""
    times = {"HEARTBEAT__INTERVAL_S": "1", "HEARTBEAT__TTL_S": "3"}
    up = fog.start("up", "--tier", "light", "-i", fog.module, NODE__NAME="long", **times)
    await up.line(" is up ")
    async with submitting(fog.services) as submitter:
        handle = await submitter.submit(tasks.block_loop, 31.0)
        beats, blocked_s = await watch_beats(fog.services, "long", handle)
        assert blocked_s > 30
        assert await (await submitter.submit(tasks.nap, 0)).result(AGAIN_S) == 0
    assert len(beats) >= 25
    assert [alarm["what"] for alarm in up.logged("LoopBlocked")] == [f"task {tasks.block_loop.name} {handle.id}"]
    assert not up.logged("ActorExited")


async def watch_beats(services: Services, node: str, handle) -> tuple[list, float]:
    """What is in Redis until the task has ended: it must be there at any time. And how long the task ran."""
    coord, beats = RedisCoord(services.redis_url), {}
    try:
        async with anyio.create_task_group() as group:

            async def look() -> None:
                while True:
                    [beat] = [each for each in await coord.beats() if each.node == node]
                    beats[beat.at] = beat
                    await anyio.sleep(0.02)

            group.start_soon(look)
            result = await handle.outcome(60)
            group.cancel_scope.cancel()
    finally:
        await coord.close()
    return [beat for at, beat in beats.items() if result.started < at < result.finished], (
        result.finished - result.started
    ).total_seconds()


# -- 16: priorities


async def test_one_high_task_starts_soon_although_a_thousand_low_ones_wait(services):
    async with running(services, default_registry, "tier-executor") as system:
        low, high = tasks.nap.options(priority="low"), tasks.nap.options(priority="high")
        async with anyio.create_task_group() as group:
            for _ in range(1000):
                group.start_soon(system.submitter.submit, low, 0.05)
        await system.recorder.wait_for(TaskStarted, count=50)
        async with connected(services) as bus:
            assert (await bus.inspect("tasks.low_priority")).ready > 500
        before = len(system.recorder.of(TaskStarted))
        handle = await system.submitter.submit(high, 0.05)
        await handle.result(AGAIN_S)
        order = [event.priority for event in system.recorder.of(TaskStarted)][before:]
        await purge(services, "low")
    await purge(services, "low")  # what it had in hand went back
    assert order.index("high") <= PREFETCH + 1


async def purge(services: Services, *priorities: str) -> None:
    async with connected(services) as bus:
        for each in priorities:
            await bus.purge(f"tasks.{each}_priority")


async def test_low_work_moves_under_constant_high_load(services):
    # Of different lengths: what ends in the same instant asks for more at once than one looks ahead.
    rng = random.Random(1)
    async with connected(services) as bus, submitting(services) as submitter:
        for count, priority in ((100, "low"), (300, "high")):
            for _ in range(count):
                await submitter.submit(tasks.nap.options(priority=priority), rng.uniform(0.01, 0.04))
        assert [(await bus.inspect(f"tasks.{each}_priority")).ready for each in ("low", "high")] == [100, 300]
    async with running(services, default_registry, "tier-executor") as system:
        await system.recorder.wait_for(TaskStarted, count=300, timeout=30)
        order = [event.priority for event in system.recorder.of(TaskStarted)]
        await purge(services, "low", "high")
    await purge(services, "low", "high")
    # Its consumer may come up a moment after the other's; what is not in hand does not wait there.
    loaded = order[order.index("low") : 250]
    assert len(loaded) > 200
    for at in range(len(loaded) - 10):
        assert "low" in loaded[at : at + 11]
    assert loaded.count("high") > len(loaded) / 2

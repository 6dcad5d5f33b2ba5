"""Reports and the sink, from an executor's work to what Prometheus reads, on the embedded bus."""

import socket
import urllib.error
import urllib.request
from datetime import UTC, datetime
from functools import partial

import anyio
import anyio.to_thread
import psutil
import pytest

from fogactors.bus import MemoryBus, Message
from fogactors.core import ActorExited, ActorStarted, StopChild
from fogactors.errors import StartFailed
from fogactors.messages import NodeMetrics
from fogactors.roles.metrics_sink import ReportRefused
from fogactors.roles.reporter import MetricsLost
from fogactors.roles.reports import MetricsConfig
from fogactors.tasks.events import ResultUnrecorded
from fogactors.tasks.registry import Registry
from fogactors.tasks.task import task
from fogactors.testing.kit import eventually
from fogactors.testing.kit import fog as any_fog
from fogactors.wire.codec import decode
from fogactors.wire.topology import METRICS

pytestmark = pytest.mark.asyncio

registry = Registry()
gates = {}


@task(registry=registry)
async def add(a: int, b: int = 1) -> int:
    return a + b


@task(registry=registry, priority="high")
async def fails() -> None:
    raise ValueError("no luck")


@task(registry=registry)
async def hold(name: str) -> None:
    await gates[name].wait()


def free_port():
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return one.getsockname()[1]


def fog(roles=("dlq-reaper", "tier-executor"), *, interval_s=0.05, port=0, **options):
    metrics = MetricsConfig(port=port, interval_s=interval_s)
    return any_fog(registry=registry, roles=roles, metrics=metrics, skip_delays=False, **options)


async def fresh(system):
    """A report that was made from now on."""
    now, found = datetime.now(UTC), []
    bus = MemoryBus(system.broker, name="reader")
    await bus.open()
    await bus.consume("metrics.node", lambda delivery: found.append(decode(delivery.body, NodeMetrics)), prefetch=1000)
    await eventually(lambda: found and found[-1].at > now, "a report")
    await bus.close()
    return found[-1]


async def last_of(system):
    """What it says when it stops."""
    await system.stop()
    return [decode(delivery.body, NodeMetrics) for delivery in await system.peek("metrics.node")][-1]


def totals(report, tier="light", priority="normal"):
    return next((lane for lane in report.process.lanes if (lane.tier, lane.priority) == (tier, priority)), None)


async def test_a_report_says_what_the_node_and_its_process_do():
    async with fog(serve=("light", "heavy"), interval_s=3600) as system:
        gates["a"] = anyio.Event()
        handle = await system.submit(hold, "a")
        await eventually(lambda: system.broker.depths()["tasks.normal"].unsettled == 1, "it runs")
        report = await fresh(system)  # the first comes after a second, whatever the interval
        gates["a"].set()
        await handle.result(5)
    assert (report.node, report.role, report.process.id) == ("node", "up", psutil.Process().pid)
    assert 0 < report.memory_used_mb < report.memory_total_mb
    assert 0 <= report.cpu_percent <= 100
    assert report.process.resident_mb > 10
    assert report.process.queues == {"dlq": 0, "results.pending": 0}
    assert [(load.tier, load.running, load.memory_mb) for load in report.tiers] == [
        ("light", 1, 512),
        ("heavy", 0, 1024),
    ]
    assert (report.tiers[0].cpu_used, report.tiers[0].memory_used_mb) == (0.125, 128)
    assert (totals(report).started, totals(report).ended) == (1, {})


async def test_the_last_report_has_all_that_happened():
    async with fog(interval_s=3600) as system:
        for n in range(3):
            await (await system.submit(add, n)).result(5)
        assert (await (await system.submit(fails)).outcome(5)).state == "failed"
        last = await last_of(system)
    assert totals(last).ended == {"succeeded": 3}
    assert totals(last, priority="high").ended == {"failed": 1}
    assert sum(totals(last).wait.counts) == sum(totals(last).run.counts) == 3
    assert last.process.dead_letters == {"failed": 1}


async def test_a_broker_that_is_away_is_told_of_once_and_costs_no_count():
    async with fog(("tier-executor",)) as system:
        await (await system.submit(add, 1)).result(5)
        system.broker.faults.down("closed on Sundays")
        lost = await system.recorder.wait_for(MetricsLost, away=True)
        assert "closed on Sundays" in lost.error
        system.broker.faults.up()
        await system.recorder.wait_for(MetricsLost, away=False)
        last = await fresh(system)
        assert [event.away for event in system.recorder.of(MetricsLost)] == [True, False]
        assert not [e for e in system.recorder.of(ActorExited) if e.path.startswith("fogactors/metrics")]
    assert totals(last).ended == {"succeeded": 1}


async def test_a_reporter_that_is_started_anew_has_forgotten_nothing():
    async with fog(("tier-executor",)) as system:
        await (await system.submit(add, 1)).result(5)
        system.actors.ref("fogactors/metrics/reporter").kill()
        await system.recorder.wait_for(ActorStarted, path="fogactors/metrics/reporter", incarnation=2)
        await (await system.submit(add, 1)).result(5)
        last = await last_of(system)
    assert totals(last).ended == {"succeeded": 2}


async def test_that_redis_is_away_is_a_figure():
    async with fog(("tier-executor",)) as system:
        system.store.away = True
        await system.submit(add, 1)
        await system.recorder.wait_for(ResultUnrecorded, away=True)
        assert (await fresh(system)).process.store_away
        system.store.away = False
        await system.recorder.wait_for(ResultUnrecorded, away=False)
        assert not (await fresh(system)).process.store_away


async def test_an_executor_that_does_not_answer_keeps_no_report_from_being_sent(monkeypatch):
    monkeypatch.setattr("fogactors.roles.loads.LOAD_S", 0.05)
    async with fog(("tier-executor",), serve=("light", "heavy")) as system:
        await system.actors.ref("fogactors").ask(StopChild("tier-executor-heavy"), timeout=5)
        last = await fresh(system)
    assert [load.tier for load in last.tiers] == ["light"]


async def test_what_nobody_takes_runs_out():
    """Or a sink that comes back after an hour would show who is long gone."""
    async with fog(("tier-executor",)) as system:
        await system.stop()
        assert system.ready("metrics.node") > 0
        system.advance(0.15)  # three intervals
        await eventually(lambda: system.ready("metrics.node") == 0, "none is left")


# -- the sink


class Page:
    def __init__(self, port):
        self.port = port

    def get(self):
        with urllib.request.urlopen(f"http://127.0.0.1:{self.port}/metrics", timeout=5) as answer:
            return answer.read().decode()

    async def until(self, *lines, without=()):
        """Until it has lines that begin with these, and none that begins with those."""
        text = ""
        with anyio.move_on_after(10):
            while True:
                text = await anyio.to_thread.run_sync(self.get)
                found = text.splitlines()
                missing = [line for line in lines if not any(each.startswith(line) for each in found)]
                there = [line for line in without if any(each.startswith(line) for each in found)]
                if not missing and not there:
                    return
                await anyio.sleep(0.02)
        raise AssertionError(f"{missing} did not come, {there} did not go:\n{text}")


def series(name, value, **more):
    labels = {"node": "node", "role": "up", "process": psutil.Process().pid} | more
    said = ",".join(f'{key}="{labels[key]}"' for key in sorted(labels))
    return f"{name}{{{said}}} {value}"


def lane(name, value, priority="normal", **more):
    return series(name, value, tier="light", priority=priority, **more)


async def test_what_executors_do_is_on_the_page():
    port = free_port()
    async with fog(("dlq-reaper", "metrics-sink", "tier-executor"), port=port) as system:
        page = Page(port)
        for n in range(3):
            await (await system.submit(add, n)).result(5)
        assert (await (await system.submit(fails)).outcome(5)).state == "failed"
        await page.until(
            lane("fogactors_tasks_ended_total", 3.0, state="succeeded"),
            lane("fogactors_tasks_ended_total", 1.0, "high", state="failed"),
            lane("fogactors_task_wait_seconds_count", 3.0),
            lane("fogactors_task_run_seconds_bucket", 3.0, le="+Inf"),
            'fogactors_node_cpu_percent{node="node"} ',
            'fogactors_queue_messages{queue="dlq"} 0.0',
        )
        system.store.away = True
        await system.submit(add, 1)
        await page.until(series("fogactors_store_away", 1.0))
        system.store.away = False
        await page.until(series("fogactors_store_away", 0.0))


async def test_what_is_no_report_is_refused_and_the_sink_goes_on():
    port = free_port()
    async with fog(("metrics-sink",), port=port) as system:
        publish = partial(system.bus.publish, METRICS, "metrics.node.x.y")
        await publish(Message(b"not json"))
        refused = await system.recorder.wait_for(ReportRefused, total=1)
        assert "JSON" in refused.error
        await publish(
            Message(b'{"schema":"metrics/1","node":"a b","role":"up","at":"2026-01-02T03:04:05Z","window_s":5}')
        )
        await system.recorder.wait_for(ReportRefused, total=2)
        await Page(port).until('fogactors_sink_reports_total{outcome="refused"} 2.0', without=("fogactors_node",))
        await eventually(lambda: not system.broker.depths()["metrics.node"].unsettled, "both are settled")


async def test_the_page_stays_when_the_broker_is_away_and_who_is_silent_vanishes():
    port = free_port()
    async with fog(("metrics-sink", "tier-executor"), port=port, interval_s=0.1) as system:
        page = Page(port)
        await page.until("fogactors_node_load1{")
        system.broker.faults.down()
        await page.until(without=("fogactors_node_load1{", "fogactors_report_age_seconds{"))
        system.broker.faults.up()
        await page.until("fogactors_node_load1{", 'fogactors_sink_reports_total{outcome="refused"} 0.0')
        assert not [e for e in system.recorder.of(ActorExited) if "metrics-endpoint" in e.path]


async def test_a_sink_that_dies_knows_all_again():
    port = free_port()
    async with fog(("metrics-sink", "tier-executor"), port=port) as system:
        await (await system.submit(add, 1)).result(5)
        await Page(port).until(lane("fogactors_tasks_started_total", 1.0))
        system.kill("metrics-sink")
        await system.recorder.wait_for(ActorStarted, path="fogactors/metrics-sink/sink", incarnation=2)
        await (await system.submit(add, 1)).result(5)
        await Page(port).until(lane("fogactors_tasks_started_total", 2.0))
        system.actors.ref("fogactors/metrics-endpoint/endpoint").kill()
        await system.recorder.wait_for(ActorStarted, path="fogactors/metrics-endpoint/endpoint", incarnation=2)
        await Page(port).until(lane("fogactors_tasks_started_total", 2.0))
    with pytest.raises(urllib.error.URLError):
        await anyio.to_thread.run_sync(Page(port).get)


async def test_a_port_that_is_taken_keeps_the_sink_from_starting():
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        with pytest.raises(StartFailed, match=r"\[metrics\] host = '127.0.0.1'.*cannot be listened on"):
            async with fog(("metrics-sink",), port=taken.getsockname()[1]):
                pass

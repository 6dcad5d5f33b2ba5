"""`/metrics`, read as Prometheus reads it."""

import re
import urllib.request
from datetime import UTC, datetime
from pathlib import Path
from typing import get_args

import pytest
from prometheus_client.parser import text_string_to_metric_families

from fogactors.errors import ConfigError
from fogactors.messages import ClusterFact, LaneTotals, NodeMetrics, ProcessTotals, Spread, TierLoad
from fogactors.observe.metrics import serve_metrics
from fogactors.roles.reports import Reports

AT = datetime(2026, 1, 2, tzinfo=UTC)
PAGE = Path(__file__).parents[2] / "docs/metrics.md"

FULL = NodeMetrics(
    node="edge-1",
    role="up",
    at=AT,
    window_s=10.0,
    cpu_percent=12.5,
    memory_used_mb=100,
    memory_total_mb=1000,
    load1=0.75,
    tiers=[TierLoad(tier="light", cpu=0.5, memory_mb=512, cpu_used=0.25, memory_used_mb=64, running=1, waiting=2)],
    process=ProcessTotals(
        id=7,
        incarnation="a",
        seq=1,
        resident_mb=60,
        store_away=True,
        restarts=1,
        duplicates=2,
        dead_letters={"failed": 3},
        queues={"dlq": 4},
        bounds_s=[0.005, 0.5],
        lanes=[
            LaneTotals(
                tier="light",
                priority="low",
                started=6,
                ended={"succeeded": 2, "failed": 1},
                retried=3,
                handed_back=4,
                crashed=5,
                wait=Spread(counts=[1, 2, 3], sum_s=9.5),
                run=Spread(counts=[0, 2, 1], sum_s=1.5),
            )
        ],
    ),
)


SENTINEL = NodeMetrics(
    node="rabbitmq1",
    role="node-sentinel",
    at=AT,
    window_s=10.0,
    process=ProcessTotals(id=7, incarnation="a", seq=1, cluster={"alarm": 2}, broker_exits=1),
)


@pytest.fixture
def reports():
    return Reports(("light",), ("dlq",))


@pytest.fixture
def scrape(reports):
    server = serve_metrics("127.0.0.1", 0, reports)

    def scrape():
        with urllib.request.urlopen(f"http://127.0.0.1:{server.port}/metrics", timeout=5) as answer:
            families = list(text_string_to_metric_families(answer.read().decode()))
        return {
            (sample.name, *(value for _, value in sorted(sample.labels.items()))): sample.value
            for family in families
            for sample in family.samples
        }, families

    yield scrape
    server.close()


def test_every_figure_of_a_report_is_a_series(reports, scrape):
    assert reports.take(FULL) == "taken"
    samples, _ = scrape()
    node, process = ("edge-1",), ("edge-1", "7", "up")  # labels in the order of their names
    tier, lane = ("edge-1", "7", "up", "light"), ("edge-1", "low", "7", "up", "light")
    age = samples.pop(("fogactors_report_age_seconds", *process))
    assert 0 <= age < 60
    mib = 1 << 20
    assert samples == {
        ("fogactors_node_cpu_percent", *node): 12.5,
        ("fogactors_node_load1", *node): 0.75,
        ("fogactors_node_memory_bytes", *node): 1000 * mib,
        ("fogactors_node_memory_used_bytes", *node): 100 * mib,
        ("fogactors_queue_messages", "dlq"): 4,
        ("fogactors_process_resident_bytes", *process): 60 * mib,
        ("fogactors_store_away", *process): 1,
        ("fogactors_actor_restarts_total", *process): 1,
        ("fogactors_duplicate_results_total", *process): 2,
        ("fogactors_dead_letters_total", "edge-1", "7", "failed", "up"): 3,
        ("fogactors_tier_cpu_cores", *tier): 0.5,
        ("fogactors_tier_cpu_used_cores", *tier): 0.25,
        ("fogactors_tier_memory_bytes", *tier): 512 * mib,
        ("fogactors_tier_memory_used_bytes", *tier): 64 * mib,
        ("fogactors_tier_running_tasks", *tier): 1,
        ("fogactors_tier_waiting_tasks", *tier): 2,
        ("fogactors_tasks_started_total", *lane): 6,
        ("fogactors_tasks_ended_total", "edge-1", "low", "7", "up", "succeeded", "light"): 2,
        ("fogactors_tasks_ended_total", "edge-1", "low", "7", "up", "failed", "light"): 1,
        ("fogactors_tasks_retried_total", *lane): 3,
        ("fogactors_tasks_handed_back_total", *lane): 4,
        ("fogactors_worker_crashes_total", *lane): 5,
        # Each bucket holds those below it as well.
        ("fogactors_task_wait_seconds_bucket", "0.005", *lane): 1,
        ("fogactors_task_wait_seconds_bucket", "0.5", *lane): 3,
        ("fogactors_task_wait_seconds_bucket", "+Inf", *lane): 6,
        ("fogactors_task_wait_seconds_count", *lane): 6,
        ("fogactors_task_wait_seconds_sum", *lane): 9.5,
        ("fogactors_task_run_seconds_bucket", "0.005", *lane): 0,
        ("fogactors_task_run_seconds_bucket", "0.5", *lane): 2,
        ("fogactors_task_run_seconds_bucket", "+Inf", *lane): 3,
        ("fogactors_task_run_seconds_count", *lane): 3,
        ("fogactors_task_run_seconds_sum", *lane): 1.5,
        ("fogactors_sink_reports_total", "taken"): 1,
        ("fogactors_sink_reports_total", "stale"): 0,
        ("fogactors_sink_reports_total", "refused"): 0,
    }


def test_a_sentinel_says_of_every_kind_of_fact_whether_it_holds(reports, scrape):
    assert reports.take(SENTINEL) == "taken"
    samples, _ = scrape()
    facts = {key[1]: value for key, value in samples.items() if key[0] == "fogactors_cluster_facts"}
    assert facts == dict.fromkeys(get_args(ClusterFact), 0) | {"alarm": 2}
    assert samples["fogactors_broker_exits_total", "rabbitmq1", "7", "node-sentinel"] == 1


def test_the_page_has_a_row_for_every_series_with_its_type_and_labels(reports, scrape):
    reports.take(FULL)
    reports.take(SENTINEL)
    _, families = scrape()
    served = {
        family.samples[0].name.removesuffix("_bucket"): (
            family.type,
            {label for sample in family.samples for label in sample.labels} - {"le"},
        )
        for family in families
    }
    rows = re.findall(r"^\| `(fogactors_\w+)` \| (\w+) \| ([^|]*) \|", PAGE.read_text(), re.MULTILINE)
    assert {name: (kind, set(labels.replace("`", "").split(", "))) for name, kind, labels in rows} == served
    assert len(rows) == len(served)


def test_of_two_processes_of_a_node_the_one_that_spoke_last_is_right_about_it(reports, scrape):
    class Clock:
        now = 0.0

    kept = Reports((), ("dlq",), clock=lambda: Clock.now)

    def take(id, cpu, ready):  # noqa: A002
        process = ProcessTotals(id=id, incarnation=str(id), seq=int(Clock.now) + 1, queues={"dlq": ready})
        kept.take(NodeMetrics(node="n", role="dlq-reaper", at=AT, window_s=1.0, cpu_percent=cpu, process=process))

    from fogactors.observe.metrics import ReportsCollector

    def seen():
        samples = [sample for family in ReportsCollector(kept).collect() for sample in family.samples]
        return {sample.name: sample.value for sample in samples if "cpu" in sample.name or "queue" in sample.name}

    take(2, 20.0, 2)
    Clock.now = 1.0
    take(1, 10.0, 1)
    assert seen() == {"fogactors_node_cpu_percent": 10.0, "fogactors_queue_messages": 1}
    Clock.now = 2.0
    take(2, 30.0, 3)
    assert seen() == {"fogactors_node_cpu_percent": 30.0, "fogactors_queue_messages": 3}


def test_a_sink_that_knows_nobody_serves_its_own_counts(scrape):
    samples, _ = scrape()
    assert {name for name, *_ in samples} == {"fogactors_sink_reports_total"}


def test_a_port_that_is_taken_is_one_line(reports):
    server = serve_metrics("127.0.0.1", 0, reports)
    try:
        with pytest.raises(ConfigError, match=r"^\[metrics\] host = '127.0.0.1', port = \d+: cannot be listened on"):
            serve_metrics("127.0.0.1", server.port, reports)
    finally:
        server.close()
    serve_metrics("127.0.0.1", server.port, reports).close()  # it is free again at once

"""`/metrics`: what the reports of all processes say, in Prometheus' words.

`docs/metrics.md` has a table of every series; a test compares the two.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from typing import Final, get_args
from wsgiref.simple_server import WSGIServer

from prometheus_client import CollectorRegistry, start_http_server
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.registry import Collector

from fogactors.errors import ConfigError
from fogactors.messages import ClusterFact, NodeMetrics, Spread, TierLoad
from fogactors.roles.reports import Reports, Seen

__all__ = ["ReportsCollector", "serve_metrics"]

SENTINEL: Final = "node-sentinel"
MIB: Final = 1 << 20
PROCESS: Final = ("node", "role", "process")
TIER: Final = (*PROCESS, "tier")
LANE: Final = (*TIER, "priority")

_OF_A_NODE: Final[tuple[tuple[str, str, Callable[[NodeMetrics], float]], ...]] = (
    ("cpu_percent", "Of all its cores, since its last report", lambda report: report.cpu_percent),
    ("load1", "Load average of a minute", lambda report: report.load1),
    ("memory_bytes", "What the node has", lambda report: report.memory_total_mb * MIB),
    ("memory_used_bytes", "What is not available", lambda report: report.memory_used_mb * MIB),
)
_OF_A_TIER: Final[tuple[tuple[str, str, Callable[[TierLoad], float]], ...]] = (
    ("cpu_cores", "What the tier's tasks share", lambda load: load.cpu),
    ("cpu_used_cores", "What is taken of it", lambda load: load.cpu_used),
    ("memory_bytes", "What the tier's tasks share", lambda load: load.memory_mb * MIB),
    ("memory_used_bytes", "What is taken of it", lambda load: load.memory_used_mb * MIB),
    ("running_tasks", "Tasks that run", lambda load: load.running),
    ("waiting_tasks", "Tasks in hand that wait for room", lambda load: load.waiting),
)


class ReportsCollector(Collector):
    """Makes all series anew at each scrape, so what is gone leaves none behind."""

    def __init__(self, reports: Reports) -> None:
        self._reports = reports

    def collect(self) -> Iterator[Metric]:
        alive = self._reports.alive()
        yield from _nodes(alive)
        yield from _processes(alive)
        yield from _tiers(alive)
        yield from _lanes(alive)
        age = GaugeMetricFamily("fogactors_report_age_seconds", "Since the last report", labels=PROCESS)
        for seen in alive:
            age.add_metric(seen.labels, self._reports.age_s(seen))
        taken = CounterMetricFamily("fogactors_sink_reports", "Reports that came to this sink", labels=("outcome",))
        for outcome, count in self._reports.counts.items():
            taken.add_metric((outcome,), count)
        yield from (age, taken)


def _nodes(alive: list[Seen]) -> Iterator[Metric]:
    # Several processes of a node say the same of it: the one that spoke last is right. So it is with queues.
    in_time = sorted(alive, key=lambda seen: seen.at)
    nodes = {seen.report.node: seen.report for seen in in_time}
    queues = {queue: ready for seen in in_time for queue, ready in seen.process.queues.items()}
    for name, about, value in _OF_A_NODE:
        family = GaugeMetricFamily(f"fogactors_node_{name}", about, labels=("node",))
        for node, report in sorted(nodes.items()):
            family.add_metric((node,), value(report))
        yield family
    depth = GaugeMetricFamily("fogactors_queue_messages", "Messages that wait", labels=("queue",))
    for queue, ready in sorted(queues.items()):
        depth.add_metric((queue,), ready)
    yield depth


def _processes(alive: list[Seen]) -> Iterator[Metric]:
    resident = GaugeMetricFamily("fogactors_process_resident_bytes", "Memory of the process", labels=PROCESS)
    away = GaugeMetricFamily("fogactors_store_away", "1: results go to results.pending", labels=PROCESS)
    restarts = CounterMetricFamily("fogactors_actor_restarts", "Incarnations after the first", labels=PROCESS)
    duplicates = CounterMetricFamily("fogactors_duplicate_results", "Ends of tasks that had ended", labels=PROCESS)
    letters = CounterMetricFamily("fogactors_dead_letters", "Given up on", labels=(*PROCESS, "reason"))
    facts = GaugeMetricFamily("fogactors_cluster_facts", "How many such facts are seen", labels=(*PROCESS, "fact"))
    exits = CounterMetricFamily("fogactors_broker_exits", "Servers that ended by themselves", labels=PROCESS)
    for seen in alive:
        if seen.report.role == SENTINEL:
            for fact in get_args(ClusterFact):  # also those that do not hold: an alarm needs a series
                facts.add_metric((*seen.labels, fact), seen.process.cluster.get(fact, 0))
            exits.add_metric(seen.labels, seen.process.broker_exits)
        resident.add_metric(seen.labels, seen.process.resident_mb * MIB)
        away.add_metric(seen.labels, seen.process.store_away)
        restarts.add_metric(seen.labels, seen.process.restarts)
        duplicates.add_metric(seen.labels, seen.process.duplicates)
        for reason, count in seen.process.dead_letters.items():
            letters.add_metric((*seen.labels, reason), count)
    yield from (resident, away, restarts, duplicates, letters, facts, exits)


def _tiers(alive: list[Seen]) -> Iterator[Metric]:
    for name, about, value in _OF_A_TIER:
        family = GaugeMetricFamily(f"fogactors_tier_{name}", about, labels=TIER)
        for seen in alive:
            for load in seen.report.tiers:
                family.add_metric((*seen.labels, load.tier), value(load))
        yield family


def _lanes(alive: list[Seen]) -> Iterator[Metric]:
    def counter(name: str, about: str, *more: str) -> CounterMetricFamily:
        return CounterMetricFamily(f"fogactors_{name}", about, labels=(*LANE, *more))

    started = counter("tasks_started", "Attempts that started")
    ended = counter("tasks_ended", "Tasks that reached their end", "state")
    retried = counter("tasks_retried", "Attempts that failed with another to follow")
    handed_back = counter("tasks_handed_back", "Tasks that went back to their queue, uncounted")
    crashed = counter("worker_crashes", "Worker processes that died in the middle of a task")
    wait = HistogramMetricFamily("fogactors_task_wait_seconds", "From ready to started", labels=LANE)
    run = HistogramMetricFamily("fogactors_task_run_seconds", "Of the last attempt", labels=LANE)
    for seen in alive:
        for lane in seen.process.lanes:
            labels = (*seen.labels, lane.tier, lane.priority)
            started.add_metric(labels, lane.started)
            for state, count in lane.ended.items():
                ended.add_metric((*labels, state), count)
            retried.add_metric(labels, lane.retried)
            handed_back.add_metric(labels, lane.handed_back)
            crashed.add_metric(labels, lane.crashed)
            for family, spread in ((wait, lane.wait), (run, lane.run)):
                family.add_metric(labels, _buckets(seen.process.bounds_s, spread), spread.sum_s)
    yield from (started, ended, retried, handed_back, crashed, wait, run)


def _buckets(bounds_s: list[float], spread: Spread) -> list[tuple[str, float]]:
    """Prometheus adds up from the smallest: each bucket holds those before it as well."""
    buckets: list[tuple[str, float]] = []
    total = 0
    for bound, count in zip((*(f"{each:g}" for each in bounds_s), "+Inf"), spread.counts, strict=True):
        total += count
        buckets.append((bound, total))
    return buckets


class _Server:
    def __init__(self, server: WSGIServer, thread: threading.Thread) -> None:
        self._server = server
        self._thread = thread

    @property
    def port(self) -> int:
        return self._server.server_port

    def close(self) -> None:
        """Takes up to half a second."""
        self._server.shutdown()
        self._server.server_close()
        self._thread.join(2.0)


def serve_metrics(host: str, port: int, reports: Reports) -> _Server:
    """Serve `/metrics` from a thread, on any free port where `port` is 0. Raises `ConfigError`."""
    registry = CollectorRegistry(auto_describe=False)
    registry.register(ReportsCollector(reports))
    try:
        return _Server(*start_http_server(port, host, registry))
    except OSError as error:
        text = f"[metrics] host = {host!r}, port = {port}: cannot be listened on: {error.strerror or error}"
        raise ConfigError(text) from error

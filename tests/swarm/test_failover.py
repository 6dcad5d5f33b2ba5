"""The table says what was measured, and a new run of a scenario takes the place of the old one."""

import json
from pathlib import Path

import pytest

from tests.swarm import failover

REPORT = {
    "confirmed": 900,
    "states": {"succeeded": 896, "worker_lost": 3},
    "lost": ["a-1"],
    "duplicates": 2,
    "runs": 880,
    "unseen": 0,
    "refused": {"QueueFull": 3, "BusUnavailable": 4},
}


def test_a_scenario_that_runs_again_has_one_row(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "failover.json"
    monkeypatch.setenv("FOG_FAILOVER", str(path))
    failover.record("cold start", "4.3", 7, 0, {"whole, s": 70.0})
    failover.record(
        "one node killed", "4.3", 7, 50.0, {"whole, s": 99.0}, REPORT, {"tasks.normal": 1.5, "tasks.heavy": 2.5}
    )
    versions = {"rabbitmq": "4.0.5", "redis": "8.0.6"}
    failover.record("one node killed", "4.0", 7, 50.0, {"whole, s": 33.0}, versions=versions)
    failover.record("one node killed", "4.3", 7, 500.0, {"whole, s": 39.0})
    failover.record(
        "one node killed", "4.3", 8, 50.0, {"whole, s": 31.5}, REPORT, {"tasks.normal": 1.5, "tasks.heavy": 2.25}
    )
    rows = json.loads(path.read_text())
    assert [(row["scenario"], row["rabbitmq"], row["rate"], row["seed"]) for row in rows] == [
        ("cold start", "4.3", 0, 7),
        ("one node killed", "4.3", 50, 8),
        ("one node killed", "4.0", 50, 7),
        ("one node killed", "4.3", 500, 7),
    ]
    page = failover.page(rows)
    assert (
        "| one node killed | 4.3 | whole, s: 31.5 | 2.25 | 50 | 900 | 1, **3 worker_lost** | 2 of 880 "
        "| 4 BusUnavailable, 3 QueueFull |" in page
    )
    assert "What ran: rabbitmq 4.0.5, redis 8.0.6." in page
    assert "| cold start | 4.3 | whole, s: 70.0 |  |  |  |  |  |  |" in page


def test_a_figure_stands_beside_what_it_must_be(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "failover.json"
    monkeypatch.setenv("FOG_FAILOVER", str(path))
    figures, must = {"whole, s": 45.0, "other, s": 3.0, failover.FIRST_CONFIRM: 2.5}, {"whole, s": 45.0}
    must |= {failover.FIRST_CONFIRM: 5.0}
    failover.record("one node killed", "4.3", 7, 50.0, figures, REPORT, {"tasks.normal": 2.5}, must=must)
    page = failover.page(json.loads(path.read_text()))
    assert "| whole, s: **45.0 (<45)**, other, s: 3.0 | 2.50 (<5) |" in page
    assert failover.missed(figures, must) == {"whole, s": 45.0}
    assert failover.missed({}, must) == dict.fromkeys(must)


def test_without_a_place_nothing_is_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("FOG_FAILOVER", raising=False)
    monkeypatch.chdir(tmp_path)
    failover.record("cold start", "4.3", 7, 0, {})
    assert list(tmp_path.iterdir()) == []

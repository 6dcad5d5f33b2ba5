"""How `fogactors nodes` reads; that executors beat is in tests/integration/test_access.py."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from typer.testing import CliRunner

from fogactors.app.cli import app
from fogactors.app.cli.nodes import print_beats
from fogactors.errors import ConfigError
from fogactors.messages import Beat

NOW = datetime(2030, 1, 2, 3, 4, 5, tzinfo=UTC)


def test_a_row_says_what_a_tier_may_use_and_what_of_it_is_taken(capsys):
    busy = {"tier": "light", "cpu": 0.5, "memory_mb": 512, "cpu_used": 0.25, "memory_used_mb": 256, "running": 1}
    print_beats(
        [
            Beat(node="edge1", role="tier-executor-light", at=NOW - timedelta(seconds=12), **busy),
            Beat(node="hub", role="dlq-reaper", at=NOW + timedelta(seconds=1), lag_s=1.5),  # its clock is ahead
        ],
        NOW,
    )
    assert [line.rstrip() for line in capsys.readouterr().out.splitlines()] == [
        "node   role                 beat      lag    cpu       memory       running",
        "edge1  tier-executor-light  12 s ago  0 s    0.25/0.5  256/512 MiB        1",
        "hub    dlq-reaper           0 s ago   1.5 s",
    ]


def test_the_embedded_store_has_nobody_to_tell_of(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    error = CliRunner().invoke(app, ["nodes"]).exception
    assert isinstance(error, ConfigError)
    assert str(error).startswith("[coord] url is memory://")

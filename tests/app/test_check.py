"""The cross-checks, as a table: one change to the defaults, and what is found."""

import re
import sys
from dataclasses import replace

import pytest

from fogactors.app.check import Finding, check, executor_prefetch, overlong
from fogactors.app.settings import Settings
from fogactors.tasks.registry import Registry
from fogactors.tasks.task import task


def changed(**tables) -> Settings:
    """The defaults with some keys changed: `changed(executor={"drain_s": 5.0})`."""
    base = Settings()
    return replace(base, **{table: replace(getattr(base, table), **keys) for table, keys in tables.items()})


def test_defaults_are_fine():
    assert check(Settings()) == []


@pytest.mark.parametrize(
    ("tables", "level", "key", "says"),
    [
        ({"supervision": {"mailbox": 14}}, "error", "supervision.mailbox", "14 is less than the 15 .*tiers.light"),
        ({"executor": {"look_ahead": 400}}, "error", "supervision.mailbox", "1000 is less than the 1212 .*tiers.light"),
        ({"shutdown": {"budget_s": 20.0}}, "error", "shutdown.budget_s", "20.0 is not more than .*drain_s = 20.0"),
        ({"tasks": {"time_limit_s": 1740.1}}, "error", "tasks.time_limit_s", "more than 1740, which"),
        ({"heartbeat": {"ttl_s": 59.0}}, "error", "heartbeat.ttl_s", "59.0 is less than twice interval_s = 30.0"),
        ({"heartbeat": {"loop_dead_s": 29.0}}, "error", "heartbeat.loop_dead_s", "29.0 is less than loop_blocked_s"),
        ({"probe": {"port": 9464}, "metrics": {"port": 9464}}, "error", "metrics.port", "9464 is .probe. port as well"),
        ({"supervision": {"backoff_max_s": 0.1}}, "error", "supervision.backoff_max_s", "less than backoff_first_s"),
        ({"coord": {"result_ttl_s": 90.0}}, "warning", "coord.result_ttl_s", "90.0 is not more than the 90 s"),
        ({"shutdown": {"budget_s": 27.9}}, "warning", "shutdown.budget_s", "27.9 leaves less than 8 s after .*20"),
        ({"bus": {"max_body_bytes": 65_535}}, "warning", "coord.result_inline_bytes", "65536 is more than"),
    ],
)
def test_found(tables, level, key, says):
    finding = check(changed(**tables))[0]
    assert (finding.level, finding.key) == (level, key)
    assert re.search(says, finding.text)


@pytest.mark.parametrize(
    "tables",
    [
        {"supervision": {"mailbox": 15}},
        {"shutdown": {"budget_s": 28.0}},
        {"tasks": {"time_limit_s": 1740.0}},
        {"tasks": {"time_limit_s": 5000.0}, "bus": {"consumer_timeout_s": 5060.0}},
        {"heartbeat": {"ttl_s": 60.0, "loop_dead_s": 30.0}},
        {"coord": {"result_ttl_s": 90.5}},
        {"probe": {"port": 9101}, "metrics": {"port": 9464}},
        {"probe": {"port": 9464, "host": "::1"}, "metrics": {"port": 9464}},
        {"bus": {"max_body_bytes": 65_536}},
    ],
)
def test_the_limit_itself_is_fine(tables):
    assert check(changed(**tables)) == []


def test_prefetch_counts_own_slots_look_ahead_and_helpers():
    # light 3 x (4 + 1); medium 3 x (2 + 1) and 3 for light; heavy 3 x (2 + 1) and 3 each for light and medium
    assert [executor_prefetch(Settings(), tier) for tier in range(3)] == [15, 12, 15]


def test_tiers_out_of_order_are_found():
    assert [each.key for each in check(replace(Settings(), tiers=Settings().tiers[::-1]))] == [
        "tiers.medium.cpu",
        "tiers.medium.memory_mb",
        "tiers.light.cpu",
        "tiers.light.memory_mb",
    ]


def test_errors_come_first():
    found = check(changed(coord={"result_ttl_s": 1.0}, shutdown={"budget_s": 1.0}, tasks={"modules": ("no.such",)}))
    assert [each.level for each in found] == ["error", "error", "warning"]


def test_modules_that_cannot_be_imported(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(tmp_path)
    for name, code in {
        "check_fine": "",
        "check_raises": "raise ValueError('first\\nsecond')",
        "check_exits": "raise SystemExit(3)",
        "check_broken": "def (",
    }.items():
        (tmp_path / f"{name}.py").write_text(code)
        monkeypatch.delitem(sys.modules, name, raising=False)
    modules = ("check_fine", "check_raises", "check_exits", "check_broken", "check_absent")
    texts = [each.text for each in check(changed(tasks={"modules": modules}))]
    assert texts[0] == "cannot import check_raises: ValueError: first"
    assert texts[1] == "cannot import check_exits: SystemExit: 3"
    assert texts[2].startswith("cannot import check_broken: SyntaxError: ")
    assert texts[3:] == ["cannot import check_absent: ModuleNotFoundError: No module named 'check_absent'"]
    assert check(changed(tasks={"modules": ("check_absent",)}))[0] == Finding("error", "tasks.modules", texts[3])


def test_a_task_that_outlasts_what_the_broker_allows_is_found():
    registry = Registry()
    task(name="fine", time_limit=1740, registry=registry)(lambda: None)
    task(name="slow", time_limit=7200, registry=registry)(lambda: None)
    assert [each.text for each in overlong(Settings(), registry)] == [
        "task slow: its time_limit of 7200 s is more than the 1740 s that [bus] consumer_timeout_s leaves it; "
        "split the task, or raise the broker's consumer_timeout and that key"
    ]
    assert not list(overlong(changed(bus={"consumer_timeout_s": 7260.0}), registry))

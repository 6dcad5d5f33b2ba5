"""What events become as counts."""

from datetime import UTC, datetime

import pytest

from fogactors.core import ActorExited, ActorStarted, Exit
from fogactors.messages import TaskResult
from fogactors.roles.sentinel.state import BrokerExited, ClusterChanged
from fogactors.roles.totals import BOUNDS_S, Totals
from fogactors.tasks.events import (
    DuplicateResult,
    ResultUnrecorded,
    TaskDeadLettered,
    TaskEnded,
    TaskHandedBack,
    TaskRefused,
    TaskRetried,
    TaskStarted,
    WorkerCrashed,
)

AT = datetime(2026, 1, 2, tzinfo=UTC)


def fact(kind, lane_tier="light", priority="normal", **more):
    return kind(
        at=AT, worker="n/light", task_id="a-1", name="t", lane_tier=lane_tier, priority=priority, attempt=1, **more
    )


def counted(*events):
    totals = Totals()
    for event in events:
        totals.count(event)
    return totals.next()


def test_tasks_are_counted_by_tier_and_priority():
    made = counted(
        fact(TaskStarted, wait_s=0.2),
        fact(TaskStarted, wait_s=7000.0),
        fact(TaskEnded, state="succeeded", run_s=0.25),
        fact(TaskEnded, state="succeeded", run_s=0.3),
        fact(TaskRetried, error="x", delay_s=1.0),
        fact(TaskHandedBack, why="paused"),
        fact(WorkerCrashed, error="x"),
        fact(TaskRefused, reason="bad_arguments", error="x"),
        fact(TaskStarted, "heavy", "high", wait_s=-0.1),
        fact(DuplicateResult),
    )
    normal, high = made.lanes
    assert (normal.tier, normal.priority, normal.started) == ("light", "normal", 2)
    assert normal.ended == {"succeeded": 2, "failed": 1}
    assert (normal.retried, normal.handed_back, normal.crashed) == (1, 1, 1)
    assert (high.tier, high.priority, high.started, high.ended) == ("heavy", "high", 1, {})
    assert made.duplicates == 1
    # Up to and with the bound; what is longer than all stands at the end; clocks that differ make no negative sum.
    assert [normal.wait.counts[3], normal.wait.counts[-1], sum(normal.wait.counts)] == [1, 1, 2]
    assert [normal.run.counts[3], normal.run.counts[4]] == [1, 1]
    assert normal.run.sum_s == pytest.approx(0.55)
    assert (high.wait.counts[0], high.wait.sum_s) == (1, 0.0)
    assert len(normal.wait.counts) == len(BOUNDS_S) + 1 == len(made.bounds_s) + 1


def test_dead_letters_are_counted_by_reason():
    made = counted(*(TaskDeadLettered(at=AT, worker="w", reason=each) for each in ("failed", "failed", "expired")))
    assert made.dead_letters == {"failed": 2, "expired": 1}


def away(worker, away=True):
    return ResultUnrecorded(at=AT, worker=worker, away=away)


def test_the_store_is_away_while_it_is_for_any_executor():
    assert counted(away("n/light")).store_away
    assert counted(away("n/light"), away("n/heavy"), away("n/light", False)).store_away
    assert not counted(away("n/light"), away("n/light", False)).store_away


def test_an_executor_that_ends_takes_what_it_said_of_the_store_with_it():
    ended = ActorExited(path="fogactors/tier-executor-light/executor", at=0.0, incarnation=1, exit=Exit("killed"))
    assert not counted(away("n/light"), ended).store_away
    assert counted(away("n/heavy"), ended).store_away


def test_restarts_are_incarnations_after_the_first():
    started = [ActorStarted(path="a", at=0.0, incarnation=n, took_s=0.0) for n in (1, 2, 3)]
    assert counted(*started).restarts == 2


def test_each_report_has_a_number_and_what_is_no_event_of_ours_counts_nothing():
    totals = Totals()
    totals.count(TaskResult(task_id="a", name="t", state="failed", finished=AT))
    first, second = totals.next(), totals.next()
    assert (first.seq, second.seq, first.incarnation) == (1, 2, second.incarnation)
    assert first.lanes == []
    assert Totals().next().incarnation != first.incarnation


def change(what, on, about="rabbit@b", detail=""):
    return ClusterChanged(at=AT, broker="rabbit@a", what=what, on=on, about=about, detail=detail)


def test_facts_of_the_cluster_are_those_that_hold_now():
    seen = (
        change("node_down", True),
        change("node_down", True, "rabbit@c"),
        change("alarm", True, detail="memory"),
        change("alarm", True, detail="disk"),
        change("alarm", False, detail="memory"),
    )
    assert counted(*seen).cluster == {"node_down": 2, "alarm": 1}
    assert counted(*seen, change("node_down", False), change("node_down", False, "rabbit@c")).cluster == {"alarm": 1}
    ended = ActorExited(path="fogactors/node-sentinel/watcher", at=0.0, incarnation=1, exit=Exit("killed"))
    assert counted(*seen, ended).cluster == {}


def test_servers_that_ended_by_themselves_are_counted():
    assert counted(BrokerExited(at=AT, broker="rabbit@a", code=-9)).broker_exits == 1

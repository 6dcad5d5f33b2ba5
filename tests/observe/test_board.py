"""The board counts what events say, per tier and priority, and stays small."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest

from fogactors.core import ActorExited, ActorStarted, Events, Exit, MailboxOverflow, SupervisorPaused
from fogactors.observe.board import RECENT, Board
from fogactors.observe.stats import ACCURACY, Rate, Sketch
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

AT = datetime(2026, 1, 1, 12, tzinfo=UTC)
FACTS = {"worker": "n/light", "task_id": "s-1", "name": "t", "lane_tier": "light", "priority": "high", "attempt": 1}
FACTS |= {"at": AT}


@pytest.fixture
def board() -> Board:
    return Board(now=lambda: AT)


def test_a_task_from_start_to_end(board):
    events = Events()
    detach = board.attach(events)
    started, ended = TaskStarted(**FACTS, wait_s=0.5), TaskEnded(**FACTS, state="succeeded", run_s=0.25)
    events.emit(started)
    events.emit(ended)
    events.emit(replace(started, priority="low"))
    events.emit(replace(ended, priority="low", state="failed"))
    detach()
    events.emit(started)
    assert set(board.lanes) == {("light", "high"), ("light", "low")}
    lane = board.lanes["light", "high"]
    assert (lane.started, dict(lane.ended)) == (1, {"succeeded": 1})
    assert lane.wait.quantile(0.5) == pytest.approx(0.5, rel=ACCURACY)
    assert lane.run.quantile(0.5) == pytest.approx(0.25, rel=ACCURACY)
    assert (board.started, dict(board.ended)) == (2, {"succeeded": 1, "failed": 1})


def test_ends_that_no_executor_tells(board):
    board.count(TaskRefused(**FACTS, reason="unknown_task", error="no such task"))
    lost = TaskDeadLettered(at=AT, worker="n/dlq-reaper", reason="worker_lost", task_id="s-2", name="t")
    board.count(lost)
    board.count(replace(lost, reason="failed"))  # its executor tells the end as well
    assert dict(board.ended) == {"failed": 1, "worker_lost": 1}
    assert dict(board.dead_letters) == {"worker_lost": 1, "failed": 1}


def test_what_is_no_end(board):
    board.count(TaskRetried(**FACTS, error="E", delay_s=1))
    board.count(TaskHandedBack(**FACTS, why="draining"))
    board.count(WorkerCrashed(**FACTS, error="killed"))
    board.count(DuplicateResult(**FACTS))
    assert (board.retried, board.handed_back, board.crashed, board.duplicates) == (1, 1, 1, 1)
    assert board.ended.total() == 0


def test_actors(board):
    board.count(ActorStarted(path="a/b", at=1.0, incarnation=1, took_s=0))
    board.count(ActorExited(path="a/b", at=2.0, incarnation=1, exit=Exit("failed", ValueError("x"))))
    board.count(ActorExited(path="a/c", at=2.0, incarnation=1, exit=Exit("stopped")))
    board.count(ActorStarted(path="a/b", at=3.0, incarnation=2, took_s=0))
    board.count(SupervisorPaused(path="a", at=4.0, child="b", delay_s=1.5, pauses=1))
    for total in (1, 2, 4):
        board.count(MailboxOverflow(path="a/b", at=5.0, policy="reject", total=total))
    assert (dict(board.restarts), board.failed_exits, board.pauses) == ({"a/b": 1}, 1, 1)
    assert board.overflows == {"a/b": 4}
    assert [each.text for each in board.recent] == ["a/b failed: ValueError: x", "a: b is tried again in 1.5 s"]


def test_the_store_goes_and_comes(board):
    away = ResultUnrecorded(at=AT, worker="n/light", away=True, error="silent")
    board.count(away)
    assert board.store_away == {"n/light"}
    board.count(replace(away, away=False))
    assert board.store_away == set()


def test_troubles_are_bounded_and_of_one_line(board):
    for number in range(RECENT + 3):
        board.count(WorkerCrashed(**FACTS, error=f"{number}\nTraceback"))
    assert [each.text for each in board.recent] == [f"t: {number}" for number in range(3, RECENT + 3)]


def test_unknown_events_pass(board):
    board.count(object())
    assert not board.lanes
    assert not board.recent


def test_rate_over_the_window(board):
    for second in range(30):
        for _ in range(7):
            board.count(TaskEnded(**FACTS | {"at": AT + timedelta(seconds=second)}, state="succeeded", run_s=0))
    now = AT.timestamp() + 29
    assert board.rate.per_s(now + 0.999) == pytest.approx(7, rel=0.01)
    assert board.rate.per_s(now + 60) == 0
    assert len(board.rate._counts) == 10


def test_rate_of_the_first_seconds_is_not_diluted():
    rate = Rate(window_s=10)
    assert rate.per_s(100.0) == 0
    for tenth in range(20):
        rate.add(100.0 + tenth / 10)
    assert rate.per_s(102.0) == pytest.approx(10)


def test_sketch_is_within_its_accuracy_and_bounded():
    sketch, values = Sketch(), [1.001**n / 1e4 for n in range(20_000)]
    for value in values:
        sketch.add(value)
    for q in (0.0, 0.01, 0.5, 0.99, 1.0):
        exact = values[int(q * (len(values) - 1))]
        assert sketch.quantile(q) == pytest.approx(min(max(exact, 1e-5), 1e6), rel=ACCURACY + 0.002)
    assert len(sketch._buckets) < 640
    assert sketch.count == len(values)


def test_sketch_of_nothing_and_of_extremes():
    sketch = Sketch()
    assert sketch.quantile(0.99) == 0
    for value in (0.0, -1.0, 1e12):
        sketch.add(value)
    assert sketch.quantile(0) == pytest.approx(1e-5, rel=ACCURACY)

"""What a sink keeps of what comes from the wire, as a table."""

from datetime import UTC, datetime

import pytest

from fogactors.messages import LaneTotals, NodeMetrics, ProcessTotals, Spread, TierLoad
from fogactors.roles import reports
from fogactors.roles.reports import Reports

AT = datetime(2026, 1, 2, tzinfo=UTC)


def lane(tier="light", priority="normal", wait=(0, 1), run=(0, 1)):
    return LaneTotals(
        tier=tier, priority=priority, wait=Spread(counts=list(wait)), run=Spread(counts=list(run)), started=1
    )


def report(node="edge-1", role="tier-executor", tiers=(), seq=1, incarnation="a", id=7, **process):  # noqa: A002
    return NodeMetrics(
        node=node,
        role=role,
        at=AT,
        window_s=10.0,
        tiers=[TierLoad(tier=tier, cpu=1.0, memory_mb=1) for tier in tiers],
        process=ProcessTotals(id=id, incarnation=incarnation, seq=seq, **process),
    )


class Clock:
    now = 0.0

    def __call__(self):
        return self.now


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture
def kept(clock):
    return Reports(("light", "heavy"), ("dlq",), silent_s=30.0, clock=clock)


def test_the_last_report_of_each_process_is_kept(kept):
    for each in (report(), report(seq=2), report(node="edge-2"), report(role="dlq-reaper"), report(id=8)):
        assert kept.take(each) == "taken"
    assert [(seen.labels, seen.process.seq) for seen in kept.alive()] == [
        (("edge-1", "dlq-reaper", "7"), 1),
        (("edge-1", "tier-executor", "7"), 2),
        (("edge-1", "tier-executor", "8"), 1),
        (("edge-2", "tier-executor", "7"), 1),
    ]


def test_an_older_report_does_not_turn_counters_back(kept):
    assert kept.take(report(seq=5)) == "taken"
    assert kept.take(report(seq=5)) == "stale"
    assert kept.take(report(seq=4)) == "stale"
    assert kept.alive()[0].process.seq == 5
    assert kept.take(report(seq=1, incarnation="b")) == "taken"  # the next process of the same id
    assert kept.alive()[0].process.incarnation == "b"
    assert kept.counts == {"taken": 2, "stale": 2, "refused": 0}


def test_an_update_that_lets_the_old_process_run_a_while_makes_no_counter_jump(kept, clock):
    """In containers both have the same process id. The new one's counters are the process' from its first report."""
    old, new = "a", "b"
    for now, incarnation, seq, taken in (
        (0.0, old, 100, "taken"),
        (5.0, new, 1, "taken"),
        (10.0, old, 101, "stale"),
        (15.0, new, 2, "taken"),
        (20.0, old, 102, "stale"),
    ):
        clock.now = now
        assert kept.take(report(incarnation=incarnation, seq=seq)) == taken
    assert [(seen.process.incarnation, seen.process.seq) for seen in kept.alive()] == [(new, 2)]
    assert kept.take(report(incarnation="c", seq=1)) == "taken"  # the new one crashed, and has another in its place
    assert kept.take(report(incarnation=old, seq=103)) == "stale"
    clock.now = 50.0  # that did not last, and the old one is what there is
    assert kept.take(report(incarnation=old, seq=105)) == "taken"


def test_who_is_silent_is_gone_and_comes_back(kept, clock):
    kept.take(report())
    clock.now = 20.0
    kept.take(report(node="edge-2"))
    clock.now = 29.9
    assert len(kept.alive()) == 2
    assert kept.age_s(kept.alive()[0]) == pytest.approx(29.9)
    clock.now = 30.0
    assert [seen.report.node for seen in kept.alive()] == ["edge-2"]
    assert kept.take(report(seq=1)) == "taken"  # also with a number that was seen: nobody remembers


@pytest.mark.parametrize(
    "bad",
    [
        report(node="a.b"),
        report(node=""),
        report(node="x" * 64),
        report(node="edge-1\n"),
        report(role="baker"),
        report(tiers=("huge",)),
        report(tiers=("light", "light")),
        report(queues={"somebody.elses": 1}),
        report(lanes=[lane(tier="huge")], bounds_s=[1.0]),
        report(lanes=[lane(), lane()], bounds_s=[1.0]),
        report(lanes=[lane(wait=(1,))], bounds_s=[1.0]),
        report(lanes=[lane(run=(1, 2, 3))], bounds_s=[1.0]),
        report(lanes=[lane(wait=(1, 2, 3), run=(1, 2, 3))], bounds_s=[2.0, 1.0]),
        NodeMetrics(node="edge-1", role="up", at=AT, window_s=1.0),
    ],
)
def test_what_would_make_labels_without_end_or_does_not_fit_together_is_refused(kept, bad):
    assert kept.take(bad) == "refused"
    assert (kept.alive(), kept.counts["refused"]) == ([], 1)


def test_what_fits_is_taken(kept):
    assert kept.take(report(tiers=("light", "heavy"), lanes=[lane()], bounds_s=[1.0], queues={"dlq": 1})) == "taken"


def test_there_is_a_bound_to_how_many_there_can_be(kept, clock, monkeypatch):
    monkeypatch.setattr(reports, "MOST", 2)
    assert [kept.take(report(id=n)) for n in (1, 2, 3)] == ["taken", "taken", "refused"]
    assert kept.take(report(id=1, seq=2)) == "taken"
    clock.now = 30.0
    assert kept.take(report(id=3)) == "taken"

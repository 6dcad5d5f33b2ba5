"""What becomes a line, and how often."""

import io
import json
from datetime import UTC, datetime

import pytest

from fogactors.core import Events, RestartFailed, SupervisorPaused
from fogactors.observe.log import Log
from fogactors.roles.heartbeat import LoopBlocked


def lines(stream: io.StringIO) -> list[dict]:
    return [json.loads(line) for line in stream.getvalue().splitlines()]


@pytest.fixture
def stream():
    return io.StringIO()


def test_tries_in_a_row_are_told_of_ever_more_rarely(stream):
    log = Log("warning", "json", stream=stream)
    for pauses in range(1001):
        log.write(RestartFailed(path="a/link", at=0.0, incarnation=1, error=OSError("refused"), pauses=pauses))
        log.write(SupervisorPaused(path="a", at=0.0, child="link", delay_s=0.25, pauses=pauses + 1))
    told = [line["pauses"] for line in lines(stream) if line["event"] == "RestartFailed"]
    assert told == [0, 1, 2, 4, 8, 16, 32, 64, 128, 256, 512]
    assert [line["pauses"] for line in lines(stream) if line["event"] == "SupervisorPaused"] == [1]


def test_an_alarm_is_written_at_once_and_not_again_when_the_loop_hears_of_it(stream):
    log, events = Log("info", "json", stream=stream), Events()
    log.attach(events)
    alarms = [LoopBlocked(at=datetime.now(UTC), node="here", blocked_s=30.0, what="task a", where="") for _ in range(2)]
    log.write_urgent(alarms[0])
    assert [line["level"] for line in lines(stream)] == ["error"]
    events.emit(alarms[0])
    assert len(lines(stream)) == 1
    events.emit(alarms[1])
    assert len(lines(stream)) == 2

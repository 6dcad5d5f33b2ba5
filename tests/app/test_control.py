"""What is refused before anything is asked, and how an answer about a task reads."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest

from fogactors.app.cli.control import _cancelled, _found
from fogactors.app.program import Program
from fogactors.app.settings import Settings
from fogactors.errors import ConfigError
from fogactors.tasks.registry import Registry
from fogactors.tasks.task import task
from fogactors.tasks.tracker import Cancellation, Whereabouts

AT = datetime(2030, 1, 2, 3, 4, 5, 678, UTC)


@pytest.mark.asyncio
async def test_a_program_with_a_task_that_takes_too_long_does_not_start():
    registry = Registry()
    task(name="slow", time_limit=7200, registry=registry)(lambda: None)
    with pytest.raises(ConfigError, match=r"^task slow: its time_limit of 7200 s is more than the 1740 s that \[bus\]"):
        async with Program.start(Settings(), (), registry=registry):
            pass


@pytest.mark.parametrize(
    ("answer", "line"),
    [
        (
            Cancellation(task_id="a-1", state="cancelled", found="running", worker="edge1/light", note="beware"),
            "a-1: cancelled, it was running on edge1/light; beware",
        ),
        (Cancellation(task_id="a-1", state="cancelled", found="not held"), "a-1: cancelled"),
        (
            Cancellation(
                task_id="a-1", state="failed", found="not held", worker="e/light", note="it had already failed"
            ),
            "a-1: failed; it had already failed",
        ),
    ],
)
def test_a_cancellation_is_one_line(answer, line):
    assert _cancelled(answer) == line


@pytest.mark.parametrize(
    ("answer", "line"),
    [
        (
            Whereabouts(task_id="a-1", state="running", name="t", worker="edge1/light", attempts=2, since=AT),
            "a-1: running on edge1/light since 2030-01-02T03:04:05+00:00, attempt 2, t",
        ),
        (Whereabouts(task_id="a-1", state="queued or unknown"), "a-1: queued or unknown"),
        (
            Whereabouts(
                task_id="a-1", state="running", worker="e/q", attempts=1, progress=0.25, note="page\n1 \x1b[2J"
            ),
            "a-1: running on e/q, attempt 1, 25% done (page 1 \\x1b[2J)",
        ),
    ],
)
def test_whereabouts_are_one_line(answer, line):
    assert _found(answer) == line

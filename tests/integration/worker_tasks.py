"""Tasks for executors in processes of their own, which import this module."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path

from fogactors.tasks.retry import RetryPolicy
from fogactors.tasks.task import task


@task
def wait_once(folder: Path) -> int:
    """Leaves a file for each run, named by its number. The first run waits for a file `go`, the others do not."""
    number = len(list(folder.glob("run *"))) + 1
    (folder / f"run {number}").touch()
    while number == 1 and not (folder / "go").exists():
        time.sleep(0.02)
    return number


@task(retry=RetryPolicy(attempts=2, first_s=1.0))
def fail(folder: Path, until: int = 1_000) -> int:
    """Leaves a file for each run, named by its number, and fails until the given one. The first waits for `go`."""
    number = len(list(folder.glob("run *"))) + 1
    (folder / f"run {number}").touch()
    while number == 1 and not (folder / "go").exists():
        time.sleep(0.02)
    if number < until:
        raise ConnectionError(f"run {number}")
    return number


@task
async def block_loop(seconds: float) -> float:
    """What a handler must not do."""
    time.sleep(seconds)  # noqa: ASYNC251
    return seconds


@task
async def nap(seconds: float) -> float:
    await asyncio.sleep(seconds)
    return seconds

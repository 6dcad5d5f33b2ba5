"""Tasks that count their runs where no crash reaches, and during which their process may die."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass

import anyio

from fogactors.errors import ChildCrashed
from fogactors.tasks.registry import Registry
from fogactors.tasks.retry import RetryPolicy
from fogactors.tasks.task import task

registry = Registry()
CAP = 3


@dataclass(frozen=True, slots=True)
class Here:
    """The process that runs the tasks. `point`: a crash point of it; `began`: notes a run, returns which it is."""

    point: Callable[[str], Awaitable[None]]
    began: Callable[[str], int]


async def _nowhere(name: str) -> None:
    raise RuntimeError(f"{name}: no process has said that it runs the tasks")


here = Here(_nowhere, len)


async def run(name: str) -> int:
    """In a process that dies at the first point it has not run; at the second it has."""
    process = here
    await process.point("task.begins")
    number = process.began(name)
    await process.point("task.runs")
    return number


RETRY = RetryPolicy(attempts=CAP, first_s=0.5, jitter=False)


@task(registry=registry)
async def works(name: str) -> str:
    await run(name)
    return name


@task(registry=registry, retry=RETRY)
async def flaky(name: str) -> int:
    """Fails in its first run."""
    number = await run(name)
    if number == 1:
        raise ConnectionError("not yet")
    return number


@task(registry=registry, retry=RETRY)
async def fails(name: str) -> None:
    await run(name)
    raise ValueError("never")


@task(registry=registry)
async def dies_once(name: str) -> int:
    """As if its worker process died in the first run: what an executor sees of that is this error."""
    number = await run(name)
    if number == 1:
        raise ChildCrashed("killed by SIGKILL")
    return number


@task(registry=registry)
async def dies(name: str) -> None:
    await run(name)
    raise ChildCrashed("killed by SIGKILL")


@task(registry=registry)
async def stays(name: str) -> None:
    """Until somebody ends it."""
    await run(name)
    await anyio.sleep_forever()


@task(registry=registry)
async def lasts(name: str, seconds: float) -> str:
    await run(name)
    await anyio.sleep(seconds)
    return name

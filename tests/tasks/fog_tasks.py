"""Tasks that behave as they are told, for the tests of executors."""

from __future__ import annotations

import asyncio
import os
import sys
import threading
import time
from collections import Counter
from pathlib import Path

import anyio

from fogactors.tasks.registry import Registry
from fogactors.tasks.retry import Retry, RetryPolicy, Skip
from fogactors.tasks.task import task

registry = Registry()
runs: Counter[str] = Counter()
"""How often a task began, by the name that it was given."""
order: list[str] = []
"""The names in the order in which they began."""
gates: dict[str, asyncio.Event] = {}
locks: dict[str, threading.Event] = {}


def forget() -> None:
    for lock in locks.values():
        lock.set()
    for each in (runs, order, gates, locks):
        each.clear()


def began(name: str) -> None:
    runs[name] += 1
    order.append(name)


def gate(name: str) -> asyncio.Event:
    """What `hold(name)` waits for."""
    return gates.setdefault(name, asyncio.Event())


def lock(name: str) -> threading.Event:
    """What `block(name)` waits for."""
    return locks.setdefault(name, threading.Event())


@task(registry=registry)
async def add(a: int, b: int) -> int:
    return a + b


@task(registry=registry)
async def note(name: str) -> str:
    began(name)
    return name


@task(registry=registry)
async def doze(name: str, seconds: float) -> str:
    began(name)
    await asyncio.sleep(seconds)
    return name


@task(registry=registry)
async def hold(name: str, gate_name: str = "") -> str:
    began(name)
    await gate(gate_name or name).wait()
    return name


@task(registry=registry)
def block(name: str) -> str:
    began(name)
    lock(name).wait(10)
    return name


@task(registry=registry)
async def stubborn(name: str) -> str:
    """Fails when it is cancelled, as code does that takes any end of a wait for an error."""
    began(name)
    try:
        await asyncio.sleep(60)
    except asyncio.CancelledError:
        raise RuntimeError("interrupted") from None
    return name


@task(registry=registry, process=True)
def stay(folder: Path) -> str:
    """The first run writes its process id and stays; the next one returns."""
    note = folder / "pid"
    if note.exists():
        return "second"
    (folder / "part").write_text(str(os.getpid()))
    (folder / "part").rename(note)
    time.sleep(60)
    return "first"


@task(registry=registry, process=True)
def die() -> None:
    os._exit(3)


@task(registry=registry, process=True, time_limit=0.2)
def hang_process() -> None:
    time.sleep(60)


@task(registry=registry, time_limit=0.05)
async def hang() -> None:
    await anyio.sleep(60)


@task(registry=registry, time_limit=0.05)
def hang_thread(name: str) -> None:
    began(name)
    lock(name).wait(10)


class Unprintable(Exception):
    def __str__(self) -> str:
        raise RuntimeError("no text")


@task(registry=registry)
async def bad(how: str) -> object:
    return misbehave(how)


@task(registry=registry)
def bad_thread(how: str) -> object:
    return misbehave(how)


def misbehave(how: str) -> object:
    match how:
        case "raise":
            raise ValueError("nope")
        case "exit":
            sys.exit(3)
        case "interrupt":
            raise KeyboardInterrupt
        case "memory":
            raise MemoryError("not enough")
        case "stop":
            raise StopIteration(1)
        case "cancelled":
            raise asyncio.CancelledError
        case "cancel_itself":
            this = asyncio.current_task()
            assert this is not None
            this.cancel()
            return "as if nothing had happened"
        case "unprintable":
            raise Unprintable
        case "surrogate":
            raise OSError("no such file: \udcff")
        case "long":
            raise ValueError("x" * 5_000_000)
        case "object":
            return object()
        case "large":
            return "x" * 70_000
        case "skip":
            raise Skip("nothing to do")
        case _:
            raise AssertionError(how)


@task(registry=registry, retry=RetryPolicy(attempts=3, first_s=0.2, jitter=False))
async def flaky(name: str, failures: int) -> int:
    began(name)
    if runs[name] <= failures:
        raise ConnectionError(f"failure {runs[name]}")
    return runs[name]


@task(registry=registry, retry=RetryPolicy(attempts=2, first_s=60))
async def again(name: str, delay: float) -> int:
    began(name)
    if runs[name] == 1:
        raise Retry(delay, "not yet")
    return runs[name]


@task(registry=registry)
async def nap(seconds: float) -> float:
    await anyio.sleep(seconds)
    return seconds

"""Tasks that worker processes import in the tests."""

from __future__ import annotations

import ctypes
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

from fogactors.tasks.retry import Retry, RetryPolicy, Skip
from fogactors.tasks.task import Registry, task

own_registry = Registry()


@task(process=True)
def add(a: int, b: int = 2, *, scale: float = 1.0) -> float:
    return (a + b) * scale


@task(process=True, registry=own_registry)
def suffix(path: Path) -> str:
    return path.suffix


@task(cpu=True)
def pid() -> int:
    return os.getpid()


@task(process=True)
def echo(text: str) -> str:
    return text


@task(process=True)
def noisy() -> str:
    print("a line on standard output")  # noqa: T201
    os.write(1, b"raw bytes on descriptor 1\n")
    return sys.stdin.read() or "nothing to read"


@task(process=True)
def fork_and_die() -> None:
    """Leaves a forked process behind that holds every descriptor; the parent must see our end all the same."""
    if os.fork() == 0:
        time.sleep(60)
        os._exit(0)
    os._exit(7)


@task(process=True)
def fork_and_return() -> int:
    """The forked process returns from the task as well, and must not answer."""
    os.fork()
    return os.getpid()


class Unprintable(Exception):
    def __str__(self) -> str:
        raise RuntimeError("no text")


@task(process=True, retry=RetryPolicy(attempts=3, retry_on=(OSError,)))
def fail(how: str) -> object:
    match how:
        case "value":
            raise ValueError("not good")
        case "os":
            raise OSError("may work later")
        case "memory":
            raise MemoryError("not enough")
        case "allocate":
            return bytearray(1 << 62)
        case "exit":
            raise SystemExit(3)
        case "interrupt":
            raise KeyboardInterrupt
        case "unprintable":
            raise Unprintable
        case "surrogate":
            raise ValueError("name \udcff")
        case "long":
            raise ValueError("x" * 1_000_000)
        case "retry":
            raise Retry(30, "not yet")
        case "skip":
            raise Skip("nothing new")
        case "result":
            return object()
        case "huge":
            return "x" * (65 * 1024 * 1024)
    raise AssertionError(how)


@task(process=True)
def die(how: str) -> None:
    match how:
        case "exit":
            os._exit(9)
        case "kill":
            os.kill(os.getpid(), signal.SIGKILL)
        case "segfault":
            ctypes.string_at(0)
        case "close":
            os.closerange(3, 64)


@task(process=True)
def stay(note: Path, program: bool = False) -> None:
    """Writes its own process id, and that of a program it has started, then stays."""
    pids = [os.getpid()]
    if program:
        pids.append(subprocess.Popen(["sleep", "60"]).pid)
    note.with_suffix(".part").write_text(" ".join(map(str, pids)))
    note.with_suffix(".part").rename(note)
    time.sleep(60)


@task(process=True)
def meet(folder: Path, n: int) -> int:
    """Waits until `n` of us are in here, but not for long; returns how many there were."""
    mine = folder / str(os.getpid())
    mine.touch()
    deadline = time.monotonic() + 2
    while len(list(folder.iterdir())) < n and time.monotonic() < deadline:
        time.sleep(0.002)
    time.sleep(0.05)
    seen = len(list(folder.iterdir()))
    mine.unlink()
    return seen

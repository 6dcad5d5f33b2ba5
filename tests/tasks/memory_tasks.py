"""Tasks that take memory, for worker processes. Amounts in MiB."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

from fogactors.tasks.retry import RetryPolicy
from fogactors.tasks.task import Registry, task

registry = Registry()
kept: list[bytearray] = []

EATER = "import time; eaten = bytearray(b'x') * ({mb} << 20); time.sleep(60)"


def take(mb: int) -> bytearray:
    return bytearray(b"x") * (mb << 20)  # written to, so that it is memory and not only addresses


@task(registry=registry, process=True, retry=RetryPolicy(attempts=2))
def eat(mb: int, hold_s: float = 0.0) -> int:
    eaten = take(mb)
    time.sleep(hold_s)
    return len(eaten) >> 20


@task(registry=registry, process=True)
def leave(mb: int) -> int:
    """Leaves it behind for whoever comes next."""
    kept.append(take(mb))
    return os.getpid()


@task(registry=registry, process=True)
def pid() -> int:
    return os.getpid()


@task(registry=registry, process=True)
def start_eaters(note: Path, n: int, mb: int, own_session: bool) -> None:
    command = [sys.executable, "-c", EATER.format(mb=mb)]
    programs = [subprocess.Popen(command, start_new_session=own_session) for _ in range(n)]
    note.with_suffix(".part").write_text(" ".join(str(each.pid) for each in programs))
    note.with_suffix(".part").rename(note)
    time.sleep(60)


@task(registry=registry, process=True)
def share(mb: int, n: int, hold_s: float) -> int:
    """`n` processes that all map the same `mb` MiB."""
    eaten = take(mb)
    children: list[int] = []
    for _ in range(n):
        child = os.fork()
        if child == 0:
            time.sleep(60)
            os._exit(0)
        children.append(child)
    time.sleep(hold_s)
    for child in children:
        os.kill(child, 9)
        os.waitpid(child, 0)
    return len(eaten) >> 20


@task(registry=registry, process=True)
def willing_to_die() -> list[int]:
    """How willing to be killed by the kernel: this process, and a program that it starts."""
    place = "/proc/self/oom_score_adj"
    program = subprocess.run(["cat", place], capture_output=True, check=True)
    return [int(Path(place).read_text()), int(program.stdout)]

"""Tasks that take memory, or die of it, for executors in processes of their own. Amounts in MiB."""

from __future__ import annotations

import asyncio
import os
import signal
import time
from pathlib import Path

from fogactors.tasks.task import task

GREED_MB = 1024
GREED_S = 12.8


@task(process=True)
def die(note: Path) -> None:
    """What the kernel does to a process when memory has run out."""
    with note.open("a") as file:
        file.write(f"{os.getpid()}\n")
    os.kill(os.getpid(), signal.SIGKILL)


@task(tier="heavy", memory_mb=200, process=True)
def greed(note: Path) -> int:
    """Takes `GREED_MB` within `GREED_S`, and leaves a second line if it is allowed to."""
    with note.open("a") as file:
        file.write(f"{os.getpid()}\n")
    kept: list[bytearray] = []
    for _ in range(GREED_MB // 8):
        kept.append(bytearray(b"x") * (8 << 20))
        time.sleep(GREED_S * 8 / GREED_MB)
    with note.open("a") as file:
        file.write("done\n")
    return len(kept)


@task(tier="heavy", process=True)
def hold(mb: int, seconds: float) -> int:
    held = bytearray(b"x") * (mb << 20)
    time.sleep(seconds)
    return len(held)


@task
async def nap(seconds: float) -> float:
    await asyncio.sleep(seconds)
    return seconds

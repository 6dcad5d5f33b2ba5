"""How much memory a worker process takes, with all that it has started, and the end of a job that takes too much.

Two measures. The sum of the resident sets is read 4 to 20 times a second: it costs microseconds, and as it counts
what processes share once for each of them, it is never too low. Only when it is over the limit is what they share
divided among them (the proportional set size), which costs the kernel 10 ms for each GiB. So a task that forks over a
table of a gigabyte is charged for it once.

A limit of the kernel's, `RLIMIT_DATA`, was tried and rejected. It counts addresses instead of memory: under 256 MiB
forty threads that sleep in 20 MiB could not be started. It holds for each process and not for all together, it does
not see a shared mapping, and the task meets it as any error: a `MemoryError`, a `RuntimeError` of `threading`, an
`OSError` of `mmap`. As a process that does nothing but fill memory gets some 50 to 100 MiB beyond its limit before it
is seen, there is little to gain. A control group is the right tool, but in a container one can seldom make any.
"""

from __future__ import annotations

import os
import time
from contextlib import suppress
from pathlib import Path
from typing import Final

import anyio
import anyio.to_thread
import psutil

from fogactors.errors import MemoryLimitExceeded

__all__ = ["Family", "MemoryWatch"]

SOON_S: Final = 0.05
"""Between two looks at a process that is near its limit. A job that ends before the first costs none."""
LATE_S: Final = 0.25
"""Between two looks at one that is far from it."""
_FILL_MB_S: Final = 4096.0
"""How fast a process may take memory: what is left to it, divided by this, is the time to the next look. One thread was
seen to take 1,300 MiB in a second."""
_DIVIDE_SHARE: Final = 0.05
"""Of the time, at most, for dividing what is shared, when a family stays in between the two measures."""

_LISTS_CHILDREN: Final = Path(f"/proc/self/task/{os.getpid()}/children").exists()
_MIB: Final = 1024 * 1024


class Family:
    """A process and all that it has started, as far as that still hangs on it: what has made itself a daemon is not
    seen. Sizes in MiB; what is gone has none."""

    def __init__(self, pid: int) -> None:
        self._pid = pid
        self._members: dict[int, psutil.Process] = {}

    def __len__(self) -> int:
        return len(self._members)

    def search(self) -> None:
        """See who is there."""
        found: dict[int, psutil.Process] = {}
        with suppress(psutil.Error):
            for pid in (self._pid, *_descendants(self._pid)):
                with suppress(psutil.NoSuchProcess):
                    found[pid] = self._members.get(pid) or psutil.Process(pid)
        self._members = found

    def resident_mb(self) -> float:
        """The sum of the resident sets: what they share counts for each of them."""
        return sum(map(_resident, self._members.values())) / _MIB

    def proportional_mb(self) -> float:
        """What they share counts once. Blocks: 10 ms for each GiB."""
        return sum(map(_proportional, self._members.values())) / _MIB

    def kill(self) -> None:
        """Also those that have a session of their own, which a signal to the group does not reach."""
        for member in self._members.values():
            with suppress(psutil.Error):
                member.kill()  # psutil sees to it that the id is still that process's


class MemoryWatch:
    """Of one job of the task `name` in a process of this family, which may take `limit_mb` MiB in all."""

    def __init__(self, family: Family, name: str, limit_mb: float) -> None:
        self._family = family
        self._name = name
        self._limit_mb = limit_mb
        self._before_mb = family.resident_mb()
        self.pause_s = self._pause_s(self._before_mb)
        """How long to wait for the job before the next look."""

    async def look(self) -> None:
        """Raises `MemoryLimitExceeded`; by then the family is dead."""
        self._family.search()
        resident_mb = self._family.resident_mb()
        self.pause_s = self._pause_s(resident_mb)
        if resident_mb <= self._limit_mb:
            return
        began = time.perf_counter()
        took_mb = await anyio.to_thread.run_sync(self._family.proportional_mb, abandon_on_cancel=True)
        self.pause_s = max(SOON_S, (time.perf_counter() - began) / _DIVIDE_SHARE)
        if took_mb > self._limit_mb:
            self._family.kill()
            raise MemoryLimitExceeded(self._text(took_mb))

    def _pause_s(self, resident_mb: float) -> float:
        return min(LATE_S, max(SOON_S, (self._limit_mb - resident_mb) / _FILL_MB_S))

    def _text(self, took_mb: float) -> str:
        others = len(self._family) - 1
        started = f" with the {others} it started" if others > 0 else ""
        return (
            f"the worker process of task {self._name}{started} took {took_mb:.0f} MiB, more than its limit of "
            f"{self._limit_mb:g} MiB ({self._before_mb:.0f} MiB of it before the task began); let the task take less, "
            "or give it a larger memory_mb"
        )


def _descendants(pid: int) -> list[int]:
    if not _LISTS_CHILDREN:  # not Linux, or a kernel without it: all processes of the machine, 20 µs for each
        return [process.pid for process in psutil.Process(pid).children(recursive=True)]
    found: list[int] = []
    todo = [pid]
    while todo:
        with suppress(OSError), os.scandir(f"/proc/{todo.pop()}/task") as threads:
            for thread in threads:
                with suppress(OSError), open(f"{thread.path}/children", "rb") as children:  # noqa: PTH123  half the time
                    new = [int(each) for each in children.read().split()]
                    found += new
                    todo += new
    return found


def _resident(process: psutil.Process) -> int:
    try:
        return process.memory_info().rss
    except psutil.Error:
        return 0


def _proportional(process: psutil.Process) -> int:
    try:
        info = process.memory_full_info()
    except psutil.AccessDenied:  # a program that runs as somebody else
        return _resident(process)
    except psutil.Error:
        return 0
    return getattr(info, "pss", info.uss)

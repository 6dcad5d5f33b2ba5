"""Processes that outlive the program that started them, and a lock between programs."""

import errno
import fcntl
import os
import signal
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import anyio

_POLL_S = 0.02
_LOCK_POLL_S = 0.2


@dataclass(frozen=True)
class ProcessId:
    """A pid and the moment its process started, so that a number used again is never mistaken for ours.

    The moment is the boot's id and the kernel's tick count: unlike a wall-clock time it does not move when the clock is
    set.
    """

    pid: int
    started: str

    @classmethod
    def of(cls, pid: int) -> "ProcessId":
        """Raises ProcessLookupError where there is no such process."""
        started = _started(pid)
        if started is None:
            raise ProcessLookupError(errno.ESRCH, f"process {pid} is gone")
        return cls(pid, started)

    def alive(self) -> bool:
        """False also for a zombie: it has ended and only waits to be noticed."""
        return _started(self.pid) == self.started

    def signal(self, number: signal.Signals) -> None:
        """Send a signal; nothing happens when the process has ended."""
        try:
            handle = os.pidfd_open(self.pid)
        except ProcessLookupError:
            return
        try:
            # Checked while the handle is open: the number cannot be given to another process in between.
            if self.alive():
                signal.pidfd_send_signal(handle, number)
        except ProcessLookupError:
            pass
        finally:
            os.close(handle)


def _started(pid: int) -> str | None:
    try:
        stat = Path(f"/proc/{pid}/stat").read_text(encoding="ascii", errors="replace")
    except (FileNotFoundError, ProcessLookupError):
        return None
    # The program's name stands in parentheses and may hold any character: count from the last one.
    fields = stat.rpartition(")")[2].split()
    if fields[0] in "ZX":
        return None
    boot = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
    return f"{boot}:{fields[19]}"


async def wait_gone(process: ProcessId, timeout: float) -> bool:
    """Whether the process ended within `timeout` seconds."""
    with anyio.move_on_after(timeout):
        while process.alive():  # noqa: ASYNC110 (nobody tells us of the end of a process that is not our child)
            await anyio.sleep(_POLL_S)
    return not process.alive()


@asynccontextmanager
async def file_lock(path: Path, timeout: float) -> AsyncGenerator[int]:
    """Held by one program at a time, given back by the kernel when it dies. Raises TimeoutError.

    The value is the lock's file descriptor: a child that inherits it goes on holding the lock should we be killed.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        with anyio.fail_after(timeout):
            while True:
                try:
                    fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    break
                except BlockingIOError:
                    await anyio.sleep(_LOCK_POLL_S)
        yield handle
    finally:
        os.close(handle)

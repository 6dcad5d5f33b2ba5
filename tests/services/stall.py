"""A disk that is busy: the thread with which a server syncs its file stands still, and all the rest of it runs.

`python -m tests.services.stall PID THREAD` is a program of its own, because only the thread that holds another one may
let it go. It says `held`, holds it until it is ended or the server dies, and lets go by ending.
"""

from __future__ import annotations

import ctypes
import os
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from subprocess import PIPE

import anyio

from tests.services.errors import ServiceUnavailable

REDIS_SYNC = "bio_aof"
"""The thread of redis-server that syncs the append-only file, with `appendfsync everysec`."""
_SEIZE, _INTERRUPT, _WALL = 0x4206, 0x4207, 0x40000000
_ANSWER_S = 10


@asynccontextmanager
async def held_thread(pid: int, name: str) -> AsyncIterator[None]:
    """That thread of the process does nothing inside. Raises ServiceUnavailable where the kernel does not let us."""
    command = [sys.executable, "-m", "tests.services.stall", str(pid), name]
    async with await anyio.open_process(command, stdout=PIPE, stderr=PIPE) as holder:
        assert holder.stdout is not None
        assert holder.stderr is not None
        try:
            with anyio.fail_after(_ANSWER_S):
                try:
                    await holder.stdout.receive()
                except anyio.EndOfStream:
                    raise ServiceUnavailable((await holder.stderr.receive()).decode().strip()) from None
            yield
        finally:
            if holder.returncode is None:
                holder.kill()


def _hold(pid: int, name: str) -> None:
    tasks = Path(f"/proc/{pid}/task")
    found = [int(each.name) for each in tasks.iterdir() if (each / "comm").read_text().strip() == name]
    if len(found) != 1:
        sys.exit(f"process {pid} has {len(found)} threads {name}")
    libc = ctypes.CDLL(None, use_errno=True)
    for request in (_SEIZE, _INTERRUPT):
        if libc.ptrace(request, found[0], None, None) != 0:
            sys.exit(f"thread {name} of process {pid} cannot be held: {os.strerror(ctypes.get_errno())}")
    os.waitpid(found[0], _WALL)  # it stands still
    sys.stdout.write("held\n")
    sys.stdout.flush()
    # Its death with the server. Nobody else is told of it before we are.
    os.waitpid(found[0], _WALL)


if __name__ == "__main__":
    _hold(int(sys.argv[1]), sys.argv[2])

"""Worker processes for tasks that must be killable: a time limit, a memory limit, a cancel, a crash.

The children live long and are spawned, never forked: a fork of a process with threads and an event loop inherits locks
that nobody will open. There is no background task: a child is leased to one job, and what happens to it (its death,
a limit, the caller's cancellation) is seen by the one that waits for the answer.
"""

from __future__ import annotations

import os
import signal
import sys
from contextlib import suppress
from math import inf
from subprocess import PIPE
from typing import TYPE_CHECKING, Final, cast

import anyio
from anyio import BrokenResourceError, CancelScope, ClosedResourceError, IncompleteRead
from anyio.streams.buffered import BufferedByteReceiveStream

from fogactors.errors import ChildCrashed, StartFailed, TaskError, TimeLimitExceeded
from fogactors.tasks.frames import (
    HEADER,
    Answer,
    Command,
    Done,
    Failed,
    Load,
    Outcome,
    Run,
    Setup,
    Skipped,
    decode_answer,
    encode,
)
from fogactors.tasks.memory import Family, MemoryWatch

if TYPE_CHECKING:
    from collections.abc import Mapping
    from types import TracebackType
    from typing import Self

    from anyio.abc import ByteReceiveStream, ByteSendStream, Process

__all__ = ["Done", "Failed", "Outcome", "ProcessPool", "Skipped"]

_GRACE_S: Final = 2.0
"""How long an idle child may take to end by itself: what it does then is its modules' `atexit`."""
_REAP_S: Final = 5.0
"""How long to wait for a process that was killed: only one that hangs in the kernel takes more than a moment."""


class _Child:
    """One process and the pipes to it."""

    def __init__(self, process: Process) -> None:
        self.process = process
        self.family = Family(process.pid)
        self.loaded: set[str] = set()
        self.jobs = 0
        self.fresh_mb = 0.0
        """What it takes by its start and its imports alone."""
        self._stdin = cast("ByteSendStream", process.stdin)
        self._stdout = BufferedByteReceiveStream(cast("ByteReceiveStream", process.stdout))

    async def ask(self, command: Command, watch: MemoryWatch | None = None) -> Answer:
        """Raises `ChildCrashed`, and what the watch raises."""
        frame = encode(command)
        try:
            await self._stdin.send(frame)
            header = await self._header(watch)
            (size,) = cast("tuple[int]", HEADER.unpack(header))
            return decode_answer(await self._stdout.receive_exactly(size))
        except (BrokenResourceError, ClosedResourceError, IncompleteRead, OSError) as error:
            # The pipe's end is seen before the process is reaped, and only then is there an exit code to name.
            with anyio.move_on_after(_GRACE_S, shield=True):
                await self.process.wait()
            raise ChildCrashed(f"the worker process {self.process.pid} {self._end()}") from error

    async def _header(self, watch: MemoryWatch | None) -> bytes:
        while watch is not None:
            # What has come of it stays in the stream's buffer when the wait is cut short.
            with anyio.move_on_after(watch.pause_s):
                return await self._stdout.receive_exactly(HEADER.size)
            await watch.look()
        return await self._stdout.receive_exactly(HEADER.size)

    def measure(self) -> float:
        """MiB, with all that it has started."""
        self.family.search()
        return self.family.resident_mb()

    def is_littered(self, memory_mb: float) -> bool:
        """Whether its earlier tasks have left more than half of the room that a fresh process would give to a task
        which may take `memory_mb`."""
        room_mb = memory_mb - self.fresh_mb
        return 0 < room_mb < 2 * (self.family.resident_mb() - self.fresh_mb)

    def _end(self) -> str:
        code = self.process.returncode
        if code is None:
            return "closed its pipe"
        if code >= 0:
            return f"ended with exit code {code}"
        if code == -signal.SIGKILL:
            return "was ended by SIGKILL, as the kernel does when the memory of the machine or the container runs out"
        try:
            return f"was ended by {signal.Signals(-code).name}"
        except ValueError:
            return f"was ended by signal {-code}"

    def kill(self) -> None:
        """The whole group, so that what the task has started dies with it, also after the child itself is gone."""
        with suppress(ProcessLookupError, PermissionError):  # macOS says the latter of a group of zombies
            os.killpg(self.process.pid, signal.SIGKILL)

    async def end_input(self) -> None:
        """Ask it to end, and wait for that a little."""
        await self._stdin.aclose()
        with anyio.move_on_after(_GRACE_S):
            await self.process.wait()


class ProcessPool:
    """At most `size` worker processes, each running one task at a time. An async context manager.

    `recycle_after`: jobs after which a child is replaced, against memory that its libraries leak. `start_s`: seconds
    a child may take to start, and again to import a task's module. `env`: variables over the parent's own.

    A process that a task starts dies with its child unless it opens a session of its own; when the parent itself is
    killed with SIGKILL only the children die (a parent-death signal is not inherited). Standard output and error of a
    task go to the parent's standard error.
    """

    def __init__(
        self, size: int, *, recycle_after: int = 200, start_s: float = 20.0, env: Mapping[str, str] | None = None
    ) -> None:
        self._size = size
        self._recycle_after = recycle_after
        self._start_s = start_s
        self._env = dict(env or {})
        self._slots = anyio.Semaphore(size, fast_acquire=True)
        self._children: set[_Child] = set()
        # A stack: the one that worked last has its modules and caches warm, and the others can stay swapped out.
        self._idle: list[_Child] = []
        self._closed = False

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self.close()

    def pids(self) -> tuple[int, ...]:
        """The processes that exist now, sorted. Each leads a process group of the same number."""
        return tuple(sorted(child.process.pid for child in self._children))

    async def prestart(self, n: int) -> None:
        """Have `n` processes up, so that the first tasks need not wait for them. Raises `StartFailed`."""
        while len(self._children) < min(n, self._size):
            async with self._slots:
                self._idle.append(await self._start())

    async def run(
        self, module: str, name: str, args: bytes, *, timeout: float | None, memory_mb: float | None = None
    ) -> Outcome:
        """Run the task `name` of `module` with `args` (JSON) in a process, waiting for a free one if need be.

        `timeout`: seconds for the task itself, not for the wait, the start or the import of its module. `memory_mb`:
        MiB for the whole process and all that it starts, so the interpreter and the imports count (some 30 MiB and
        more), looked at while the task runs or its module is imported. What the task raises comes back as `Failed`.

        Raises `TimeLimitExceeded`, `MemoryLimitExceeded` and `ChildCrashed` (the process group is gone), `StartFailed`
        (no process came up; the task has not run), `TaskError` when the pool is closed. When the caller is cancelled
        the process group is killed.
        """
        async with self._slots:
            child = await self._lease(memory_mb)
            try:
                outcome = await self._job(child, Run(module, name, args), timeout, memory_mb)
            except BaseException:
                await self._destroy(child)
                raise
            child.jobs += 1
            if self._closed or child.jobs >= self._recycle_after:
                await self._retire(child)
            else:
                self._idle.append(child)
            return outcome

    async def close(self) -> None:
        """End all processes: what runs has a moment to finish, then it is killed. Idempotent."""
        self._closed = True
        async with anyio.create_task_group() as group:
            for child in tuple(self._children):
                group.start_soon(self._retire, child)

    # -- the life of a child

    async def _lease(self, memory_mb: float | None) -> _Child:
        while self._idle:
            child = self._idle.pop()
            if child.process.returncode is not None or self._closed:
                await self._destroy(child)  # it died while it waited, of the out-of-memory killer for one
            elif memory_mb is not None and child.is_littered(memory_mb):
                await self._retire(child)
            else:
                return child
        return await self._start()

    async def _start(self) -> _Child:
        path = _import_path()
        env = {**os.environ, **self._env}
        pythonpath = env.get("PYTHONPATH")
        env["PYTHONPATH"] = os.pathsep.join(path)
        command = [sys.executable, "-P", "-m", "fogactors.tasks.child", str(os.getpid())]
        try:
            # Shielded: a start that is cancelled half-way would leave a process that nobody knows.
            with anyio.fail_after(self._start_s, shield=True):
                process = await anyio.open_process(
                    command, stdin=PIPE, stdout=PIPE, stderr=None, env=env, start_new_session=True
                )
        except (OSError, TimeoutError) as error:
            raise StartFailed(f"a worker process could not be started: {error}") from error
        child = _Child(process)
        self._children.add(child)
        try:
            with anyio.fail_after(self._start_s):
                await child.ask(Setup(path, pythonpath))
            child.fresh_mb = child.measure()
            if self._closed:
                raise TaskError("the process pool is closed")
        except TimeoutError as error:
            await self._destroy(child)
            raise StartFailed(f"a worker process was not up within {self._start_s:g} s") from error
        except ChildCrashed as error:
            await self._destroy(child)
            raise StartFailed(f"{error} before it was up; see its standard error") from error
        except BaseException:
            await self._destroy(child)
            raise
        return child

    async def _job(self, child: _Child, job: Run, timeout: float | None, memory_mb: float | None) -> Outcome:
        if job.module not in child.loaded:
            before_mb = child.measure()
            with anyio.move_on_after(self._start_s) as loading:
                answer = await child.ask(Load(job.module), _watch(child, job, memory_mb))
                if isinstance(answer, Failed):
                    return answer
                child.loaded.add(job.module)
                child.fresh_mb += child.measure() - before_mb
            if loading.cancelled_caught:
                raise TimeLimitExceeded(f"importing {job.module} took longer than {self._start_s:g} s")
        with anyio.move_on_after(inf if timeout is None else timeout):
            return cast("Outcome", await child.ask(job, _watch(child, job, memory_mb)))
        raise TimeLimitExceeded(f"task {job.name} ran longer than its limit of {timeout:g} s")

    async def _retire(self, child: _Child) -> None:
        with CancelScope(shield=True):  # bounded: by _GRACE_S here and _REAP_S there
            await child.end_input()
            await self._destroy(child)

    async def _destroy(self, child: _Child) -> None:
        child.kill()
        with anyio.move_on_after(_REAP_S, shield=True):
            await child.process.wait()
        if child.process.returncode is not None:  # else `aclose` would wait, shielded, for as long as the kernel likes
            with CancelScope(shield=True):
                await child.process.aclose()
        self._children.discard(child)


def _watch(child: _Child, job: Run, memory_mb: float | None) -> MemoryWatch | None:
    return None if memory_mb is None else MemoryWatch(child.family, job.name, memory_mb)


def _import_path() -> list[str]:
    # "" in it means here, wherever that is later.
    return [os.path.abspath(entry) for entry in sys.path]  # noqa: PTH100  Path.absolute leaves ".." in

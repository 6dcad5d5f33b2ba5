"""Roles as processes of their own, supervised from this one: what `fogactors demo --amqp` runs its executors in."""

from __future__ import annotations

import ctypes
import os
import signal
import sys
from contextlib import suppress
from subprocess import DEVNULL
from typing import Any, Final

import anyio

from fogactors.app.settings import Settings
from fogactors.core import Actor, Backoff, ChildSpec, StopRequested, SupervisorSpec
from fogactors.errors import FogError

__all__ = ["CommandActor", "WorkerExited", "stop_with", "worker_tree"]

_PR_SET_PDEATHSIG: Final = 1


class WorkerExited(FogError):
    """A worker's process ended although nobody had asked it to."""


class CommandActor(Actor[Any]):
    """Runs `fogactors <words>` as a process; its end is the actor's failure. A stop sends SIGTERM and waits for
    the drain."""

    def __init__(self, words: tuple[str, ...], env: dict[str, str], shutdown_s: float) -> None:
        self._words = words
        self._env = env
        self._shutdown_s = shutdown_s

    async def run(self) -> None:
        command = [sys.executable, "-m", "fogactors", *self._words, "--parent", str(os.getpid())]
        # A session of its own: Ctrl-C is for the one in front, who then stops its workers in order.
        process = await anyio.open_process(
            command, stdin=DEVNULL, stdout=None, stderr=None, env=self._env, start_new_session=True
        )
        try:
            async with anyio.create_task_group() as tasks:

                async def watch() -> None:
                    await process.wait()
                    tasks.cancel_scope.cancel()

                tasks.start_soon(watch)
                await self.ctx.wait_stop()
                tasks.cancel_scope.cancel()
            if process.returncode is None:
                process.terminate()
                with anyio.move_on_after(self._shutdown_s):
                    await process.wait()
        finally:
            if process.returncode is None:
                with suppress(ProcessLookupError):
                    os.killpg(process.pid, signal.SIGKILL)
                with anyio.move_on_after(5.0, shield=True):
                    await process.wait()
        if self.ctx.stop_requested:
            raise StopRequested
        raise WorkerExited(f"`fogactors {' '.join(self._words)}` ended with {_how(process.returncode)}")


def worker_tree(settings: Settings, modules: tuple[str, ...], config: str | None) -> SupervisorSpec:
    """An executor for each tier and a reaper, each in a process that is started again when it dies."""
    ours = {
        "FOGACTORS_BUS__URL": settings.bus.url,
        "FOGACTORS_COORD__URL": settings.coord.url,
        "FOGACTORS_LOG__LEVEL": settings.log.level,
        "FOGACTORS_PROBE__PORT": "0",  # a port is for one process; these have a supervisor that looks after them
    }
    env = {**os.environ, **ours}
    for name in ours:
        env.pop(f"{name}_FILE", None)  # read already; both at once are refused
    before = ("--config", config) if config else ()
    imports = tuple(word for module in modules for word in ("--import", module))
    roles = [("dlq-reaper", ("run", "dlq-reaper"))]
    roles += [(tier.name, ("run", "tier-executor", "--tier", tier.name, *imports)) for tier in settings.tiers]
    shutdown_s = settings.shutdown.budget_s + 2.0
    return SupervisorSpec(
        id="workers",
        exceeded="pause",
        backoff=Backoff(first_s=0.5, max_s=10.0),
        children=tuple(
            ChildSpec(
                id=name,
                factory=lambda words=words: CommandActor((*before, *words), env, settings.shutdown.budget_s),
                shutdown_s=shutdown_s,
            )
            for name, words in roles
        ),
    )


def stop_with(parent: int) -> None:
    """Be told to stop (SIGTERM) when the process that started this one is gone: a worker has a session of its own, so
    nothing else would tell it that its supervisor was killed. Only Linux does so."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, ctypes.c_ulong(signal.SIGTERM), 0, 0, 0)
    if os.getppid() != parent:  # it died before we asked
        raise WorkerExited(f"the process {parent} that started this one is gone")


def _how(code: int | None) -> str:
    if code is not None and code < 0:
        return signal.Signals(-code).name
    return f"exit code {code}"

"""A Redis on a disk of its own, whose power can be cut: what is not on that disk then is lost."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
from pathlib import Path
from subprocess import PIPE, STDOUT

import anyio

from tests.services.errors import ServiceFailed, ServiceUnavailable
from tests.services.redis_server import RedisServer

_SIZE = 64 * 2**20
_STEP_S = 30


class MortalRedis(RedisServer):
    """Its home is a file system in a file. Needs root, mkfs.ext4 and loop devices."""

    async def power_cut(self) -> None:
        """The machine stops at this moment; `start` is the power back."""
        os.kill(self.pid, signal.SIGSTOP)  # it answers nobody any more
        # What the kernel holds back is in its memory, not in this file.
        await anyio.to_thread.run_sync(shutil.copyfile, self._disk, self._at_the_cut)
        await self.kill9()
        await _run("umount", self.home)
        self._at_the_cut.rename(self._disk)
        await self._mount()

    def write_configuration(self) -> None:
        if os.geteuid() != 0 or shutil.which("mkfs.ext4") is None:
            raise ServiceUnavailable("a disk of its own needs root and mkfs.ext4")
        with self._disk.open("wb") as file:
            file.truncate(_SIZE)
        _now("mkfs.ext4", "-q", "-F", self._disk)
        _now("mount", "-o", "loop", self._disk, self.home)
        super().write_configuration()
        _now("sync", "--file-system", self.home)  # what stood there before it began is not what is lost

    @property
    def _disk(self) -> Path:
        return self.home.with_name("disk")

    @property
    def _at_the_cut(self) -> Path:
        return self.home.with_name("disk.cut")

    async def _mount(self) -> None:
        await _run("mount", "-o", "loop", self._disk, self.home)


async def _run(*command: str | Path) -> None:
    await anyio.to_thread.run_sync(_now, *command)


def _now(*command: str | Path) -> None:
    done = subprocess.run(command, stdout=PIPE, stderr=STDOUT, timeout=_STEP_S, check=False)
    if done.returncode != 0:
        raise ServiceFailed(
            f"{command[0]} ended with {done.returncode}: {done.stdout.decode(errors='replace').strip()}"
        )

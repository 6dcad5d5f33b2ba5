"""What every server has in common: folder, ports, start, sudden death, restart, stop."""

import os
import random
import signal
import socket
import subprocess
import time
from abc import ABC, abstractmethod
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path
from subprocess import DEVNULL, PIPE, STDOUT
from types import TracebackType
from typing import Self

import anyio

from tests.services.errors import ServiceFailed, tail
from tests.services.processes import ProcessId, wait_gone
from tests.services.releases import Release
from tests.services.routes import Route, Running, choose_route
from tests.services.state import Record, new_folder, remove, sweep

# Below the range from which the kernel takes the ports of outgoing connections: a client that dials a dead server's
# port again and again would now and then be given that very port, connect to itself, and keep the server from coming
# back.
_PORTS = range(20_000, 32_000, 10)
_BOOT_S = 120
_POLL_S = 0.01
_READY_POLL_S = 0.05  # not so often that what a test measures in these moments is our own polling
_RUN_INSIDE_S = 60


@dataclass(frozen=True)
class Boot:
    """One start: seconds from the spawn to the open port and to ready, and when the port opened on `time.monotonic`."""

    port_open_s: float
    ready_s: float
    port_open_at: float


class Server(ABC):
    """One server of ours. Its methods are for one asyncio task at a time; it may move between event loops.

    `kept` servers outlive this program, until `python -m tests.services stop`; the others are also stopped by the next
    program that uses this package, should this one be killed before it could.
    """

    def __init__(self, release: Release, *, kept: bool = False) -> None:
        self.release = release
        self.version = ""
        self._kept = kept
        self.route: Route | None = None  # the cheapest, unless somebody has chosen one
        self._folder: Path | None = None
        self._running: Running | None = None
        self._spawned: subprocess.Popen[bytes] | None = None
        self._base_port = 0

    # What a kind of server says about itself.

    @property
    @abstractmethod
    def log_path(self) -> Path: ...

    @abstractmethod
    def environment(self) -> dict[str, str]: ...

    @abstractmethod
    def program(self) -> list[str]: ...

    @abstractmethod
    def write_configuration(self) -> None:
        """Write the files in `self.home`; the ports are chosen by now."""

    @abstractmethod
    async def probe(self) -> str | None:
        """The version that the server reports, or None while it is not ready to work."""

    @abstractmethod
    def variables(self) -> dict[str, str]:
        """The variables of the environment that tell tests where it is."""

    # What all of them can do.

    @property
    def home(self) -> Path:
        if self._folder is None:
            raise RuntimeError(f"{self.release.name} has not been started")
        return self._folder / "home"

    @property
    def port(self) -> int:
        """The port of its own protocol, on 127.0.0.1; the nine above it are its own too."""
        return self._base_port

    @property
    def pid(self) -> int:
        """The server's process, as this machine numbers it. SIGSTOP freezes it, as an overloaded machine would."""
        return self._started().pid

    async def start(self) -> Boot:
        """Start on new ports with no data, or, after `kill9`, on the same ports and data; ready when it returns.

        Raises ServiceUnavailable, ServiceFailed.
        """
        if self._running is not None:
            raise RuntimeError(f"{self.release.name} is running")
        try:
            if self._folder is None:
                await sweep()
                self.route = self.route or await choose_route(self.release)
                self._base_port = _free_ports()
                self._folder = new_folder(f"{self.release.name}-{self._base_port}")
                self.write_configuration()
            return await self._boot()
        except BaseException:
            with anyio.CancelScope(shield=True):
                await self.stop(grace_s=0)
            raise

    async def kill9(self) -> None:
        """The whole server dies at once, with all that it had started."""
        await self._started().kill()
        self._forget()

    async def restart(self) -> Boot:
        """Start again on the same ports and data; a server that runs is stopped in order first."""
        if self._running is not None:
            await self._end(grace_s=30)
        return await self.start()

    async def stop(self, grace_s: float = 10) -> None:
        """End it, in order if it does so within `grace_s` seconds, and remove its data. May be called twice."""
        if self._running is not None:
            await self._end(grace_s)
        elif self._spawned is not None:
            self._spawned.kill()
            self._forget()
        if self._folder is not None:
            await anyio.to_thread.run_sync(remove, self._folder)
            self._folder = None

    async def run_inside(self, *program: str, timeout: float = _RUN_INSIDE_S) -> str:
        """Run a program beside the server, in its environment and under its account; what it printed.

        Raises ServiceFailed on another exit code than 0, TimeoutError.
        """
        if self.route is None:
            raise RuntimeError(f"{self.release.name} has not been started")
        command = self.route.inside(self._started(), self.environment(), program)
        with anyio.fail_after(timeout):
            done = await anyio.run_process(command, stdout=PIPE, stderr=STDOUT, check=False)
        output = done.stdout.decode(errors="replace")
        if done.returncode != 0:
            raise ServiceFailed(f"{' '.join(program[:2])} ended with {done.returncode}:\n{output}")
        return output

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        with anyio.CancelScope(shield=True):
            await self.stop(grace_s=0)  # nobody needs the data any more

    def _started(self) -> Running:
        if self._running is None:
            raise RuntimeError(f"{self.release.name} is not running")
        return self._running

    async def _boot(self) -> Boot:
        began = time.monotonic()
        try:
            with anyio.fail_after(_BOOT_S):
                await self._spawn()
                await self._until(self._port_open, _POLL_S)
                opened = time.monotonic()
                await self._until(self._ready, _READY_POLL_S)
        except TimeoutError:
            raise ServiceFailed(f"{self.release.name} was not ready in {_BOOT_S} s{self._log_tail()}") from None
        if not self.release.accepts(self.version):
            raise ServiceFailed(
                f"{self.release.product} {self.release.version} is needed, but its source (Debian "
                f"{self.release.suite.name} or {self.release.image}) has moved on to {self.version}: name another one "
                "in tests/services/releases.py"
            )
        return Boot(opened - began, time.monotonic() - began, opened)

    async def _spawn(self) -> None:
        folder, route = self.home.parent, self.route
        assert route is not None
        route.prepare(self.home)
        self._spawned = _spawn(route.command(self.home, self.environment(), self.program()), folder / "console.log")
        while (running := route.identify(self.home, self._spawned.pid)) is None:
            self._fail_if_dead()
            await anyio.sleep(_POLL_S)
        self._running = running
        owner = None if self._kept else ProcessId.of(os.getpid())
        Record(folder, self.release.name, running, owner, self.variables()).save()

    async def _until(self, condition: Callable[[], Awaitable[bool]], poll_s: float) -> None:
        while not await condition():
            self._fail_if_dead()
            await anyio.sleep(poll_s)

    async def _port_open(self) -> bool:
        return is_open(self.port)

    async def _ready(self) -> bool:
        self.version = await self.probe() or ""
        return bool(self.version)

    def _fail_if_dead(self) -> None:
        if self._spawned is not None and self._spawned.poll() is not None:
            code = self._spawned.returncode
            raise ServiceFailed(f"{self.release.name} ended with {code} while it started{self._log_tail()}")

    def _log_tail(self) -> str:
        return f"; its log ends:\n{tail(self.home.parent / 'console.log')}\n{tail(self.log_path)}"

    async def _end(self, grace_s: float) -> None:
        running = self._started()
        if grace_s > 0:
            running.signal(signal.SIGTERM)
            await wait_gone(running.processes[0], grace_s)
        await running.kill()
        self._forget()

    def _forget(self) -> None:
        if self._spawned is not None:
            self._spawned.wait(timeout=10)
        self._spawned = self._running = None


def is_open(port: int) -> bool:
    """Whether somebody listens there: a loopback connection is accepted or refused at once."""
    with socket.socket() as probe:
        probe.settimeout(1)
        return probe.connect_ex(("127.0.0.1", port)) == 0


def _free_ports() -> int:
    """The first of ten neighbouring ports; those that servers bind are free at this moment."""
    for base in random.sample(_PORTS, k=len(_PORTS)):
        try:
            for port in range(base, base + 4):
                with socket.socket() as probe:
                    probe.bind(("127.0.0.1", port))
        except OSError:
            continue
        return base
    raise ServiceFailed(f"no free ports between {_PORTS.start} and {_PORTS.stop}")


def _spawn(command: list[str], console: Path) -> "subprocess.Popen[bytes]":
    with console.open("ab") as output:
        # A session of its own: Ctrl-C in our terminal is not the server's business.
        return subprocess.Popen(command, stdin=DEVNULL, stdout=output, stderr=STDOUT, start_new_session=True)

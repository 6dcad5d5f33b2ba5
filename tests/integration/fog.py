"""`fogactors` as processes of their own, against services that are real: what the integration tests share.

Everything a process writes goes to files, so that nobody has to keep its pipes empty and a test that failed can still
show what was said. What a test leaves running is killed by its process id, with all that it started.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from subprocess import DEVNULL
from typing import Any
from urllib.parse import quote, urlsplit
from uuid import uuid4

import anyio
import httpx
import psutil

from fogactors.app.program import tiers_of
from fogactors.app.settings import Settings
from fogactors.bus import MAX_BODY
from fogactors.bus.amqp import AmqpBus
from fogactors.bus.management import Management
from fogactors.coord.redis import RedisCoord
from fogactors.messages import DeadLetter
from fogactors.tasks.client import Submitter
from fogactors.tasks.deadletter import FATE_TYPE
from fogactors.wire import Topology, fog_topology
from fogactors.wire.codec import decode
from fogactors.wire.topology import PARKED

DEADLINE_S = 30.0
"""How long to wait for what must come. Never reached when the code is right, also on a busy machine."""

TASKS = '''
"""Tasks of the tests. `mark` is a file that says that it runs."""

import asyncio
import os
from pathlib import Path

from fogactors import RetryPolicy, task


@task
async def add(a: int, b: int = 1) -> int:
    return a + b


@task(tier="heavy")
async def heavy(value: int) -> int:
    return value


@task
async def fails(text: str = "no luck") -> None:
    raise ValueError(text)


@task(retry=RetryPolicy(attempts=2, first_s=1.0))
async def twice(mark: Path) -> str:
    """Fails the first time."""
    with mark.open("a") as file:
        file.write("x")
    if mark.stat().st_size < 2:
        raise ConnectionError("not yet")
    return "at last"


@task
async def hold(mark: Path, until: Path) -> str:
    """Runs until the other file is there."""
    mark.write_text("running")
    while not until.exists():
        await asyncio.sleep(0.02)
    return "done"


@task(process=True)
def pid() -> int:
    return os.getpid()


@task
async def append(path: Path, line: str, seconds: float = 0.0) -> str:
    """Leaves a trace of each run."""
    await asyncio.sleep(seconds)
    with path.open("a") as file:
        file.write(line + "\\n")
    return line
'''


@dataclass(frozen=True)
class Services:
    """Where the services are. The credentials in the URLs may do everything."""

    amqp_url: str
    management_url: str
    redis_url: str = ""

    @property
    def vhost(self) -> str:
        return self.amqp_url.rpartition("/")[2].replace("%2F", "/")

    @property
    def address(self) -> str:
        """The broker's host:port."""
        return self.amqp_url.rpartition("@")[2].partition("/")[0]

    def in_vhost(self, name: str) -> Services:
        return replace(self, amqp_url=f"{self.amqp_url.rpartition('/')[0]}/{quote(name, safe='')}")

    def as_user(self, name: str, password: str) -> Services:
        """The same places, reached over AMQP as another user."""
        scheme, _, rest = self.amqp_url.partition("://")
        return replace(self, amqp_url=f"{scheme}://{name}:{password}@{rest.rpartition('@')[2]}")

    def environment(self) -> dict[str, str]:
        urls = {"BUS__URL": self.amqp_url, "BUS__MANAGEMENT_URL": self.management_url, "COORD__URL": self.redis_url}
        return {f"FOGACTORS_{key}": value for key, value in urls.items() if value}

    def api(self, method: str, path: str, body: object = None) -> Any:
        """Call the management API; what it answered."""
        parts = urlsplit(self.management_url)
        login = httpx.BasicAuth(parts.username or "", parts.password or "")
        with httpx.Client(auth=login, trust_env=False, timeout=30) as client:
            answer = client.request(method, f"http://{parts.hostname}:{parts.port}/api{path}", json=body)
        answer.raise_for_status()
        return answer.json() if answer.content else None


@contextmanager
def own_vhost(services: Services) -> Iterator[Services]:
    """A virtual host of the caller's own, empty, so that tests share a broker without meeting."""
    name = f"/fog-test-{os.getpid()}-{uuid4().hex[:6]}"
    path = quote(name, safe="")
    user = quote(urlsplit(services.management_url).username or "", safe="")
    services.api("PUT", f"/vhosts/{path}", {})
    try:
        services.api("PUT", f"/permissions/{path}/{user}", {"configure": ".*", "write": ".*", "read": ".*"})
        yield services.in_vhost(name)
    finally:
        services.api("DELETE", f"/vhosts/{path}")


async def apply_topology(services: Services, topology: Topology | None = None) -> None:
    """What `fogactors topology apply` does, without a process for it."""
    wanted = topology or fog_topology()
    async with Management.open(services.management_url, services.vhost) as management:
        await management.apply_policies(wanted)
    async with connected(services) as bus:
        await bus.declare(wanted)


@asynccontextmanager
async def connected(services: Services, *, max_body: int = MAX_BODY) -> AsyncIterator[AmqpBus]:
    bus = AmqpBus(services.amqp_url, name="test", max_body=max_body)
    await bus.open()
    try:
        yield bus
    finally:
        with anyio.CancelScope(shield=True):
            await bus.close()


@asynccontextmanager
async def store(services: Services) -> AsyncIterator[RedisCoord]:
    coord = RedisCoord(services.redis_url)
    try:
        yield coord
    finally:
        with anyio.CancelScope(shield=True):
            await coord.close()


@asynccontextmanager
async def submitting(services: Services) -> AsyncIterator[Submitter]:
    """A submitter in this process; open it inside the test. Its connection is not brought back when it is lost."""
    async with (
        store(services) as coord,
        connected(services) as bus,
        Submitter(bus, coord, tiers_of(Settings())) as submitter,
    ):
        yield submitter


@asynccontextmanager
async def parked(services: Services) -> AsyncIterator[Callable[[str], Awaitable[DeadLetter]]]:
    """A reader of the stream of dead letters: `await letter(id)` is the one with this id, once it is there."""
    letters: dict[str, DeadLetter] = {}

    async with connected(services) as bus:

        def read(delivery: Any) -> None:
            if delivery.type == FATE_TYPE:
                return
            letter = decode(delivery.body, DeadLetter)
            assert letter.id not in letters, f"{letter.id} was parked twice"
            letters[letter.id] = letter

        await bus.consume(PARKED, read, prefetch=1000, offset="first")

        async def letter(id_: str) -> DeadLetter:
            await until(lambda: id_ in letters, f"the dead letter of {id_}, there are {sorted(letters)}")
            return letters[id_]

        yield letter


async def until(condition: Callable[[], bool | Awaitable[bool]], what: str, timeout: float = DEADLINE_S) -> None:
    """Wait until it is true, asked again and again; `what` is what the failure says."""
    with anyio.move_on_after(timeout):
        while True:
            found = condition()
            if found if isinstance(found, bool) else await found:
                return
            await anyio.sleep(0.02)
    raise AssertionError(f"not within {timeout:g} s: {what}")


@dataclass(frozen=True)
class Done:
    """A command that has ended."""

    code: int
    out: str
    err: str

    @property
    def said(self) -> list[str]:
        """The lines for its user, without log lines."""
        return [line for line in self.err.splitlines() if not line.startswith("{")]


class Command:
    """A running `fogactors <words>`."""

    def __init__(self, process: subprocess.Popen[bytes], out: Path, err: Path) -> None:
        self.process = process
        self._out = out
        self._err = err
        self._left: list[psutil.Process] = []

    @property
    def out(self) -> str:
        return self._out.read_text()

    @property
    def err(self) -> str:
        return self._err.read_text()

    @property
    def log(self) -> list[dict[str, Any]]:
        """Its log lines so far."""
        whole = self.err.rpartition("\n")[0]
        return [json.loads(line) for line in whole.splitlines() if line.startswith("{")]

    def logged(self, event: str) -> list[dict[str, Any]]:
        return [line for line in self.log if line["event"] == event]

    async def line(self, text: str, timeout: float = DEADLINE_S) -> str:
        """The first line on standard error that holds `text`; waits for it."""
        found: list[str] = []

        def look() -> bool:
            found[:] = [line for line in self.err.rpartition("\n")[0].splitlines() if text in line]
            return bool(found) or self.process.poll() is not None

        await until(look, f"{text!r} from {self}", timeout)
        if not found:
            look()
        assert found, f"{text!r} never came from {self}"
        return found[0]

    async def wait(self, timeout: float = DEADLINE_S) -> Done:
        """Wait for its end."""
        await until(lambda: self.process.poll() is not None, f"the end of {self}", timeout)
        return Done(self.process.returncode, self.out, self.err)

    async def stop(self, timeout: float = DEADLINE_S) -> Done:
        """SIGTERM, and wait for its end."""
        self.process.terminate()
        return await self.wait(timeout)

    def kill9(self) -> None:
        """Only this process, and nothing that it started: whether that follows is for the test to see."""
        self._left = self.children()
        self.process.kill()
        self.process.wait()

    def children(self) -> list[psutil.Process]:
        """All that it started and that lives."""
        try:
            return psutil.Process(self.process.pid).children(recursive=True)
        except psutil.NoSuchProcess:
            return []

    def clean_up(self) -> None:
        """End it and all that it started, whatever state they are in."""
        for each in (*self.children(), *self._left):
            with suppress(psutil.NoSuchProcess):
                each.kill()  # psutil sees to it that the id is still that process's
        self.process.kill()
        self.process.wait()

    def __str__(self) -> str:
        words = " ".join(str(word) for word in self.process.args[3:])
        return f"`fogactors {words}` (exit code {self.process.poll()}), which wrote:\n{self.err}{self.out}"


class Fog:
    """Starts commands in a folder with a module of tasks, `self.module`, and cleans up after them."""

    def __init__(self, services: Services, folder: Path) -> None:
        self.services = services
        self.folder = folder
        self.module = f"tasks_{uuid4().hex[:8]}"
        self._commands: list[Command] = []
        (folder / f"{self.module}.py").write_text(TASKS)

    def start(self, *words: str, services: Services | None = None, **env: str) -> Command:
        """`env`: keys of the settings, such as `EXECUTOR__DRAIN_S="1"`. A log in JSON, on standard error."""
        inherited = {key: value for key, value in os.environ.items() if not key.startswith("FOGACTORS_")}
        number = len(self._commands)
        out, err = self.folder / f"{number}.out", self.folder / f"{number}.err"
        with out.open("wb") as to_out, err.open("wb") as to_err:
            process = subprocess.Popen(
                [sys.executable, "-m", "fogactors", *words],
                cwd=self.folder,
                env={**inherited, **(services or self.services).environment(), **self.variables(env)},
                stdin=DEVNULL,
                stdout=to_out,
                stderr=to_err,
                start_new_session=True,  # Ctrl-C is for the tests, which then clean up
            )
        command = Command(process, out, err)
        self._commands.append(command)
        return command

    @staticmethod
    def variables(env: dict[str, str]) -> dict[str, str]:
        return {f"FOGACTORS_{key}": value for key, value in env.items()}

    async def run(self, *words: str, timeout: float = DEADLINE_S, **more: Any) -> Done:
        """Run a command to its end."""
        return await self.start(*words, **more).wait(timeout)

    async def role(self, *words: str, **more: Any) -> Command:
        """`fogactors run <words>`, once it is up."""
        command = self.start("run", *words, **more)
        await command.line(" is up ")
        return command

    async def executor(self, tier: str = "light", **more: Any) -> Command:
        return await self.role("tier-executor", "--tier", tier, "-i", self.module, **more)

    def start_submit(self, task: str, *words: str, **more: Any) -> Command:
        """`fogactors submit` of a task of `self.module`; to the light tier, unless `words` say otherwise."""
        where = () if {"--tier", "-i"} & set(words) else ("--tier", "light")
        return self.start("submit", f"{self.module}.{task}", *words, *where, **more)

    async def submit(self, task: str, *words: str, **more: Any) -> Done:
        return await self.start_submit(task, *words, **more).wait()

    def clean_up(self) -> None:
        for command in self._commands:
            if command.process.poll() is None:
                command.process.send_signal(signal.SIGSTOP)  # or a supervisor replaces what we kill
        for command in self._commands:
            command.clean_up()

"""The two ways to run a server: an official image under docker, or a chroot into a Debian root.

Both run one foreground program with the same arguments, environment and configuration, on the host's own loopback and
with one private folder of ours at /srv, so the servers do not know which way was taken.
"""

import json
import os
import shutil
import signal
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from subprocess import DEVNULL, PIPE, STDOUT
from typing import Protocol

import anyio

from tests.services.errors import ServiceFailed, ServiceUnavailable
from tests.services.processes import ProcessId, wait_gone
from tests.services.releases import Release
from tests.services.roots import cached_root, ensure_root, require_privilege

HOME = "/srv"
_DOCKER_ANSWERS_S = 3
_DOCKER_PULL_S = 300
_SPAWN_S = 20
# Where Debian and the official images keep the programs; whichever exists is found.
_PATH = "/usr/lib/rabbitmq/bin:/opt/rabbitmq/sbin:/opt/erlang/bin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
# The mounts exist in this namespace only and vanish with its last process. The server becomes the first process of its
# pid namespace, so one SIGKILL to it also ends epmd and whatever else the Erlang VM started, at once.
_ENTER = """
set -e
root=$1 folder=$2 user=$3
shift 3
mount -t proc proc "$root/proc"
mount --bind "$folder" "$root/srv"
exec chroot "$root" /usr/bin/setpriv --reuid "$user" --regid "$user" --init-groups --no-new-privs --pdeathsig keep \
    /usr/bin/env -i "$@"
"""


@dataclass(frozen=True)
class Running:
    """What was started, and enough to end it later from another program.

    `processes` begin with the one to signal (the server, as the host sees it); `container` is docker's id or "".
    """

    processes: tuple[ProcessId, ...]
    container: str = ""

    @property
    def pid(self) -> int:
        return self.processes[0].pid

    def alive(self) -> bool:
        return self.processes[0].alive()

    def signal(self, number: signal.Signals) -> None:
        if self.container:
            # The server belongs to the engine, and only the engine may signal it where we are not root.
            command = ("docker", "kill", "--signal", number.name, self.container)
            subprocess.run(command, stdout=DEVNULL, stderr=DEVNULL, timeout=_SPAWN_S, check=False)
        else:
            self.processes[0].signal(number)

    async def kill(self, timeout: float = 10) -> None:
        """End everything at once. Raises ServiceFailed if something survives for `timeout` seconds."""
        self.signal(signal.SIGKILL)
        for process in self.processes:
            # The later ones wait for the first; they are killed only if they fail to follow it.
            if not await wait_gone(process, timeout / 2):
                process.signal(signal.SIGKILL)
            if not await wait_gone(process, timeout / 2):
                raise ServiceFailed(f"process {process.pid} survived SIGKILL for {timeout:.0f} s")

    def dump(self) -> str:
        return json.dumps(asdict(self))

    @classmethod
    def load(cls, text: str) -> "Running":
        data = json.loads(text)
        return cls(tuple(ProcessId(**process) for process in data["processes"]), data["container"])


class Route(Protocol):
    """How one server is run. The folder given to `prepare` is the server's /srv."""

    def prepare(self, folder: Path) -> None:
        """Give the folder and what is in it to the server's account."""
        ...

    def command(self, folder: Path, environment: Mapping[str, str], program: Sequence[str]) -> list[str]: ...

    def identify(self, folder: Path, spawned: int) -> Running | None:
        """What `command` became, once the pid `spawned` has come that far; None before."""
        ...

    def inside(self, running: Running, environment: Mapping[str, str], program: Sequence[str]) -> list[str]:
        """The command that runs a program beside the server, for rabbitmqctl."""
        ...


@dataclass(frozen=True)
class Chroot:
    root: Path
    user: str

    def prepare(self, folder: Path) -> None:
        uid, gid = self._account()
        for path in (folder, *folder.rglob("*")):
            os.chown(path, uid, gid, follow_symlinks=False)

    def command(self, folder: Path, environment: Mapping[str, str], program: Sequence[str]) -> list[str]:
        namespaces = ["unshare", "--mount", "--pid", "--fork", "--kill-child=SIGKILL", "--"]
        enter = ["sh", "-c", _ENTER, "enter", str(self.root), str(folder), self.user]
        return [*namespaces, *enter, *_assignments(environment), *program]

    def identify(self, folder: Path, spawned: int) -> Running | None:
        children = Path(f"/proc/{spawned}/task/{spawned}/children").read_text(encoding="ascii").split()
        if not children:
            return None
        return Running((ProcessId.of(int(children[0])), ProcessId.of(spawned)))

    def inside(self, running: Running, environment: Mapping[str, str], program: Sequence[str]) -> list[str]:
        user = ["setpriv", "--reuid", self.user, "--regid", self.user, "--init-groups"]
        enter = ["nsenter", "--target", str(running.pid), "--mount", "--pid", "--root", "--wd", "--"]
        return [*enter, *user, "env", "-i", *_assignments(environment), *program]

    def _account(self) -> tuple[int, int]:
        for line in (self.root / "etc/passwd").read_text(encoding="utf-8").splitlines():
            name, _, uid, gid, *_ = line.split(":")
            if name == self.user:
                return int(uid), int(gid)
        raise ServiceUnavailable(f"the root {self.root.name} has no account {self.user}")


@dataclass(frozen=True)
class Docker:
    """Needs an engine on this very machine: host networking, so that each server binds its own loopback ports."""

    image: str

    def prepare(self, folder: Path) -> None:
        pass  # the container runs under our own account

    def command(self, folder: Path, environment: Mapping[str, str], program: Sequence[str]) -> list[str]:
        identity = folder.with_name("container")
        identity.unlink(missing_ok=True)  # docker refuses to write over one
        account = f"{os.getuid()}:{os.getgid()}"
        options = ["--rm", "--cidfile", str(identity), "--network", "host", "--user", account]
        volume = ["--mount", f"type=bind,source={folder},target={HOME}"]
        variables = [word for pair in _assignments(environment) for word in ("--env", pair)]
        return ["docker", "run", *options, *volume, *variables, "--entrypoint", program[0], self.image, *program[1:]]

    def identify(self, folder: Path, spawned: int) -> Running | None:
        identity = folder.with_name("container")
        container = identity.read_text(encoding="ascii").strip() if identity.exists() else ""
        if not container:
            return None
        state = ("docker", "inspect", "--format", "{{.State.Pid}}", container)
        asked = subprocess.run(state, stdout=PIPE, stderr=DEVNULL, timeout=_SPAWN_S, check=False, text=True)
        pid = int(asked.stdout.strip() or 0)
        return Running((ProcessId.of(pid), ProcessId.of(spawned)), container) if pid else None

    def inside(self, running: Running, environment: Mapping[str, str], program: Sequence[str]) -> list[str]:
        variables = [word for pair in _assignments(environment) for word in ("--env", pair)]
        return ["docker", "exec", *variables, running.container, *program]


async def choose_route(release: Release) -> Route:
    """The cheapest way that works here: what is already on this machine comes before what must be fetched.

    Raises ServiceUnavailable where there is neither a docker engine that can pull nor root.
    """
    engine = await _docker_engine()
    if engine and await _docker("image", "inspect", release.image, timeout=_DOCKER_ANSWERS_S):
        return Docker(release.image)
    chroot_ready = os.geteuid() == 0 and cached_root(release.suite) is not None
    if not chroot_ready and engine and await _docker("pull", release.image, timeout=_DOCKER_PULL_S):
        return Docker(release.image)
    require_privilege()
    return Chroot(await ensure_root(release.suite), release.user)


async def _docker_engine() -> bool:
    return shutil.which("docker") is not None and await _docker("info", timeout=_DOCKER_ANSWERS_S)


async def _docker(*arguments: str, timeout: float) -> bool:
    with anyio.move_on_after(timeout):
        done = await anyio.run_process(("docker", *arguments), stdout=DEVNULL, stderr=STDOUT, check=False)
        return done.returncode == 0
    return False


def _assignments(environment: Mapping[str, str]) -> list[str]:
    return [
        f"{name}={value}" for name, value in {"PATH": _PATH, "HOME": HOME, "LANG": "C.UTF-8", **environment}.items()
    ]

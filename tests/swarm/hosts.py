"""Hosts: network namespaces on one bridge, each with a Docker Engine of its own, and the registry they pull from.

Every host is one process tree in pid, mount, UTS and network namespaces of its own, whose first process is an init. One
SIGKILL to that init is a power cut: the engine, its containers, the mounts and the network card are gone at once, and
the disk stays. The same happens to all of them when this program dies, so a killed run leaves only files and empty
cgroups behind; the next one removes those.
"""

import os
import signal
import subprocess
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

from tests.services.processes import ProcessId
from tests.swarm.shell import DOCKER, SwarmFailed, run, wait_for

MANAGERS = ("manager1", "manager2", "manager3")
WORKERS = ("worker1", "worker2")
NETWORK = "192.168.213"
REGISTRY = f"{NETWORK}.1:5000"
"""Where images are pushed to and pulled from, as every host and this machine see it."""
OUTSIDE = f"{NETWORK}.254"
"""This machine's own address on the hosts' network."""

_LEG = "fogswarm"  # this machine's network card on the hosts' network
_CGROUPS = "fogswarm"
_SPAWN = ("setpriv", "--pdeathsig", "KILL", "unshare", "--mount", "--pid", "--fork", "--kill-child=SIGKILL")
_SPAWN = (*_SPAWN, "--mount-proc", "--uts")
# A /run of its own keeps the engines' sockets, locks and namespaces apart. The network card comes from outside; the
# engine must not start before it is there, so a line on standard input is awaited.
_ENGINE = """
set -e
name=$1
shift
mount -t tmpfs -o mode=755 tmpfs /run
echo "$name" >/proc/sys/kernel/hostname
read -r ready
exec docker-init -- /usr/sbin/dockerd "$@"
"""
_REGISTRY = """
version: 0.1
log: {{level: warn}}
storage:
  filesystem: {{rootdirectory: {storage}}}
  delete: {{enabled: true}}
http: {{addr: ":5000"}}
"""


class Tree:
    """A process tree in namespaces of its own; `pid` is its first process, as this machine numbers it."""

    def __init__(self, log: Path, command: list[str], *, network: bool) -> None:
        namespaces = (*_SPAWN, "--net") if network else _SPAWN
        with log.open("ab") as output:
            # From the main thread only: the kernel sends the death signal when the thread that spawned ends.
            self._process = subprocess.Popen(
                [*namespaces, "--", *command], stdin=subprocess.PIPE, stdout=output, stderr=subprocess.STDOUT
            )
        self.pid = wait_for(f"the first process in {log}", self._first, timeout=20, every=0.01)
        self.identity = ProcessId.of(self.pid)

    def _first(self) -> int | None:
        if self._process.poll() is not None:
            raise SwarmFailed(f"`unshare` ended with exit code {self._process.returncode}")
        pid = self._process.pid
        children = Path(f"/proc/{pid}/task/{pid}/children").read_text(encoding="ascii").split()
        return int(children[0]) if children else None

    def go(self) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write(b"\n")
        self._process.stdin.flush()

    def alive(self) -> bool:
        return self._process.poll() is None

    def terminate(self, timeout: float) -> None:
        """Ask it to stop, wait, then kill. May be called twice."""
        self.identity.signal(signal.SIGTERM)
        with suppress(subprocess.TimeoutExpired):
            self._process.wait(timeout)
        self.kill()

    def kill(self) -> None:
        """End it at once. May be called twice."""
        self.identity.signal(signal.SIGKILL)
        self._process.wait(20)
        if self._process.stdin is not None:
            self._process.stdin.close()


class Engine:
    """One Docker Engine: `docker(...)` runs its client. Without a network it works in this machine's, for builds."""

    def __init__(self, name: str, folder: Path, *, data: Path | None = None, address: str = "") -> None:
        self.name = name
        self.address = address
        self._folder = folder
        self._data = data or folder / "data"
        self.tree: Tree | None = None

    @property
    def socket(self) -> str:
        return f"unix://{self._folder}/docker.sock"

    def volume(self, name: str) -> Path:
        """Where a volume's files lie, as this machine sees them."""
        return self._data / "volumes" / name / "_data"

    def logs(self) -> list[Path]:
        """The files in which the engine keeps what its containers print: a line of JSON for each line."""
        return sorted(self._data.glob("containers/*/*-json.log"))

    @property
    def is_on(self) -> bool:
        return self.tree is not None and self.tree.alive()

    @property
    def pid(self) -> int:
        if self.tree is None or not self.tree.alive():
            raise SwarmFailed(f"{self.name} is off")
        return self.tree.pid

    @property
    def identity(self) -> ProcessId:
        assert self.tree is not None
        return self.tree.identity

    @property
    def log(self) -> str:
        """The last lines of the engine's log."""
        return "\n".join((self._folder / "engine.log").read_text(errors="replace").splitlines()[-20:])

    def spawn(self) -> None:
        """The namespaces exist when it returns; the engine starts with `begin`."""
        self._folder.mkdir(parents=True, exist_ok=True)
        (self._folder / "docker.sock").unlink(missing_ok=True)
        options = {
            "--host": self.socket,
            "--data-root": str(self._data),
            "--cgroup-parent": f"/{_CGROUPS}/{self.name}",
            "--insecure-registry": REGISTRY,
            "--storage-driver": "overlay2",
            "--log-level": "warn",
        }
        # Without a network namespace it must not touch this machine's bridges and packet filter. In one, this machine's
        # name server cannot be reached, and none answers: as at a site that has lost its line.
        alone = ["--bridge=none", "--iptables=false", "--ip-forward=false", "--ip-masq=false"]
        alone = ["--dns", f"{NETWORK}.1"] if self.address else alone
        words = [word for pair in options.items() for word in pair]
        command = ["sh", "-c", _ENGINE, "engine", self.name, *words, *alone]
        self.tree = Tree(self._folder / "engine.log", command, network=bool(self.address))

    def begin(self) -> None:
        assert self.tree is not None
        self.tree.go()

    def wait_ready(self, timeout: float = 120) -> None:
        def ready() -> bool:
            if self.tree is None or not self.tree.alive():
                raise SwarmFailed(f"the engine of {self.name} ended:\n{self.log}")
            command = (DOCKER, "--host", self.socket, "version", "--format", "{{.Server.Version}}")
            try:
                return subprocess.run(command, capture_output=True, timeout=20, check=False).returncode == 0
            except subprocess.TimeoutExpired:  # a manager that comes back looks for the others first
                return False

        wait_for(f"the engine of {self.name}", ready, timeout=timeout)

    def docker(self, *arguments: str, timeout: float = 60, stdin: str | None = None) -> str:
        """What the client printed. Raises SwarmFailed."""
        return run((DOCKER, "--host", self.socket, *arguments), timeout=timeout, stdin=stdin)

    def inside(self, *command: str, timeout: float = 20) -> str:
        """Run a program of this machine in the host's network, for `ip` and `iptables`."""
        return run(("nsenter", f"--net=/proc/{self.pid}/ns/net", "--", *command), timeout=timeout)

    def power_cut(self) -> None:
        """Everything on it ends this instant; its disk stays."""
        if self.tree is not None:
            self.tree.kill()
            remove_cgroups(f"{_CGROUPS}/{self.name}")

    def stop(self, timeout: float = 30) -> None:
        if self.tree is not None:
            self.tree.terminate(timeout)
            remove_cgroups(f"{_CGROUPS}/{self.name}")


class Hosts:
    """Five hosts that form a Swarm (three managers), and a registry. `close` ends all of it.

    `folder` is for this run's files, `images` holds what the registry has and may be kept. The hosts' names are those
    of the reference: manager1 to manager3, worker1 and worker2.
    """

    def __init__(self, folder: Path, images: Path) -> None:
        self._folder = folder
        self._images = images
        self._lan: Tree | None = None
        names = (*MANAGERS, *WORKERS)
        self.engines = {
            name: Engine(name, folder / name, address=f"{NETWORK}.{11 + i}") for i, name in enumerate(names)
        }

    def __getitem__(self, name: str) -> Engine:
        return self.engines[name]

    def start(self) -> None:
        """The network and the registry run (`start_lan`); start the engines, all at once."""
        for engine in self.engines.values():
            self._connect(engine)
        with ThreadPoolExecutor() as pool:
            list(pool.map(Engine.wait_ready, self.engines.values()))

    def identities(self) -> list[ProcessId]:
        """The first process of each tree: when these have ended, nothing of it runs."""
        trees = [self._lan, *(engine.tree for engine in self.engines.values())]
        return [tree.identity for tree in trees if tree is not None]

    def close(self) -> None:
        """End everything at once. May be called twice."""
        trees = [self._lan, *(engine.tree for engine in self.engines.values())]
        for tree in trees:
            if tree is not None:
                tree.identity.signal(signal.SIGKILL)
        for tree in trees:
            if tree is not None:
                tree.kill()
        remove_cgroups()
        remove_leg()

    def form_swarm(self) -> None:
        """Make three managers and two workers one Swarm, without the routing mesh: docs/failover.md says why."""
        first = self.engines[MANAGERS[0]]
        first.docker("swarm", "init", "--advertise-addr", first.address)
        first.docker("network", "rm", "ingress", stdin="y\n")
        tokens = {role: first.docker("swarm", "join-token", "--quiet", role).strip() for role in ("manager", "worker")}
        for name in (*MANAGERS[1:], *WORKERS):
            engine = self.engines[name]
            token = tokens["manager" if name in MANAGERS else "worker"]
            engine.docker(
                "swarm", "join", "--advertise-addr", engine.address, "--token", token, f"{first.address}:2377"
            )

    def power_cut(self, name: str) -> None:
        """All that runs on the host ends this instant; its disk stays."""
        self._on_lan("ip", "link", "delete", _card(name))  # the kernel would take its time to
        self.engines[name].power_cut()

    def power_on(self, name: str) -> None:
        """Start a host again after a power cut, with the disk it had."""
        self._connect(self.engines[name])
        self.engines[name].wait_ready()

    def link(self, name: str, *, up: bool) -> None:
        """Pull the network cable of a host, or put it back."""
        self._on_lan("ip", "link", "set", _card(name), "up" if up else "down")

    def start_lan(self) -> None:
        """The network of the hosts and the registry on it."""
        self._folder.mkdir(parents=True)
        self._images.mkdir(parents=True, exist_ok=True)
        config = self._folder / "registry.yml"
        config.write_text(_REGISTRY.format(storage=self._images), encoding="utf-8")
        registry = ["docker-registry", "serve", str(config)]
        self._lan = Tree(self._folder / "registry.log", registry, network=True)
        self._on_lan("ip", "link", "set", "lo", "up")
        self._on_lan("ip", "link", "add", "bridge", "type", "bridge")
        self._on_lan("ip", "addr", "add", f"{NETWORK}.1/24", "dev", "bridge")
        self._on_lan("ip", "link", "set", "bridge", "up")
        run(("ip", "link", "add", _LEG, "type", "veth", "peer", "name", "outside", "netns", str(self._lan.pid)))
        run(("ip", "addr", "add", f"{OUTSIDE}/24", "dev", _LEG))
        run(("ip", "link", "set", _LEG, "up"))
        self._plug("outside")

    def _connect(self, engine: Engine) -> None:
        assert self._lan is not None
        engine.spawn()
        card = _card(engine.name)
        self._on_lan("ip", "link", "add", card, "type", "veth", "peer", "name", "eth0", "netns", str(engine.pid))
        self._plug(card)
        engine.inside("ip", "link", "set", "lo", "up")
        engine.inside("ip", "addr", "add", f"{engine.address}/24", "dev", "eth0")
        engine.inside("ip", "link", "set", "eth0", "up")
        engine.inside("ip", "route", "add", "default", "via", f"{NETWORK}.1")
        engine.inside("sh", "-c", "echo 5 >/proc/sys/net/ipv4/tcp_retries2")  # as docs/swarm.md has it
        engine.begin()

    def _plug(self, card: str) -> None:
        self._on_lan("ip", "link", "set", card, "master", "bridge", "up")

    def _on_lan(self, *command: str) -> None:
        assert self._lan is not None
        run(("nsenter", f"--net=/proc/{self._lan.pid}/ns/net", "--", *command))


def _card(name: str) -> str:
    return f"v-{name}"


def remove_leg() -> None:
    """This machine's end of the hosts' network; the kernel removes it too, some time after the namespace has ended."""
    if Path("/sys/class/net", _LEG).exists():
        subprocess.run(("ip", "link", "delete", _LEG), capture_output=True, check=False, timeout=20)


def remove_cgroups(parent: str = _CGROUPS) -> None:
    """Remove the empty groups that killed containers left; those of a process that has not ended yet are waited for."""
    deadline = time.monotonic() + 10
    for root in Path("/sys/fs/cgroup").glob(f"*/{parent}"):
        for folder, _, _ in os.walk(root, topdown=False):
            while True:
                try:
                    Path(folder).rmdir()
                    break
                except FileNotFoundError:
                    break
                except OSError:
                    if time.monotonic() > deadline:
                        raise SwarmFailed(f"{folder} still has processes") from None
                    time.sleep(0.05)

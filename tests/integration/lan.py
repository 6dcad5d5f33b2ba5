"""Three hosts in network namespaces of their own on this machine, on two networks: one on which the brokers talk to
each other, which can be cut, and one for Redis and clients, which cannot. Needs root on Linux.

Nothing of it is in this machine's own network. A program enters it for as long as it tests (`Lan.entered`).
"""

from __future__ import annotations

import ctypes
import os
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path

import anyio

from tests.services import ServiceUnavailable
from tests.services.archive import ensure_tools
from tests.services.roots import require_privilege
from tests.swarm.hosts import Tree
from tests.swarm.shell import run

AMONG = "10.213.1"
"""The network of the brokers among themselves; names resolve to addresses there."""
CLIENTS = "10.213.2"
OUTSIDE = f"{CLIENTS}.254"
"""Where Redis and the clients are."""
_NOBODY = "02:00:00:00:00:01"
"""A card that no host has: what is sent to it is lost without a word."""
_TOOLS = {"ip": "iproute2", "unshare": "util-linux", "nsenter": "util-linux", "setpriv": "util-linux"}
_CLONE_NEWNET = 0x40000000


class Host:
    """`among`: its address on the brokers' network; `address`: where clients reach it."""

    def __init__(self, name: str, number: int, tree: Tree, hosts: Path) -> None:
        self.name = name
        self.among = f"{AMONG}.{number}"
        self.address = f"{CLIENTS}.{number}"
        self.card = f"w-{name}"
        self.tree = tree
        inside = 'mount --bind "$0" /etc/hosts && exec "$@"'
        self.enter = (*_enter(tree), "unshare", "--mount", "sh", "-c", inside, str(hosts))
        """Words before a program that is to run there. The process that they start becomes the program."""


class Lan:
    """Made by `open`, which also ends it."""

    def __init__(self, lan: Tree, hosts: dict[str, Host]) -> None:
        self._lan = lan
        self.hosts = hosts

    @classmethod
    @contextmanager
    def open(cls, folder: Path, names: tuple[str, ...]) -> Iterator[Lan]:
        """From the main thread only: all of it ends with the thread that began it. Raises `ServiceUnavailable`."""
        if os.uname().sysname != "Linux":
            raise ServiceUnavailable("hosts in network namespaces need Linux")
        require_privilege()
        anyio.run(partial(ensure_tools, **_TOOLS))
        hosts_file = folder / "hosts"
        rows = [("127.0.0.1", "localhost"), *((f"{AMONG}.{number}", name) for number, name in enumerate(names, 1))]
        hosts_file.write_text("".join(f"{address} {name}\n" for address, name in rows))
        with ExitStack() as stack:

            def tree(name: str) -> Tree:
                made = Tree(folder / f"{name}.log", ["sleep", "infinity"], network=True)
                stack.callback(made.kill)
                return made

            lan = cls(
                tree("lan"), {name: Host(name, number, tree(name), hosts_file) for number, name in enumerate(names, 1)}
            )
            lan._connect()
            yield lan

    @contextmanager
    def entered(self) -> Iterator[None]:
        """This thread, and what it starts, is on the clients' network at `OUTSIDE`, and no more in this machine's."""
        with Path("/proc/thread-self/ns/net").open() as home, Path(f"/proc/{self._lan.pid}/ns/net").open() as there:
            _go(there.fileno())
            try:
                yield
            finally:
                _go(home.fileno())

    @contextmanager
    def cut(self, name: str) -> Iterator[None]:
        """What this broker and the others say to each other is lost, without a word to either."""
        card = self.hosts[name].card
        self._on_lan("ip", "link", "set", card, "nomaster")
        try:
            yield
        finally:
            self._plug(card, "among")

    @contextmanager
    def cut_between(self, one: str, other: str) -> Iterator[None]:
        """As `cut`, but each of the two still reaches all others."""
        pair = [(self.hosts[a], self.hosts[b]) for a, b in ((one, other), (other, one))]
        for host, away in pair:
            lost = ("lladdr", _NOBODY, "dev", "among", "nud", "permanent")
            run((*_enter(host.tree), "ip", "neigh", "replace", away.among, *lost))
        try:
            yield
        finally:
            for host, away in pair:
                run((*_enter(host.tree), "ip", "neigh", "del", away.among, "dev", "among"))

    def _connect(self) -> None:
        self._on_lan("ip", "link", "set", "lo", "up")
        for network in ("among", "clients"):
            self._on_lan("ip", "link", "add", network, "type", "bridge")
            self._on_lan("ip", "link", "set", network, "up")
        self._on_lan("ip", "addr", "add", f"{OUTSIDE}/24", "dev", "clients")
        for host in self.hosts.values():
            run((*_enter(host.tree), "ip", "link", "set", "lo", "up"))
            cards = {"among": (host.card, host.among), "clients": (f"c-{host.name}", host.address)}
            for network, (card, address) in cards.items():
                peer = ("peer", "name", network, "netns", str(host.tree.pid))
                self._on_lan("ip", "link", "add", card, "type", "veth", *peer)
                self._plug(card, network)
                run((*_enter(host.tree), "ip", "addr", "add", f"{address}/24", "dev", network))
                run((*_enter(host.tree), "ip", "link", "set", network, "up"))

    def _plug(self, card: str, network: str) -> None:
        self._on_lan("ip", "link", "set", card, "master", network, "up")

    def _on_lan(self, *command: str) -> None:
        run((*_enter(self._lan), *command))


def _enter(tree: Tree) -> tuple[str, ...]:
    return ("nsenter", f"--net=/proc/{tree.pid}/ns/net", "--")


def _go(namespace: int) -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.setns(namespace, _CLONE_NEWNET) != 0:
        raise OSError(ctypes.get_errno(), "this thread cannot enter a network namespace")

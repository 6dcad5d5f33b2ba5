"""What is wrong with a swarm before the stack is put on it, as pure functions of what was found.

The figures are what the stack needs to run as it is measured; a host with less of them may do for a try.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, Literal

from fogactors.app.swarm.hosts import HostFacts
from fogactors.app.swarm.nodes import SwarmNode
from fogactors.app.swarm.stack import Stack

__all__ = ["ENGINE", "Finding", "Need", "examine", "needs_of", "places_of"]

ENGINE: Final = (20, 10)
"""The oldest Docker Engine: it has jobs, and configs and secrets with templates."""
DISK_MB: Final = 10 * 1024
RETRIES: Final = 8
"""`net.ipv4.tcp_retries2`: a connection to a host without power is given up after 100 s; with 5, as docs/swarm.md has
it, after 13; with Linux' own 15 after a quarter of an hour."""
_SPARE: Final = 0.9
"""A machine that is sold with 4 GB has a little less: the kernel and the firmware take their part before us."""
_LABEL: Final = re.compile(r"\s*node\.labels\.([\w.-]+)\s*==\s*(\S+)\s*")
_ROLE: Final = re.compile(r"\s*node\.role\s*==\s*(\S+)\s*")


@dataclass(frozen=True, slots=True)
class Finding:
    """`error`: the stack will not come up whole. `warning`: it will, and one day somebody is sorry."""

    level: Literal["error", "warning"]
    about: str
    text: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Need:
    """What one service needs of a host. `constraints`: as stack.yml has them. `ports`: published on the host itself.
    `pinned`: it has a volume there. `broker`: it is a node of the cluster."""

    service: str
    constraints: tuple[str, ...]
    memory_mb: int = 0
    ports: tuple[int, ...] = ()
    pinned: bool = False
    broker: bool = False


def needs_of(stack: Stack) -> list[Need]:
    """What each service of the files needs."""
    found: list[Need] = []
    for service, described in stack.services.items():
        volumes: list[dict[str, Any]] = described.get("volumes") or []
        constraints = stack.constraint(service)
        found.append(
            Need(
                service=service,
                constraints=tuple(constraints.split(" and ")) if constraints else (),
                memory_mb=stack.memory_mb(service),
                ports=tuple(stack.ports.get(service, ())),
                pinned=any(each["type"] == "volume" for each in volumes),
                broker=service in stack.brokers,
            )
        )
    return found


def places_of(need: Need, nodes: Iterable[SwarmNode]) -> list[SwarmNode]:
    """The nodes on which docker may put it, whether they are ready or not."""
    return [node for node in nodes if all(_meets(each, node) for each in need.constraints)]


def _meets(constraint: str, node: SwarmNode) -> bool:
    if found := _LABEL.fullmatch(constraint):
        return node.labels.get(found[1]) == found[2]
    if found := _ROLE.fullmatch(constraint):
        return found[1] == ("manager" if node.manager else "worker")
    return True  # one that we do not know is docker's to judge


def examine(
    nodes: Sequence[SwarmNode],
    needs: Sequence[Need],
    hosts: Mapping[str, HostFacts] | None = None,
    running: Collection[str] = (),
) -> list[Finding]:
    """All that is wrong, errors first. `hosts`: what they said of themselves, None: nobody was asked. `running`:
    services that are there already, whose ports are taken by themselves."""
    found = [*_managers(nodes), *_engines(nodes), *_placement(nodes, needs), *_size(nodes, needs)]
    if hosts is not None:
        found += [*_disks(nodes, hosts), *_ports(nodes, needs, hosts, running), *_patience(nodes, hosts)]
    return sorted(found, key=lambda each: each.level != "error")


def _managers(nodes: Sequence[SwarmNode]) -> Iterator[Finding]:
    managers = [node for node in nodes if node.manager]
    for node in nodes:
        if not node.ready:
            yield Finding("error", node.name, "takes no tasks: it is down, drained or paused")
        elif not node.reachable:
            yield Finding("error", node.name, "is a manager that the others do not reach")
    if len(managers) < 3:
        few = "one manager" if len(managers) == 1 else f"{len(managers)} managers"
        yield Finding("warning", "swarm", f"has {few}: it takes three to survive the loss of one")
    elif len(managers) % 2 == 0:
        text = f"has {len(managers)} managers, which survive no more losses than {len(managers) - 1} do"
        yield Finding("warning", "swarm", text)


def _engines(nodes: Sequence[SwarmNode]) -> Iterator[Finding]:
    for node in nodes:
        found = re.match(r"v?(\d+)\.(\d+)", node.engine)
        if found is None:
            yield Finding("warning", node.name, f"says no version of Docker Engine that we can read: {node.engine!r}")
        elif (int(found[1]), int(found[2])) < ENGINE:
            oldest = ".".join(f"{part:02}" for part in ENGINE)
            yield Finding("error", node.name, f"has Docker Engine {node.engine}; {oldest} or newer is needed")


def _placement(nodes: Sequence[SwarmNode], needs: Sequence[Need]) -> Iterator[Finding]:
    brokers: dict[str, list[str]] = {}
    for need in needs:
        places = places_of(need, nodes)
        if not places:
            wanted = " and ".join(need.constraints)
            yield Finding("error", need.service, f"has no host: none is {wanted}; `make label` sets the labels")
        elif need.pinned and len(places) > 1:
            names = ", ".join(node.name for node in places)
            text = f"may run on {names}: its volume is on one of them, and it would start without its data elsewhere"
            yield Finding("error", need.service, text)
        if need.broker:
            for node in places:
                brokers.setdefault(node.name, []).append(need.service)
    for name, services in brokers.items():
        if len(services) > 1:
            text = f"has {', '.join(services)}: with this host the majority is lost, or half of it"
            yield Finding("warning", name, text)


def _size(nodes: Sequence[SwarmNode], needs: Sequence[Need]) -> Iterator[Finding]:
    """2 cores and 4 GB where a broker runs, 1 core and 2 GB elsewhere; and the sum of the limits of what is pinned."""
    for node in nodes:
        here = [need for need in needs if node in places_of(need, nodes)]
        if not here:
            continue
        cores, memory_mb = (2, 4096) if any(need.broker for need in here) else (1, 2048)
        memory_mb = max(memory_mb, sum(need.memory_mb for need in here if need.pinned))
        if node.cpus < cores:
            yield Finding("error", node.name, f"has {node.cpus:g} CPU cores; {cores} are needed")
        if node.memory_mb < memory_mb * _SPARE:
            yield Finding("error", node.name, f"has {node.memory_mb} MiB of memory; {memory_mb} are needed")


def _disks(nodes: Sequence[SwarmNode], hosts: Mapping[str, HostFacts]) -> Iterator[Finding]:
    for node in nodes:
        facts = hosts.get(node.name)
        if facts is None:
            if node.ready:
                yield Finding("warning", node.name, "did not say how much disk it has and which ports are free")
        elif facts.disk_free_mb < DISK_MB:
            yield Finding("error", node.name, f"has {facts.disk_free_mb} MiB of disk free; {DISK_MB} are needed")


def _ports(
    nodes: Sequence[SwarmNode], needs: Sequence[Need], hosts: Mapping[str, HostFacts], running: Collection[str]
) -> Iterator[Finding]:
    for need in needs:
        if need.service in running:
            continue
        for node in places_of(need, nodes):
            facts = hosts.get(node.name)
            for port in need.ports:
                if facts is not None and port in facts.taken:
                    text = f"port {port}, which {need.service} publishes, is taken by something else"
                    yield Finding("error" if need.pinned else "warning", node.name, text)


def _patience(nodes: Sequence[SwarmNode], hosts: Mapping[str, HostFacts]) -> Iterator[Finding]:
    late = [node.name for node in nodes if (facts := hosts.get(node.name)) and (facts.tcp_retries2 or 0) > RETRIES]
    if late:
        text = "keeps connections to a host that lost power for minutes, and finds it late when it is back; `sysctl -w "
        yield Finding("warning", ", ".join(late), f"{text}net.ipv4.tcp_retries2=5`, and a file in /etc/sysctl.d")

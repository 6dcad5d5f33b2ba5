"""The swarm's nodes as docker describes them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from fogactors.app.swarm.docker import Docker

__all__ = ["SwarmNode", "node_of", "nodes"]


@dataclass(frozen=True, slots=True)
class SwarmNode:
    """`cpus`: cores; `memory_mb`: MiB; `engine`: its version, e.g. 27.3.1. `ready`: it runs and takes tasks.
    `reachable`: of a manager, the others see it."""

    id: str
    name: str
    manager: bool
    ready: bool = True
    reachable: bool = True
    address: str = ""
    engine: str = ""
    cpus: float = 0.0
    memory_mb: int = 0
    labels: Mapping[str, str] = field(default_factory=dict[str, str])


def node_of(found: Mapping[str, Any]) -> SwarmNode:
    """From what `docker node inspect` says."""
    spec, status = _part(found, "Spec"), _part(found, "Status")
    description = _part(found, "Description")
    resources, engine = _part(description, "Resources"), _part(description, "Engine")
    manager = _part(found, "ManagerStatus")
    return SwarmNode(
        id=found["ID"],
        name=description.get("Hostname") or found["ID"],
        manager=spec.get("Role") == "manager",
        ready=status.get("State") == "ready" and spec.get("Availability") == "active",
        reachable=not manager or manager.get("Reachability") == "reachable",
        address=status.get("Addr", ""),
        engine=engine.get("EngineVersion", ""),
        cpus=resources.get("NanoCPUs", 0) / 1e9,
        memory_mb=resources.get("MemoryBytes", 0) // 1_048_576,
        labels=dict(_part(spec, "Labels")),
    )


def _part(found: Mapping[str, Any], key: str) -> Mapping[str, Any]:
    return found.get(key) or {}


def nodes(docker: Docker) -> list[SwarmNode]:
    """All of them, managers first, by name. Raises `DockerFailed`, also where this is no manager."""
    ids = docker.run("node", "ls", "--quiet").split()
    found = [node_of(each) for each in docker.inspect("node", *ids)]
    return sorted(found, key=lambda node: (not node.manager, node.name))

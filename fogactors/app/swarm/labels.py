"""Labels of the swarm's nodes: which host keeps which broker's volume, and which ones run tasks.

A label has a value here, `manager-master=true`: a placement constraint compares one. A label without a value, as the
shell-script scheduler set it, places nothing.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from fogactors.app.swarm.docker import Docker
from fogactors.app.swarm.nodes import SwarmNode
from fogactors.errors import ConfigError

__all__ = ["PLACES", "Change", "apply_labels", "plan_labels"]

PLACES: Final[Mapping[str, Mapping[str, str]]] = {
    "manager-master": {"manager-master": "true"},
    "manager-rep1": {"manager-rep1": "true"},
    "manager-rep2": {"manager-rep2": "true"},
    "worker1": {"worker1": "true", "fog": "1"},
    "worker2": {"worker2": "true", "fog": "3"},
}
"""Place to its labels. `fog=1` runs tasks of the light tier, `fog=3` those of the medium and the heavy one."""

_MANAGER: Final = "manager-"


@dataclass(frozen=True, slots=True)
class Change:
    """Labels to set on a node, and to take away from it."""

    node: str
    place: str
    add: Mapping[str, str]
    remove: tuple[str, ...] = ()


def plan_labels(found: Sequence[SwarmNode], asked: Mapping[str, str]) -> list[Change]:
    """What to change so that each place has its node. `asked`: place to node, as the operator wants it. A place that is
    not asked for stays where it is; else managers by name, then other nodes by name, take those that are free.

    One node may have several manager places when it is asked so (a swarm of one machine, to try things out), but not
    both worker places: `fog` has one value. Raises `ConfigError`.
    """
    names = {node.name: node for node in found}
    chosen: dict[str, SwarmNode] = {}
    for place, name in asked.items():
        if name not in names:
            raise ConfigError(f"there is no node {name!r}; there are {', '.join(sorted(names))}")
        chosen[place] = names[name]
    for place in PLACES.keys() - chosen.keys():
        holders = [node for node in found if place in node.labels and node not in chosen.values()]
        if len(holders) > 1:
            shown = ", ".join(node.name for node in holders)
            raise ConfigError(f"{place} is on {shown}: say which one, e.g. --{place} {holders[0].name}")
        if holders:
            chosen[place] = holders[0]
    for place, node in chosen.items():
        if place.startswith(_MANAGER) and not node.manager:
            raise ConfigError(f"{place} must be a manager, and {node.name} is none: `docker node promote {node.name}`")
    for place in PLACES:
        if place not in chosen:
            chosen[place] = _free(place, found, chosen)
    if chosen["worker1"] == chosen["worker2"]:
        raise ConfigError(f"worker1 and worker2 must be two nodes, and both are {chosen['worker1'].name}")
    return [change for place in PLACES for change in _changes(place, chosen, found)]


def _free(place: str, found: Sequence[SwarmNode], chosen: Mapping[str, SwarmNode]) -> SwarmNode:
    manager = place.startswith(_MANAGER)
    taken = [node for other, node in chosen.items() if other.startswith(_MANAGER) == manager]
    free = [node for node in found if node.manager == manager and node not in taken]
    if not free:
        kind = "manager" if manager else "worker"
        text = f"{place} has no node: this swarm has no {kind} that is free"
        raise ConfigError(f"{text}; let another one join, or name one, e.g. --{place} {found[0].name}")
    return free[0]


def _changes(place: str, chosen: Mapping[str, SwarmNode], found: Sequence[SwarmNode]) -> list[Change]:
    node, wanted = chosen[place], PLACES[place]
    changes: list[Change] = []
    for other in found:
        # `fog` stays where no place holds it: more machines of a tier are the operator's own decision.
        if other != node and place in other.labels:
            gone = tuple(key for key in wanted if key in other.labels and not _held(key, other, chosen))
            changes.append(Change(other.name, place, {}, gone))
    add = {key: value for key, value in wanted.items() if node.labels.get(key) != value}
    return [*changes, Change(node.name, place, add)] if add else changes


def _held(key: str, node: SwarmNode, chosen: Mapping[str, SwarmNode]) -> bool:
    return any(each == node and key in PLACES[place] for place, each in chosen.items())


def apply_labels(docker: Docker, changes: Sequence[Change], found: Sequence[SwarmNode]) -> None:
    """Raises `DockerFailed`."""
    ids = {node.name: node.id for node in found}
    for change in changes:
        words = [word for key, value in change.add.items() for word in ("--label-add", f"{key}={value}")]
        words += [word for key in change.remove for word in ("--label-rm", key)]
        docker.run("node", "update", *words, ids[change.node])

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

__all__ = ["BROKERS", "MASTER", "PLACES", "Change", "apply_labels", "choose", "consequences", "plan_labels"]

MASTER: Final = "manager-master"
PLACES: Final[Mapping[str, Mapping[str, str]]] = {
    MASTER: {MASTER: "true"},
    "manager-rep1": {"manager-rep1": "true"},
    "manager-rep2": {"manager-rep2": "true"},
    "worker1": {"worker1": "true", "fog": "1"},
    "worker2": {"worker2": "true", "fog": "3"},
}
"""Place to its labels. `fog=1` runs tasks of the light tier, `fog=3` those of the medium and the heavy one."""
BROKERS: Final[Mapping[str, str]] = {
    MASTER: "rabbitmq1",
    "manager-rep1": "rabbitmq2",
    "manager-rep2": "rabbitmq3",
}
"""Place to the broker that runs there, by its service."""

_MANAGER: Final = "manager-"
_NO_TASKS: Final = "takes no tasks: it is down, drained or paused"


@dataclass(frozen=True, slots=True)
class Change:
    """Labels to set on a node, and to take away from it. `node`: its name, for people; `id`: for docker, because two
    nodes may have one name (a host that was set up anew)."""

    node: str
    id: str
    place: str
    add: Mapping[str, str]
    remove: tuple[str, ...] = ()


def choose(found: Sequence[SwarmNode], asked: Mapping[str, str]) -> dict[str, SwarmNode]:
    """The node of each place. `asked`: place to node, by name or id, as the operator wants it. A place that is not
    asked for stays where it is; else managers by name, then other nodes by name, take those that are free.

    One node may have several manager places when it is asked so (a swarm of one machine, to try things out), but not
    both worker places: `fog` has one value. Raises `ConfigError`.
    """
    chosen = {place: _named(name, found) for place, name in asked.items()}
    # Who gets a place that it has not had gives up what it has of the kind.
    new = {(_is_manager(place), node.id) for place, node in chosen.items() if place not in node.labels}
    for place in [place for place in PLACES if place not in asked]:
        holders = [node for node in found if place in node.labels and (_is_manager(place), node.id) not in new]
        if len(holders) > 1 and len({node.name for node in holders}) == 1:
            holders = [node for node in holders if node.ready] or holders
        if len(holders) > 1:
            shown = ", ".join(_called(node, found) for node in holders)
            one = holders[0]
            raise ConfigError(f"{place} is on {shown}: say which one, e.g. --{place} {_word(one, found)}")
        if holders:
            chosen[place] = holders[0]
    for place, node in chosen.items():
        if _is_manager(place) and not node.manager:
            text = f"{place} must be a manager, and {_called(node, found)} is none"
            raise ConfigError(f"{text}: `docker node promote {_word(node, found)}`")
    for place in PLACES:
        if place not in chosen:
            chosen[place] = _free(place, found, chosen)
    if chosen["worker1"].id == chosen["worker2"].id:
        raise ConfigError(f"worker1 and worker2 must be two nodes, and both are {_called(chosen['worker1'], found)}")
    return {place: chosen[place] for place in PLACES}


def plan_labels(found: Sequence[SwarmNode], chosen: Mapping[str, SwarmNode]) -> list[Change]:
    """What to change so that each place has its node."""
    return [change for place in PLACES for change in _changes(place, chosen, found)]


def consequences(
    found: Sequence[SwarmNode], chosen: Mapping[str, SwarmNode], stack: str, *, running: bool
) -> list[str]:
    """What the operator must know of it, a line each. `running`: the services of `stack` are there. Raises
    `ConfigError` when two of its brokers would be without their data at once."""
    moves = {place: old for place in BROKERS if (old := _old(place, chosen[place], found)) is not None}
    if running:
        _check(moves, chosen, found)
    said = [_of_move(place, old, chosen[place], found, stack) for place, old in moves.items()]
    return [text for text in said if text] + [
        f"{place} is on {_called(node, found)}, which {_NO_TASKS}; {_way_out(place, node, found)}"
        for place, node in chosen.items()
        if not node.ready
    ]


def _old(place: str, new: SwarmNode, found: Sequence[SwarmNode]) -> SwarmNode | None:
    """Where its broker is until now. A label of another value has placed nothing."""
    held = [node for node in found if node.labels.get(place) == PLACES[place][place]]
    return held[0] if held and new.id not in {node.id for node in held} else None


def _check(moves: Mapping[str, SwarmNode], chosen: Mapping[str, SwarmNode], found: Sequence[SwarmNode]) -> None:
    places = list(moves)
    ways = [f"from {_called(old, found)} to {_called(chosen[place], found)}" for place, old in moves.items()]
    away = _away(moves, chosen, found)
    if len(moves) > 1:
        more = [f" and {place} {way}" for place, way in zip(places[1:], ways[1:], strict=True)]
        problem = f"{places[0]} would go {ways[0]}{''.join(more)} at once"
    elif away and any(old.ready for old in moves.values()):  # one that is down already takes nothing with it
        problem = f"{places[0]} would go {ways[0]} while {away}"
    else:
        return
    raise ConfigError(
        f"{problem}, and two brokers that begin without data have no majority to take them in; move one when "
        "`fogactors swarm rabbitmq` says that the cluster is whole, and the next when it says so again"
    )


def _away(moves: Mapping[str, SwarmNode], chosen: Mapping[str, SwarmNode], found: Sequence[SwarmNode]) -> str:
    """A broker that stays and does not run, as far as its node says it."""
    for place in BROKERS:
        node = chosen[place]
        if place not in moves and not node.ready:
            return f"{place} is on {_called(node, found)}, which takes no tasks"
        if place not in moves and node.labels.get(place) != PLACES[place][place]:
            return f"{place} has only now got {_called(node, found)}"
    return ""


def _of_move(place: str, old: SwarmNode, new: SwarmNode, found: Sequence[SwarmNode], stack: str) -> str:
    if old.name == new.name and not old.ready:
        return ""  # the same host, set up anew: no broker has run elsewhere meanwhile
    broker = BROKERS[place]
    text = (
        f"{broker} begins without data on {_called(new, found)}, and is taken in again once the others run; its volume "
        f"on {_called(old, found)} is out of date from now on: `docker volume rm {stack}_{broker}-data` there before "
        f"{place} ever comes back to it"
    )
    redis = "; Redis goes with it, and has no data there until `fogactors swarm restore`"
    return text + (redis if place == MASTER else "")


def _way_out(place: str, node: SwarmNode, found: Sequence[SwarmNode]) -> str:
    others = [each for each in found if each.name == node.name and each.ready]
    if others:
        return f"--{place} {others[0].id} gives it to the other {node.name}"
    return f"--{place} NODE gives it to another"


def _is_manager(place: str) -> bool:
    return place.startswith(_MANAGER)


def _named(name: str, found: Sequence[SwarmNode]) -> SwarmNode:
    """By name or id; of several of one name the one that is up."""
    same = [node for node in found if name in (node.name, node.id)]
    if not same:
        raise ConfigError(f"there is no node {name!r}; there are {', '.join(sorted({node.name for node in found}))}")
    ready = [node for node in same if node.ready]
    if len(same) == 1 or len(ready) == 1:
        return (ready or same)[0]
    ids = " or ".join(sorted(node.id for node in ready or same))
    if ready:
        raise ConfigError(f"{len(same)} nodes are called {name}, and more than one is up: say which by its id, {ids}")
    text = f"{len(same)} nodes are called {name}, and none takes tasks"
    raise ConfigError(f"{text}; `docker node rm` with the id of the one that is gone for good, {ids}")


def _called(node: SwarmNode, found: Sequence[SwarmNode]) -> str:
    word = _word(node, found)
    return node.name if word == node.name else f"{node.name} ({word})"


def _word(node: SwarmNode, found: Sequence[SwarmNode]) -> str:
    """What names it and no other."""
    return node.id if sum(each.name == node.name for each in found) > 1 else node.name


def _free(place: str, found: Sequence[SwarmNode], chosen: Mapping[str, SwarmNode]) -> SwarmNode:
    manager = _is_manager(place)
    taken = {node.id for other, node in chosen.items() if _is_manager(other) == manager}
    free = [node for node in found if node.manager == manager and node.id not in taken]
    if not free:
        kind = "manager" if manager else "worker"
        text = f"{place} has no node: this swarm has no {kind} that is free"
        raise ConfigError(f"{text}; let another one join, or name one, e.g. --{place} {_word(found[0], found)}")
    return next((node for node in free if node.ready), free[0])


def _changes(place: str, chosen: Mapping[str, SwarmNode], found: Sequence[SwarmNode]) -> list[Change]:
    node, wanted = chosen[place], PLACES[place]
    changes: list[Change] = []
    for other in found:
        # `fog` stays where no place holds it: more machines of a tier are the operator's own decision.
        if other.id != node.id and place in other.labels:
            gone = tuple(key for key in wanted if key in other.labels and not _held(key, other, chosen))
            changes.append(Change(_called(other, found), other.id, place, {}, gone))
    add = {key: value for key, value in wanted.items() if node.labels.get(key) != value}
    return [*changes, Change(_called(node, found), node.id, place, add)] if add else changes


def _held(key: str, node: SwarmNode, chosen: Mapping[str, SwarmNode]) -> bool:
    return any(each.id == node.id and key in PLACES[place] for place, each in chosen.items())


def apply_labels(docker: Docker, changes: Sequence[Change]) -> None:
    """Raises `DockerFailed`."""
    for change in changes:
        words = [word for key, value in change.add.items() for word in ("--label-add", f"{key}={value}")]
        words += [word for key in change.remove for word in ("--label-rm", key)]
        docker.run("node", "update", *words, change.id)

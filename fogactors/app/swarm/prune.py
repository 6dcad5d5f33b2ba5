"""Take away the secrets and configuration files that no service has any more. Neither can be changed, so that each new
content leaves one behind: after a year of renewals a swarm would hold every password it ever had.

The ones before stay, in two ways: what docker would roll a service back to, which counts from one update of that
service to the next, and the newest of each key that nothing uses, which is there also after a deploy that changed
nothing.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final

from fogactors.app.swarm.docker import Docker, DockerFailed
from fogactors.app.swarm.services import NAMESPACE

__all__ = ["prune", "superseded"]

_VERSIONED: Final = re.compile(r"(.+)_[0-9a-f]{8}")
_KINDS: Final = {"secret": "Secrets", "config": "Configs"}


def prune(docker: Docker, stack: str) -> tuple[list[str], list[str]]:
    """Remove the stack's secrets and configs that are superseded: their names, and a line for each that docker would
    not remove. Call it when the new ones are up. Raises `DockerFailed`."""
    services = docker.inspect("service", *sorted(docker.names("service")))  # also those of others, which may use them
    removed: list[str] = []
    problems: list[str] = []
    for kind in _KINDS:
        label = "fog.key" if kind == "secret" else f"{NAMESPACE}={stack}"
        names = sorted(docker.names(kind, "--filter", f"label={label}"))
        there = docker.inspect_kind(kind, *names)
        for name in superseded(kind, stack, there, services):
            try:
                docker.run(kind, "rm", name)
            except DockerFailed as error:
                problems.append(str(error))
            else:
                removed.append(name)
    return removed, problems


def superseded(
    kind: str, stack: str, there: Sequence[Mapping[str, Any]], services: Sequence[Mapping[str, Any]]
) -> list[str]:
    """Names of those, as docker inspects them, that no service has or would be rolled back to; without the newest of
    each key."""
    used = {name for service in services for name in _used(service, _KINDS[kind])}
    unused: dict[str, list[tuple[str, str]]] = {}
    for each in there:
        name: str = each["Spec"]["Name"]
        labels: dict[str, str] = each["Spec"].get("Labels") or {}
        versioned = _VERSIONED.fullmatch(name)
        # `fog.key` says nothing of the stack: the name does.
        ours = versioned is not None and (kind == "config" or versioned[1] == f"{stack}_{labels.get('fog.key')}")
        if versioned and ours and name not in used:
            unused.setdefault(versioned[1], []).append((each["CreatedAt"], name))
    return [name for versions in unused.values() for _, name in sorted(versions)[:-1]]


def _used(service: Mapping[str, Any], kind: str) -> Iterator[str]:
    for spec in (service["Spec"], service.get("PreviousSpec")):
        if spec:
            files: list[dict[str, Any]] = spec["TaskTemplate"].get("ContainerSpec", {}).get(kind) or []
            yield from (each[f"{kind[:-1]}Name"] for each in files)

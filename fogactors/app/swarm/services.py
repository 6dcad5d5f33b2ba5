"""The stack's services as docker sees them now, and the wait for all of them to be up."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from fogactors.app.swarm.docker import Docker, DockerFailed

__all__ = ["NAMESPACE", "ServiceState", "look", "replicas_of", "service_names", "wait_whole"]

NAMESPACE: Final = "com.docker.stack.namespace"
_SAME: Final = ("Image", "Args", "Env", "Configs", "Secrets")
"""Parts of a container's description whose change makes a new task."""
_POLL_S: Final = 1.0


@dataclass(frozen=True, slots=True)
class ServiceState:
    """`running`: tasks that run with the description that the service has now, which those of before an update do not.
    `update`: of the last one, as docker says it: `updating`, `completed`, `paused`, `rollback_completed` ..., or
    empty. `problem`: what the newest task that failed says, while the service is not whole."""

    name: str
    wanted: int
    running: int
    image: str
    update: str = ""
    hosts: tuple[str, ...] = ()
    problem: str = ""

    @property
    def whole(self) -> bool:
        return self.running == self.wanted and self.update in ("", "completed")

    @property
    def failed(self) -> bool:
        """Docker has given the update up: waiting changes nothing."""
        return self.update == "paused" or self.update.startswith("rollback")

    def __str__(self) -> str:
        parts = [
            f"{self.name} {self.running}/{self.wanted}",
            "" if self.update == "completed" else self.update,
            self.problem,
        ]
        return ", ".join(part for part in parts if part)


def service_names(docker: Docker, stack: str) -> list[str]:
    """With the stack's name before them. Raises `DockerFailed`."""
    return sorted(docker.names("service", "--filter", f"label={NAMESPACE}={stack}"))


def look(docker: Docker, stack: str) -> list[ServiceState]:
    """All services of the stack; none when there is no such stack. Raises `DockerFailed`."""
    services = docker.inspect("service", *service_names(docker, stack))
    if not services:
        return []
    ids = docker.run("stack", "ps", "--quiet", "--no-trunc", stack).split()
    tasks = docker.inspect("task", *ids)
    hosts = {row["ID"]: row["Hostname"] for row in docker.rows("node", "ls")}
    return [
        _state(stack, each, [task for task in tasks if task["ServiceID"] == each["ID"]], hosts) for each in services
    ]


def _state(
    stack: str, service: Mapping[str, Any], tasks: Sequence[Mapping[str, Any]], hosts: Mapping[str, str]
) -> ServiceState:
    template = service["Spec"]["TaskTemplate"]
    running = [task for task in tasks if task["Status"]["State"] == "running" and task["DesiredState"] == "running"]
    current = [task for task in running if _is_current(task["Spec"], template)]
    wanted = replicas_of(service)
    failures = sorted(
        (task["Status"]["Timestamp"], task["Status"]["Err"]) for task in tasks if task["Status"].get("Err")
    )
    return ServiceState(
        name=service["Spec"]["Name"].removeprefix(f"{stack}_"),
        wanted=wanted,
        running=len(current),
        image=template["ContainerSpec"]["Image"].partition("@")[0],
        update=_table(service, "UpdateStatus").get("State", ""),
        hosts=tuple(sorted(hosts.get(task.get("NodeID", ""), "?") for task in running)),
        problem=failures[-1][1] if failures and len(current) < wanted else "",
    )


def replicas_of(service: Mapping[str, Any]) -> int:
    """How many tasks an inspected service is to have."""
    return int(_table(_table(service["Spec"], "Mode"), "Replicated").get("Replicas", 1))


def _table(found: Mapping[str, Any], key: str) -> Mapping[str, Any]:
    return found.get(key) or {}


def _is_current(spec: Mapping[str, Any], template: Mapping[str, Any]) -> bool:
    ours, theirs = _table(spec, "ContainerSpec"), _table(template, "ContainerSpec")
    same = all(ours.get(key) == theirs.get(key) for key in _SAME)
    return same and spec.get("ForceUpdate", 0) == template.get("ForceUpdate", 0)


def wait_whole(
    docker: Docker,
    stack: str,
    names: Collection[str],
    timeout: float,
    say: Callable[[str], None] = lambda _: None,
) -> list[ServiceState]:
    """Until these services, without the stack's name, are whole. `say` is told what is missing, each time that it
    changes.

    Raises `DockerFailed`: what is not, and why, when the time is over or docker has given an update up.
    """
    deadline, told = time.monotonic() + timeout, ""
    while True:
        try:
            states = [state for state in look(docker, stack) if state.name in names]
            lacking = [str(state) for state in states if not state.whole]
            lacking += [f"{name} is not there" for name in sorted(set(names) - {state.name for state in states})]
        except DockerFailed as error:  # managers choose a leader anew when a host goes: that passes
            states, lacking = [], [str(error)]
        if not lacking:
            return states
        if any(state.failed for state in states):
            raise DockerFailed(f"an update was given up: {'; '.join(lacking)}; `docker service ps` shows more")
        if time.monotonic() >= deadline:
            raise DockerFailed(f"not up within {timeout:g} s: {'; '.join(lacking)}; `docker service ps` shows more")
        if (text := "; ".join(lacking)) != told:
            say(f"waiting for {text}")
            told = text
        time.sleep(_POLL_S)

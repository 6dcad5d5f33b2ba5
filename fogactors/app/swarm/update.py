"""Bring a change to a stack that runs: one broker at a time, and the next one only when the cluster is whole again.

A plain `docker stack deploy` changes three brokers at once. They take turns then, by a lease, but none of them looks
whether the queues have all their replicas back; here that is what a step waits for.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Final

from fogactors.app.swarm.deploy import Deployment, deploy
from fogactors.app.swarm.docker import Docker, DockerFailed
from fogactors.app.swarm.inside import broker_view, container_of
from fogactors.app.swarm.services import ServiceState, service_names, wait_whole
from fogactors.errors import ConfigError

__all__ = ["lacking", "update", "wait_cluster"]

_POLL_S: Final = 3.0
"""RabbitMQ's tools cost a second of processor time each."""


def lacking(docker: Docker, wanted: Deployment) -> list[str]:
    """What keeps the brokers' cluster from being whole, as a broker on this host says; none: it is. Raises
    `ConfigError` when there is none on this host, `DockerFailed` when it does not answer."""
    brokers = wanted.stack.brokers
    container = container_of(docker, wanted.name, brokers)
    return broker_view(docker, container, len(brokers)).lacking(len(brokers))


def wait_cluster(
    docker: Docker, wanted: Deployment, timeout: float, say: Callable[[str], None] = lambda _: None
) -> None:
    """Until the brokers' cluster is whole. Raises `DockerFailed`: what is missing when the time is over."""
    deadline, told = time.monotonic() + timeout, ""
    while True:
        try:
            missing = lacking(docker, wanted)
        except (DockerFailed, ConfigError) as error:  # the broker of this host is the one that restarts
            missing = [str(error)]
        if not missing:
            return
        if time.monotonic() >= deadline:
            raise DockerFailed(f"the brokers' cluster is not whole after {timeout:g} s: {'; '.join(missing)}")
        if (text := "; ".join(missing)) != told:
            say(f"waiting for the cluster: {text}")
            told = text
        time.sleep(_POLL_S)


def update(
    docker: Docker, wanted: Deployment, step_s: float, say: Callable[[str], None] = lambda _: None
) -> list[ServiceState]:
    """Deploy the brokers one by one, the executors tier by tier, then all the rest. `step_s`: how long each step may
    take.

    Refuses to begin while the cluster is not whole, and ends at the first broker that does not come back: the others
    have then not been touched, and serve. Raises `ConfigError`, `DockerFailed`.
    """
    brokers = wanted.stack.brokers
    there = service_names(docker, wanted.name)
    absent = [name for name in brokers if f"{wanted.name}_{name}" not in there]
    if absent:
        raise ConfigError(
            f"{', '.join(absent)} not there; `fogactors swarm deploy` is for a stack that is not whole yet"
        )
    missing = lacking(docker, wanted)
    if missing:
        raise ConfigError(f"the brokers' cluster is not whole, so none may be stopped: {'; '.join(missing)}")
    for number, broker in enumerate(brokers, 1):
        say(f"{broker} ({number} of {len(brokers)})")
        try:
            deploy(docker, wanted, [broker])
            wait_whole(docker, wanted.name, [broker], step_s, say)
            wait_cluster(docker, wanted, step_s, say)
        except DockerFailed as error:
            left = brokers[number:]
            rest = f"; {', '.join(left)} and all else have not been touched" if left else "; all else was not touched"
            raise DockerFailed(f"{broker}: {error}{rest}") from error
    for tier in wanted.stack.scalable:
        # Not all at once with the rest: no task would run for as long as three programs take to start together.
        say(tier)
        deploy(docker, wanted, [tier])
        wait_whole(docker, wanted.name, [tier], step_s, say)
    say("all else")
    deploy(docker, wanted)
    states = wait_whole(docker, wanted.name, list(wanted.stack.services), step_s, say)
    wait_cluster(docker, wanted, step_s, say)
    return states

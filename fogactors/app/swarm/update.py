"""Bring a change to a stack that runs: one broker at a time, and the next one only when the cluster is whole again.

A plain `docker stack deploy` changes three brokers at once. They take turns then, by a lease, but none of them looks
whether the queues have all their replicas back; here that is what a step waits for.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Final

from fogactors.app.swarm.deploy import Deployment, deploy
from fogactors.app.swarm.docker import Docker, DockerFailed
from fogactors.app.swarm.inside import BrokerView, broker_view, container_of
from fogactors.app.swarm.services import ServiceState, look, wait_whole
from fogactors.errors import ConfigError

__all__ = ["update", "view_from_here", "wait_cluster"]

_POLL_S: Final = 3.0
"""RabbitMQ's tools cost a second of processor time each."""
_NO_HOST: Final = "no suitable node"
"""What docker says of a task that it can put nowhere: the host is down, or nobody has the label."""

Say = Callable[[str], None]


def view_from_here(docker: Docker, wanted: Deployment) -> BrokerView:
    """What the brokers' cluster says of itself. Asked in a broker's container on this host, and when its own broker
    does not answer, of the others: a mistake in rabbitmq.conf hits the one of the operator's host first. Raises
    `ConfigError` when there is no container on this host, `DockerFailed` when no broker answers."""
    brokers = wanted.stack.brokers
    container = container_of(docker, wanted.name, brokers)
    try:
        return broker_view(docker, container, len(brokers))
    except DockerFailed as error:
        for broker in brokers:
            try:
                return broker_view(docker, container, len(brokers), node=_node(wanted, broker))
            except DockerFailed:
                continue
        raise DockerFailed(f"none answers: {error}") from error


def _node(wanted: Deployment, broker: str) -> str:
    return f"rabbit@{wanted.stack.hostname(broker)}"


def wait_cluster(docker: Docker, wanted: Deployment, timeout: float, say: Say = lambda _: None) -> None:
    """Until the brokers' cluster is whole. Raises `DockerFailed`: what is missing when the time is over."""
    deadline, told = time.monotonic() + timeout, ""
    while True:
        asked_at = time.monotonic()
        try:
            missing = view_from_here(docker, wanted).lacking(len(wanted.stack.brokers))
        except (DockerFailed, ConfigError) as error:  # the broker of this host is the one that restarts
            missing = [str(error)]
        if not missing:
            return
        if time.monotonic() >= deadline:
            raise DockerFailed(f"the brokers' cluster is not whole after {timeout:g} s: {'; '.join(missing)}")
        if (text := "; ".join(missing)) != told:
            say(f"waiting for the cluster: {text}")
            told = text
        # Its two tools take seconds of a busy machine's processors, for which the broker waits that is to come.
        time.sleep(max(_POLL_S, 2 * (time.monotonic() - asked_at)))


def update(docker: Docker, wanted: Deployment, step_s: float, say: Say = lambda _: None) -> list[ServiceState]:
    """Deploy the brokers one by one, then Redis, the executors tier by tier, and all the rest. `step_s`: how long each
    step may take.

    Refuses to begin while the cluster is not whole, unless one broker alone is what it lacks: that one is the first
    then. Ends at the first broker that does not come back, or at Redis: what is behind has not been touched, and
    serves. A tier that does not come back keeps nothing from the others; the error at the end names it. Raises
    `ConfigError`, `DockerFailed`.
    """
    # Redis behind the brokers, and before all that logs in at both. A password that is renewed counts in Redis from
    # its start, and at the brokers when one with the new secrets has the master lease; who still has the old one is
    # refused from then on wherever it connects anew. With Redis first, executors and reaper would be without it for as
    # long as three brokers take, and old sentinels would lose the lease. This way brokers that have the new password
    # of a sentinel are without Redis meanwhile, which they need for nothing that they serve, and the time in which an
    # executor is refused by both ends with the next step. Executors first, and the new ones would be refused by Redis,
    # give up and be rolled back, to a password that the brokers know no more.
    stack = wanted.stack
    before = look(docker, wanted.name)
    brokers = _order(docker, wanted, before, say)
    steps = [*brokers, *stack.stores]
    for number, service in enumerate(steps, 1):
        say(f"{service} ({number} of {len(brokers)})" if service in brokers else service)
        try:
            deploy(docker, wanted, [service])
            wait_whole(docker, wanted.name, [service], step_s, say)
            if service in brokers:
                wait_cluster(docker, wanted, step_s, say)
        except DockerFailed as error:
            left = ", ".join(steps[number:] or stack.scalable)
            raise DockerFailed(f"{service}: {error}; {left} and all else have not been touched") from error
    return _roles(docker, wanted, step_s, {each.name for each in before if each.running < each.wanted}, say)


def _order(docker: Docker, wanted: Deployment, before: Sequence[ServiceState], say: Say) -> list[str]:
    """The brokers in the order of their turns. Raises `ConfigError` when none may be stopped."""
    brokers = wanted.stack.brokers
    absent = [name for name in brokers if name not in {each.name for each in before}]
    if absent:
        raise ConfigError(
            f"{', '.join(absent)} not there; `fogactors swarm deploy` is for a stack that is not whole yet"
        )
    try:
        view = view_from_here(docker, wanted)
    except DockerFailed as error:
        raise ConfigError(_refusal([str(error)])) from error
    missing = view.lacking(len(brokers))
    if not missing:
        return brokers
    first = _the_one_that_is_down(wanted, view)
    if first is None:
        raise ConfigError(_refusal(missing))
    (state,) = [each for each in before if each.name == first]
    if not state.running and _NO_HOST in state.problem:
        raise ConfigError(
            f"{first} does not run, and no host can have it: {state.problem}; bring its host back, or give its place "
            "to another with `fogactors swarm label`"
        )
    say(f"{first} does not run, so it is the first")
    return [first, *(name for name in brokers if name != first)]


def _refusal(missing: Sequence[str]) -> str:
    return (
        f"the brokers' cluster is not whole, so none may be stopped: {'; '.join(missing)}; `fogactors swarm deploy` "
        "changes all of them all the same, and waits for no replica"
    )


def _the_one_that_is_down(wanted: Deployment, view: BrokerView) -> str | None:
    """The broker whose stop takes nothing away: it alone does not run, the others have a majority, and each replica
    that is not there is its own. What it lacks may be what is brought. None: there is no such broker."""
    brokers = wanted.stack.brokers
    down = [name for name in brokers if _node(wanted, name) not in view.running]
    if len(down) != 1 or 2 * len(view.running) <= len(brokers) or view.partitions:
        return None
    own = {_node(wanted, down[0])}
    return down[0] if all(own.issuperset(gone) for gone in view.short.values()) else None


def _roles(docker: Docker, wanted: Deployment, step_s: float, down: set[str], say: Say) -> list[ServiceState]:
    """The executors tier by tier, then all the rest. `down`: services that had too few tasks before. Raises
    `DockerFailed`, when all that can be updated is."""
    late: dict[str, str] = {}
    for tier in wanted.stack.scalable:
        # Not all at once with the rest: no task would run for as long as three programs take to start together.
        say(tier)
        try:
            deploy(docker, wanted, [tier])
            if tier not in down:  # its host may be away for a week; it is waited for last
                wait_whole(docker, wanted.name, [tier], step_s, say)
        except DockerFailed as error:
            say(f"{tier}: {error}; the others go on")
            late[tier] = str(error)
    say("all else")
    rest = [name for name in wanted.stack.services if name not in late]  # docker would try a late one once more
    waiting = [name for name in wanted.stack.scalable if name in down and name not in late]
    states: list[ServiceState] = []
    try:
        deploy(docker, wanted, rest if late else None)
        states = wait_whole(docker, wanted.name, [name for name in rest if name not in waiting], step_s, say)
        wait_cluster(docker, wanted, step_s, say)
    except DockerFailed as error:
        late["all else"] = str(error)
    if waiting and "all else" not in late:
        try:
            states += wait_whole(docker, wanted.name, waiting, step_s, say)
        except DockerFailed as error:
            late[", ".join(waiting)] = str(error)
    if late:
        said = [f"{name}: {error}" for name, error in late.items()]
        raise DockerFailed("; ".join(said if "all else" in late else [*said, "all else was updated"]))
    return sorted(states, key=lambda each: each.name)

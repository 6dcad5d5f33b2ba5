"""`fogactors swarm deploy`, `status`, `scale`, `logs`, `down`: the stack's daily life."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from fogactors.app.cli.common import Json, print_json
from fogactors.app.cli.swarm.shared import Certs, EnvFile, StackFile, StackName, Wait, docker, say
from fogactors.app.swarm import deploy as stacks
from fogactors.app.swarm.docker import Docker, DockerFailed
from fogactors.app.swarm.doctor import examine, needs_of
from fogactors.app.swarm.env import add_values, read_env, values_of, warnings
from fogactors.app.swarm.nodes import nodes
from fogactors.app.swarm.prune import prune
from fogactors.app.swarm.secrets import missing
from fogactors.app.swarm.services import ServiceState, look, service_names, wait_whole
from fogactors.app.swarm.stack import Stack, read_stack
from fogactors.errors import ConfigError
from fogactors.observe.trees import plain_table

__all__ = ["deploy", "down", "logs", "print_states", "prune_old", "scale", "status", "with_passwords"]


def deploy(
    env: EnvFile = Path(".env"),
    file: StackFile = Path("swarm/stack.yml"),
    certs: Certs = Path("certs"),
    stack: StackName = "fog",
    wait: Wait = 300.0,
    doctor: Annotated[bool, typer.Option("--doctor/--no-doctor", help="Look at the nodes first.")] = True,
    json: Json = False,
) -> None:
    """Deploy the stack, or what has changed of it, and wait until all of it is up. Secrets are made of .env; passwords
    that it lacks are added. A changed broker image or configuration is better brought by `update`."""
    client = docker()
    read = read_stack(file, values_of(read_env(env), os.environ))
    if doctor:
        _check_nodes(client, read, stack)
    values = with_passwords(client, env, stack)
    wanted = stacks.prepare(client, stack, read, values, certs)
    printed = stacks.deploy(client, wanted)
    if not json:
        print(printed, end="")
    states = wait_whole(client, stack, list(read.services), wait, say) if wait else look(client, stack)
    removed = prune_old(client, stack) if wait else []  # what is not known to be up may have to go back
    if json:
        print_json({"secrets_made": wanted.secrets, "removed": removed, "services": states})
    else:
        print_states(states)


def prune_old(client: Docker, stack: str) -> list[str]:
    """Remove secrets and configs that are superseded; their names. It is said, and that it did not go well is no more:
    the stack is up."""
    try:
        removed, problems = prune(client, stack)
    except DockerFailed as error:
        removed, problems = [], [str(error)]
    if removed:
        say(f"removed, because nothing uses them any more: {', '.join(removed)}")
    for each in problems:
        say(f"an old secret or config was not removed: {each}")
    return removed


def _check_nodes(client: Docker, read: Stack, stack: str) -> None:
    """What `doctor` finds without a job on each host. An error ends a first deploy; of a stack that is there already it
    is said, because a host that is down must not keep a change from the others. Raises `ConfigError`."""
    findings = examine(nodes(client), needs_of(read))
    errors = [f"{each.about} {each.text}" for each in findings if each.level == "error"]
    if errors and not service_names(client, stack):
        more = f" (and {len(errors) - 1} more; see `fogactors swarm doctor`)" if len(errors) > 1 else ""
        raise ConfigError(f"{errors[0]}{more}; --no-doctor deploys all the same")
    for each in findings:
        say(f"{each.level}: {each.about} {each.text}")


def with_passwords(client: Docker, env: Path, stack: str) -> dict[str, str]:
    """What counts, with new passwords for those that nobody names, which are put into `.env`. Raises `ConfigError`,
    `DockerFailed`."""
    values = values_of(read_env(env), os.environ)
    new = missing(stack, values, client.names("secret"))
    if new:
        add_values(env, new)
        say(f"{env}: {len(new)} passwords were missing and have been added: {', '.join(new)}")
    for line in warnings(values):
        say(line)
    return {**values, **new}


def status(stack: StackName = "fog", json: Json = False) -> None:
    """The stack's services: how many tasks run, where, and what is wrong. Exits 1 unless all are up."""
    states = _there(docker(), stack)
    if json:
        print_json(states)
    else:
        print_states(states)
    raise typer.Exit(0 if all(state.whole for state in states) else 1)


def _there(client: Docker, stack: str) -> list[ServiceState]:
    states = look(client, stack)
    if not states:
        raise ConfigError(f"there is no stack {stack!r}; `fogactors swarm deploy` makes it")
    return states


def print_states(states: list[ServiceState]) -> None:
    """A row each, and what is wrong below, where it has room."""
    table = plain_table("service", "tasks", "state", "on", "image")
    for each in states:
        state = "up" if each.whole else each.update if each.update not in ("", "completed") else "starting"
        table.add_row(each.name, f"{each.running}/{each.wanted}", state, ", ".join(each.hosts), each.image)
    Console().print(table)
    for each in states:
        if each.problem:
            print(f"{each.name}: {each.problem}")


def scale(
    services: Annotated[list[str], typer.Argument(metavar="SERVICE=N...", help="E.g. fog-node-1=3.")],
    file: StackFile = Path("swarm/stack.yml"),
    stack: StackName = "fog",
    wait: Wait = 120.0,
    json: Json = False,
) -> None:
    """Run so many executors of a tier. The next deploy keeps the number."""
    client = docker()
    wanted = dict(_count(each) for each in services)
    stacks.scale(client, stack, read_stack(file, {}), wanted)
    states = wait_whole(client, stack, list(wanted), wait, say) if wait else look(client, stack)
    states = [state for state in states if state.name in wanted]
    if json:
        print_json(states)
    else:
        print_states(states)


def _count(text: str) -> tuple[str, int]:
    name, _, number = text.partition("=")
    if not name or not number.isascii() or not number.isdecimal():
        raise ConfigError(f"expected SERVICE=N, e.g. fog-node-1=3, got {text!r}")
    return name, int(number)


def logs(
    service: Annotated[
        str | None, typer.Argument(metavar="SERVICE", help="By default: all, one after the other.")
    ] = None,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Go on with what comes; needs a SERVICE.")] = False,
    tail: Annotated[int, typer.Option("--tail", min=0, metavar="LINES", help="Of each task.")] = 100,
    since: Annotated[str, typer.Option("--since", metavar="TIME", help="E.g. 10m, or 2026-05-01T12:00:00.")] = "",
    stack: StackName = "fog",
) -> None:
    """What the stack's containers have written, from all hosts; docker's own lines."""
    client = docker()
    names = [name.removeprefix(f"{stack}_") for name in service_names(client, stack)]
    if service is not None and service not in names:
        raise ConfigError(
            f"there is no service {service!r} in the stack {stack!r}; there are {', '.join(names) or 'none'}"
        )
    if service is None and follow:
        raise ConfigError(f"--follow needs a service: {', '.join(names)}")
    words = ["--tail", str(tail), *(["--since", since] if since else []), *(["--follow"] if follow else [])]
    codes = [client.attach("service", "logs", *words, f"{stack}_{name}") for name in ([service] if service else names)]
    raise typer.Exit(1 if any(codes) else 0)


def down(
    stack: StackName = "fog",
    wait: Annotated[float, typer.Option("--wait", metavar="SECONDS", min=1, help="How long it may take.")] = 330.0,
    json: Json = False,
) -> None:
    """Stop the stack and remove its services and network. Volumes, and so messages and results, stay, and so do secrets
    and labels: `deploy` brings all back, but for the numbers that `scale` set."""
    removed = stacks.down(docker(), stack, wait, say)
    if json:
        print_json({"removed": removed})
    else:
        print(f"{stack}: removed; its volumes are kept" if removed else f"{stack}: there is no such stack")

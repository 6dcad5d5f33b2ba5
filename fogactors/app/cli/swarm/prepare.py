"""`fogactors swarm secrets`, `certs`, `label`: what a swarm needs before the stack."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Annotated

import typer

from fogactors.app.cli.common import Json, print_json
from fogactors.app.cli.swarm.shared import Certs, EnvFile, StackName, docker, say
from fogactors.app.swarm.certs import SERVER_DAYS, make_certs
from fogactors.app.swarm.docker import DockerFailed
from fogactors.app.swarm.env import PASSWORDS, add_values, read_env, values_of, warnings
from fogactors.app.swarm.labels import apply_labels, choose, consequences, plan_labels
from fogactors.app.swarm.nodes import nodes
from fogactors.app.swarm.secrets import missing
from fogactors.app.swarm.services import service_names
from fogactors.errors import ConfigError

__all__ = ["certs", "label", "secrets"]


def secrets(
    env: EnvFile = Path(".env"),
    stack: StackName = "fog",
    renew: Annotated[
        list[str] | None,
        typer.Option("--renew", metavar="NAME", help="Replace this one, e.g. MQ_ADMIN_PASS; repeatable."),
    ] = None,
    json: Json = False,
) -> None:
    """Add strong passwords to .env where it has none; print their names, never what they are. `deploy` makes secrets of
    them."""
    values = values_of(read_env(env), os.environ)
    there: frozenset[str] = frozenset()
    try:
        there = docker().names("secret")
    except DockerFailed as error:
        print(f"no swarm was asked which secrets it has: {error}", file=sys.stderr)
    new = missing(stack, values, there, renew=renew or ())
    for name in new:
        if name in os.environ:
            raise ConfigError(f"{name} is set in the environment, which counts more than {env}; unset it first")
    add_values(env, new)
    warned = warnings({**values, **new})
    if json:
        print_json(
            {"file": str(env), "made": list(new), "kept": [n for n in PASSWORDS if n not in new], "warnings": warned}
        )
        return
    print(f"{env}: {len(new)} made, {len(PASSWORDS) - len(new)} kept" + (f" ({', '.join(new)})" if new else ""))
    for line in warned:
        print(line)


def certs(
    certs: Certs = Path("certs"),
    host: Annotated[
        list[str] | None,
        typer.Option(
            "--host", metavar="NAME", help="One more name or address of the servers, e.g. 10.0.0.11; repeatable."
        ),
    ] = None,
    days: Annotated[
        int, typer.Option("--days", min=1, max=3650, help="How long the servers' certificate is good.")
    ] = SERVER_DAYS,
    renew: Annotated[bool, typer.Option("--renew", help="A new certificate of the servers, by the same CA.")] = False,
    json: Json = False,
) -> None:
    """Make a private CA and the servers' certificate for FOG_TLS=on; renew it when it is about to end. Clients need
    ca.crt; ca.key goes nowhere, and may be kept off this machine until the next renewal."""
    found = make_certs(certs, host or (), days=days, renew=renew)
    if json:
        print_json(found)
        return
    print(f"{found.folder}: {', '.join(found.made) if found.made else 'nothing to do'}")
    print(f"the servers' certificate is for {', '.join(found.names)}, until {found.ends}")


def label(
    master: Annotated[str, typer.Option("--manager-master", metavar="NODE", help="For rabbitmq1 and Redis.")] = "",
    rep1: Annotated[str, typer.Option("--manager-rep1", metavar="NODE", help="For rabbitmq2.")] = "",
    rep2: Annotated[str, typer.Option("--manager-rep2", metavar="NODE", help="For rabbitmq3.")] = "",
    worker1: Annotated[str, typer.Option("--worker1", metavar="NODE", help="For tasks of the light tier.")] = "",
    worker2: Annotated[str, typer.Option("--worker2", metavar="NODE", help="For those of medium and heavy.")] = "",
    stack: StackName = "fog",
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say what would be done.")] = False,
    json: Json = False,
) -> None:
    """Label the swarm's nodes, so that each broker stays with its volume. Without options: managers and workers by
    name, and what is labelled already stays. A NODE is a name or an id. Of a stack that runs, one broker is moved at a
    time."""
    asked = {
        "manager-master": master,
        "manager-rep1": rep1,
        "manager-rep2": rep2,
        "worker1": worker1,
        "worker2": worker2,
    }
    client = docker()
    found = nodes(client)
    chosen = choose(found, {place: node for place, node in asked.items() if node})
    changes = plan_labels(found, chosen)
    warned = consequences(found, chosen, stack, running=bool(service_names(client, stack)))
    if not dry_run:
        apply_labels(client, changes)
    if json:
        print_json({"changes": changes, "done": not dry_run, "warnings": warned})
        return
    for line in warned:
        say(f"warning: {line}")
    for each in changes:
        words = [f"{key}={value}" for key, value in each.add.items()] + [f"without {key}" for key in each.remove]
        print(f"{each.node}: {', '.join(words)}")
    if not changes and not warned:
        print("all labels are there already")

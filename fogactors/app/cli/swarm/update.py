"""`fogactors swarm update`: another version, configuration or password, without an interruption."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from fogactors.app.cli.common import Json, print_json
from fogactors.app.cli.swarm.operate import print_states, prune_old, with_passwords
from fogactors.app.cli.swarm.shared import Certs, EnvFile, StackFile, StackName, docker, say
from fogactors.app.swarm.deploy import prepare
from fogactors.app.swarm.stack import read_stack
from fogactors.app.swarm.update import update as roll

__all__ = ["update"]


def update(
    env: EnvFile = Path(".env"),
    file: StackFile = Path("swarm/stack.yml"),
    certs: Certs = Path("certs"),
    stack: StackName = "fog",
    step: Annotated[
        float, typer.Option("--step", metavar="SECONDS", min=1, help="How long each of its steps may take.")
    ] = 600.0,
    json: Json = False,
) -> None:
    """Bring what has changed to a stack that runs, e.g. FOG_VERSION: one broker at a time, each after all members run
    and all queues have all their replicas, then Redis, the executors tier by tier, and the rest. On a host with a
    broker. Exits 1 when a step fails; it may be repeated."""
    client = docker()
    values = with_passwords(client, env, stack)
    wanted = prepare(client, stack, read_stack(file, values), values, certs)
    states = roll(client, wanted, step, say)
    removed = prune_old(client, stack)
    if json:
        print_json({"secrets_made": wanted.secrets, "removed": removed, "services": states})
    else:
        print_states(states)

"""`fogactors swarm rabbitmq` and `redis`: what the servers say of themselves, in their containers on this host."""

from __future__ import annotations

from pathlib import Path
from typing import Final

import typer

from fogactors.app.cli.common import Json, print_json
from fogactors.app.cli.swarm.shared import StackFile, StackName, docker
from fogactors.app.swarm.inside import broker_view, container_of, in_redis
from fogactors.app.swarm.stack import read_stack

__all__ = ["rabbitmq", "redis"]

_SHOWN: Final = ("redis_version", "uptime_in_seconds", "used_memory_human", "maxmemory_human", "aof_last_write_status")


def rabbitmq(file: StackFile = Path("swarm/stack.yml"), stack: StackName = "fog", json: Json = False) -> None:
    """The brokers' cluster: members, alarms, queues that lack replicas. On a host with a broker. Exits 1 unless it is
    whole."""
    client = docker()
    brokers = read_stack(file, {}).brokers
    view = broker_view(client, container_of(client, stack, brokers), len(brokers))
    lacking = view.lacking(len(brokers))
    if json:
        print_json({"whole": not lacking, "lacking": lacking, "view": view})
    else:
        print(
            f"members  {', '.join(view.members)}\nrunning  {', '.join(view.running)}\nqueues   {view.queues} replicated"
        )
        print("\n".join(lacking) if lacking else "whole: all members run, and all queues have all their replicas")
    raise typer.Exit(1 if lacking else 0)


def redis(stack: StackName = "fog", json: Json = False) -> None:
    """Whether Redis answers, and how it is. On the host that has it."""
    client = docker()
    container = container_of(client, stack, ["redis"])
    answer = in_redis(client, container, "PING")
    info = dict(line.strip().split(":", 1) for line in in_redis(client, container, "INFO").splitlines() if ":" in line)
    found = {"ping": answer, **{key: info[key] for key in _SHOWN if key in info}}
    if json:
        print_json(found)
    else:
        print("\n".join(f"{key:<22} {value}" for key, value in found.items()))
    raise typer.Exit(0 if answer == "PONG" else 1)

"""`fogactors swarm backup` and `restore`: copies of Redis and of the broker's definitions."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Final

import typer

from fogactors.app.cli.common import Json, print_json
from fogactors.app.cli.swarm.shared import StackFile, StackName, docker, say
from fogactors.app.swarm import backup as copies
from fogactors.app.swarm.inside import container_of
from fogactors.app.swarm.services import wait_whole
from fogactors.app.swarm.stack import read_stack
from fogactors.errors import ConfigError

__all__ = ["backup", "restore"]

REDIS: Final = "redis"
UP_S: Final = 120.0


def backup(
    out: Annotated[
        Path | None, typer.Option("--out", "-o", metavar="FOLDER", help="Instead of backups/<time>; it must be new.")
    ] = None,
    file: StackFile = Path("swarm/stack.yml"),
    stack: StackName = "fog",
    json: Json = False,
) -> None:
    """Copy what the stack cannot make again: Redis' data and the broker's definitions. On the host that runs Redis;
    nothing stops meanwhile. Messages are on three hosts already, and .env is yours to copy."""
    client = docker()
    folder = out or Path("backups") / datetime.now(UTC).strftime("%Y%m%dT%H%M%SZ")
    redis = container_of(client, stack, [REDIS])
    broker = container_of(client, stack, read_stack(file, {}).brokers)
    copy = copies.save(client, stack, redis, broker, folder)
    sizes = {name: (folder / name).stat().st_size for name in copy.files}
    if json:
        print_json({"folder": str(folder), "copy": copy, "bytes": sizes})
        return
    print(f"{folder}: " + ", ".join(f"{name} {size:,} bytes" for name, size in sizes.items()))


def restore(
    folder: Annotated[Path, typer.Argument(metavar="FOLDER", help="Made by `backup`.")],
    yes: Annotated[bool, typer.Option("--yes", help="Replace what Redis has now.")] = False,
    only: Annotated[
        str | None, typer.Option("--only", metavar="redis|rabbitmq", help="One of the two; else both.")
    ] = None,
    file: StackFile = Path("swarm/stack.yml"),
    stack: StackName = "fog",
    json: Json = False,
) -> None:
    """Bring a copy back. Redis stops for some seconds and has then what the copy has; tasks flow meanwhile. At the
    broker what is missing is made, and what is there stays as it is; users come from .env, not from the copy."""
    if only not in (None, REDIS, "rabbitmq"):
        raise ConfigError(f"--only: expected redis or rabbitmq, got {only!r}")
    copy = copies.read_copy(folder)
    if only != "rabbitmq" and not yes:
        raise ConfigError(f"this replaces all that Redis has by what it had at {copy.made}; say so with --yes")
    client = docker()
    done: list[str] = []
    if only != "rabbitmq":
        redis = container_of(client, stack, [REDIS])
        say(f"Redis stops, and starts with the data of {copy.made}")
        copies.restore_redis(
            client, f"{stack}_{REDIS}", redis, folder, lambda: wait_whole(client, stack, [REDIS], UP_S, say)
        )
        done.append(REDIS)
    if only != REDIS:
        broker = container_of(client, stack, read_stack(file, {}).brokers)
        copies.restore_broker(client, broker, folder)
        done.append("rabbitmq")
    if json:
        print_json({"restored": done, "made": copy.made})
    else:
        print(f"restored {' and '.join(done)} of {copy.made}")

"""`fogactors swarm`: the stack on a Docker Swarm, from its secrets to its copies. `make up` and the like call it."""

from __future__ import annotations

from typing import Final

import typer

from fogactors.app.cli.lazy import lazy

__all__ = ["swarm"]

_COMMANDS: Final = {
    "secrets": "prepare:secrets",
    "certs": "prepare:certs",
    "label": "prepare:label",
    "doctor": "doctor:doctor",
    "deploy": "operate:deploy",
    "update": "update:update",
    "status": "operate:status",
    "scale": "operate:scale",
    "logs": "operate:logs",
    "down": "operate:down",
    "rabbitmq": "inside:rabbitmq",
    "redis": "inside:redis",
    "backup": "backup:backup",
    "restore": "backup:restore",
}

swarm = typer.Typer(
    help="The stack on a Docker Swarm: prepare, deploy, look after.",
    cls=lazy({name: f"{__name__}.{place}" for name, place in _COMMANDS.items()}),
    no_args_is_help=True,
)

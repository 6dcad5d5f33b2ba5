"""What the commands of `fogactors swarm` share: their options."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Annotated

import typer

from fogactors.app.swarm.docker import Docker

__all__ = ["Certs", "EnvFile", "StackFile", "StackName", "Wait", "docker", "say"]

EnvFile = Annotated[Path, typer.Option("--env", metavar="FILE", help="Logins and passwords of the stack.")]
StackName = Annotated[str, typer.Option("--stack", metavar="NAME", help="The stack's name in docker.")]
Certs = Annotated[Path, typer.Option("--certs", metavar="FOLDER", help="The CA and the servers' certificate.")]
StackFile = Annotated[Path, typer.Option("--file", metavar="FILE", help="The stack; its overrides lie beside it.")]
Wait = Annotated[float, typer.Option("--wait", metavar="SECONDS", min=0, help="How long to wait; 0: not at all.")]


def say(text: str) -> None:
    """Progress, beside what is printed as data."""
    print(text, file=sys.stderr)


def docker() -> Docker:
    """The client that DOCKER names, or the one on PATH; DOCKER_HOST and DOCKER_CONTEXT are the client's own."""
    return Docker(os.environ.get("DOCKER") or "docker")

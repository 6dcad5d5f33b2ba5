"""What the commands of `fogactors swarm` share: their options."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated

import typer

from fogactors.app.swarm.docker import Docker

__all__ = ["Certs", "EnvFile", "StackName", "docker"]

EnvFile = Annotated[Path, typer.Option("--env", metavar="FILE", help="Logins and passwords of the stack.")]
StackName = Annotated[str, typer.Option("--stack", metavar="NAME", help="The stack's name in docker.")]
Certs = Annotated[Path, typer.Option("--certs", metavar="FOLDER", help="The CA and the servers' certificate.")]


def docker() -> Docker:
    """The client that DOCKER names, or the one on PATH; DOCKER_HOST and DOCKER_CONTEXT are the client's own."""
    return Docker(os.environ.get("DOCKER") or "docker")

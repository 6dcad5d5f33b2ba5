"""The command `fogactors`."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated, Final

import typer

from fogactors.app import boot
from fogactors.app.cli.common import state
from fogactors.app.cli.lazy import lazy

__all__ = ["app", "main"]

_HERE: Final = "fogactors.app.cli"
_COMMANDS: Final = {
    "demo": "demo:demo",
    "up": "serve:up",
    "run": "serve:run",
    "submit": "submit:submit",
    "cancel": "control:cancel",
    "where": "control:where",
    "check": "look:check",
    "tree": "look:tree",
    "ping": "control:ping",
    "nodes": "nodes:nodes",
    "pause": "control:pause",
    "resume": "control:resume",
    "drain": "control:drain",
    "dlq": "dlq:dlq",
    "topology": "topology:topology",
    "probe": "probe:probe",
    "swarm": "swarm:swarm",
    "access": "access:access",
}

app = typer.Typer(
    name="fogactors",
    cls=lazy({name: f"{_HERE}.{place}" for name, place in _COMMANDS.items()}),
    help="Event-driven actors that schedule work over fog and edge machines, and lose none of it.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _version(wanted: bool) -> None:
    if wanted:
        from importlib.metadata import version  # with all of `email`

        print(f"fogactors {version('fogactors')}")
        raise typer.Exit


@app.callback()
def options(
    config: Annotated[
        Path | None, typer.Option("--config", "-c", metavar="FILE", help="Instead of actors.toml in this folder.")
    ] = None,
    debug: Annotated[bool, typer.Option("--debug", help="Show tracebacks.")] = False,
    show_version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version and exit.")
    ] = False,
) -> None:
    """Options before the command."""
    del show_version
    state.config = config
    state.debug = debug


def main() -> None:
    """Every error becomes one line and an exit code."""
    try:
        code = app(standalone_mode=False)
    except typer.Exit as leave:
        code = leave.exit_code
    except typer.Abort:
        code = 130
    except typer.TyperException as error:
        print(f"fogactors: {error.format_message()} (see `fogactors --help`)", file=sys.stderr)
        code = error.exit_code
    except Exception as error:
        code = boot.report(error, debug=state.debug)
    sys.exit(code if isinstance(code, int) else 0)

"""The command `fogactors`."""

from __future__ import annotations

import sys
from importlib.metadata import version
from pathlib import Path
from typing import Annotated

import typer

from fogactors.app import boot
from fogactors.app.cli.common import state
from fogactors.app.cli.control import drain, pause, ping, resume
from fogactors.app.cli.demo import demo
from fogactors.app.cli.look import check, tree
from fogactors.app.cli.serve import run, up
from fogactors.app.cli.submit import submit
from fogactors.app.cli.topology import topology

__all__ = ["app", "main"]

app = typer.Typer(
    name="fogactors",
    help="Event-driven actors that schedule work over fog and edge machines, and lose none of it.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _version(wanted: bool) -> None:
    if wanted:
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


for command in (demo, up, run, submit, check, tree, ping, pause, resume, drain):
    app.command()(command)
app.add_typer(topology, name="topology")


def main() -> None:
    """The entry point: every error becomes one line and an exit code."""
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

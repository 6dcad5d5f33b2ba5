"""`fogactors dlq`: what was given up on. To look costs the broker nothing: lists come from the index."""

from __future__ import annotations

from typing import Final

import typer

from fogactors.app.cli.lazy import lazy

__all__ = ["dlq"]

_COMMANDS: Final = {
    "list": "look:list_",
    "show": "show:show",
    "replay": "act:replay",
    "edit": "edit:edit",
    "purge": "act:purge",
    "export": "act:export",
}

dlq = typer.Typer(
    help="Dead letters: list, show, replay, edit, purge, export.",
    cls=lazy({name: f"{__name__}.{place}" for name, place in _COMMANDS.items()}),
    no_args_is_help=True,
)

"""Commands that are imported when they are asked for, so that each pays only for what it needs. The idea is `LazyGroup`
of click's documentation."""

from __future__ import annotations

from collections.abc import Mapping
from importlib import import_module
from typing import Any

import typer
from typer.core import TyperCommand, TyperGroup
from typer.main import get_command, get_group

__all__ = ["lazy"]


def lazy(places: Mapping[str, str]) -> type[TyperGroup]:
    """For `typer.Typer(cls=...)`. `places`: of each command, in the order of the help, `module:name` of its function or
    its own `Typer`."""

    class LazyGroup(TyperGroup):
        def list_commands(self, ctx: Any) -> list[str]:
            return list(places)

        def get_command(self, ctx: Any, cmd_name: str) -> Any:
            # A name that is wrong costs all of them: typer suggests the nearest of those that it has.
            for name in (cmd_name,) if cmd_name in places else places:
                if name not in self.commands:
                    self.commands[name] = _load(name, places[name])
            return self.commands.get(cmd_name)

    return LazyGroup


def _load(name: str, place: str) -> TyperCommand | TyperGroup:
    module, _, attribute = place.partition(":")
    found = getattr(import_module(module), attribute)
    if isinstance(found, typer.Typer):
        group = get_group(found)
        group.name = name
        return group
    alone = typer.Typer(add_completion=False)
    alone.command(name)(found)
    command: Any = get_command(alone)
    return command

"""What the commands share: the options before the command, settings, and the way from a coroutine to an exit code."""

from __future__ import annotations

import os
import sys
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any

import msgspec
import typer

from fogactors.app import boot
from fogactors.app.settings import Settings, load
from fogactors.errors import ConfigError

__all__ = ["Imports", "Json", "checked_settings", "load_settings", "print_json", "run", "state"]


@dataclass(slots=True)
class _State:
    """The options before the command's name."""

    config: Path | None = None
    debug: bool = False


state = _State()

Imports = Annotated[
    list[str] | None, typer.Option("--import", "-i", metavar="MODULE", help="A module that defines tasks; repeatable.")
]
Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]


def load_settings(imports: list[str] | None = None, urls: Mapping[str, str | None] | None = None) -> Settings:
    """From `--config`, or `actors.toml` here, or the defaults; with the modules of `--import` added. `urls`: of
    the tables `bus` and `coord`, where the command line gives them. Raises `ConfigError`."""
    env = dict(os.environ)
    for table, url in (urls or {}).items():
        if url is not None:
            env.pop(f"FOGACTORS_{table.upper()}__URL_FILE", None)
            env[f"FOGACTORS_{table.upper()}__URL"] = url
    settings = load(state.config, env, default_ok=True)
    # Task modules are found from the current folder, as `python -m` finds them; the installed command would not.
    if "" not in sys.path:
        sys.path.insert(0, "")
    if imports:
        modules = (*settings.tasks.modules, *imports)
        settings = replace(settings, tasks=replace(settings.tasks, modules=modules))
    return settings


def checked_settings(imports: list[str] | None = None, urls: Mapping[str, str | None] | None = None) -> Settings:
    """The same, refused where `fogactors check` finds an error. Raises `ConfigError`."""
    from fogactors.app.check import check  # all roles come with it, and who only looks has no use for them

    settings = load_settings(imports, urls)
    errors = [finding for finding in check(settings) if finding.level == "error"]
    if errors:
        more = f" (and {len(errors) - 1} more; see `fogactors check`)" if len(errors) > 1 else ""
        raise ConfigError(f"{errors[0].key}: {errors[0].text}{more}")
    return settings


def run(main: Callable[[], Awaitable[int]]) -> None:
    """Run a command's coroutine and leave with its exit code."""
    raise typer.Exit(boot.run(main, debug=state.debug))


def print_json(value: Any) -> None:
    print(msgspec.json.format(msgspec.json.encode(value, enc_hook=str)).decode())

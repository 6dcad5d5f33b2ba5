"""`fogactors dlq edit`: other arguments for a task that was given up on, checked against its signature."""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
import tempfile
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Annotated, Any, Final

import msgspec
import typer

from fogactors.app.cli.common import Imports, Json, print_json
from fogactors.app.cli.common import run as run_main
from fogactors.app.cli.dlq.options import EXIT_FAILED, Id, remote_settings, say
from fogactors.app.cli.dlq.shared import fetch, open_bus, warn_of_lag
from fogactors.app.dlq import Operator, edited, task_of
from fogactors.app.reach import open_redis
from fogactors.app.settings import Settings
from fogactors.coord.letters import ParkedLetter
from fogactors.errors import ConfigError, FogError, TaskArgumentError
from fogactors.messages import DeadLetter, Task
from fogactors.tasks.registry import default_registry

__all__ = ["edit"]

DEFAULT_EDITOR: Final = "vi"

Change = Callable[[Task], bytes]
"""The new arguments, a JSON object, from the old ones."""


def edit(
    id: Id,  # noqa: A002
    arguments: Annotated[
        list[str] | None, typer.Argument(metavar="[KEY=VALUE]...", help="Arguments to change; JSON, or else text.")
    ] = None,
    args: Annotated[str | None, typer.Option("--args", metavar="JSON", help="All arguments as one object.")] = None,
    replay: Annotated[bool, typer.Option("--replay", help="And replay it.")] = False,
    imports: Imports = None,
    json: Json = False,
) -> None:
    """Change the arguments of a dead task: those named, all of them, or in $EDITOR. What does not fit the task's types
    is refused and changes nothing."""
    if arguments and args is not None:
        raise ConfigError("give the arguments as KEY=VALUE or with --args, not both")
    settings = remote_settings(imports)
    if args is not None:
        change: Change = lambda task: args.encode()  # noqa: E731
    elif arguments:
        values = _values(arguments)
        change = lambda task: _merged(task, values)  # noqa: E731
    elif sys.stdin.isatty() and sys.stdout.isatty():
        change = _in_editor
    else:
        raise ConfigError("dlq edit: give the arguments as KEY=VALUE or with --args; an editor needs a terminal")
    default_registry.import_modules(settings.tasks.modules)
    entry, letter = fetch(lambda: _read(settings, id))
    new = _changed(letter, change)
    run_main(lambda: _store(settings, entry, new, replay, json))


async def _read(settings: Settings, id_: str) -> tuple[ParkedLetter, DeadLetter]:
    async with open_redis(settings, "dlq") as coord, open_bus(settings) as bus:
        operator = Operator(bus, coord)
        await warn_of_lag(operator)
        entry = await operator.get(id_)
        if entry.state != "parked":
            raise FogError(f"dead letter {id_!r} was {entry.state} already; should that fail, it is parked anew")
        return entry, await operator.read(entry)


def _changed(letter: DeadLetter, change: Change) -> DeadLetter:
    task = task_of(letter)
    definition = default_registry.get(task.name)
    while True:
        text = change(task)
        try:
            return edited(letter, text, definition)
        except TaskArgumentError as error:
            if change is not _in_editor:
                raise
            say(str(error))
            typer.confirm("Edit again?", default=True, abort=True)
            task = msgspec.structs.replace(task, args=msgspec.Raw(text))


async def _store(settings: Settings, entry: ParkedLetter, new: DeadLetter, replay: bool, json: bool) -> int:
    async with open_redis(settings, "dlq") as coord, open_bus(settings) as bus:
        operator = Operator(bus, coord, publish_timeout_s=settings.bus.publish_timeout_s, tell=say)
        now = await operator.get(new.id)
        if (now.state, now.generation, now.revision) != (entry.state, entry.generation, entry.revision):
            raise FogError(f"dead letter {new.id!r} was replayed or edited meanwhile; nothing was changed")
        await operator.store(new)
        if replay:
            await operator.replay_letter(entry, new)
        elif not await operator.wait_indexed(new):
            say(f"{new.id} is edited, but the index does not know: until dlq-reaper runs, a replay takes the old one")
            return EXIT_FAILED
    if json:
        print_json({"id": new.id, "revision": new.revision, "args": task_of(new).args, "replayed": replay})
    else:
        print(f"edited {new.id}, revision {new.revision}{', replayed' if replay else ''}")
    return 0


def _merged(task: Task, values: dict[str, Any]) -> bytes:
    try:
        old = msgspec.json.decode(task.args, type=dict[str, msgspec.Raw])
    except msgspec.MsgspecError as error:
        raise ConfigError(f"the arguments of {task.id} are no JSON object; give all of them with --args") from error
    return msgspec.json.encode({**old, **values})


def _values(pairs: list[str]) -> dict[str, Any]:
    values: dict[str, Any] = {}
    for pair in pairs:
        key, separator, text = pair.partition("=")
        if not separator or not key:
            raise ConfigError(f"an argument is KEY=VALUE, got {pair!r}")
        try:
            values[key] = msgspec.json.decode(text)
        except msgspec.DecodeError:
            values[key] = text
    return values


def _in_editor(task: Task) -> bytes:
    """Raises `ConfigError` when there is no editor, `typer.Abort` when nothing was changed."""
    before = bytes(task.args)
    with suppress(msgspec.MsgspecError):  # to mend it is what the editor is for
        before = msgspec.json.format(before)
    editor = shlex.split(os.environ.get("VISUAL") or os.environ.get("EDITOR") or DEFAULT_EDITOR)
    with tempfile.TemporaryDirectory(prefix="fogactors-") as folder:
        path = Path(folder, f"{task.name.rpartition('.')[2]}.json")
        path.write_bytes(before)
        try:
            code = subprocess.run([*editor, str(path)], check=False).returncode  # noqa: S603 - the user's own editor
        except OSError as error:
            raise ConfigError(f"the editor {editor[0]!r} cannot be run: {error.strerror}; set EDITOR") from error
        after = path.read_bytes()
    if code or after.strip() == before.strip():
        say("nothing was changed")
        raise typer.Abort
    return after

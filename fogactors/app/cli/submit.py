"""`fogactors submit`: one task to its end: through executors that run, or on the embedded bus through a system of
its own."""

from __future__ import annotations

import sys
from collections.abc import Awaitable, Callable
from typing import Annotated, Any, cast, get_args

import anyio
import msgspec
import typer
from msgspec import Raw

from fogactors.app.boot import Stopping
from fogactors.app.cli.common import Imports, Json, checked_settings, print_json
from fogactors.app.cli.common import run as run_main
from fogactors.app.program import Program
from fogactors.app.settings import Settings
from fogactors.core import Events
from fogactors.errors import ConfigError
from fogactors.messages import Priority, TaskResult
from fogactors.observe.log import Log
from fogactors.roles import WORK
from fogactors.tasks.client import Handle, Submitter
from fogactors.tasks.registry import default_registry

__all__ = ["submit"]

EXIT_FAILED = 1


def submit(
    name: Annotated[str, typer.Argument(metavar="TASK", help="The task's name, e.g. package.module.function.")],
    arguments: Annotated[
        list[str] | None, typer.Argument(metavar="[KEY=VALUE]...", help="Arguments; a value is JSON, or else text.")
    ] = None,
    args: Annotated[str | None, typer.Option("--args", metavar="JSON", help="All arguments as one object.")] = None,
    imports: Imports = None,
    priority: Annotated[str | None, typer.Option(help="high, normal or low.")] = None,
    tier: Annotated[str | None, typer.Option(help="A tier of actors.toml.")] = None,
    key: Annotated[
        str | None, typer.Option(metavar="KEY", help="Idempotency key: a second submit of it makes no second task.")
    ] = None,
    timeout: Annotated[float, typer.Option(metavar="SECONDS", help="How long to wait for the result.")] = 60.0,
    no_wait: Annotated[bool, typer.Option("--no-wait", help="Print the task's id and leave; see `where`.")] = False,
    json: Json = False,
) -> None:
    """Submit a task and print its result. Exits 1 when it did not succeed."""
    settings = checked_settings(imports)
    if no_wait and settings.bus.url.startswith("memory:"):
        raise ConfigError("[bus] url is memory://, so the task would end with this command; --no-wait needs a RabbitMQ")
    wait_s = None if no_wait else timeout
    raw = _arguments(arguments or [], args)
    if priority is not None and priority not in get_args(Priority):
        raise ConfigError(f"priority must be one of {', '.join(get_args(Priority))}, got {priority!r}")
    default_registry.import_modules(settings.tasks.modules)
    options: dict[str, Any] = {}
    if priority is not None:
        options["priority"] = cast("Priority", priority)
    if tier is not None:
        options["tier"] = tier
    if key is not None:
        options["idempotency_key"] = key
    if name in default_registry.names() or settings.bus.url.startswith("memory:"):
        definition = default_registry.get(name).options(**options)
        args_, kwargs = definition.decode_args(raw)  # refused here, while whoever typed it still has it before them
        run_main(lambda: _submit(settings, lambda to: to.submit(definition, *args_, **kwargs), wait_s, json))
    elif tier is None:
        # What is not imported says nothing of its tier, and a heavy task in a light executor would be a lie.
        raise ConfigError(f"{name} is not imported here; name its module with --import, or its tier with --tier")
    else:
        run_main(lambda: _submit(settings, lambda to: to.submit_raw(name, raw, **options), wait_s, json))


def _arguments(pairs: list[str], whole: str | None) -> Raw:
    if whole is not None:
        if pairs:
            raise ConfigError("give the arguments as KEY=VALUE or with --args, not both")
        try:
            value = msgspec.json.decode(whole)
        except msgspec.DecodeError as error:
            raise ConfigError(f"--args is not JSON: {error}") from error
        if not isinstance(value, dict):
            raise ConfigError('--args must be a JSON object, e.g. \'{"path": "a.bin"}\'')
        return Raw(whole.encode())
    values: dict[str, Any] = {}
    for pair in pairs:
        key, separator, text = pair.partition("=")
        if not separator or not key:
            raise ConfigError(f"an argument is KEY=VALUE, got {pair!r}")
        try:
            values[key] = msgspec.json.decode(text)
        except msgspec.DecodeError:
            values[key] = text
    return Raw(msgspec.json.encode(values))


async def _submit(
    settings: Settings, submit: Callable[[Submitter], Awaitable[Handle[Any]]], wait_s: float | None, json: bool
) -> int:
    events = Events()
    log = Log("warning", settings.log.format, node=settings.node.name, role="submit")
    log.attach(events)
    stopping = Stopping(settings.shutdown.budget_s, events)
    handle: Handle[Any] | None = None
    result: TaskResult | None = None
    # On the embedded bus a small system of its own; else those that run already.
    roles = WORK if settings.bus.url.startswith("memory:") else ()
    async with anyio.create_task_group() as beside:
        beside.start_soon(stopping.watch_signals)
        async with (
            Program.start(settings, roles, events=events, urgent=log.write_urgent, stop=stopping.event) as program,
            program.submitter() as submitter,
            anyio.create_task_group() as work,
        ):

            async def leave_on_stop() -> None:
                await stopping.event.wait()
                work.cancel_scope.cancel()

            work.start_soon(leave_on_stop)
            handle = await submit(submitter)
            if wait_s is not None:
                result = await handle.outcome(wait_s)
            work.cancel_scope.cancel()
        beside.cancel_scope.cancel()
    if wait_s is None and handle is not None:
        print_json({"task_id": handle.id}) if json else print(handle.id)
        return 0
    if result is None:
        print("fogactors: stopped before the task ended", file=sys.stderr)
        return stopping.code or EXIT_FAILED
    _print(result, json)
    return 0 if result.state == "succeeded" else EXIT_FAILED


def _print(result: TaskResult, json: bool) -> None:
    if json:
        print_json(result)
    elif result.state == "succeeded":
        print(msgspec.json.format(bytes(result.value or b"null")).decode())
    else:
        error = f"{result.error.type}: {result.error.message}" if result.error else "no reason given"
        attempts = "1 attempt" if result.attempts == 1 else f"{result.attempts} attempts"
        name = result.name or result.task_id  # whoever cancels a task may know no more than its id
        print(f"fogactors: {name} {result.state} after {attempts}: {error}", file=sys.stderr)

"""`fogactors demo`: the main job on real files, on the embedded bus or on a RabbitMQ."""

from __future__ import annotations

import sys
from collections.abc import Callable, Generator
from contextlib import ExitStack, contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated

import anyio
import msgspec
import typer
from rich.console import Console

from fogactors.app.boot import Stopping
from fogactors.app.cli.common import Json, checked_settings, print_json, state
from fogactors.app.cli.common import run as run_main
from fogactors.app.cli.demo_report import print_report, summary
from fogactors.app.demo import work
from fogactors.app.demo.files import Found, scan
from fogactors.app.demo.ledger import Ledger, Row
from fogactors.app.demo.run import JobRun
from fogactors.app.program import Program
from fogactors.app.settings import Settings
from fogactors.app.workers import worker_tree
from fogactors.core import Events
from fogactors.errors import ConfigError
from fogactors.observe.board import Board
from fogactors.observe.console import live
from fogactors.observe.log import Log
from fogactors.roles import WORK

__all__ = ["demo"]

EXIT_LOST = 1


def demo(
    path: Annotated[
        Path | None, typer.Argument(metavar="[PATH]", help="A folder of files; by default Python's standard library.")
    ] = None,
    out: Annotated[
        Path | None, typer.Option("--out", "-o", metavar="FILE", help="Write each task's result as a line of JSON.")
    ] = None,
    limit: Annotated[int | None, typer.Option(min=1, metavar="N", help="At most this many files.")] = None,
    amqp: Annotated[
        str | None, typer.Option("--amqp", metavar="URL", help="A RabbitMQ: executors run in processes of their own.")
    ] = None,
    redis: Annotated[str | None, typer.Option("--redis", metavar="URL", help="The Redis that goes with it.")] = None,
    workers: Annotated[
        bool,
        typer.Option(
            "--workers/--no-workers",
            help="--no-workers: executors run already, with fogactors.app.demo.work, and see the same files.",
        ),
    ] = True,
    no_live: Annotated[bool, typer.Option("--no-live", help="A line every few seconds, no live display.")] = False,
    json: Json = False,
) -> None:
    """Run three tasks for each file of a folder through the light, medium and heavy tiers. Exits 1 when a task was lost
    or not run; a task that fails has its result and is no loss."""
    settings = checked_settings(urls={"bus": amqp, "coord": redis})
    if not workers and settings.bus.url.startswith("memory:"):
        raise ConfigError("--no-workers: executors that run already are at a RabbitMQ; name it with --amqp")
    # Nothing is written over before it is clear that there is something to write.
    found = scan(path, limit=limit, leave_out=() if out is None else (out.resolve(),))
    with ExitStack() as stack:
        on_row = None if out is None else stack.enter_context(_writer(out))
        run_main(lambda: _demo(settings, found, on_row, workers=workers, no_live=no_live, json=json))


@contextmanager
def _writer(out: Path) -> Generator[Callable[[Row], None]]:
    """Raises `ConfigError`, on entering and for each row."""

    def refused(error: OSError) -> ConfigError:
        return ConfigError(f"--out {out} cannot be written: {error.strerror or error}")

    def write(row: Row) -> None:
        line = msgspec.json.encode(row) + b"\n"
        try:
            if file.write(line) != len(line):
                raise OSError("the disk is full")
        except OSError as error:
            raise refused(error) from error

    try:
        # Unbuffered: a row is there for whoever follows the file, and closing it cannot fail on what was kept back.
        file = out.open("wb", buffering=0)
    except OSError as error:
        raise refused(error) from error
    with file:
        yield write


async def _demo(
    settings: Settings,
    found: Found,
    on_row: Callable[[Row], None] | None,
    *,
    workers: bool,
    no_live: bool,
    json: bool,
) -> int:
    events, board, ledger = Events(), Board(), Ledger(found)
    board.attach(events)
    # On standard error, so that the report can be piped.
    console = Console(stderr=True)
    show = not no_live and console.is_interactive
    log = Log("error" if show else "warning", settings.log.format, node=settings.node.name, role="demo")
    if not show:
        log.attach(events)
    stopping = Stopping(settings.shutdown.budget_s, events)
    tiers = tuple(tier.name for tier in settings.tiers)
    embedded = settings.bus.url.startswith("memory:")

    def entered(row: Row) -> None:
        if not embedded:  # the executors' own events stay in their processes
            board.rate.add(datetime.now(UTC).timestamp())
        if on_row is not None:
            on_row(row)

    job = JobRun(ledger, tiers, on_row=entered)
    # What a stop leaves to the tasks under way, so that the executors' own drain still fits into the budget.
    grace_s = (settings.shutdown.budget_s - settings.executor.drain_s) / 2
    async with anyio.create_task_group() as beside:
        beside.start_soon(stopping.watch_signals)
        roles = WORK if embedded else ()
        async with (
            Program.start(
                settings,
                roles,
                events=events,
                urgent=log.write_urgent,
                stop=stopping.event,
                needs=("admin" if workers else "submitter",),
            ) as program,
            program.submitter() as submitter,
            anyio.create_task_group() as display,
        ):
            if workers and not embedded:
                config = None if state.config is None else str(state.config)
                await program.system.start(worker_tree(settings, (work.__name__,), config))

            async def watch() -> None:
                await live(program, board, console=console, progress=job.progress, plain=not show)

            display.start_soon(watch)
            await job.run(submitter, stopping.event, grace_s=grace_s)
            display.cancel_scope.cancel()
        beside.cancel_scope.cancel()
    figures = summary(ledger, seconds=job.elapsed_s, stopped=stopping.event.is_set(), tiers=tiers)
    if json:
        print_json(figures)
    else:
        print_report(Console(), ledger, figures, tiers)
    return _verdict(ledger, stopping)


def _verdict(ledger: Ledger, stopping: Stopping) -> int:
    missing = ledger.missing
    if stopping.event.is_set() and missing:
        print(f"fogactors: stopped; {missing} of {ledger.expected} tasks were not run", file=sys.stderr)
    elif missing:
        print(f"fogactors: {missing} of {ledger.expected} tasks were lost", file=sys.stderr)
    return stopping.code or (EXIT_LOST if missing else 0)

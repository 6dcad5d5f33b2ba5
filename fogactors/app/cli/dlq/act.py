"""`fogactors dlq replay`, `purge` and `export`."""

from __future__ import annotations

import sys
from collections.abc import Awaitable, Callable, Generator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated

import anyio
import typer

from fogactors.app.boot import Stopping
from fogactors.app.cli.common import Json
from fogactors.app.cli.common import run as run_main
from fogactors.app.cli.dlq.look import print_found
from fogactors.app.cli.dlq.options import (
    EXIT_FAILED,
    AllOption,
    DryRun,
    Filters,
    Ids,
    Limit,
    NewerThan,
    OlderThan,
    QueueFilter,
    ReasonFilter,
    StateFilter,
    TaskFilter,
    remote_settings,
    say,
    select,
)
from fogactors.app.cli.dlq.shared import fetch, open_bus, summary, warn_of_lag
from fogactors.app.dlq import Operator, Tally
from fogactors.app.dlq_select import Selection, find, missing, no_letter
from fogactors.app.reach import open_redis
from fogactors.app.settings import Settings
from fogactors.errors import ConfigError
from fogactors.messages import DeadLetter
from fogactors.wire.codec import encode

__all__ = ["export", "purge", "replay"]


def replay(
    ids: Ids = None,
    everything: AllOption = False,
    reason: ReasonFilter = None,
    task: TaskFilter = None,
    queue: QueueFilter = None,
    older_than: OlderThan = None,
    newer_than: NewerThan = None,
    limit: Limit = None,
    rate: Annotated[float, typer.Option(min=0, metavar="N", help="At most N in a second; 0: no limit.")] = 100.0,
    again: Annotated[bool, typer.Option("--again", help="Also what was replayed already.")] = False,
    dry_run: DryRun = False,
    json: Json = False,
) -> None:
    """Publish them once more, each to the queue that it came from. Exits 1 when one could not be. After an interruption
    the same command goes on with the rest."""
    filters: Filters = {
        "reason": reason,
        "task": task,
        "queue": queue,
        "older_than": older_than,
        "newer_than": newer_than,
    }
    chosen = select("replay", ids, everything, filters, state_="all" if again else "parked", limit=limit)
    settings = remote_settings()
    if dry_run:
        run_main(lambda: _rehearse(settings, chosen, "replayed", json))
    run_main(lambda: _do(settings, chosen, "replayed", lambda o: o.replay(chosen, rate=rate, again=again), json))


def purge(
    ids: Ids = None,
    everything: AllOption = False,
    reason: ReasonFilter = None,
    task: TaskFilter = None,
    queue: QueueFilter = None,
    older_than: OlderThan = None,
    newer_than: NewerThan = None,
    state: StateFilter = "parked",
    limit: Limit = None,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
    dry_run: DryRun = False,
    json: Json = False,
) -> None:
    """Take them out of the list for good. Their bodies stay in the stream until its retention is over."""
    filters: Filters = {
        "reason": reason,
        "task": task,
        "queue": queue,
        "older_than": older_than,
        "newer_than": newer_than,
    }
    chosen = select("purge", ids, everything, filters, state_=state, limit=limit)
    settings = remote_settings()
    if dry_run:
        run_main(lambda: _rehearse(settings, chosen, "purged", json))
    if not yes:
        if not sys.stdin.isatty():
            raise ConfigError("dlq purge: nobody is there to be asked; --yes does it without asking")
        total = fetch(lambda: _count(settings, chosen))
        text = f"Purge {total} dead letters? Their bodies stay in the stream until its retention is over."
        typer.confirm(text, abort=True)
    run_main(lambda: _do(settings, chosen, "purged", lambda operator: operator.purge(chosen), json))


def export(
    ids: Ids = None,
    everything: AllOption = False,
    reason: ReasonFilter = None,
    task: TaskFilter = None,
    queue: QueueFilter = None,
    older_than: OlderThan = None,
    newer_than: NewerThan = None,
    state: StateFilter = "parked",
    limit: Limit = None,
    out: Annotated[Path | None, typer.Option("--out", "-o", metavar="FILE", help="Instead of standard output.")] = None,
) -> None:
    """Write them whole, as they are in the stream: a line of JSON each, the body in base64. Exits 1 when one could not
    be read."""
    filters: Filters = {
        "reason": reason,
        "task": task,
        "queue": queue,
        "older_than": older_than,
        "newer_than": newer_than,
    }
    everything = everything or not (ids or any(filters.values()))
    chosen = select("export", ids, everything, filters, state_=state, limit=limit)
    settings = remote_settings()
    with _writer(out) as write:
        run_main(lambda: _export(settings, chosen, write))


async def _export(settings: Settings, chosen: Selection, write: Callable[[DeadLetter], None]) -> int:
    async with open_redis(settings, "dlq") as coord, open_bus(settings) as bus:
        tally = await Operator(bus, coord, tell=say).export(chosen, write)
    return EXIT_FAILED if tally.failed else 0


@contextmanager
def _writer(out: Path | None) -> Generator[Callable[[DeadLetter], None]]:
    if out is None:
        yield lambda letter: print(encode(letter).decode())
        return

    def refused(error: OSError) -> ConfigError:
        return ConfigError(f"--out {out} cannot be written: {error.strerror or error}")

    def write(letter: DeadLetter) -> None:
        line = encode(letter) + b"\n"
        try:
            if file.write(line) != len(line):
                raise OSError("the disk is full")
        except OSError as error:
            raise refused(error) from error

    try:
        # Unbuffered: closing it cannot fail on what was kept back.
        file = out.open("wb", buffering=0)
    except OSError as error:
        raise refused(error) from error
    with file:
        yield write


# -- doing


async def _rehearse(settings: Settings, chosen: Selection, verb: str, json: bool) -> int:
    async with open_redis(settings, "dlq") as coord:
        found = await print_found(coord, chosen, json)
        unknown = await missing(coord, chosen)
    for id_ in unknown:
        say(no_letter(id_))
    say(f"{found} would be {verb}; nothing was done")
    return EXIT_FAILED if unknown else 0


async def _do(
    settings: Settings, chosen: Selection, verb: str, act: Callable[[Operator], Awaitable[Tally]], json: bool
) -> int:
    stopping = Stopping(settings.shutdown.budget_s)
    timeout_s, tally = settings.bus.publish_timeout_s, Tally()
    total = await _count(settings, chosen)
    async with open_redis(settings, "dlq") as coord, open_bus(settings) as bus, anyio.create_task_group() as beside:
        beside.start_soon(stopping.watch_signals)
        with _progress(total) as (tell, on_progress):
            operator = Operator(
                bus,
                coord,
                publish_timeout_s=timeout_s,
                stop=stopping.event,
                tell=tell,
                on_progress=on_progress,
            )
            await warn_of_lag(operator)
            try:
                tally = await act(operator)
            except BaseException:
                say(f"{operator.tally.done} of {total} were {verb}; the same command goes on with the rest")
                raise
        beside.cancel_scope.cancel()
    return summary(verb, tally, total, json=json)


async def _count(settings: Settings, chosen: Selection) -> int:
    if chosen.ids:
        return len(set(chosen.ids))
    async with open_redis(settings, "dlq") as coord:
        return sum([len(letters) async for letters in find(coord, chosen, datetime.now(UTC))])


@contextmanager
def _progress(total: int) -> Generator[tuple[Callable[[str], None], Callable[[Tally], None]]]:
    """Where to say lines, and whom to tell of progress: a bar on a terminal, nothing elsewhere."""
    if not sys.stderr.isatty():
        yield say, lambda tally: None
        return
    from rich.console import Console
    from rich.progress import Progress  # a third of a second that a pipe does not pay

    with Progress(console=Console(stderr=True), transient=True) as bar:
        row = bar.add_task("dead letters", total=total)

        def tell(text: str) -> None:
            bar.console.print(f"fogactors: {text}", markup=False, highlight=False, soft_wrap=True)

        yield tell, lambda tally: bar.update(row, completed=tally.seen)

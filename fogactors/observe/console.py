"""The terminal: a running program as a display that refreshes, or as a line every few seconds where there is none.

What it looks like is a pure function of a `Snapshot` and a `Board`; only `live` waits and writes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Final

import anyio
from rich.console import Console, ConsoleOptions, Group, RenderableType, RenderResult
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from fogactors.observe.board import Board
from fogactors.observe.snapshot import ProgramLike, Progress, Snapshot, TierRow, look
from fogactors.observe.trees import plain_table, tree_live, tree_spec

__all__ = ["eta", "live", "live_view", "plain_line", "tree_live", "tree_spec"]

PLAIN_S: Final = 5.0
"""Between two lines where there is no terminal."""

WIDE: Final = 110
"""Columns from which the tree stands beside the rest."""


async def live(
    program: ProgramLike,
    board: Board,
    *,
    console: Console,
    refresh_s: float = 0.25,
    progress: Callable[[], Progress] | None = None,
    plain: bool = False,
) -> None:
    """Show a program until cancelled; without a terminal, or if `plain`, by a line every 5 s. `progress`: of a job that
    has an end."""

    def so_far() -> Progress | None:
        return None if progress is None else progress()

    # isatty as well: FORCE_COLOR makes rich call a pipe a terminal, and frames are no use in a file.
    if plain or not (console.is_interactive and console.file.isatty()):
        while True:
            await anyio.sleep(PLAIN_S)
            line = plain_line(await look(program), board, so_far())
            console.print(line, highlight=False, markup=False, soft_wrap=True)
    # Not rich's own refreshing: that is a thread, which would read the board while the loop writes it.
    with Live(console=console, auto_refresh=False, transient=True) as display:
        while True:
            display.update(live_view(await look(program), board, so_far()), refresh=True)
            await anyio.sleep(refresh_s)


# -- the view ----------------------------------------------------------------------------------------------------------


def live_view(snapshot: Snapshot, board: Board, progress: Progress | None = None) -> RenderableType:
    """Most important first: a terminal that is too low shows the beginning."""
    parts: list[RenderableType] = []
    if progress is not None:
        parts += [_progress(progress, board.rate.per_s(snapshot.at.timestamp())), Text()]
    figures: list[RenderableType] = [tiers_table(snapshot.tiers), Text(), _queues(snapshot), Text()]
    figures += _counts(snapshot, board)
    parts.append(_Columns(Group(*figures), tree_live(snapshot.nodes), _troubles(board) if board.recent else None))
    return Group(*parts)


def plain_line(snapshot: Snapshot, board: Board, progress: Progress | None = None) -> str:
    """All of it in one line, for logs."""
    rate = board.rate.per_s(snapshot.at.timestamp())
    running = sum(row.load.running for row in snapshot.tiers if row.load is not None)
    if progress is None:
        head = f"{board.ended.total()} ended, {_failed(board)} failed"
    else:
        head = f"{progress.done} of {progress.total} done, {progress.failed} failed"
    down = [row.tier for row in snapshot.tiers if row.load is None]
    parts = [head, f"{running} running", f"{rate:.0f} tasks/s"]
    if progress is not None:
        parts.append(f"ETA {eta(progress, rate)}")
    if down:
        parts.append(f"no answer: {', '.join(down)}")
    return ", ".join(parts)


def eta(progress: Progress, rate: float) -> str:
    """Minutes and seconds that are left at this rate."""
    rest = progress.total - progress.done
    if rest <= 0:
        return "0:00"
    if rate <= 0:
        return "-:--"
    seconds = round(rest / rate)
    hours, minutes = seconds // 3600, seconds // 60 % 60
    return f"{hours}:{minutes:02}:{seconds % 60:02}" if hours else f"{minutes}:{seconds % 60:02}"


def tiers_table(rows: Iterable[TierRow]) -> Table:
    """What each executor has in hand. One that does not answer is a row that says why."""
    table = plain_table("tier", "cpu", "memory", "running", "waiting", "helping", numbers=("running", "waiting"))
    for row in rows:
        load = row.load
        if load is None:
            table.add_row(row.tier, Text(row.why or "no answer", style="red"))
            continue
        used = load.size - load.free
        table.add_row(
            Text(row.tier, style="bold"),
            f"{used.cpu:.2f} of {load.size.cpu:g}",
            f"{used.memory_mb:.0f} of {load.size.memory_mb:g} MiB",
            str(load.running),
            str(load.waiting),
            Text("yes", style="green") if load.helping else Text("no", style="dim"),
        )
    return table


def _queues(snapshot: Snapshot) -> RenderableType:
    busy = {name: depth for name, depth in snapshot.depths.items() if depth.ready or depth.unsettled or depth.stalled}
    if not busy:
        return Text("all queues are empty", style="dim")
    columns = ("ready", "unsettled", "consumers")
    table = plain_table("queue", *columns, numbers=columns)
    for name, depth in busy.items():
        stalled = Text(f" ({depth.stalled} stalled)", style="red") if depth.stalled else Text()
        table.add_row(Text(name) + stalled, str(depth.ready), str(depth.unsettled), str(depth.consumers))
    return table


def _counts(snapshot: Snapshot, board: Board) -> list[RenderableType]:
    states = ", ".join(f"{n:,} {state}" for state, n in board.ended.most_common()) or "none yet"
    others = {
        "retried": board.retried,
        "handed back": board.handed_back,
        "dead letters": board.dead_letters.total(),
        "worker crashes": board.crashed,
        "abandoned threads": board.abandoned_threads,
        "actor failures": board.failed_exits,
        "actor restarts": board.restarts.total(),
        "pauses": board.pauses,
        "duplicates": board.duplicates,
        "refused messages": sum(board.overflows.values()),
    }
    rate = board.rate.per_s(snapshot.at.timestamp())
    lines = [
        Text(f"{board.started:,} started, {rate:.0f} tasks/s"),
        Text(f"ended: {states}"),
        Text(", ".join(f"{n:,} {what}" for what, n in others.items() if n), style="yellow"),
    ]
    if board.store_away:
        lines.append(Text(f"results cannot be recorded by {', '.join(sorted(board.store_away))}", style="red"))
    return [line for line in lines if line.plain]


def _troubles(board: Board) -> Group:
    # Not a table: one that is too wide takes from all its columns, and a time without its end is no time.
    lines = [Text("trouble", style="dim")]
    for trouble in board.recent:
        at = (f"{trouble.at.astimezone():%H:%M:%S}  ", "dim")
        lines.append(Text.assemble(at, trouble.text, no_wrap=True, overflow="ellipsis"))
    return Group(*lines)


def _progress(progress: Progress, rate: float) -> Table:
    share = progress.done / progress.total if progress.total else 1.0
    row = Table.grid(padding=(0, 2, 0, 0))
    row.add_column(ratio=1)
    row.add_column(no_wrap=True)
    failed = Text(f"  {progress.failed} failed", style="yellow") if progress.failed else Text()
    row.add_row(
        ProgressBar(total=max(progress.total, 1), completed=progress.done),
        Text(f"{progress.done:,} of {progress.total:,} ({int(share * 100)}%)")
        + failed
        + Text(f"  ETA {eta(progress, rate)}"),
    )
    return row


def _failed(board: Board) -> int:
    return board.ended.total() - board.ended["succeeded"]


class _Columns:
    """Figures and tree side by side where the console is wide enough, troubles below; else the tree comes last."""

    def __init__(self, figures: RenderableType, tree: RenderableType, troubles: RenderableType | None) -> None:
        self._figures = figures
        self._tree = tree
        self._troubles = [] if troubles is None else [Text(), troubles]

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        if options.max_width < WIDE:
            yield Group(self._figures, *self._troubles, Text(), self._tree)
        else:
            grid = Table.grid(padding=(0, 4, 0, 0))
            grid.add_row(self._figures, self._tree)
            yield Group(grid, *self._troubles)

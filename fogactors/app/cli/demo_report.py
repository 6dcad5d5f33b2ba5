"""What the job ends with: tables for a terminal, or the same as data."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from rich.console import Console
from rich.filesize import decimal
from rich.markup import escape
from rich.text import Text

from fogactors.app.demo.files import printable
from fogactors.app.demo.ledger import Group, Ledger
from fogactors.messages import PRIORITIES, Priority
from fogactors.observe.trees import plain_table

__all__ = ["print_report", "summary"]


def summary(ledger: Ledger, *, seconds: float, stopped: bool, tiers: tuple[str, ...]) -> dict[str, Any]:
    """All figures as data. `lost` is what has no result though it was not told to stop, `not_run` if it was."""
    found, missing = ledger.found, ledger.missing
    return {
        "path": printable(found.root),
        "files": len(found.files),
        "bytes": sum(file.size for file in found.files),
        "left_out": found.left_out,
        "unreadable_folders": list(found.unreadable),
        "tasks": ledger.expected,
        "recorded": ledger.recorded,
        "succeeded": ledger.recorded - ledger.failed,
        "failed": ledger.failed,
        "lost": 0 if stopped else missing,
        "not_run": missing if stopped else 0,
        "stopped": stopped,
        "seconds": round(seconds, 3),
        "tasks_per_s": round(ledger.recorded / seconds, 1) if seconds else 0.0,
        "groups": [_figures(tier, priority, group) for tier, priority, group in _in_order(ledger, tiers)],
    }


def print_report(console: Console, ledger: Ledger, figures: dict[str, Any], tiers: tuple[str, ...]) -> None:
    """Results first, then the summary, the verdict last: it is what is left on the screen."""
    _print_files(console, ledger)
    _print_groups(console, ledger, tiers)
    _print_failures(console, ledger)
    for line in ledger.found.unreadable:
        console.print(f"not listed: {escape(line)}", style="yellow", highlight=False)
    size, speed = decimal(figures["bytes"]), f"{figures['seconds']:.1f} s ({figures['tasks_per_s']:.0f} a second)"
    console.print(f"{figures['files']:,} files, {size}, {figures['tasks']:,} tasks in {speed}", highlight=False)
    ends = f"{figures['succeeded']:,} succeeded, {figures['failed']:,} failed, {figures['lost']:,} lost"
    if figures["stopped"]:
        ends += f", {figures['not_run']:,} not run"
    style = "bold red" if figures["lost"] or figures["not_run"] else "bold green"
    console.print(ends, style=style, highlight=False)


def _print_files(console: Console, ledger: Ledger) -> None:
    largest = plain_table("largest", "size", "sha256", numbers=("size",))
    for size, path, sha256 in sorted(ledger.largest, reverse=True):
        largest.add_row(_short(path), decimal(size), sha256[:16])
    densest = plain_table("most compressible", "size", "zlib", "bz2", numbers=("size", "zlib", "bz2"))
    for _, path, each in sorted(ledger.densest, key=lambda entry: entry[:2], reverse=True):
        densest.add_row(_short(path), decimal(each.size), f"{each.zlib_ratio:.1f} : 1", f"{each.bz2_ratio:.1f} : 1")
    for table in (largest, densest):
        if table.row_count:
            console.print(table)
            console.print()
    source = ledger.source
    if source.files:
        code = f"{source.lines:,} lines, {source.code_lines:,} of them code, {source.tokens:,} tokens"
        console.print(f"{source.files:,} source files: {code}", highlight=False)
        console.print()


def _print_groups(console: Console, ledger: Ledger, tiers: tuple[str, ...]) -> None:
    numbers = ("tasks", "failed", "wait p50", "wait p99", "run p50", "run p99")
    table = plain_table("tier", "priority", *numbers, numbers=numbers)
    for tier, priority, group in _in_order(ledger, tiers):
        failed = Text(str(group.failed), style="yellow" if group.failed else "dim")
        times = [_time(sketch.quantile(q)) for sketch in (group.wait, group.run) for q in (0.5, 0.99)]
        table.add_row(tier, priority, f"{group.count:,}", failed, *times)
    if table.row_count:
        console.print(table)
        console.print()


def _print_failures(console: Console, ledger: Ledger) -> None:
    if not ledger.failures:
        return
    for row in ledger.failures:
        why = f"{row.error.type}: {row.error.message}" if row.error is not None else row.state
        line = Text(f"{row.state}: ", style="yellow")
        line.append(f"{row.kind} of {row.path}: {printable(why.partition(chr(10))[0])}", style="default")
        console.print(line)
    rest = ledger.failed - len(ledger.failures)
    if rest:
        console.print(f"and {rest:,} more; --out writes all of them", highlight=False)
    console.print()


def _in_order(ledger: Ledger, tiers: tuple[str, ...]) -> Iterable[tuple[str, Priority, Group]]:
    for tier in tiers:
        for priority in PRIORITIES:
            group = ledger.groups.get((tier, priority))
            if group is not None:
                yield tier, priority, group


def _figures(tier: str, priority: Priority, group: Group) -> dict[str, Any]:
    times = {
        f"{name}_p{percent}_s": round(sketch.quantile(percent / 100), 6)
        for name, sketch in (("wait", group.wait), ("run", group.run))
        for percent in (50, 99)
    }
    return {"tier": tier, "priority": priority, "count": group.count, "failed": group.failed, **times}


def _short(path: str, width: int = 44) -> Text:
    """The end of a path says more than its beginning."""
    return Text(path if len(path) <= width else "..." + path[3 - width :])


def _time(seconds: float) -> str:
    return f"{seconds * 1000:.1f} ms" if seconds < 1 else f"{seconds:.2f} s"

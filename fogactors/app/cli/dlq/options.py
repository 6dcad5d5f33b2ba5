"""The options that the commands of `fogactors dlq` share, and the way to the index. Imports little: a list that goes
into a pipe should not wait for what it does not use."""

from __future__ import annotations

import re
import sys
from typing import Annotated, Final, TypedDict, cast, get_args

import typer

from fogactors.app.cli.common import load_settings
from fogactors.app.dlq_select import Selection
from fogactors.app.settings import Settings
from fogactors.errors import ConfigError
from fogactors.messages import LetterState, Reason

__all__ = [
    "EXIT_FAILED",
    "AllOption",
    "DryRun",
    "Filters",
    "Id",
    "Ids",
    "Limit",
    "NewerThan",
    "OlderThan",
    "QueueFilter",
    "ReasonFilter",
    "StateFilter",
    "TaskFilter",
    "remote_settings",
    "say",
    "select",
]

EXIT_FAILED: Final = 1
CLOSE_S: Final = 3.0

_UNITS: Final = {"s": 1, "m": 60, "h": 3600, "d": 86400}

Id = Annotated[str, typer.Argument(metavar="ID", help="The dead letter; a task's is the task's id.")]
Ids = Annotated[list[str] | None, typer.Argument(metavar="[ID]...", help="Which letters; or filters, or --all.")]
AllOption = Annotated[bool, typer.Option("--all", help="All that are parked.")]
ReasonFilter = Annotated[
    list[str] | None,
    typer.Option("--reason", metavar="REASON", help=f"Of this reason; repeatable: {', '.join(get_args(Reason))}."),
]
TaskFilter = Annotated[
    str | None, typer.Option("--task", metavar="NAME", help="Of this task, or of all that fit: 'shop.*'.")
]
QueueFilter = Annotated[
    str | None, typer.Option("--queue", metavar="NAME", help="That came from this queue, or from all that fit.")
]
OlderThan = Annotated[
    str | None, typer.Option("--older-than", metavar="AGE", help="Given up on longer ago: 30s, 5m, 2h, 3d.")
]
NewerThan = Annotated[str | None, typer.Option("--newer-than", metavar="AGE", help="Given up on since then.")]
StateFilter = Annotated[str, typer.Option("--state", help="parked, replayed or all.")]
Limit = Annotated[int | None, typer.Option("--limit", min=1, metavar="N", help="At most this many, the oldest first.")]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Show which they are, and do nothing.")]


class Filters(TypedDict):
    """As they stand on the command line."""

    reason: list[str] | None
    task: str | None
    queue: str | None
    older_than: str | None
    newer_than: str | None


def select(
    verb: str,
    ids: list[str] | None,
    everything: bool,
    filters: Filters,
    *,
    state_: str = "parked",
    limit: int | None = None,
) -> Selection:
    """From the command line. Raises `ConfigError`, also where nothing is selected or the same thing twice."""
    for each in filters["reason"] or ():
        if each not in get_args(Reason):
            raise ConfigError(f"--reason must be one of {', '.join(get_args(Reason))}; got {each!r}")
    if state_ not in ("parked", "replayed", "all"):
        raise ConfigError(f"--state must be parked, replayed or all; got {state_!r}")
    given = [bool(ids), everything, any(filters.values())]
    if sum(given) != 1:
        what = "all of these exclude each other" if any(given) else "nothing is selected"
        raise ConfigError(f"dlq {verb}: name letters by their ids, or by filters such as --reason, or --all: {what}")
    if ids and limit is not None:
        raise ConfigError(f"dlq {verb}: --limit is for filters and --all, not for ids")
    states = ("parked", "replayed") if state_ == "all" else (state_,)
    return Selection(
        ids=tuple(ids or ()),
        reasons=frozenset(cast("list[Reason]", filters["reason"] or [])),
        task=filters["task"],
        queue=filters["queue"],
        older_than_s=_age("--older-than", filters["older_than"]),
        newer_than_s=_age("--newer-than", filters["newer_than"]),
        states=frozenset(cast("tuple[LetterState, ...]", states)),
        limit=limit,
    )


def _age(option: str, text: str | None) -> float | None:
    if text is None:
        return None
    found = re.fullmatch(r"(\d+(?:\.\d+)?)([smhd])", text)
    if found is None:
        raise ConfigError(f"{option} is a number and s, m, h or d, such as 30s or 2h; got {text!r}")
    return float(found[1]) * _UNITS[found[2]]


def remote_settings(imports: list[str] | None = None) -> Settings:
    """Raises `ConfigError` on the embedded bus, whose dead letters end with its process."""
    settings = load_settings(imports)
    if settings.bus.url.startswith("memory:"):
        raise ConfigError(
            "[bus] url is memory://: its dead letters end with its process; name the RabbitMQ, amqp://..."
        )
    return settings


def say(text: str) -> None:
    """A line for the user, beside the output."""
    print(f"fogactors: {text}", file=sys.stderr)

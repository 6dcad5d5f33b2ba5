"""`fogactors dlq list`."""

from __future__ import annotations

from datetime import UTC, datetime

from fogactors.app.cli.common import Json
from fogactors.app.cli.common import run as run_main
from fogactors.app.cli.dlq.options import (
    Filters,
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
from fogactors.app.cli.dlq.printing import JsonArray, LetterTable
from fogactors.app.dlq_select import Selection, find
from fogactors.app.reach import open_redis
from fogactors.app.settings import Settings
from fogactors.coord.base import Coord

__all__ = ["list_", "print_found"]


def list_(
    reason: ReasonFilter = None,
    task: TaskFilter = None,
    queue: QueueFilter = None,
    older_than: OlderThan = None,
    newer_than: NewerThan = None,
    state: StateFilter = "parked",
    limit: Limit = None,
    json: Json = False,
) -> None:
    """List them, the oldest first. Asks the index in Redis and no broker, and changes nothing."""
    filters: Filters = {
        "reason": reason,
        "task": task,
        "queue": queue,
        "older_than": older_than,
        "newer_than": newer_than,
    }
    chosen = select("list", None, not any(filters.values()), filters, state_=state, limit=limit)
    settings = remote_settings()
    run_main(lambda: _list(settings, chosen, json))


async def _list(settings: Settings, chosen: Selection, json: bool) -> int:
    async with open_redis(settings, "dlq") as coord:
        found = await print_found(coord, chosen, json)
    if not found and not json:
        say("no dead letters here; dlq-reaper keeps this list, and `fogactors ping --role dlq-reaper` finds it")
    return 0


async def print_found(coord: Coord, chosen: Selection, json: bool) -> int:
    printer, found = JsonArray() if json else LetterTable(datetime.now(UTC)), 0
    async for letters in find(coord, chosen, datetime.now(UTC)):
        printer.add(letters)
        found += len(letters)
    printer.end()
    return found

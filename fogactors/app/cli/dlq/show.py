"""`fogactors dlq show`."""

from __future__ import annotations

import sys
from datetime import UTC, datetime
from typing import Annotated

import typer

from fogactors.app.cli.common import Json, print_json
from fogactors.app.cli.common import run as run_main
from fogactors.app.cli.dlq.options import EXIT_FAILED, Id, remote_settings, say
from fogactors.app.cli.dlq.printing import as_json, print_letter
from fogactors.app.cli.dlq.shared import open_bus
from fogactors.app.dlq import Operator
from fogactors.app.reach import open_redis
from fogactors.app.settings import Settings
from fogactors.errors import DeadLetterMissing

__all__ = ["show"]


def show(
    id: Id,  # noqa: A002
    raw: Annotated[bool, typer.Option("--raw", help="Write the body's bytes and nothing else.")] = False,
    history: Annotated[
        bool, typer.Option("--history", help="All that happened to it; reads the whole stream.")
    ] = False,
    json: Json = False,
) -> None:
    """Show all of one: why, where, when, the traceback and the body. Exits 1 when its body is gone."""
    settings = remote_settings()
    run_main(lambda: _show(settings, id, raw, history, json))


async def _show(settings: Settings, id_: str, raw: bool, history: bool, json: bool) -> int:
    async with open_redis(settings, "dlq") as coord, open_bus(settings) as bus:
        operator = Operator(bus, coord)
        entry, letter, past = await operator.get(id_), None, None
        try:
            letter = await operator.read(entry)
        except DeadLetterMissing as error:
            if raw:
                raise
            say(str(error))
        if letter is not None and raw:
            sys.stdout.buffer.write(letter.body)
            return 0
        if history:
            past = await operator.history(entry)
    if json:
        print_json(as_json(entry, letter, past))
    else:
        print_letter(entry, letter, past, datetime.now(UTC))
    return EXIT_FAILED if letter is None else 0

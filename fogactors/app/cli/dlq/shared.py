"""What the commands of `fogactors dlq` that reach the broker share: the way to it, and the last line."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Final, TypeVar

import anyio
import typer

from fogactors.app import boot
from fogactors.app.cli.common import print_json, state
from fogactors.app.cli.dlq.options import EXIT_FAILED, say
from fogactors.app.dlq import Operator, Tally
from fogactors.app.reach import connect_broker
from fogactors.app.services import role_body
from fogactors.app.settings import Settings
from fogactors.bus.amqp import AmqpBus
from fogactors.bus.base import Bus

__all__ = ["fetch", "open_bus", "summary", "warn_of_lag"]

CLOSE_S: Final = 3.0

T = TypeVar("T")


def fetch(main: Callable[[], Awaitable[T]]) -> T:
    """Run a coroutine for its value; an error ends the command. For what comes before a question to the user, which
    must not be asked in the event loop, nor in a thread that Ctrl-C does not reach."""
    found: list[T] = []

    async def keep() -> int:
        found.append(await main())
        return 0

    code = boot.run(keep, debug=state.debug)
    if code:
        raise typer.Exit(code)
    return found[0]


@asynccontextmanager
async def open_bus(settings: Settings) -> AsyncGenerator[Bus]:
    """The way to the stream and to the queues. Raises `BusUnavailable`, `AccessRefused`."""
    bus = AmqpBus(settings.bus.url, name=f"{settings.node.name}/dlq", max_body=role_body(settings))
    try:
        await connect_broker(bus, settings)
        yield bus
    finally:
        with anyio.move_on_after(CLOSE_S, shield=True):
            await bus.close()


def summary(verb: str, tally: Tally, total: int, *, json: bool) -> int:
    """Print what was done; the exit code."""
    left = max(0, total - tally.seen)
    if json:
        row = {verb: tally.done, "skipped": tally.skipped, "failed": tally.failed, "left": left}
        print_json({**row, "stopped": tally.stopped})
    else:
        parts = [f"{verb} {tally.done}"]
        parts += [f"skipped {tally.skipped}"] if tally.skipped else []
        parts += [f"failed {len(tally.failed)}"] if tally.failed else []
        parts += [f"left {left}: the same command goes on with them"] if left else []
        print(", ".join(parts))
    return EXIT_FAILED if tally.failed or tally.stopped else 0


async def warn_of_lag(operator: Operator) -> None:
    line = await operator.lag()
    if line is not None:
        say(line)

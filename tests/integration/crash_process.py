"""A process that runs one role and kills itself, as SIGKILL does, at a call of its broker or store.

`python -m tests.integration.crash_process` is what such processes are forked from: it has imported everything and has
no thread and no event loop, so a new one is there in milliseconds. It reads orders from its standard input, a line of
JSON each; for each it writes the process id of the one that carries it out and, when that has ended, how.
"""

from __future__ import annotations

import ctypes
import os
import random
import signal
import sys
from datetime import datetime, timedelta
from pathlib import Path

import anyio
import msgspec

from fogactors.bus import Bus
from fogactors.bus.amqp import AmqpBus
from fogactors.coord.redis import RedisCoord
from fogactors.core import ActorSystem, Events
from fogactors.roles import ROLES
from fogactors.tasks.events import TaskStarted
from fogactors.tasks.executor_config import utc_now
from fogactors.testing.crash import Call, Mortal, When, crash_at
from tests.tasks import crash_tasks
from tests.tasks.crash_points import EPOCH, context_of

DELAYS_S = (0.0, 0.0, 0.002, 0.02)
"""Before a call, so that what happens in between changes with the seed."""


class Order(msgspec.Struct, kw_only=True):
    """Run a `role` and die at its call of this `number`, counting all or those of this name; 0: live. `zero`: when it
    is `EPOCH`, for the tasks' times. `book`: the file in which tasks note their runs, a line each."""

    role: str
    amqp_url: str
    redis_url: str
    book: str
    zero: datetime
    number: int = 0
    name: str = ""
    when: When = "before"
    seed: int = 0


class Book:
    """What survives a SIGKILL: lines in a file. One line is written in one piece."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def note(self, *words: object) -> None:
        with self._path.open("a") as file:
            file.write(" ".join(map(str, words)) + "\n")

    def lines(self) -> list[list[str]]:
        return [line.split() for line in self._path.read_text().splitlines()] if self._path.exists() else []

    def runs(self, name: str) -> int:
        return self.lines().count(["run", name])

    def attempt(self, name: str) -> int:
        """The highest."""
        return max((int(line[2]) for line in self.lines() if line[:2] == ["attempt", name]), default=0)


async def live(order: Order) -> None:
    book, rng = Book(Path(order.book)), random.Random(order.seed)
    dies = crash_at(order.number, order.when, name=order.name)

    async def plan(call: Call) -> When | None:
        when = await dies(call)
        await anyio.sleep(rng.choice(DELAYS_S))
        return when

    def began(name: str) -> int:
        book.note("run", name)
        return book.runs(name)

    def see(event: object) -> None:
        if isinstance(event, TaskStarted):
            book.note("attempt", event.task_id, event.attempt)

    def make_bus(name: str) -> Bus:
        return process.bus(name, AmqpBus(order.amqp_url, name=name))

    process = Mortal(plan, lambda: os.kill(os.getpid(), signal.SIGKILL))
    crash_tasks.here = crash_tasks.Here(process.point, began)
    events = Events()
    events.subscribe(see)
    context = context_of(
        process.coord(RedisCoord(order.redis_url)), make_bus, now=lambda: EPOCH + (utc_now() - order.zero)
    )
    async with ActorSystem(events=events) as actors:
        for tree in ROLES[order.role].trees(context, ("light",)):
            await actors.start(tree)
        await anyio.sleep_forever()


def die_with_parent() -> None:
    """So that a test run that is killed leaves nobody behind."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(1, ctypes.c_ulong(signal.SIGKILL), 0, 0, 0)


def serve() -> None:
    die_with_parent()
    for line in sys.stdin:
        order = msgspec.json.decode(line, type=Order)
        pid = os.fork()
        if pid == 0:
            try:
                die_with_parent()
                anyio.run(live, order)
            finally:
                os._exit(1)  # not back into the loop: that is the parent's
        print(pid, flush=True)  # noqa: T201 - the protocol
        print(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), flush=True)  # noqa: T201


ZERO_BEFORE = timedelta(seconds=4)
"""How much of the tasks' time has passed when a schedule begins: what is due at 6 s is due in 2."""

if __name__ == "__main__":
    serve()

"""A stream of dead letters and its index on the embedded services, kept up to date by hand."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from typing import Any

from msgspec import Raw

from fogactors.app.dlq import Operator
from fogactors.app.dlq_select import Selection
from fogactors.bus import Delivery, MemoryBroker, MemoryBus, Message
from fogactors.coord import MemoryCoord, MemoryStore
from fogactors.coord.letters import ParkedLetter
from fogactors.messages import DeadLetter, DeadLetterFate, ErrorInfo, Task
from fogactors.tasks.deadletter import DEAD_LETTER_TYPE, publish_letter
from fogactors.tasks.replay import entry_of
from fogactors.wire import decode, encode, fog_topology
from fogactors.wire.topology import PARKED

NOW = datetime(2030, 1, 1, 12, tzinfo=UTC)
EVERYTHING = Selection()


def letter_of(id_: str, *, name: str = "shop.add", args: bytes = b'{"a":1,"b":2}', **fields: Any) -> DeadLetter:
    """A task that failed a minute ago."""
    generation = fields.get("generation", 0)
    task = Task(id=id_, name=name, args=Raw(args), created=NOW - timedelta(hours=1), generation=generation)
    known: dict[str, Any] = {
        "reason": "failed",
        "body": encode(task),
        "task_id": id_,
        "name": name,
        "origin": "tasks.normal",
        "attempts": 3,
        "error": ErrorInfo(type="ValueError", message="no\nluck", traceback="Traceback\n  line 1\n"),
        "first": task.created,
        "last": NOW - timedelta(minutes=1),
    }
    return DeadLetter(id=id_, **(known | fields))


class Desk:
    def __init__(self, broker: MemoryBroker, bus: MemoryBus) -> None:
        self.broker = broker
        self.bus = bus
        self.store = MemoryStore()
        self.coord = MemoryCoord(self.store)
        self.index = self.coord.letters
        self.told: list[str] = []

    def operator(self, **options: Any) -> Operator:
        return Operator(self.bus, self.coord, tell=self.told.append, now=lambda: NOW, **options)

    async def park(self, *letters: DeadLetter) -> None:
        for letter in letters:
            await publish_letter(self.bus, PARKED, letter, timeout=1)
        await self.catch_up()

    async def catch_up(self) -> None:
        """What the reaper's indexer does."""
        at = await self.index.position()
        for offset, record in enumerate(self.broker.read(PARKED)):
            if at is not None and offset <= at:
                continue
            is_letter = record.type == DEAD_LETTER_TYPE
            known: ParkedLetter | DeadLetterFate = (
                entry_of(decode(record.body, DeadLetter), offset) if is_letter else decode(record.body, DeadLetterFate)
            )
            at = await self.index.apply(at, [known], offset)

    async def states(self) -> dict[str, str]:
        return {letter.id: letter.state async for batch in self.index.scan() for letter in batch}

    async def tasks(self, queue: str = "tasks.normal") -> list[Task]:
        """Takes them out."""
        got: list[Delivery] = []
        consumer = await self.bus.consume(queue, got.append, prefetch=10_000)
        for delivery in got:
            await delivery.ack()
        await consumer.close()
        return [decode(delivery.body, Task, delivery.content_type) for delivery in got]

    def fates(self) -> list[tuple[str, str]]:
        records = [record for record in self.broker.read(PARKED) if record.type != DEAD_LETTER_TYPE]
        return [(fate.id, fate.state) for fate in (decode(record.body, DeadLetterFate) for record in records)]

    async def fill(self, key: str, count: int) -> None:
        for _ in range(count):
            await self.bus.publish("tasks.direct", key, Message(b"{}"))


@asynccontextmanager
async def desk() -> AsyncIterator[Desk]:
    async with MemoryBroker() as broker:
        broker.declare(fog_topology())
        bus = MemoryBus(broker, name="operator", max_body=3_000_000)
        await bus.open()
        yield Desk(broker, bus)
        await bus.close()

"""Orders to the roles that run, over `system.fanout`, and the answers to them.

Nobody knows how many will answer, so answers are collected for a while, or until there are enough.
"""

from __future__ import annotations

import itertools
import secrets
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Final

import anyio

from fogactors.bus.base import Bus, Consumer, Delivery, Message
from fogactors.errors import BusUnavailable, WireError
from fogactors.messages import Command, Control, ControlReply
from fogactors.wire.access import control_queue
from fogactors.wire.codec import decode, encode
from fogactors.wire.topology import CONTROL, RESULTS

__all__ = ["ANSWER_S", "Orders"]

ANSWER_S: Final = 1.0
"""How long answers are collected."""
BUS_S: Final = 2.0
"""How long to wait for a connection, and for the broker to take the order."""
PREFETCH: Final = 10_000
"""Answers that come while as many orders wait for theirs. They are settled when an order has been answered."""

Enough = Callable[[list[ControlReply]], bool]


@dataclass(slots=True)
class _Asked:
    enough: Enough | None
    replies: list[ControlReply] = field(default_factory=list[ControlReply])
    done: anyio.Event = field(default_factory=anyio.Event)


class Orders:
    """One client's way to give orders, over a bus that another opens and closes.

    All of its orders share one reply queue, which is opened with the first and again after a lost connection: an
    exclusive queue goes with its connection and not before, so one for each order would pile up at the broker.
    """

    def __init__(self, bus: Bus) -> None:
        self._bus = bus
        self._id = secrets.token_hex(8)
        self._reply_to = f"reply.{self._id}"
        self._numbers = itertools.count(1)
        self._asked: dict[str, _Asked] = {}
        self._unsettled: list[Delivery] = []
        self._consumer: Consumer | None = None
        self._connection = 0
        self._gate = anyio.Lock()

    async def ask(
        self,
        command: Command,
        *,
        task_id: str | None = None,
        node: str | None = None,
        role: str | None = None,
        wait_s: float = ANSWER_S,
        enough: Enough | None = None,
    ) -> list[ControlReply]:
        """Give an order to every role, or to those that `node` and `role` name; returns the answers by node and role.

        `wait_s`: seconds in which answers are collected; `enough` looks at them and may end that early. Raises
        `BusUnavailable`, also when the connection was lost before there were enough, and `AccessRefused`.
        """
        id_ = f"{self._id}-{next(self._numbers):x}"
        control = Control(
            id=id_,
            command=command,
            at=datetime.now(UTC),
            node=node,
            role=role,
            task_id=task_id,
            reply_to=self._reply_to,
        )
        message = Message(
            encode(control), type="control", reply_to=self._reply_to, correlation_id=id_, persistent=False
        )
        asked = self._asked[id_] = _Asked(enough)
        try:
            await self._listen()
            await self._bus.publish(CONTROL, "", message, mandatory=False, timeout=BUS_S)
            with anyio.move_on_after(wait_s):
                await asked.done.wait()
        finally:
            del self._asked[id_]
        if not self._listens and not (enough is not None and enough(asked.replies)):
            raise BusUnavailable(f"{command}: the connection was lost while waiting for answers", unsent=message)
        await self._settle()
        return sorted(asked.replies, key=lambda reply: (reply.node, reply.role))

    async def close(self) -> None:
        """Listen no more. The queue itself goes with the connection."""
        consumer, self._consumer, self._connection = self._consumer, None, 0
        if consumer is not None:
            await consumer.close()

    @property
    def _listens(self) -> bool:
        return self._bus.is_open and self._connection == self._bus.stats.connections

    async def _listen(self) -> None:
        async with self._gate:
            if self._listens:
                return
            with anyio.move_on_after(BUS_S):
                await self._bus.wait_open()
            connection = self._bus.stats.connections
            # A name for each connection: the broker may hold a broken one, and its queues, for a while.
            name = control_queue(self._bus.user, "order", self._id, f"{connection:x}")
            queue = await self._bus.open_exclusive(name, ((RESULTS, self._reply_to),))
            self._consumer = await self._bus.consume(queue, self._deliver, prefetch=PREFETCH, on_lost=self._lost)
            self._connection = connection

    def _lost(self, _: str) -> None:
        self._connection = 0
        for asked in self._asked.values():
            asked.done.set()

    def _deliver(self, delivery: Delivery) -> None:
        self._unsettled.append(delivery)
        try:
            reply = decode(delivery.body, ControlReply, delivery.content_type)
        except WireError:
            return
        asked = self._asked.get(reply.id)
        if asked is None:
            return  # too late
        asked.replies.append(reply)
        if asked.enough is not None and asked.enough(asked.replies):
            asked.done.set()

    async def _settle(self) -> None:
        unsettled, self._unsettled = self._unsettled, []
        for delivery in unsettled:
            await delivery.ack()

"""Control: the orders that an operator gives to every role, or to some, over `system.fanout`.

Each role has a queue of its own for as long as it is connected, so an order reaches who is there and is not kept
for who is not. What must hold for longer (a pause) is held by whoever carries it out.
"""

from __future__ import annotations

import secrets
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Final

import anyio
import msgspec
from msgspec import Raw

from fogactors.bus.base import Bus, Consumer, Delivery, Message
from fogactors.core import Actor, ChildSpec, Exit
from fogactors.errors import ActorError, BusError, WireError
from fogactors.messages import Command, Control, ControlReply
from fogactors.wire.access import control_queue
from fogactors.wire.codec import decode, encode
from fogactors.wire.topology import CONTROL, RESULTS

__all__ = ["ControlActor", "Order", "child"]

Order = Callable[["ControlActor", Control], Awaitable[Any]]
"""What a role does at a command; what it returns is the answer's `data`. Raises `ActorError`."""

PREFETCH: Final = 16
REPLY_TIMEOUT_S: Final = 2.0


@dataclass(frozen=True, slots=True)
class _Got:
    delivery: Delivery


async def _ping(actor: ControlActor, _: Control) -> None:
    del actor


async def _tree(actor: ControlActor, _: Control) -> Any:
    return actor.ctx.system.tree()


_EVERYBODY: Final[dict[Command, Order]] = {"ping": _ping, "tree": _tree}


class ControlActor(Actor[Any]):
    """Last child of a role's tree. `orders`: the commands that the role knows beyond those that all know; one that
    it does not know it leaves to others. `listens` is called when it hears them."""

    def __init__(
        self,
        bus: Bus,
        node: str,
        role: str,
        orders: dict[Command, Order],
        listens: Callable[[ControlActor], Awaitable[None]] | None = None,
    ) -> None:
        self._bus = bus
        self._node = node
        self._role = role
        self._orders = _EVERYBODY | orders
        self._listens = listens
        self._consumer: Consumer | None = None

    async def run(self) -> None:
        # With an end of its own: after a broken connection the broker may hold the old queue for a while.
        name = control_queue(self._bus.user, self._node, self._role, secrets.token_hex(4))
        queue = await self._bus.open_exclusive(name, ((CONTROL, ""),))
        self._consumer = await self._bus.consume(queue, self._deliver, prefetch=PREFETCH)
        if self._listens is not None:
            with suppress(ActorError):  # it is down; it begins by asking itself
                await self._listens(self)
        await super().run()

    async def on_stop(self, exit: Exit) -> None:  # noqa: A002
        if self._consumer is not None:
            with anyio.move_on_after(2.0, shield=True):
                await self._consumer.close()

    async def handle(self, message: Any) -> None:
        if isinstance(message, _Got):
            await self._obey(message.delivery)
            await message.delivery.ack()

    def _deliver(self, delivery: Delivery) -> None:
        try:
            self.ctx.mailbox.put_nowait(_Got(delivery))
        except ActorError:
            return  # ending, or flooded with orders: an operator sees who answered

    async def _obey(self, delivery: Delivery) -> None:
        try:
            control = decode(delivery.body, Control, delivery.content_type)
        except WireError:
            return  # on a fanout a poisonous order would make a dead letter for every role
        order = self._orders.get(control.command)
        if order is None or not self._is_meant(control):
            return
        reply = ControlReply(
            id=control.id, command=control.command, node=self._node, role=self._role, at=datetime.now(UTC)
        )
        try:
            reply.data = Raw(msgspec.json.encode(await order(self, control)))
        except ActorError as error:
            reply.error = str(error)
        # Anything but a `reply.` key would let an operator's tool write into the feed of results.
        if control.reply_to and control.reply_to.startswith("reply."):
            message = Message(encode(reply), type="control_reply", correlation_id=control.id, persistent=False)
            try:
                await self._bus.publish(RESULTS, control.reply_to, message, mandatory=False, timeout=REPLY_TIMEOUT_S)
            except BusError:
                return  # the asker has its own deadline

    def _is_meant(self, control: Control) -> bool:
        # `tier-executor` means all tiers, `tier-executor-light` one.
        role = control.role
        right_role = role is None or self._role == role or self._role.startswith(f"{role}-")
        return right_role and control.node in (None, self._node)


def child(
    bus: Bus,
    node: str,
    role: str,
    orders: dict[Command, Order],
    listens: Callable[[ControlActor], Awaitable[None]] | None = None,
) -> ChildSpec:
    return ChildSpec(id="control", factory=lambda: ControlActor(bus, node, role, orders, listens), mailbox=256)

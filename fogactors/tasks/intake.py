"""Where an executor's work comes from: consumers on its own tier's queues always, on smaller tiers' while it helps."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Final

from fogactors.bus.base import Bus, Consumer, Delivery
from fogactors.errors import BusError
from fogactors.messages import PRIORITIES
from fogactors.tasks.policy import Lane
from fogactors.tasks.tiers import Tiers
from fogactors.wire.topology import task_queue

__all__ = ["Intake", "Subscription"]

OWN_PRIORITY: Final = 10
HELP_PRIORITY: Final = 0
"""Consumer priorities: a queue's own executors are served before those that only help."""


@dataclass(slots=True, eq=False)
class Subscription:
    """One consumer. `unsettled` counts what it delivered; a cancelled one is closed when that comes to 0, because a
    settle needs the channel that the delivery came on."""

    lane: Lane
    queue: str
    helps: bool
    consumer: Consumer | None = None
    cancelled: bool = False
    unsettled: int = field(default=0)


class Intake:
    """Subscribes for one executor. `deliver` and `lost` are called from the bus and must not block."""

    def __init__(
        self,
        bus: Bus,
        tiers: Tiers,
        own: str,
        *,
        prefetch: int,
        deliver: Callable[[Subscription, Delivery], None],
        lost: Callable[[Subscription, str], None],
    ) -> None:
        self._bus = bus
        self._prefetch = prefetch
        self._deliver = deliver
        self._lost = lost
        self._open: list[Subscription] = []
        light = tiers.lightest.name
        self._own = [Lane(own, priority) for priority in PRIORITIES]
        self._helped = [Lane(tier.name, priority) for tier in tiers.smaller_than(own) for priority in PRIORITIES]
        self._queues = {lane: task_queue(lane.priority, lane.tier, light) for lane in (*self._own, *self._helped)}

    @property
    def helping(self) -> bool:
        return any(each.helps and not each.cancelled for each in self._open)

    @property
    def can_help(self) -> bool:
        return bool(self._helped)

    async def open_own(self) -> None:
        """Raises `BusError`."""
        for lane in self._own:
            await self._subscribe(lane, helps=False)

    async def open_helping(self) -> None:
        """One at a time in hand from each smaller queue, and no look-ahead. Raises `BusError`."""
        for lane in self._helped:
            await self._subscribe(lane, helps=True)

    async def cancel_helping(self) -> None:
        for each in [each for each in self._open if each.helps]:
            await self._cancel(each)

    async def cancel_all(self) -> None:
        """Nothing is delivered after this; what was can still be settled."""
        for each in list(self._open):
            await self._cancel(each)

    async def reopen(self, lost: Subscription) -> None:
        """After the broker took a consumer away: throw its channel away and subscribe anew. Raises `BusError`."""
        if lost in self._open:
            await self._close(lost)
            if not lost.cancelled:
                await self._subscribe(lost.lane, helps=lost.helps)

    async def settled(self, subscription: Subscription) -> None:
        """One delivery less in our hands."""
        subscription.unsettled -= 1
        if subscription.cancelled and subscription.unsettled <= 0:
            await self._close(subscription)

    async def close(self) -> None:
        """Close every channel: what is unsettled goes back."""
        for each in list(self._open):
            await self._close(each)

    async def _subscribe(self, lane: Lane, *, helps: bool) -> None:
        subscription = Subscription(lane, self._queues[lane], helps)

        def on_delivery(delivery: Delivery) -> None:
            subscription.unsettled += 1
            self._deliver(subscription, delivery)

        self._open.append(subscription)
        subscription.consumer = await self._bus.consume(
            subscription.queue,
            on_delivery,
            prefetch=1 if helps else self._prefetch,
            priority=HELP_PRIORITY if helps else OWN_PRIORITY,
            on_lost=lambda reason: self._lost(subscription, reason),
        )

    async def _cancel(self, subscription: Subscription) -> None:
        if subscription.cancelled:
            return
        subscription.cancelled = True
        if subscription.consumer is not None:
            with suppress(BusError):  # the connection is gone, and the consumer with it
                await subscription.consumer.cancel()
        if subscription.unsettled <= 0:
            await self._close(subscription)

    async def _close(self, subscription: Subscription) -> None:
        if subscription in self._open:
            self._open.remove(subscription)
            if subscription.consumer is not None:
                with suppress(BusError):
                    await subscription.consumer.close()

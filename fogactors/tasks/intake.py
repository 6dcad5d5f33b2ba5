"""Where an executor's work comes from: consumers on its own tier's queues always, on smaller tiers' while it helps."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import Final

import anyio
from anyio.abc import TaskGroup

from fogactors.bus.base import Bus, Consumer, Delivery
from fogactors.errors import BusError
from fogactors.tasks.policy import Lane
from fogactors.tasks.routes import Routes, TierRoutes
from fogactors.tasks.tiers import Tiers
from fogactors.wire.topology import Topology

__all__ = ["Delivered", "Intake", "Lost", "Subscription", "Unopened"]

OWN_PRIORITY: Final = 10
HELP_PRIORITY: Final = 0
"""Consumer priorities: a queue's own executors are served before those that only help."""

OPEN_AGAIN_S: Final = 0.1
"""Before the second try to subscribe; twice as long before each further one, up to 1.6 s."""


@dataclass(slots=True, eq=False)
class Subscription:
    """One consumer. `unsettled` counts what it delivered; a cancelled one is closed when that comes to 0, because a
    settle needs the channel that the delivery came on. `ended`: the broker has confirmed that nothing more comes;
    `replaced`: another one is to take its place. `received` counts all that it ever delivered. `awaited_until`: until
    when its next delivery is on its way, most likely."""

    lane: Lane
    queue: str
    helps: bool
    prefetch: int
    consumer: Consumer | None = None
    cancelled: bool = False
    ended: bool = False
    replaced: bool = False
    unsettled: int = 0
    received: int = 0
    awaited_until: float = 0.0


@dataclass(frozen=True, slots=True)
class Delivered:
    """A delivery has come."""

    subscription: Subscription
    delivery: Delivery


@dataclass(frozen=True, slots=True)
class Lost:
    """The broker took a consumer away."""

    subscription: Subscription
    reason: str


@dataclass(frozen=True, slots=True)
class Unopened:
    """A queue of its own tier cannot be had just now; it is tried on."""

    lane: Lane
    error: BusError


class Intake:
    """Subscribes for one executor. `tell` is called from the bus and must not block. `wanted`: whether its own queues
    are to be open. `routes`: which queues there are, by default those of the tiers; `topology`: what is made before one
    of its own is opened; `refill_s`: how long the next delivery is on its way when one of a full window was settled."""

    def __init__(
        self,
        bus: Bus,
        tiers: Tiers,
        own: str,
        *,
        prefetch: int,
        tell: Callable[[Delivered | Lost | Unopened], None],
        wanted: Callable[[], bool] = lambda: True,
        routes: Routes | None = None,
        topology: Topology | None = None,
        refill_s: float = 0.0,
        clock: Callable[[], float] = anyio.current_time,
    ) -> None:
        self._bus = bus
        self._prefetch = prefetch
        self._tell = tell
        self._wanted = wanted
        self.opened = 0
        """How often its own queues were opened: one that knocks since an earlier time must not open a second door."""
        self._open: list[Subscription] = []
        routes = routes or TierRoutes(tiers.lightest.name)
        self._topology = topology
        self._refill_s = refill_s
        self._clock = clock
        self.own = [Lane(own, priority) for priority in routes.priorities]
        self._helped = [Lane(tier.name, priority) for tier in tiers.smaller_than(own) for priority in routes.priorities]
        self._queues = {lane: routes.of(lane.priority, lane.tier).queue for lane in (*self.own, *self._helped)}

    @property
    def helping(self) -> bool:
        return any(each.helps and not each.cancelled for each in self._open)

    @property
    def standing(self) -> list[Subscription]:
        """Those that should get deliveries."""
        return [each for each in self._open if each.consumer is not None and not each.cancelled]

    @property
    def unsettled(self) -> int:
        """What was delivered on any of them and is not settled."""
        return sum(each.unsettled for each in self._open)

    @property
    def can_help(self) -> bool:
        return bool(self._helped)

    async def open(self, lane: Lane) -> None:
        """Subscribe to a lane of its own tier. Raises `BusError`."""
        if self._topology is not None:
            await self._bus.declare(self._topology)
        await self._subscribe(lane, helps=False)

    def open_own(self, tasks: TaskGroup) -> None:
        """Subscribe to its own tier's queues, in `tasks`."""
        # Each by itself, and beside the loop: when a broker comes up its queues are ready one after the other, a tenth
        # of a second or more apart.
        self.opened += 1
        for lane in self.own:
            tasks.start_soon(self.stand, lane)

    async def stand(self, lane: Lane) -> None:
        """Subscribe to a lane of its own tier, again and again until it stands or is not wanted any more; the first
        refusal is told. A queue that cannot be had just now, whose leader is being elected or that somebody
        deletes, is no reason to end what runs: that would charge each of them a delivery."""
        told, delay_s, opened = False, OPEN_AGAIN_S, self.opened
        while self._wanted() and self.opened == opened and not self._has(lane):
            try:
                return await self.open(lane)
            except BusError as error:
                if not told and self._wanted():
                    told = True
                    self._tell(Unopened(lane, error))
            await anyio.sleep(delay_s)
            delay_s = min(2 * delay_s, 16 * OPEN_AGAIN_S)
        return None

    async def open_helping(self) -> None:
        """One at a time in hand from each smaller queue, and no look-ahead. Raises `BusError`."""
        for lane in self._helped:
            if self._wanted():
                await self._subscribe(lane, helps=True)

    async def cancel_helping(self) -> None:
        await self._cancel([each for each in self._open if each.helps])

    async def cancel_all(self) -> None:
        """Nothing is delivered after this; what was can still be settled."""
        await self._cancel(list(self._open))

    async def drop(self, lost: Subscription) -> bool:
        """After the broker took a consumer away: throw its channel away. True when it is to be opened anew."""
        if lost not in self._open:
            return False
        await self._close(lost)
        return not lost.cancelled and not lost.replaced

    async def replace(self, stalled: Subscription) -> None:
        """Subscribe anew and cancel the old consumer. Its channel stays for what came on it: were it closed, and the
        broker merely slow, all that would run twice. Where the queue cannot be had just now, the old one stays as
        it is and the watchdog looks again: an error here would end what runs."""
        if stalled not in self._open or stalled.cancelled or stalled.replaced:
            return
        stalled.replaced = True  # at once, so that nobody replaces it twice
        try:
            await self._subscribe(stalled.lane, helps=stalled.helps)
        except BusError:
            stalled.replaced = False
            if stalled not in self._open and not stalled.helps:  # it was lost meanwhile, and left to us
                await self.stand(stalled.lane)
            return
        await self._cancel([stalled])

    async def settled(self, subscription: Subscription) -> None:
        """One delivery less in our hands."""
        if self._refill_s and subscription.unsettled >= subscription.prefetch and not subscription.cancelled:
            subscription.awaited_until = self._clock() + self._refill_s
        subscription.unsettled -= 1
        if subscription.ended and subscription.unsettled <= 0:
            await self._close(subscription)

    def awaited_s(self, lane: Lane) -> float:
        """For how long something of this lane is on its way, most likely; 0: nothing is."""
        until = max((each.awaited_until for each in self._open if each.lane == lane), default=0.0)
        return max(0.0, until - self._clock()) if until else 0.0

    async def close(self) -> None:
        """Close every channel: what is unsettled goes back."""
        for each in list(self._open):
            await self._close(each)

    async def _subscribe(self, lane: Lane, *, helps: bool) -> None:
        subscription = Subscription(lane, self._queues[lane], helps, 1 if helps else self._prefetch)

        def on_delivery(delivery: Delivery) -> None:
            subscription.unsettled += 1
            subscription.received += 1
            subscription.awaited_until = 0.0
            self._tell(Delivered(subscription, delivery))

        self._open.append(subscription)
        try:
            subscription.consumer = await self._bus.consume(
                subscription.queue,
                on_delivery,
                prefetch=subscription.prefetch,
                priority=HELP_PRIORITY if helps else OWN_PRIORITY,
                on_lost=lambda reason: self._tell(Lost(subscription, reason)),
            )
        except BusError:
            self._open.remove(subscription)
            raise
        if subscription.cancelled:  # while the broker was making it
            await self._end(subscription, subscription.consumer)

    def _has(self, lane: Lane) -> bool:
        mine = (each for each in self._open if each.lane == lane and not each.helps)
        return any(not each.cancelled and not each.replaced for each in mine)

    async def _cancel(self, subscriptions: list[Subscription]) -> None:
        going = [each for each in subscriptions if not each.cancelled]
        for each in going:  # all at once: whoever opens them again meanwhile must not take one for a lane that stands
            each.cancelled = True
        for each in going:
            if each.consumer is not None:
                await self._end(each, each.consumer)

    async def _end(self, subscription: Subscription, consumer: Consumer) -> None:
        with suppress(BusError):  # the connection is gone, and the consumer with it
            await consumer.cancel()
        subscription.ended = True
        if subscription.unsettled <= 0:
            await self._close(subscription)

    async def _close(self, subscription: Subscription) -> None:
        if subscription in self._open:
            self._open.remove(subscription)
            if subscription.consumer is not None:
                with suppress(BusError):
                    await subscription.consumer.close()

"""`dlq-reaper`: gives an end to what was given up on, so that nobody waits for it for ever.

What the broker gave up on has no end yet: it is recorded as `worker_lost`, if there is none after all. What an executor
gave up on it records itself, before it acks; were it recorded here as well, the executor would find its own end to be a
duplicate, and tell nobody of it. Every letter is parked in the stream `dlq.parked`, and only then acked.

It also brings home the results that were published to `results.pending` while the coordination store was away.
"""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Final, Literal

import anyio

from fogactors.bus.base import Bus, Consumer, Delivery
from fogactors.coord.base import RESULT_TTL_S, Coord, Recorded
from fogactors.core import Actor, ChildSpec, Exit, SupervisorSpec
from fogactors.errors import ActorError, BusError, CoordError, WireError
from fogactors.messages import DeadLetter, Task, TaskResult
from fogactors.roles.base import RoleContext, controlled
from fogactors.tasks.deadletter import DEAD_LETTER_TYPE, from_delivery, publish_letter, result_of, unreadable
from fogactors.tasks.events import TaskDeadLettered
from fogactors.tasks.feed import announce
from fogactors.wire.codec import decode
from fogactors.wire.topology import DLQ, DLX, PARKED, RESULTS_PENDING

__all__ = ["DLQReaper", "tree"]

PREFETCH: Final = 32
LATER_S: Final = 1.0
"""How long to wait before the store, or a queue that refused, is tried again."""
COORD_TIMEOUT_S: Final = 1.0


@dataclass(frozen=True, slots=True)
class _Got:
    delivery: Delivery
    kind: Literal["letter", "result"]


@dataclass(frozen=True, slots=True)
class _Lost:
    queue: str


class DLQReaper(Actor[Any]):
    """One at a time is enough: dead letters are rare, and their order is kept."""

    def __init__(
        self, bus: Bus, coord: Coord, worker: str, *, publish_timeout_s: float, result_ttl_s: float = RESULT_TTL_S
    ) -> None:
        self._bus = bus
        self._coord = coord
        self._worker = worker
        self._publish_timeout_s = publish_timeout_s
        self._result_ttl_s = result_ttl_s
        self._consumers: dict[str, Consumer] = {}

    async def run(self) -> None:
        await self._consume(DLQ)
        await self._consume(RESULTS_PENDING)
        await super().run()

    async def on_stop(self, exit: Exit) -> None:  # noqa: A002
        with anyio.move_on_after(3.0, shield=True), suppress(BusError):
            for consumer in self._consumers.values():
                await consumer.close()

    async def handle(self, message: Any) -> None:
        if not self._bus.is_open:
            return  # the link ends next, and takes us with it: a publish would wait for it and hold up its restart
        match message:
            case _Got(delivery, "letter"):
                done = await self._reap(delivery)
            case _Got(delivery, "result"):
                done = await self._bring_home(delivery)
            case _Lost(queue):
                done = True
                await self._reopen(queue)
            case _:
                done = True
        if not done:
            # Not requeued: the broker would deliver it again at once, and again.
            self.ctx.send_after(LATER_S, message)

    async def _reap(self, delivery: Delivery) -> bool:
        """Whether it is settled; so that a crash between two steps only repeats them."""
        letter = from_delivery(delivery, datetime.now(UTC))
        given_up_by_broker = delivery.type != DEAD_LETTER_TYPE
        result = result_of(letter) if given_up_by_broker else None
        if result is not None:
            result.worker = letter.worker = self._worker
            recorded = await self._record(result)
            if recorded is None:
                return False
            if recorded == "recorded":
                await announce(self._bus, result, _reply_to(delivery), timeout=self._publish_timeout_s)
        if not await self._publish(PARKED, letter):
            return False
        if given_up_by_broker:  # what an executor gave up on it has told itself
            self.ctx.emit(
                TaskDeadLettered(
                    at=letter.last,
                    worker=self._worker,
                    reason=letter.reason,
                    task_id=letter.task_id or "",
                    name=letter.name or "",
                    origin=letter.origin or "",
                    error=letter.error.message if letter.error else "",
                )
            )
        await delivery.ack()
        return True

    async def _bring_home(self, delivery: Delivery) -> bool:
        try:
            result = decode(delivery.body, TaskResult, delivery.content_type)
        except WireError:
            if not await self._publish(DLX, unreadable(delivery, TaskResult, datetime.now(UTC))):
                return False
        else:
            if await self._record(result) is None:
                return False
        await delivery.ack()
        return True

    async def _record(self, result: TaskResult) -> Recorded | None:
        """`None` when the store is away: nothing is settled, and it is tried again."""
        try:
            with anyio.fail_after(COORD_TIMEOUT_S):
                return await self._coord.record(result, ttl_s=self._result_ttl_s)
        except (CoordError, TimeoutError):
            return None

    async def _publish(self, exchange: str, letter: DeadLetter) -> bool:
        """False when the broker did not take it."""
        try:
            await publish_letter(self._bus, exchange, letter, timeout=self._publish_timeout_s)
        except BusError:
            return False
        return True

    # -- taking

    async def _consume(self, queue: str) -> None:
        kind: Literal["letter", "result"] = "letter" if queue == DLQ else "result"
        self._consumers[queue] = await self._bus.consume(
            queue,
            lambda delivery: self._tell(_Got(delivery, kind)),
            prefetch=PREFETCH,
            on_lost=lambda _: self._tell(_Lost(queue)),
        )

    async def _reopen(self, queue: str) -> None:
        lost = self._consumers.pop(queue, None)
        if lost is not None:
            await lost.close()
        await self._consume(queue)

    def _tell(self, message: object) -> None:
        # Into this incarnation's own mailbox, which a ref is not. Ending: it stays unsettled and goes back when the
        # channel closes.
        with suppress(ActorError):
            self.ctx.mailbox.put_nowait(message)


def _reply_to(delivery: Delivery) -> str | None:
    try:
        return decode(delivery.body, Task, delivery.content_type).reply_to
    except WireError:
        return None


def tree(context: RoleContext) -> SupervisorSpec:
    bus = context.make_bus("dlq-reaper")
    config = context.executor(context.tiers.lightest.name)
    reaper = ChildSpec(
        id="reaper",
        factory=lambda: DLQReaper(
            bus,
            context.coord,
            f"{context.node}/dlq-reaper",
            publish_timeout_s=config.publish_timeout_s,
            result_ttl_s=config.result_ttl_s,
        ),
        mailbox=max(context.mailbox, 4 * PREFETCH),
    )
    return controlled(context, "dlq-reaper", bus, reaper)

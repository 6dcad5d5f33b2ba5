"""`dlq-reaper`: gives an end to what was given up on, so that nobody waits for it for ever.

What the broker gave up on has no end yet: it is recorded as `worker_lost`, if there is none after all; while the
coordination store is away it waits in `results.pending`, as an executor's results do, and no letter waits for it.
What an executor gave up on it records itself, before it acks; were it recorded here as well, the executor would find
its own end to be a duplicate, and tell nobody of it. Every letter is parked in the stream `dlq.parked`, and only then
acked. In between, a policy may have it published once more.

| step | killed behind it |
|---|---|
| record the end | the record is there, and stays |
| or publish it to `results.pending` | it is there twice: one is recorded, the other counted as a duplicate |
| publish the letter to the stream | the letter stands there twice: the same id, so it is one |
| publish the replay | the same generation of the task runs twice at most, and is recorded once |
| mark it in the index | the index shows that it was replayed, so only what follows is done again |
| publish its fate to the stream | as above |
| ack | |

It also brings home the results that were published to `results.pending` while the coordination store was away.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import partial
from typing import Any, Final, TypeVar

import anyio

from fogactors.bus.base import Bus, Consumer, Delivery, Message
from fogactors.coord.base import RESULT_TTL_S, Coord, Recorded
from fogactors.coord.letters import ParkedLetter
from fogactors.core import Actor, ChildSpec, Exit, SupervisorSpec
from fogactors.errors import ActorError, BusError, CoordError, CoordUnavailable, FogError, WireError
from fogactors.messages import DeadLetter, DeadLetterFate, TaskResult
from fogactors.roles import dlq_indexer
from fogactors.roles.base import RoleContext, controlled
from fogactors.tasks.deadletter import (
    DEAD_LETTER_TYPE,
    from_delivery,
    publish_fate,
    publish_letter,
    reply_to_of,
    result_of,
    unreadable,
)
from fogactors.tasks.events import DeadLetterReplayed, DuplicateResult, TaskDeadLettered
from fogactors.tasks.executor_config import utc_now
from fogactors.tasks.failures import brief
from fogactors.tasks.feed import announce, fits_key
from fogactors.tasks.replay import DlqConfig, Replay, replay_of
from fogactors.wire.codec import decode, encode
from fogactors.wire.topology import DLQ, DLX, PARKED, RESULTS, RESULTS_PENDING

__all__ = ["DLQReaper", "tree"]

PREFETCH: Final = 32
RESULTS_PREFETCH: Final = 100
"""Results in hand. They are recorded together, so that the store writes them to its disk together too: one by one, a
minute of a busy system's would take several to come home."""
LATER_S: Final = 1.0
"""How long to wait before the store, or a queue that refused, is tried again."""
COORD_TIMEOUT_S: Final = 1.0
UNTOLD: Final = "result.untold"
"""The type of a result in `results.pending` that nobody was told of; an executor tells of its own before it puts them
by. Its `reply_to` is its task's."""

RESULTS_CAME: Final = object()

T = TypeVar("T")


@dataclass(slots=True, eq=False)
class _Letter:
    """An entry of `dlq` in our hands, and how far it has come: a step that the broker refused is tried again, those
    before it are not."""

    delivery: Delivery
    letter: DeadLetter
    ended: bool = False
    parked: bool = False
    fate: DeadLetterFate | None = None


@dataclass(frozen=True, slots=True)
class _Lost:
    queue: str


class DLQReaper(Actor[Any]):
    """One at a time is enough: dead letters are rare, and their order is kept."""

    def __init__(
        self,
        bus: Bus,
        coord: Coord,
        worker: str,
        *,
        publish_timeout_s: float,
        result_ttl_s: float = RESULT_TTL_S,
        dlq: DlqConfig | None = None,
        now: Callable[[], datetime] = utc_now,
    ) -> None:
        self._bus = bus
        self._coord = coord
        self._worker = worker
        self._publish_timeout_s = publish_timeout_s
        self._result_ttl_s = result_ttl_s
        self._dlq = dlq or DlqConfig()
        self._now = now
        self._consumers: dict[str, Consumer] = {}
        self._ask_again_at = 0.0
        self._results: list[Delivery] = []
        self._results_told = False

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
            case _Letter():
                done = await self._reap(message)
            case _ if message is RESULTS_CAME:
                done = await self._bring_all_home()
            case _Lost(queue):
                done = True
                await self._reopen(queue)
            case _:
                done = True
        if not done:
            # Not requeued: the broker would deliver it again at once, and again.
            self.ctx.send_after(LATER_S, message)

    async def _reap(self, held: _Letter) -> bool:
        """Whether it is settled; so that a crash between two steps only repeats them."""
        letter, delivery = held.letter, held.delivery
        given_up_by_broker = delivery.type != DEAD_LETTER_TYPE
        if given_up_by_broker and not held.ended:
            result = result_of(letter)
            if result is not None and not await self._end(result, reply_to_of(delivery)):
                return False
            held.ended = True
        if not held.parked:
            if not await self._publish(PARKED, letter):
                return False
            held.parked = True
            if given_up_by_broker:  # what an executor gave up on it has told itself
                self._tell_given_up(letter)
        if self._dlq.policy(letter.reason).replays(letter) and not await self._replay(held):
            return False
        await delivery.ack()
        return True

    async def _end(self, result: TaskResult, reply_to: str | None) -> bool:
        """False when neither the store nor the bus took it. Nobody is told of an end that is put by before it is
        recorded: the store may know of another."""
        recorded = await self._record(result)
        if recorded is None:
            return await self._accepted(partial(self._put_by, result, reply_to))
        if recorded == "recorded":
            await announce(self._bus, result, reply_to, timeout=self._publish_timeout_s)
        return True

    async def _put_by(self, result: TaskResult, reply_to: str | None) -> None:
        message = Message(encode(result), type=UNTOLD, reply_to=reply_to if fits_key(reply_to or "") else None)
        await self._bus.publish(RESULTS, RESULTS_PENDING, message, timeout=self._publish_timeout_s)

    def _tell_given_up(self, letter: DeadLetter) -> None:
        self.ctx.emit(
            TaskDeadLettered(
                at=letter.last,
                worker=self._worker,
                reason=letter.reason,
                task_id=letter.task_id or "",
                name=letter.name or "",
                origin=letter.origin or "",
                error=brief(letter.error),
            )
        )

    # -- replay by policy

    async def _replay(self, held: _Letter) -> bool:
        """False when the broker did not take it. True also for what cannot be replayed: it is parked, and that is all
        that can be done."""
        letter = held.letter
        if held.fate is None:
            replay = self._replay_of(letter)
            known = await self._known(letter) if replay is not None else None
            if replay is None or (known is not None and known.generation > letter.generation):
                return True
            at, by = self._now(), self._worker
            record = await self._recorded(letter)
            if known is not None and known.generation == letter.generation and known.state == "replayed":
                # Its fate may stand in the index alone, if its writer was killed in between.
                at, by = known.since or at, known.by
            elif record is not None and record.generation > letter.generation:
                pass  # one was killed behind its publish; the replay has ended by now, and only the mark is missing
            elif record is not None and record.generation == letter.generation and record.state == "succeeded":
                return True  # an executor that dies between letter and record leaves the task to another
            else:
                if not await self._accepted(partial(self._send_again, replay)):
                    return False
                self._tell_replayed(letter, at)
            held.fate = DeadLetterFate(id=letter.id, generation=letter.generation, state="replayed", at=at, by=by)
        await self._mark(held.fate)
        return await self._accepted(partial(publish_fate, self._bus, held.fate, timeout=self._publish_timeout_s))

    async def _mark(self, fate: DeadLetterFate) -> None:
        """So that the next to hold this entry, should we be killed now, need not wait for it to come by the stream."""
        await self._ask(lambda: self._coord.letters.mark(fate))

    def _replay_of(self, letter: DeadLetter) -> Replay | None:
        now = self._now()
        due = now + timedelta(seconds=self._dlq.policy(letter.reason).replay_after_s)
        try:
            replay = replay_of(letter, not_before=due, now=now)
        except FogError:  # it has no body any more
            return None
        # Bytes that are no task carry no count of their replays: by policy they would go round for ever.
        return replay if replay.is_task else None

    async def _send_again(self, replay: Replay) -> None:
        await self._bus.publish(replay.exchange, replay.key, replay.message, timeout=self._publish_timeout_s)

    async def _recorded(self, letter: DeadLetter) -> TaskResult | None:
        """A store that does not say holds up no replay."""
        task_id = letter.task_id
        return await self._ask(lambda: self._coord.result(task_id)) if task_id is not None else None

    async def _known(self, letter: DeadLetter) -> ParkedLetter | None:
        """What the index says of it. It may be behind or away: then the same generation is published twice, which
        costs a run at most."""
        return await self._ask(lambda: self._coord.letters.get(letter.id))

    def _tell_replayed(self, letter: DeadLetter, at: datetime) -> None:
        self.ctx.emit(
            DeadLetterReplayed(
                at=at,
                worker=self._worker,
                task_id=letter.task_id or "",
                name=letter.name or "",
                reason=letter.reason,
                generation=letter.generation + 1,
                delay_s=self._dlq.policy(letter.reason).replay_after_s,
            )
        )

    # -- results that waited for the store

    async def _bring_all_home(self) -> bool:
        """False when some of them could not be."""
        taken, self._results = self._results, []
        left: list[Delivery] = []

        async def bring(delivery: Delivery) -> None:
            if not await self._bring_home(delivery):
                left.append(delivery)

        async with anyio.create_task_group() as group:
            for delivery in taken:
                group.start_soon(bring, delivery)
        if left:
            self._results[:0] = left
            return False
        # Those that came meanwhile have their turn behind the letters that did.
        self._results_told = False
        self._tell_results()
        return True

    async def _bring_home(self, delivery: Delivery) -> bool:
        try:
            result = decode(delivery.body, TaskResult, delivery.content_type)
        except WireError:
            if not await self._publish(DLX, unreadable(delivery, TaskResult, self._now(), self._worker)):
                return False
        else:
            recorded = await self._record(result)
            if recorded is None:
                return False
            if recorded == "duplicate":
                self._tell_duplicate(result)
            elif delivery.type == UNTOLD:
                await announce(self._bus, result, delivery.reply_to, timeout=self._publish_timeout_s)
        await delivery.ack()
        return True

    def _tell_duplicate(self, result: TaskResult) -> None:
        self.ctx.emit(
            DuplicateResult(
                at=self._now(),
                worker=result.worker or self._worker,
                task_id=result.task_id,
                name=result.name,
                lane_tier="",  # a result does not say which queue its task came from
                priority="normal",
                attempt=result.attempts,
            )
        )

    async def _record(self, result: TaskResult) -> Recorded | None:
        """`None` when the store is away."""
        return await self._ask(lambda: self._coord.record(result, ttl_s=self._result_ttl_s))

    async def _ask(self, question: Callable[[], Awaitable[T]]) -> T | None:
        """`None` when the store does not say. One that is away is asked once a second: one that hangs instead of
        refusing would hold up all that is behind by `COORD_TIMEOUT_S` for each question."""
        if anyio.current_time() < self._ask_again_at:
            return None
        try:
            with anyio.fail_after(COORD_TIMEOUT_S):
                return await question()
        except (CoordUnavailable, TimeoutError):
            self._ask_again_at = anyio.current_time() + LATER_S
        except (CoordError, WireError):  # it refuses this one, or what it holds cannot be read
            pass
        return None

    async def _publish(self, exchange: str, letter: DeadLetter) -> bool:
        return await self._accepted(
            partial(publish_letter, self._bus, exchange, letter, timeout=self._publish_timeout_s)
        )

    async def _accepted(self, publish: Callable[[], Awaitable[None]]) -> bool:
        """False when the broker did not take it."""
        if not self._bus.is_open:
            return False  # it would wait for the link, which waits for us
        try:
            await publish()
        except BusError:
            return False
        return True

    # -- taking

    async def _consume(self, queue: str) -> None:
        take, prefetch = (self._take_letter, PREFETCH) if queue == DLQ else (self._take_result, RESULTS_PREFETCH)
        self._consumers[queue] = await self._bus.consume(
            queue, take, prefetch=prefetch, on_lost=lambda _: self._tell(_Lost(queue))
        )

    def _take_letter(self, delivery: Delivery) -> None:
        self._tell(_Letter(delivery, from_delivery(delivery, self._now(), self._worker)))

    def _take_result(self, delivery: Delivery) -> None:
        self._results.append(delivery)
        self._tell_results()

    def _tell_results(self) -> None:
        if self._results and not self._results_told:
            self._results_told = True
            self._tell(RESULTS_CAME)

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


def tree(context: RoleContext) -> SupervisorSpec:
    bus = context.make_bus("dlq-reaper")
    config = context.executor(context.tiers.lightest.name)
    worker = f"{context.node}/dlq-reaper"
    reaper = ChildSpec(
        id="reaper",
        factory=lambda: DLQReaper(
            bus,
            context.coord,
            worker,
            publish_timeout_s=config.publish_timeout_s,
            result_ttl_s=config.result_ttl_s,
            dlq=context.dlq,
            now=context.now,
        ),
        mailbox=max(context.mailbox, 4 * PREFETCH),
    )
    indexer = dlq_indexer.child(
        bus, context.coord, worker, context.dlq, publish_timeout_s=config.publish_timeout_s, now=context.now
    )
    return controlled(context, "dlq-reaper", bus, reaper, also=(indexer,))

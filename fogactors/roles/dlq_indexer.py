"""The other half of `dlq-reaper`: reads the stream of dead letters and keeps the index of it up to date.

The index says itself up to where it has the stream, in the same step as it takes records. So nobody has to remember
anything: whoever comes reads on from there, an index that was wiped says "from the beginning", and of two reapers that
read the same records one finds that they are there already.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Final, TypeVar

import anyio

from fogactors.bus.base import Bus, Consumer, Delivery
from fogactors.coord.base import Coord
from fogactors.coord.letters import ParkedLetter
from fogactors.core import Actor, ChildSpec, Exit
from fogactors.errors import ActorError, BusError, CoordError, CoordUnavailable, WireError
from fogactors.messages import DeadLetter, DeadLetterFate
from fogactors.tasks.deadletter import FATE_TYPE, publish_fate
from fogactors.tasks.replay import DlqConfig, entry_of
from fogactors.wire.codec import decode
from fogactors.wire.topology import PARKED

__all__ = ["DLQIndexer", "LetterIndexAway", "LetterIndexBehind", "LetterRecordSkipped", "child"]

T = TypeVar("T")

PREFETCH: Final = 64
"""Records in hand, and so the largest batch. Each may hold a body of a megabyte or two, so not thousands."""
LOOK_S: Final = 2.0
"""How often the index is asked where it stands, and how soon one that was away is tried again."""
PROOF_S: Final = 5.0
"""How long the stream may take to show the record at which the index stands."""
COORD_TIMEOUT_S: Final = 2.0
SWEEP_S: Final = 60.0
SWEEP_TIMEOUT_S: Final = 10.0


@dataclass(frozen=True, slots=True, kw_only=True)
class LetterIndexBehind:
    """The index is not where it was left: it was wiped or set back, or the stream was declared anew. The stream is read
    again from behind `position` (`None`: from its beginning)."""

    at: datetime
    worker: str
    position: int | None
    was: int | None


@dataclass(frozen=True, slots=True, kw_only=True)
class LetterIndexAway:
    """The index cannot be reached, or can again (`away` is false). Dead letters are parked meanwhile, unseen."""

    at: datetime
    worker: str
    away: bool
    error: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class LetterRecordSkipped:
    """What stands in the stream at `offset` is neither a dead letter nor what became of one. `total`: since the
    start."""

    at: datetime
    worker: str
    offset: int
    error: str
    total: int


@dataclass(frozen=True, slots=True)
class _Lost:
    consumer: deque[Delivery]


_WORK: Final = object()
_LOOK: Final = object()
_SWEEP: Final = object()


class DLQIndexer(Actor[Any]):
    """Deliveries wait in a deque of their own, not in the mailbox, so that all that is there is one batch. What is not
    applied is not acked, and the prefetch stops the broker."""

    def __init__(
        self,
        bus: Bus,
        coord: Coord,
        worker: str,
        dlq: DlqConfig,
        *,
        publish_timeout_s: float,
        now: Callable[[], datetime],
    ) -> None:
        self._bus = bus
        self._coord = coord
        self._worker = worker
        self._dlq = dlq
        self._publish_timeout_s = publish_timeout_s
        self._now = now
        self._consumer: Consumer | None = None
        self._waiting: deque[Delivery] = deque()
        self._position: int | None = None
        self._unproven_since: float | None = None
        """The loop's clock. The stream has not shown yet that it reaches as far as the index says."""
        self._rewound = False
        """What comes next may stand before `position`: the stream is another."""
        self._away = False
        self._skipped = 0

    async def run(self) -> None:
        self.ctx.send_every(LOOK_S, _LOOK)
        self.ctx.send_every(SWEEP_S, _SWEEP)
        self._tell(_LOOK)
        await super().run()

    async def on_stop(self, exit: Exit) -> None:  # noqa: A002
        with anyio.move_on_after(3.0, shield=True), suppress(BusError):
            await self._close()

    async def handle(self, message: Any) -> None:
        if not self._bus.is_open:
            return  # the link ends next, and takes us with it
        try:
            if message is _WORK:
                await self._work()
            elif message is _LOOK:
                await self._look()
            elif message is _SWEEP:
                await self._sweep()
            elif isinstance(message, _Lost) and message.consumer is self._waiting:
                await self._close()
        except CoordError as error:
            self._tell_away(away=True, error=str(error))

    # -- reading

    async def _look(self) -> None:
        """Raises `CoordError`, `BusError`."""
        position = await self._store(self._coord.letters.position())
        if self._consumer is None:
            await self._open(position)
        elif self._waiting:
            await self._work()
        elif self._is_behind(position):
            await self._read_again(position)
        elif self._unproven_since is not None and self.ctx.now() - self._unproven_since >= PROOF_S:
            await self._rewind()
        elif position is not None:
            self._position = position

    async def _work(self) -> None:
        """Apply what waits, in batches. Raises `CoordError`, and then it waits on; `BusError`."""
        while self._waiting:
            batch = list(self._waiting)
            if self._unproven_since is not None:
                self._unproven_since = None
                if self._position is not None and _offset(batch[0]) < self._position and not self._rewound:
                    return await self._rewind()
            fresh = [each for each in batch if self._is_new(_offset(each))]
            if fresh and not await self._apply(fresh):
                continue
            for each in batch:
                self._waiting.popleft()
                await each.ack()
        return None

    async def _apply(self, fresh: list[Delivery]) -> bool:
        """Whether the index has them now."""
        records = [record for record in map(self._read, fresh) if record is not None]
        upto = _offset(fresh[-1])
        position = await self._store(self._coord.letters.apply(self._position, records, upto))
        if position == upto:
            if self._rewound and self._position is not None and _offset(fresh[0]) <= self._position:
                self._tell_behind(None)
            self._position, self._rewound = upto, False
            return True
        if self._is_behind(position):
            await self._read_again(position)
        else:  # another reaper has brought it further
            self._position = position
        return False

    def _is_new(self, offset: int) -> bool:
        return self._rewound or self._position is None or offset > self._position

    def _is_behind(self, position: int | None) -> bool:
        return self._position is not None and (position is None or position < self._position)

    def _read(self, delivery: Delivery) -> ParkedLetter | DeadLetterFate | None:
        """A record for the index. What cannot be read is passed over, or it would hold up all that comes behind."""
        offset = _offset(delivery)
        try:
            if delivery.type == FATE_TYPE:
                return decode(delivery.body, DeadLetterFate, delivery.content_type)
            return entry_of(decode(delivery.body, DeadLetter, delivery.content_type), offset)
        except WireError as error:
            self._skipped += 1
            self.ctx.emit(
                LetterRecordSkipped(
                    at=self._now(), worker=self._worker, offset=offset, error=str(error), total=self._skipped
                )
            )
            return None

    async def _read_again(self, position: int | None) -> None:
        self._tell_behind(position)
        await self._open(position)

    async def _rewind(self) -> None:
        """The stream does not reach as far as the index says: it was declared anew, or has forgotten everything."""
        await self._open(self._position, rewind=True)

    async def _open(self, position: int | None, *, rewind: bool = False) -> None:
        """Read from `position`, and not from behind it: that this record is there shows that it is the stream which the
        index knows. An offset beyond a stream's end would be waited for in silence."""
        await self._close()
        waiting: deque[Delivery] = deque()

        def take(delivery: Delivery) -> None:
            waiting.append(delivery)
            if len(waiting) == 1:
                self._tell(_WORK)

        self._waiting, self._position, self._rewound = waiting, position, rewind
        from_start = rewind or position is None
        self._unproven_since = None if from_start else self.ctx.now()
        self._consumer = await self._bus.consume(
            PARKED,
            take,
            prefetch=PREFETCH,
            on_lost=lambda _: self._tell(_Lost(waiting)),
            offset="first" if from_start else position,
        )

    async def _close(self) -> None:
        consumer, self._consumer = self._consumer, None
        self._waiting = deque()
        if consumer is not None:
            await consumer.close()

    # -- forgetting

    async def _sweep(self) -> None:
        """Purge what its reason's policy lets go of, and forget what the stream forgets. Raises `CoordError`; what it
        did not get to is left to the next."""
        now, letters = self._now(), self._coord.letters
        await self._store(letters.sweep(now - timedelta(seconds=self._dlq.retention_s)))
        if not any(policy.retention_s for policy in self._dlq.policies.values()):
            return
        with anyio.move_on_after(SWEEP_TIMEOUT_S), suppress(BusError):
            fates = [
                DeadLetterFate(id=entry.id, generation=entry.generation, state="purged", at=now, by=self._worker)
                async for batch in letters.scan()
                for entry in batch
                if self._dlq.policy(entry.reason).purges(entry, now)
            ]
            for fate in fates:
                await publish_fate(self._bus, fate, timeout=self._publish_timeout_s)

    # -- the store, and who is told

    async def _store(self, call: Awaitable[T]) -> T:
        """Raises `CoordError`."""
        try:
            with anyio.fail_after(COORD_TIMEOUT_S):
                answer = await call
        except TimeoutError:
            raise CoordUnavailable(f"silent for {COORD_TIMEOUT_S:g} s") from None
        self._tell_away(away=False)
        return answer

    def _tell_away(self, *, away: bool, error: str = "") -> None:
        if away != self._away:
            self._away = away
            self.ctx.emit(LetterIndexAway(at=self._now(), worker=self._worker, away=away, error=error))

    def _tell_behind(self, position: int | None) -> None:
        self.ctx.emit(LetterIndexBehind(at=self._now(), worker=self._worker, position=position, was=self._position))

    def _tell(self, message: object) -> None:
        # Into this incarnation's own mailbox, which a ref is not.
        with suppress(ActorError):
            self.ctx.mailbox.put_nowait(message)


def _offset(delivery: Delivery) -> int:
    if delivery.offset is None:
        raise BusError(f"{PARKED!r} is no stream: its records have no offsets; `fogactors topology diff` says more")
    return delivery.offset


def child(
    bus: Bus, coord: Coord, worker: str, dlq: DlqConfig, *, publish_timeout_s: float, now: Callable[[], datetime]
) -> ChildSpec:
    return ChildSpec(
        id="indexer",
        factory=lambda: DLQIndexer(bus, coord, worker, dlq, publish_timeout_s=publish_timeout_s, now=now),
    )

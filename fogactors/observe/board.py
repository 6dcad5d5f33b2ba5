"""`Board`: what happened so far, as counts. Made from events alone; knows no terminal and asks nobody."""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Final

from fogactors.core import (
    ActorExited,
    ActorStarted,
    ChildStuck,
    Events,
    MailboxOverflow,
    RestartFailed,
    SubscriberFailed,
    SupervisorEscalated,
    SupervisorPaused,
)
from fogactors.messages import Priority, Reason, TaskState
from fogactors.observe.stats import Rate, Sketch
from fogactors.tasks.events import (
    DuplicateResult,
    ResultUnrecorded,
    TaskDeadLettered,
    TaskEnded,
    TaskHandedBack,
    TaskRefused,
    TaskRetried,
    TaskStarted,
    ThreadAbandoned,
    WorkerCrashed,
)

__all__ = ["Board", "LaneFigures", "Trouble"]

RECENT: Final = 5
"""How many troubles are kept."""


@dataclass(slots=True)
class LaneFigures:
    """Of the tasks of one tier and priority. `wait`: from ready to started, `run`: the last attempt."""

    started: int = 0
    ended: Counter[TaskState] = field(default_factory=Counter[TaskState])
    retried: int = 0
    handed_back: int = 0
    crashed: int = 0
    wait: Sketch = field(default_factory=Sketch)
    run: Sketch = field(default_factory=Sketch)


@dataclass(frozen=True, slots=True)
class Trouble:
    """Something that somebody should see. `at`: UTC."""

    at: datetime
    text: str


class Board:
    """Counts events: `Board().attach(events)`.

    Its size is bounded by the number of tiers, actors and kinds of events, never by how many of them there were. `now`
    is the time of day in UTC, for the events of actors: those carry the loop's clock, which is of no use to a reader.
    """

    def __init__(self, now: Callable[[], datetime] = lambda: datetime.now(UTC)) -> None:
        self._now = now
        self.lanes: dict[tuple[str, Priority], LaneFigures] = {}
        self.ended: Counter[TaskState] = Counter()
        """By state, of all tiers. What the broker gave up on is only here: nobody had it in hand when it ended."""
        self.rate = Rate()
        """Of ended tasks. Its clock: seconds since the epoch."""
        self.dead_letters: Counter[Reason] = Counter()
        self.duplicates = 0
        self.abandoned_threads = 0
        self.store_away: set[str] = set()
        """Workers that cannot record results at the moment."""
        self.restarts: Counter[str] = Counter()
        """Incarnations after the first, by path."""
        self.failed_exits = 0
        self.pauses = 0
        self.overflows: dict[str, int] = {}
        """Messages that a mailbox refused or dropped, by path; told at powers of two."""
        self.recent: deque[Trouble] = deque(maxlen=RECENT)

    def attach(self, events: Events) -> Callable[[], None]:
        """Returns the function that ends the subscription."""
        return events.subscribe(self.count)

    @property
    def started(self) -> int:
        return sum(lane.started for lane in self.lanes.values())

    @property
    def retried(self) -> int:
        return sum(lane.retried for lane in self.lanes.values())

    @property
    def handed_back(self) -> int:
        return sum(lane.handed_back for lane in self.lanes.values())

    @property
    def crashed(self) -> int:
        """Worker processes that died in the middle of a task."""
        return sum(lane.crashed for lane in self.lanes.values())

    def count(self, event: object) -> None:
        match event:
            case TaskStarted():
                lane = self._lane(event.lane_tier, event.priority)
                lane.started += 1
                lane.wait.add(event.wait_s)
            case TaskEnded():
                lane = self._lane(event.lane_tier, event.priority)
                lane.ended[event.state] += 1
                lane.run.add(event.run_s)
                self._end(event.state, event.at)
            case TaskRefused():
                self._lane(event.lane_tier, event.priority).ended["failed"] += 1
                self._end("failed", event.at)
            case TaskRetried():
                self._lane(event.lane_tier, event.priority).retried += 1
            case TaskHandedBack():
                self._lane(event.lane_tier, event.priority).handed_back += 1
            case WorkerCrashed():
                self._lane(event.lane_tier, event.priority).crashed += 1
                self._trouble(event.at, f"{event.name}: {event.error}; it will be delivered again")
            case TaskDeadLettered():
                self.dead_letters[event.reason] += 1
                if event.reason == "worker_lost":
                    self._end("worker_lost", event.at)
                name = event.name or "a message"
                self._trouble(event.at, f"{name} given up ({event.reason}): {event.error}")
            case DuplicateResult():
                self.duplicates += 1
            case ThreadAbandoned():
                self.abandoned_threads += 1
                self._trouble(event.at, f"{event.name} is over its time limit, in a thread that cannot be stopped")
            case ResultUnrecorded():
                (self.store_away.add if event.away else self.store_away.discard)(event.worker)
                if event.away:
                    self._trouble(event.at, f"{event.worker} cannot record results: {event.error}")
            case _:
                self._count_actor(event)

    def _count_actor(self, event: object) -> None:
        match event:
            case ActorStarted(incarnation=number) if number > 1:
                self.restarts[event.path] += 1
            case ActorExited() if event.exit.is_failure:
                self.failed_exits += 1
                self._trouble(self._now(), f"{event.path} {event.exit}")
            case RestartFailed():
                self.failed_exits += 1
                self._trouble(self._now(), f"{event.path} did not come up: {event.error}")
            case SupervisorPaused():
                self.pauses += 1
                self._trouble(self._now(), f"{event.path}: {event.child} is tried again in {event.delay_s:.1f} s")
            case SupervisorEscalated():
                self._trouble(self._now(), f"{event.path} gives up: {event.child} failed too often")
            case ChildStuck():
                self._trouble(self._now(), f"{event.path} does not end")
            case MailboxOverflow():
                self.overflows[event.path] = event.total
            case SubscriberFailed():
                self._trouble(self._now(), f"{event.path} failed and hears no more events: {event.error}")
            case _:
                pass

    def _lane(self, tier: str, priority: Priority) -> LaneFigures:
        lane = self.lanes.get((tier, priority))
        if lane is None:
            lane = self.lanes[tier, priority] = LaneFigures()
        return lane

    def _end(self, state: TaskState, at: datetime) -> None:
        self.ended[state] += 1
        self.rate.add(at.timestamp())

    def _trouble(self, at: datetime, text: str) -> None:
        # One line: the first says what happened, and a traceback is for the log.
        self.recent.append(Trouble(at, text.partition("\n")[0]))

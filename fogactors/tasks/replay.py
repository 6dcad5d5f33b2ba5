"""A dead letter, published once more: when, where to, with which bytes. And what the index says of a letter.

Whoever replays needs no target: the letter knows the queue that it came from. A task goes back through its exchange,
anything else through the ladder, whose last step is the default exchange: nobody has to be allowed to write to it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any, Final

from fogactors.bus.base import Message
from fogactors.coord.letters import ParkedLetter
from fogactors.errors import FogError, WireError
from fogactors.messages import DeadLetter, Reason, Task
from fogactors.tasks.failures import brief
from fogactors.tasks.retry import step_for
from fogactors.wire.codec import amend, decode
from fogactors.wire.topology import RETRY_STEPS_S, TASKS, due_queue, retry_exchange
from fogactors.wire.work import work_room

__all__ = ["RETENTION_S", "DlqConfig", "DlqPolicy", "Replay", "entry_of", "replay_of"]

RETENTION_S: Final = 7 * 24 * 3600.0

_TASK: Final = "task"
_TASK_QUEUES: Final = "tasks."
ERROR_LIMIT: Final = 300
"""Characters of an error in the index. The letter has all of it; a list of fifty thousand has a line for each."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DlqPolicy:
    """What becomes of the dead letters of one reason, without anybody's doing.

    `replay_after_s`: a task is published once more so many seconds after it was given up on, as long as it has been
    replayed fewer than `max_replays` times; 0: never. `retention_s`: letters are purged so many seconds after they were
    given up on; 0: they stay as long as the stream keeps them.
    """

    replay_after_s: float = 0.0
    max_replays: int = 1
    retention_s: float = 0.0

    def replays(self, letter: DeadLetter) -> bool:
        return self.replay_after_s > 0 and letter.generation < self.max_replays

    def purges(self, entry: ParkedLetter, now: datetime) -> bool:
        return self.retention_s > 0 and now - entry.last >= timedelta(seconds=self.retention_s)


_KEEP: Final = DlqPolicy()


@dataclass(frozen=True, slots=True, kw_only=True)
class DlqConfig:
    """`retention_s`: how long the stream keeps what it holds. A reason without a policy of its own is only kept."""

    retention_s: float = RETENTION_S
    policies: Mapping[Reason, DlqPolicy] = field(default_factory=dict["Reason", DlqPolicy])

    def policy(self, reason: Reason) -> DlqPolicy:
        return self.policies.get(reason, _KEEP)


@dataclass(frozen=True, slots=True)
class Replay:
    """What to publish, mandatory."""

    exchange: str
    key: str
    message: Message

    @property
    def is_task(self) -> bool:
        """Then its generation says that it is a replay; nothing does of other bytes."""
        return self.message.type == _TASK


def replay_of(letter: DeadLetter, *, not_before: datetime | None = None, now: datetime | None = None) -> Replay:
    """What to publish so that a letter's message runs its course again, as another generation of the same task.

    A task gets all its attempts and no deadline: the old one has passed, or it would not be here. Its other fields stay
    as they are, also those of a newer version. What is no task is published as it was; then the one who could not read
    it may meanwhile be able to.

    `not_before`: it waits on the ladder until then, `now` says how long that is; without `now` it takes the smallest
    step, and an executor that gets a task too early puts it off. What is no task cannot say when it is due: it waits
    for one step.

    Raises `FogError` when the letter has no body any more, or no origin.
    """
    if not letter.body:
        raise FogError(f"dead letter {letter.id!r} cannot be replayed: it holds no body")
    task = _task(letter)
    origin = letter.origin or (task.origin if task is not None else None)
    if not origin:
        raise FogError(f"dead letter {letter.id!r} cannot be replayed: the queue that it came from is not known")
    body = letter.body
    if task is not None:
        changes: dict[str, Any] = {
            "generation": letter.generation + 1,
            "attempt": 1,
            "crashes": 0,
            "hops": task.hops + 1,  # so that an executor looks its record up
            "deadline": None,
            "not_before": not_before,
        }
        body = amend(body, changes, letter.content_type)
    message = Message(
        body,
        type=_TASK if task is not None else "",
        content_type=letter.content_type,
        correlation_id=letter.correlation_id,
    )
    if task is not None and not_before is None and origin.startswith(_TASK_QUEUES):
        return Replay(TASKS, origin.removeprefix(_TASK_QUEUES), message)
    # A level says that it was in a queue of a user's own, which has a room of its own whatever its name is.
    key = work_room(origin) if task is not None and task.level is not None else due_queue(origin)
    rest_s = (not_before - now).total_seconds() if not_before is not None and now is not None else 0.0
    return Replay(retry_exchange(step_for(rest_s, RETRY_STEPS_S)), key, message)


def _task(letter: DeadLetter) -> Task | None:
    try:
        return decode(letter.body, Task, letter.content_type)
    except WireError:
        return None


def entry_of(letter: DeadLetter, offset: int) -> ParkedLetter:
    """What the index says of a letter that stands at `offset` in the stream."""
    return ParkedLetter(
        id=letter.id,
        offset=offset,
        reason=letter.reason,
        name=letter.name,
        task_id=letter.task_id,
        generation=letter.generation,
        revision=letter.revision,
        queue=letter.origin,
        error=" ".join(brief(letter.error).split())[:ERROR_LIMIT],
        attempts=letter.attempts,
        worker=letter.worker,
        size=len(letter.body),
        first=letter.first,
        last=letter.last,
        correlation_id=letter.correlation_id,
        traceparent=letter.traceparent,
    )

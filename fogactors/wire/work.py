"""The queues behind a task queue of a user's own, as data.

`work.research.tasks` is three queues, one for each band of priorities; whoever opens it makes them, as members of the
families `work.` and `due.work.`. One that is `declared` has the very name that its user gave it, and a policy of its
own: it is part of the topology, as are the queues of the tiers.

Each has a waiting room for what comes back from a delay, so that a full one holds up nobody else's delays. The room of
a queue that is made while the system runs has the policy of its family, which can name no queue to go to: so what
leaves it goes through `tasks.direct`, to which the queue is bound by the room's name.
"""

from __future__ import annotations

from typing import Final

from fogactors.messages import PRIORITIES, Priority
from fogactors.wire.topology import (
    TASKS,
    WORK_MAX_LENGTH,
    WORK_PREFIX,
    Binding,
    Queue,
    Topology,
    delay_policy,
    work_policy,
)

__all__ = ["BANDS", "band_of", "declared_work", "work_queue", "work_room", "work_topology"]

BANDS: Final[dict[Priority, range]] = {"high": range(7, 11), "normal": range(4, 7), "low": range(4)}
"""Which of the priorities 0 to 10 a band has."""

_ENDING: Final[dict[Priority, str]] = {"high": ".high", "normal": "", "low": ".low"}


def band_of(priority: int) -> Priority:
    """Raises `ValueError` for what is none of 0 to 10."""
    for band, levels in BANDS.items():
        if priority in levels:
            return band
    raise ValueError(f"a priority is a whole number from 0 to 10, not {priority!r}")


def work_queue(name: str, band: Priority = "normal", *, declared: bool = False) -> str:
    """The queue of this band: `work.research.tasks`, with `.high` or `.low` behind it for those. It is the routing key
    as well."""
    return f"{'' if declared else WORK_PREFIX}{name}{_ENDING[band]}"


def work_room(queue: str) -> str:
    """The waiting room of one of these queues."""
    return f"due.{queue}"


def work_topology(name: str, exchange: str = TASKS, *, levels: bool = False) -> Topology:
    """What whoever opens a task queue makes: it needs the families' policies, and sets none. `levels`: one queue for
    all priorities."""
    queues = [work_queue(name, band) for band in _bands(levels)]
    return Topology(
        queues=tuple(Queue(each) for queue in queues for each in (queue, work_room(queue))),
        bindings=tuple(
            dict.fromkeys(
                binding
                for queue in queues
                for binding in (Binding(exchange, queue, queue), Binding(TASKS, work_room(queue), queue))
            )
        ),
    )


def declared_work(
    name: str, exchange: str = TASKS, *, max_length: int | None = WORK_MAX_LENGTH, levels: bool = False
) -> Topology:
    """The same as part of a topology, under its plain name and with policies of its own: for `declared=True`.
    `max_length`: tasks that may wait in each of the queues; one more is refused."""
    policy = work_policy(max_length)
    queues = [work_queue(name, band, declared=True) for band in _bands(levels)]
    return Topology(
        queues=(
            *(Queue(queue, policy=policy) for queue in queues),
            *(Queue(work_room(queue), policy=delay_policy(0, dead_letter_routing_key=queue)) for queue in queues),
        ),
        bindings=tuple(Binding(exchange, queue, queue) for queue in queues),
    )


def _bands(levels: bool) -> tuple[Priority, ...]:
    return ("normal",) if levels else PRIORITIES

"""Where tasks travel: by which exchange and key they get into which queue. The tiers have their ways, and a queue of a
user's own has others."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple, Protocol

from fogactors.messages import PRIORITIES, Priority, Task
from fogactors.wire.topology import TASKS, due_queue, task_key, task_queue

__all__ = ["Route", "Routes", "TierRoutes"]


class Route(NamedTuple):
    """A publish to `exchange` with `key` gets into `queue`."""

    exchange: str
    key: str
    queue: str


class Routes(Protocol):
    """Pure: asks nobody."""

    @property
    def priorities(self) -> tuple[Priority, ...]:
        """Those that have a queue, in the order in which they are served."""
        ...

    def of(self, priority: Priority, tier: str) -> Route: ...

    def room(self, queue: str) -> str:
        """The key with which a message for one of the queues is published to a retry exchange."""
        ...

    def level(self, task: Task) -> int | None:
        """The AMQP priority with which it is published; `None`: the broker's default."""
        ...


@dataclass(frozen=True, slots=True)
class TierRoutes:
    """Those of the tiers. `light`: the name of the lightest."""

    light: str

    @property
    def priorities(self) -> tuple[Priority, ...]:
        return PRIORITIES

    def of(self, priority: Priority, tier: str) -> Route:
        key = task_key(priority, tier, self.light)
        return Route(TASKS, key, task_queue(priority, tier, self.light))

    def room(self, queue: str) -> str:
        return due_queue(queue)

    def level(self, task: Task) -> None:
        """The priority is the queue's."""

"""The exchanges, queues and bindings of the system as data: the one place from which everything else is
derived.

Two queues are reached in a way of their own, because nothing is ever published to the default exchange (write
permission on it is write permission on every queue):

* `results.pending` is bound to `results.topic` with the key `results.pending`: whoever may publish results
  may park one.
* `dlq.parked` has a fanout exchange of its own, of the same name, as each `retry.<step>` has. A key on `dlx`
  would not do: `dlq` is bound there with `#` and would get every parked copy again.

What leaves a delay for a task queue passes through that queue's waiting room, `due.<queue>`. The broker forwards the
dead letters of one queue with a bounded number in flight, and a target that is full keeps its place in it. Without the
rooms a thousand delays that end in a full queue would stop the delays of all; a higher bound costs the broker ten KiB
of memory for each, and ends as well.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final, Literal

from fogactors.errors import SpecError
from fogactors.messages import PRIORITIES, Priority

__all__ = [
    "TASKS",
    "RESULTS",
    "METRICS",
    "CONTROL",
    "EVENTS",
    "RPC",
    "DLX",
    "PARKED",
    "DLQ",
    "RESULTS_PENDING",
    "RETRY_STEPS_S",
    "TASK_DELIVERY_LIMIT",
    "EVENTS_MAX_LENGTH",
    "EVENTS_PREFIX",
    "LIVE_PREFIX",
    "RPC_PREFIX",
    "WORK_MAX_LENGTH",
    "WORK_PREFIX",
    "Binding",
    "Exchange",
    "ExchangeType",
    "Family",
    "Policy",
    "Queue",
    "QueueType",
    "Topology",
    "delay_policy",
    "due_queue",
    "fog_topology",
    "is_waiting_room",
    "retry_exchange",
    "task_key",
    "task_queue",
    "work_policy",
]

TASKS: Final = "tasks.direct"
RESULTS: Final = "results.topic"
METRICS: Final = "metrics.topic"
CONTROL: Final = "system.fanout"
EVENTS: Final = "events.topic"
RPC: Final = "rpc.direct"
DLX: Final = "dlx"
PARKED: Final = "dlq.parked"
"""A stream, and the fanout exchange that leads to it; the routing key is free."""
DLQ: Final = "dlq"
RESULTS_PENDING: Final = "results.pending"
"""A queue, and its routing key on `results.topic`."""

RETRY_STEPS_S: Final = (1, 4, 16, 64, 256, 1024, 4096, 16384, 65536)
"""The delays of the retry ladder in seconds."""

TASK_DELIVERY_LIMIT: Final = 20
"""How often the broker gives a task out again that came back unsettled, before it dead-letters it. It counts lost
connections as it counts workers that died, and those come several at a time when the broker itself is in trouble; so
this is only the net below the executors, who know better (`fogactors.tasks.settle.DEATHS_ALLOWED`)."""

EVENTS_PREFIX: Final = "events."
"""What the name of a queue of events begins with: `events.<group>.<pattern>`."""
LIVE_PREFIX: Final = "live.events."
"""And of a queue of somebody who listens for as long as he is connected."""
EVENTS_MAX_LENGTH: Final = 100_000
"""Events that wait for a group, by default. It drops its oldest then: a slow group must not stop who publishes."""

RPC_PREFIX: Final = "rpc."
"""What the name of a queue of requests begins with: `rpc.<service>`."""

WORK_PREFIX: Final = "work."
"""What the name of a queue of a user's own tasks begins with: `work.<name>`; see `fogactors.wire.work`."""
WORK_MAX_LENGTH: Final = 10_000
"""Tasks that wait in such a queue, by default. One more is refused."""

ExchangeType = Literal["direct", "topic", "fanout"]
QueueType = Literal["quorum", "stream"]

_TASK_PREFIX: Final = "tasks."
_DUE_PREFIX: Final = "due."

_LEVEL: Final[dict[Priority, str]] = {"high": "high_priority", "normal": "normal", "low": "low_priority"}


@dataclass(frozen=True, slots=True)
class Exchange:
    """A durable exchange."""

    name: str
    type: ExchangeType


@dataclass(frozen=True, slots=True)
class Policy:
    """What a queue does with its messages; in the broker's words, applied as one merged policy `fog.<queue>`.

    `None` leaves a setting at the broker's default. `delivery_limit` is the exception: -1 (no limit) is ours,
    because with the broker's own 20 a queue without a dead-letter exchange silently discards.
    """

    max_length: int | None = None
    overflow: Literal["reject-publish", "drop-head"] | None = None
    delivery_limit: int = -1
    message_ttl_ms: int | None = None
    dead_letter_exchange: str | None = None
    """The empty string is the default exchange: the routing key is then the name of the queue."""
    dead_letter_routing_key: str | None = None
    """`None`: the key that the message was published with."""
    dead_letter_strategy: Literal["at-most-once", "at-least-once"] | None = None
    expires_ms: int | None = None
    """How long a queue outlives its last consumer, with all that is in it."""
    max_age_s: int | None = None
    """How long a stream keeps its messages."""


@dataclass(frozen=True, slots=True)
class Queue:
    """A durable queue or stream."""

    name: str
    type: QueueType = "quorum"
    policy: Policy = Policy()


@dataclass(frozen=True, slots=True)
class Family:
    """Queues that are made while the system runs, by whoever needs them: all whose names begin with `prefix`. Only
    their policy is the topology's, one for all of them. A queue with a policy of its own is not of the family, and of
    two families that fit the one with the longer prefix has it."""

    prefix: str
    policy: Policy

    @property
    def queue(self) -> Queue:
        """Any of them, by a name that stands for all."""
        return Queue(f"{self.prefix}*", policy=self.policy)


@dataclass(frozen=True, slots=True)
class Binding:
    """Messages of `exchange` whose routing key fits `key` go to `queue`. A fanout exchange ignores the
    key."""

    exchange: str
    key: str
    queue: str


@dataclass(frozen=True, slots=True)
class Topology:
    """Exchanges, queues and bindings. `a + b` has what either has; what both say alike is there once."""

    exchanges: tuple[Exchange, ...] = ()
    queues: tuple[Queue, ...] = ()
    bindings: tuple[Binding, ...] = ()
    families: tuple[Family, ...] = ()

    def __add__(self, other: Topology) -> Topology:
        return Topology(
            exchanges=tuple(dict.fromkeys(self.exchanges + other.exchanges)),
            queues=tuple(dict.fromkeys(self.queues + other.queues)),
            bindings=tuple(dict.fromkeys(self.bindings + other.bindings)),
            families=tuple(dict.fromkeys(self.families + other.families)),
        )

    def queue(self, name: str) -> Queue:
        """Raises `SpecError` when there is none."""
        for each in self.queues:
            if each.name == name:
                return each
        raise SpecError(f"the topology has no queue {name!r}")

    def exchange(self, name: str) -> Exchange:
        """Raises `SpecError` when there is none."""
        for each in self.exchanges:
            if each.name == name:
                return each
        raise SpecError(f"the topology has no exchange {name!r}")

    def validate(self) -> None:
        """Raises `SpecError` that names everything a broker would accept and then lose messages by, in one
        line."""
        exchanges = {each.name for each in self.exchanges}
        queues = {each.name for each in self.queues}
        problems = [
            *(f"exchange {name!r} is there twice" for name in _twice(each.name for each in self.exchanges)),
            *(f"queue {name!r} is there twice" for name in _twice(each.name for each in self.queues)),
        ]
        for binding in self.bindings:
            if binding.exchange not in exchanges:
                problems.append(f"queue {binding.queue!r} is bound to an unknown exchange {binding.exchange!r}")
            if binding.queue not in queues:
                problems.append(f"exchange {binding.exchange!r} is bound to an unknown queue {binding.queue!r}")
        problems += [f"family {name!r} is there twice" for name in _twice(each.prefix for each in self.families)]
        for queue in (*self.queues, *(family.queue for family in self.families)):
            problems.extend(_policy_problems(queue, exchanges))
        if problems:
            raise SpecError("topology: " + "; ".join(problems))


def _twice(names: Iterable[str]) -> list[str]:
    return [name for name, count in Counter(names).items() if count > 1]


def _policy_problems(queue: Queue, exchanges: set[str]) -> list[str]:
    policy, name, problems = queue.policy, queue.name, list[str]()
    target = policy.dead_letter_exchange
    if policy.dead_letter_strategy == "at-least-once" and (target is None or policy.overflow != "reject-publish"):
        # The broker silently falls back to at-most-once.
        problems.append(f"queue {name!r}: at-least-once needs overflow reject-publish and a dead-letter exchange")
    if queue.type == "quorum" and policy.delivery_limit >= 0 and target is None:
        problems.append(f"queue {name!r}: a delivery limit without a dead-letter exchange discards silently")
    if target and target not in exchanges:
        problems.append(f"queue {name!r}: its dead-letter exchange {target!r} is unknown")
    return problems


def task_key(priority: Priority, tier: str, light: str = "light") -> str:
    """The routing key on `tasks.direct`, e.g. `normal` or `high_priority.heavy`; `light` names the lightest
    tier, which has no ending."""
    level = _LEVEL[priority]
    return level if tier == light else f"{level}.{tier}"


def task_queue(priority: Priority, tier: str, light: str = "light") -> str:
    """The queue for this priority and tier, e.g. `tasks.normal` or `tasks.high_priority.heavy`."""
    return f"tasks.{task_key(priority, tier, light)}"


def due_queue(queue: str) -> str:
    """The key with which a message for `queue` is published to a retry exchange: for a queue of tasks its waiting room,
    for any other queue itself."""
    return f"{_DUE_PREFIX}{queue}" if queue.startswith((_TASK_PREFIX, WORK_PREFIX)) else queue


def is_waiting_room(queue: str) -> bool:
    return queue.startswith(_DUE_PREFIX)


def retry_exchange(step: int) -> str:
    """The exchange, and the queue behind it, that holds a message for `step` seconds. Publish with
    `due_queue(destination)` as the key. Raises `SpecError` for what is not in `RETRY_STEPS_S`."""
    if step not in RETRY_STEPS_S:
        raise SpecError(f"there is no retry step of {step} s; there are {', '.join(map(str, RETRY_STEPS_S))}")
    return f"retry.{step}"


def fog_topology(
    tiers: tuple[str, ...] = ("light", "medium", "heavy"),
    *,
    retention_s: int = 7 * 24 * 3600,
    events_max_length: int = EVENTS_MAX_LENGTH,
) -> Topology:
    """The whole system's topology. `tiers`: from the lightest to the heaviest; `retention_s`: how long
    `dlq.parked` keeps dead letters and what became of them; `events_max_length`: events that wait for one group at
    most. Raises `SpecError` when there is no tier or one is there twice."""
    if not tiers or _twice(tiers):
        raise SpecError(f"tiers must be named once each, and at least one: {list(tiers)}")
    exchanges = (
        Exchange(TASKS, "direct"),
        Exchange(RESULTS, "topic"),
        Exchange(METRICS, "topic"),
        Exchange(CONTROL, "fanout"),
        Exchange(EVENTS, "topic"),
        Exchange(RPC, "direct"),
        Exchange(DLX, "topic"),
        Exchange(PARKED, "fanout"),
    )
    feed = Policy(max_length=50_000, overflow="drop-head")
    queues = (
        Queue("results.success", policy=feed),
        Queue("results.failed", policy=feed),
        Queue(RESULTS_PENDING),
        Queue("metrics.node", policy=Policy(max_length=100_000, overflow="drop-head")),
        Queue(DLQ),
        Queue(PARKED, "stream", Policy(max_age_s=retention_s)),
    )
    bindings = (
        Binding(RESULTS, "results.success.#", "results.success"),
        Binding(RESULTS, "results.failed.#", "results.failed"),
        Binding(RESULTS, RESULTS_PENDING, RESULTS_PENDING),
        Binding(METRICS, "metrics.node.#", "metrics.node"),
        Binding(DLX, "#", DLQ),
        Binding(PARKED, "", PARKED),
    )
    families = (
        Family(EVENTS_PREFIX, Policy(max_length=events_max_length, overflow="drop-head")),
        Family(WORK_PREFIX, work_policy()),
        Family(due_queue(WORK_PREFIX), delay_policy(0, exchange=TASKS)),
        # Gone a minute after its last server, so that a service that was given up is one that does not exist.
        Family(RPC_PREFIX, Policy(max_length=10_000, overflow="reject-publish", expires_ms=60_000)),
    )
    whole = _task_part(tiers) + Topology(exchanges, queues, bindings, families) + _retry_part()
    whole.validate()
    return whole


def _task_part(tiers: tuple[str, ...]) -> Topology:
    policy = work_policy()
    places = [(task_queue(p, tier, tiers[0]), task_key(p, tier, tiers[0])) for tier in tiers for p in PRIORITIES]
    rooms = (Queue(due_queue(name), policy=delay_policy(0, dead_letter_routing_key=name)) for name, _ in places)
    return Topology(
        queues=(*(Queue(name, policy=policy) for name, _ in places), *rooms),
        bindings=tuple(Binding(TASKS, key, name) for name, key in places),
    )


def _retry_part() -> Topology:
    names = [(retry_exchange(step), step) for step in RETRY_STEPS_S]
    return Topology(
        exchanges=tuple(Exchange(name, "fanout") for name, _ in names),
        queues=tuple(Queue(name, policy=delay_policy(step * 1000)) for name, step in names),
        bindings=tuple(Binding(name, "", name) for name, _ in names),
    )


def work_policy(max_length: int | None = WORK_MAX_LENGTH) -> Policy:
    """Of a queue of tasks: what does not fit is refused, and what kills its workers becomes a dead letter."""
    return Policy(
        max_length=max_length,
        overflow="reject-publish",
        delivery_limit=TASK_DELIVERY_LIMIT,
        dead_letter_exchange=DLX,
        dead_letter_routing_key="task.failed",
        dead_letter_strategy="at-least-once",
    )


def delay_policy(ttl_ms: int, dead_letter_routing_key: str | None = None, *, exchange: str = "") -> Policy:
    """Of a queue that holds each message for so long, and hands it to `exchange` then."""
    return Policy(
        overflow="reject-publish",
        message_ttl_ms=ttl_ms,
        dead_letter_exchange=exchange,
        dead_letter_routing_key=dead_letter_routing_key,
        dead_letter_strategy="at-least-once",
    )

"""Every message that crosses a process, and nothing else.

The rules, which the golden tests freeze:

* The body carries the whole envelope; AMQP properties only repeat what the broker or a tool needs.
* Each message names its schema as `name/version` in `schema`, always written, even when nothing else is.
* Fields with their default value are left out, so a body is short and readable in the broker's own UI.
* Unknown fields are ignored and new fields have defaults: a reader of version 1 reads version 2, and the reverse.
* Times are RFC 3339 in UTC; durations are seconds. `args`, `value` and `data` are raw JSON, decoded once, by their
  user.
"""

from __future__ import annotations

from datetime import datetime
from typing import TYPE_CHECKING, Annotated, Any, Final, Literal

import msgspec
from msgspec import Meta, Raw, Struct, field

__all__ = [
    "Beat",
    "ClusterChange",
    "ClusterFact",
    "Control",
    "ControlReply",
    "DeadLetter",
    "DeadLetterFate",
    "ErrorInfo",
    "Event",
    "LaneTotals",
    "LetterState",
    "NodeMetrics",
    "Priority",
    "Reason",
    "RpcReply",
    "RpcRequest",
    "PRIORITIES",
    "ProcessTotals",
    "Spread",
    "Task",
    "TaskResult",
    "TaskState",
    "TierLoad",
    "UTC",
]

UTC = Annotated[datetime, Meta(tz=True)]
"""A time with its offset; written in UTC."""

Priority = Literal["high", "normal", "low"]
PRIORITIES: Final[tuple[Priority, ...]] = ("high", "normal", "low")
"""In the order in which work is taken."""

TaskState = Literal["succeeded", "failed", "cancelled", "expired", "worker_lost"]
"""The five ends. Every task reaches exactly one of them, and it is recorded once."""

Reason = Literal[
    "failed",  # raised, and its attempts are used up
    "time_limit",  # ran too long
    "memory_limit",  # took too much memory
    "expired",  # its deadline passed before it started
    "worker_lost",  # its worker died too often
    "unknown_task",  # no worker knows the name
    "bad_arguments",  # the arguments do not fit the signature
    "malformed",  # the bytes are not the message that they should be
    "rejected",  # a consumer gave it back for good
    "unrecorded",  # its result could not be recorded anywhere
]


def _schema(name: str) -> Any:
    # A factory, because msgspec leaves out a field that holds its plain default, and `schema` must always be written.
    return field(default_factory=lambda: name)


if TYPE_CHECKING:
    MaybeRaw = Raw | None
else:
    # msgspec decodes nothing but null into `Raw | None` (its issue 659). Plain `Raw` keeps a default of None, and
    # a null that was written (a task that returned None) stays apart from a value that was not.
    MaybeRaw = Raw


class ErrorInfo(Struct, kw_only=True, omit_defaults=True, frozen=True):
    """A failure as data. `traceback` only where it was asked for."""

    type: str
    message: str = ""
    traceback: str | None = None


class Task(Struct, kw_only=True, omit_defaults=True):
    """Work to do. `id` is `<submitter>-<n>` (see `fogactors.tasks.client`) or whatever a foreign client chose.

    `attempt` counts the runs that ended in a failure or are running (first run: 1); `hops` counts republishes;
    `generation` counts replays from the dead letters; `crashes` counts the workers that died of this attempt, up to its
    last republish: from there on the store of coordination counts anew. `not_before`, `deadline`: points in
    time. `level`: 0 to 10, in a queue of a user's own. `time_limit`: seconds of one attempt. `cpu`: cores, `memory_mb`:
    MiB, both of one attempt; absent means the tier's share.
    """

    schema: str = _schema("task/1")
    id: str
    name: str
    args: Raw = Raw(b"{}")
    priority: Priority = "normal"
    level: int | None = None
    tier: str = "light"
    cpu: float | None = None
    memory_mb: int | None = None
    attempt: int = 1
    max_attempts: int = 1
    hops: int = 0
    generation: int = 0
    crashes: int = 0
    created: UTC
    not_before: UTC | None = None
    deadline: UTC | None = None
    time_limit: float | None = None
    idempotency_key: str | None = None
    correlation_id: str | None = None
    causation_id: str | None = None
    traceparent: str | None = None
    origin: str | None = None
    reply_to: str | None = None


class TaskResult(Struct, kw_only=True, omit_defaults=True):
    """How a task ended. `value` is set when it succeeded, `error` otherwise; `attempts` is how often it ran."""

    schema: str = _schema("result/1")
    task_id: str
    name: str
    state: TaskState
    generation: int = 0
    value: MaybeRaw = None
    error: ErrorInfo | None = None
    attempts: int = 0
    worker: str | None = None
    created: UTC | None = None
    started: UTC | None = None
    finished: UTC
    correlation_id: str | None = None
    traceparent: str | None = None


class Event(Struct, kw_only=True, omit_defaults=True):
    """Something that happened. `event_type` is `service.entity.action` and is the routing key as well. `attempt`: the
    run of a group's handler that is next (first: 1)."""

    schema: str = _schema("event/1")
    event_id: str
    event_type: str
    timestamp: UTC
    source: str
    data: Raw = Raw(b"{}")
    correlation_id: str | None = None
    causation_id: str | None = None
    traceparent: str | None = None
    attempt: int = 1


class DeadLetter(Struct, kw_only=True, omit_defaults=True):
    """What was given up on, and why. `body` holds the original bytes as they were (base64 in JSON), readable or not.

    One task has one letter for each generation. `revision` counts what an operator edited in it: of several letters
    with the same `id` and generation the one with the highest is the letter.
    """

    schema: str = _schema("dead_letter/1")
    id: str
    reason: Reason
    body: bytes
    content_type: str = "application/json"
    error: ErrorInfo | None = None
    task_id: str | None = None
    name: str | None = None
    generation: int = 0
    revision: int = 0
    attempts: int = 0
    worker: str | None = None
    origin: str | None = None
    first: UTC
    last: UTC
    correlation_id: str | None = None
    traceparent: str | None = None


LetterState = Literal["parked", "replayed", "purged"]
"""What became of a dead letter: it lies there, it was published once more, or nobody wants to see it again."""


class DeadLetterFate(Struct, kw_only=True, omit_defaults=True):
    """What became of a dead letter, in the stream behind it. `id` and `generation` are the letter's; `by`: who did it,
    a role or `fogactors dlq`. `replayed_as`: the generation that its task runs as, where that is not the next one."""

    schema: str = _schema("dead_letter_fate/1")
    id: str
    generation: int = 0
    state: LetterState
    at: UTC
    by: str = ""
    replayed_as: int | None = None


class Beat(Struct, kw_only=True, omit_defaults=True):
    """A sign of life. `lag_s`: how late the event loop runs. The rest only of processes that run tasks: which `tier`
    (several with commas between), how much CPU and memory it may use, how much of it the `running` tasks have
    reserved."""

    schema: str = _schema("beat/1")
    node: str
    role: str
    at: UTC
    lag_s: float = 0.0
    tier: str | None = None
    cpu: float | None = None
    memory_mb: int | None = None
    cpu_used: float | None = None
    memory_used_mb: int | None = None
    running: int | None = None


ClusterFact = Literal[
    "node_down",  # a node of the cluster does not run
    "alarm",  # a node is short of memory or disk, and takes no messages
    "partition",  # a node does not see another
    "quorum_critical",  # with this node some queue would lose its majority
    "quorum_lost",  # most nodes do not run: nothing can be confirmed
]


class TierLoad(Struct, kw_only=True, omit_defaults=True):
    """What one executor's tier has in hand now. The counts and durations of a window (`started` and what follows) are
    empty in reports of ours: a report that is lost would take them with it, so those are in `LaneTotals`."""

    tier: str
    cpu: float
    memory_mb: int
    cpu_used: float = 0.0
    memory_used_mb: int = 0
    running: int = 0
    waiting: int = 0
    started: int = 0
    succeeded: int = 0
    failed: int = 0
    wait_s: list[float] = []
    run_s: list[float] = []


class Spread(Struct, kw_only=True, omit_defaults=True):
    """A histogram of durations. `counts`: for each bound of the report how many were no longer than it and longer than
    the bound before, and at the end those that were longer than all; `sum_s`: of all of them."""

    counts: list[int]
    sum_s: float = 0.0


class LaneTotals(Struct, kw_only=True, omit_defaults=True):
    """What became of the tasks of one tier and priority in one process, since it began. `wait`: from ready to started,
    `run`: the last attempt. `handed_back`: uncounted; `crashed`: worker processes that died in the middle of one."""

    tier: str
    priority: Priority
    started: int = 0
    ended: dict[TaskState, int] = {}
    retried: int = 0
    handed_back: int = 0
    crashed: int = 0
    wait: Spread
    run: Spread


class ProcessTotals(Struct, kw_only=True, omit_defaults=True):
    """What one process knows of itself. All counts grow from its start on, so that a lost report does no harm.

    `id` is its process id; `incarnation` tells it from the next that has the same, and `seq` a report from those before
    it. `bounds_s` are the bounds of all its histograms. `store_away`: results go to `results.pending`, because they
    cannot be recorded. `cluster`: how many facts of each kind a sentinel sees now; `broker_exits`: how often its server
    ended by itself. `queues`: messages that wait, by queue, of those that it looks at.
    """

    id: int
    incarnation: str
    seq: int
    resident_mb: int = 0
    store_away: bool = False
    restarts: int = 0
    duplicates: int = 0
    dead_letters: dict[Reason, int] = {}
    cluster: dict[ClusterFact, int] = {}
    broker_exits: int = 0
    queues: dict[str, int] = {}
    bounds_s: list[float] = []
    lanes: list[LaneTotals] = []


class NodeMetrics(Struct, kw_only=True, omit_defaults=True):
    """One process' report: its node's load over the last `window_s` seconds, what its tiers have in hand, and its
    totals."""

    schema: str = _schema("metrics/1")
    node: str
    role: str
    at: UTC
    window_s: float
    cpu_percent: float = 0.0
    memory_used_mb: int = 0
    memory_total_mb: int = 0
    load1: float = 0.0
    tiers: list[TierLoad] = []
    process: ProcessTotals | None = None


Command = Literal["ping", "drain", "pause", "resume", "cancel", "where", "tree"]


class Control(Struct, kw_only=True, omit_defaults=True):
    """An order to every role, or to those that `node` and `role` name."""

    schema: str = _schema("control/1")
    id: str
    command: Command
    at: UTC
    node: str | None = None
    role: str | None = None
    task_id: str | None = None
    reply_to: str | None = None
    correlation_id: str | None = None


class ControlReply(Struct, kw_only=True, omit_defaults=True):
    """One role's answer to an order. `id` is the order's; `role` is the tree's name, such as
    `tier-executor-light`; `data` depends on the command, and `error` says why it was not carried out."""

    schema: str = _schema("control_reply/1")
    id: str
    command: Command
    node: str
    role: str
    at: UTC
    data: MaybeRaw = None
    error: str | None = None


class ClusterChange(Struct, kw_only=True, omit_defaults=True, frozen=True):
    """Something about the broker cluster has become true, or is true no more (`on` is false). `node`: whom it concerns;
    `detail`: which resource, which other node, which queues; `seen_by`: whose sentinel says so. Each says what it
    sees, so one fact may be told by several."""

    schema: str = _schema("cluster_change/1")
    what: ClusterFact
    on: bool
    node: str
    seen_by: str
    at: UTC
    detail: str = ""


class RpcRequest(Struct, kw_only=True, omit_defaults=True):
    """A call of a service. `args`: the request, any JSON. `timeout_s`: how long the caller waits, from `created`; after
    that it is not run. `reply_to`: the key on `rpc.direct` to which the answer goes, `reply.<anything>`."""

    schema: str = _schema("rpc_request/1")
    id: str
    service: str
    args: Raw = Raw(b"{}")
    created: UTC
    timeout_s: float
    reply_to: str
    correlation_id: str | None = None
    causation_id: str | None = None
    traceparent: str | None = None


class RpcReply(Struct, kw_only=True, omit_defaults=True):
    """The answer to a call: `value`, or else `error`. `id` is the request's; `server`: who answered."""

    schema: str = _schema("rpc_reply/1")
    id: str
    value: MaybeRaw = None
    error: ErrorInfo | None = None
    server: str | None = None
    correlation_id: str | None = None
    traceparent: str | None = None


def schema_of(message_type: type[Struct]) -> str:
    """The `name/version` that a message type writes, e.g. `task/1`."""
    for each in msgspec.structs.fields(message_type):
        if each.name == "schema" and each.default_factory is not msgspec.NODEFAULT:
            return each.default_factory()
    raise TypeError(f"{message_type.__name__} names no schema")

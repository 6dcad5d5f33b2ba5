"""`[exchanges]`, `[queues]` and `[policies]`: what applications have at the broker beside the system's own.

They are added to its topology, so that every command and role that makes, shows, exports or compares it knows them.
What may change is a policy, and what may not is one argument, the type.
"""

from __future__ import annotations

import difflib
import math
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import MISSING, dataclass, fields, replace
from typing import Annotated, Any, Final, Literal

from msgspec import Meta

from fogactors.app.settings_load import YEAR_S, dotted, env_name
from fogactors.messages import PRIORITIES
from fogactors.wire.circles import circles
from fogactors.wire.topology import (
    EVENTS_PREFIX,
    LIVE_PREFIX,
    RPC_PREFIX,
    TASKS,
    WORK_PREFIX,
    Binding,
    Exchange,
    ExchangeType,
    Family,
    Policy,
    Queue,
    QueueType,
    Topology,
)
from fogactors.wire.work import declared_work, work_queue

__all__ = [
    "ExchangeSettings",
    "PolicySettings",
    "QueueSettings",
    "declared_topology",
    "task_queues",
    "topology_conflicts",
]

Conflict = tuple[tuple[str, ...], str]
"""As `fogactors.app.settings.conflicts`."""

Entity = Annotated[
    str,
    Meta(pattern=r"^[A-Za-z0-9][A-Za-z0-9._:-]{0,126}\Z", description="at most 127 letters, digits and . _ : -"),
]
Lasting = Annotated[float, Meta(ge=0, le=YEAR_S)]
"""Bounded, so that milliseconds are noticed."""

TAKEN: Final = ("tasks.", WORK_PREFIX, "due.", EVENTS_PREFIX, LIVE_PREFIX, RPC_PREFIX, "ctl.", "amq.")
"""What names of queues may not begin with: those are made by the system, or by its clients, or by the broker."""
MAX_NESTED: Final = 3
"""Policies whose prefixes begin alike; each takes precedence over the ones before."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ExchangeSettings:
    """`publishers`, `subscribers`: users of `[users]` that may write to it, and bind queues of their own to it."""

    name: Entity
    type: ExchangeType
    publishers: tuple[str, ...] = ()
    subscribers: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class PolicySettings:
    """Of all queues whose names begin with `name`. What is 0, empty or -1 is left as the broker has it."""

    name: Entity
    max_length: Annotated[int, Meta(ge=0)] = 0
    overflow: Literal["", "drop-head", "reject-publish"] = ""
    message_ttl_s: Lasting = 0.0
    expires_s: Lasting = 0.0
    dead_letter_exchange: str = ""
    dead_letter_key: str = ""
    dead_letter_strategy: Literal["", "at-most-once", "at-least-once"] = ""
    delivery_limit: Annotated[int, Meta(ge=-1)] = -1


@dataclass(frozen=True, slots=True, kw_only=True)
class QueueSettings(PolicySettings):
    """What it does not say itself it takes from the policy whose name its own begins with, the longest. `bindings`:
    `<exchange> <key>`, of a fanout exchange its name alone. `priority`: it is for a `TaskQueue` with `declared=True`,
    and is one queue for each band, or one with levels. `retry_to`: the queue to which goes what has waited here.
    `readers`: users of `[users]`."""

    type: QueueType = "quorum"
    bindings: tuple[str, ...] = ()
    priority: Literal["", "bands", "levels"] = ""
    retry_to: str = ""
    max_age_s: Annotated[int, Meta(ge=0, le=int(10 * YEAR_S))] = 0
    readers: tuple[str, ...] = ()


_UNSAID: Final[dict[str, Any]] = {
    each.name: each.default for each in fields(PolicySettings) if each.default is not MISSING
}


def _policy(row: PolicySettings) -> Policy:
    exchange = row.dead_letter_exchange or None
    # Without a length nothing flows over, and at-least-once needs to be told that publishers are refused.
    overflow = row.overflow or ("drop-head" if row.max_length else "reject-publish" if exchange else None)
    reliable = "at-least-once" if exchange and overflow == "reject-publish" else None
    return Policy(
        max_length=row.max_length or None,
        overflow=overflow,
        delivery_limit=row.delivery_limit,
        message_ttl_ms=_ms(row.message_ttl_s),
        expires_ms=_ms(row.expires_s),
        dead_letter_exchange=exchange,
        dead_letter_routing_key=row.dead_letter_key or None,
        dead_letter_strategy=row.dead_letter_strategy or reliable,
    )


def _queue_policy(queue: QueueSettings) -> Policy:
    if queue.type == "stream":
        return Policy(max_age_s=queue.max_age_s or None)
    if not queue.retry_to:
        return _policy(queue)
    return Policy(
        max_length=queue.max_length or None,
        overflow="reject-publish",
        message_ttl_ms=_ms(queue.message_ttl_s),
        dead_letter_exchange="",
        dead_letter_routing_key=queue.retry_to,
        dead_letter_strategy="at-least-once",
    )


def _ms(seconds: float) -> int | None:
    return math.ceil(seconds * 1000) or None


def declared_topology(
    exchanges: Sequence[ExchangeSettings], queues: Sequence[QueueSettings], policies: Sequence[PolicySettings]
) -> Topology:
    """To be added to the system's. Without `topology_conflicts` it is one that a broker takes."""
    parts = [_queue_topology(_with_policy(each, policies)) for each in queues]
    return Topology(
        exchanges=tuple(Exchange(each.name, each.type) for each in exchanges),
        queues=tuple(queue for part in parts for queue in part.queues),
        bindings=tuple(binding for part in parts for binding in part.bindings),
        families=tuple(Family(each.name, _policy(each)) for each in policies),
    )


def _queue_topology(queue: QueueSettings) -> Topology:
    bindings = tuple(_binding(text, queue.name) for text in queue.bindings)
    if not queue.priority:
        return Topology(queues=(Queue(queue.name, queue.type, _queue_policy(queue)),), bindings=bindings)
    exchange = bindings[0].exchange if bindings else TASKS
    return declared_work(queue.name, exchange, max_length=queue.max_length or None, levels=queue.priority == "levels")


def task_queues(queue: QueueSettings) -> tuple[str, ...]:
    """The queues of which this one consists."""
    bands = PRIORITIES if queue.priority == "bands" else ("normal",)
    return tuple(work_queue(queue.name, band, declared=True) for band in bands)


def _with_policy(queue: QueueSettings, policies: Sequence[PolicySettings]) -> QueueSettings:
    fitting = [each for each in policies if queue.name.startswith(each.name)]
    if not fitting or queue.type == "stream":
        return queue
    policy = max(fitting, key=lambda each: len(each.name))
    keys = ("max_length",) if queue.priority else ("max_length", "message_ttl_s") if queue.retry_to else _UNSAID
    return replace(queue, **{key: getattr(policy, key) for key in keys if getattr(queue, key) == _UNSAID[key]})


def _binding(text: str, queue: str) -> Binding:
    exchange, _, key = text.strip().partition(" ")
    return Binding(exchange, key.strip(), queue)


# -- what cannot be


def topology_conflicts(
    exchanges: Sequence[ExchangeSettings],
    queues: Sequence[QueueSettings],
    policies: Sequence[PolicySettings],
    users: Iterable[str],
    system: Topology,
) -> Iterator[Conflict]:
    """`users`: the tables of `[users]`; `system`: the system's own topology."""
    problems = list(_problems(exchanges, queues, policies, list(users), system))
    # What leads nowhere goes round nowhere.
    yield from problems or _circles(exchanges, queues, policies, system)


def _problems(
    exchanges: Sequence[ExchangeSettings],
    queues: Sequence[QueueSettings],
    policies: Sequence[PolicySettings],
    known: list[str],
    system: Topology,
) -> Iterator[Conflict]:
    yield from _taken(exchanges, queues, policies, system)
    kinds: dict[str, ExchangeType] = {each.name: each.type for each in (*system.exchanges, *exchanges)}
    for row in (*policies, *queues):
        table = "queues" if isinstance(row, QueueSettings) else "policies"
        whole = _with_policy(row, policies) if isinstance(row, QueueSettings) else row
        for key, text in _policy_problems(whole, kinds):
            yield (dotted(table, row.name, key),), text
    for queue in queues:
        for key, text in (*_queue_problems(queue, queues, policies), *_binding_problems(queue, kinds)):
            yield (dotted("queues", queue.name, key),), text
    for table, rows, keys in (
        ("exchanges", exchanges, ("publishers", "subscribers")),
        ("queues", queues, ("readers",)),
    ):
        for row in rows:
            for key in keys:
                for user in getattr(row, key):
                    if user not in known:
                        yield (
                            (dotted(table, row.name, key),),
                            f"there is no [users.{user}]; there are {', '.join(known)}",
                        )


def _taken(
    exchanges: Sequence[ExchangeSettings],
    queues: Sequence[QueueSettings],
    policies: Sequence[PolicySettings],
    system: Topology,
) -> Iterator[Conflict]:
    """Names that are somebody else's, or have the same variables."""
    own = {each.name: each.type for each in system.exchanges}
    for each in exchanges:
        if own.get(each.name, each.type) != each.type:
            text = (
                f"{each.type} is not what the system's own exchange {each.name} is, {own[each.name]}; take another name"
            )
            yield (dotted("exchanges", each.name, "type"),), text
        elif each.name.startswith("amq."):
            yield (dotted("exchanges", each.name, ""),), "names that begin with amq. are the broker's own"
    theirs = {each.name for each in system.queues}
    for each in queues:
        prefix = next((prefix for prefix in TAKEN if each.name.startswith(prefix)), None)
        if each.name in theirs or prefix is not None:
            why = (
                f"names that begin with {prefix} are the system's own"
                if prefix
                else "that is one of the system's own queues"
            )
            yield (dotted("queues", each.name, ""),), f"{why}; take another name"
    prefixes = {each.prefix for each in system.families}
    for each in policies:
        below = [other for other in policies if other is not each and each.name.startswith(other.name)]
        if each.name in prefixes:
            text = "the system has a policy for all of these; name fewer queues"
            yield (dotted("policies", each.name, ""),), text
        elif len(below) >= MAX_NESTED:
            yield (
                (dotted("policies", each.name, ""),),
                f"{len(below)} others begin its name, more than {MAX_NESTED - 1}",
            )
    for table, rows in (("exchanges", exchanges), ("queues", queues), ("policies", policies)):
        variables = Counter(env_name(dotted(table, each.name, "")) for each in rows)
        for each in rows:
            variable = env_name(dotted(table, each.name, ""))
            if variables[variable] > 1:
                yield (
                    (dotted(table, each.name, ""),),
                    f"another name has the same variables, {variable}__...; rename one",
                )
                break


def _policy_problems(row: PolicySettings, kinds: dict[str, ExchangeType]) -> Iterator[tuple[str, str]]:
    exchange = row.dead_letter_exchange
    if exchange and exchange not in kinds:
        yield "dead_letter_exchange", _unknown_exchange(exchange, kinds)
    if row.dead_letter_key and not exchange:
        yield "dead_letter_key", "there is no dead_letter_exchange beside it"
    if row.dead_letter_strategy and not exchange:
        yield "dead_letter_strategy", "there is no dead_letter_exchange beside it"
    elif row.dead_letter_strategy == "at-least-once" and _policy(row).overflow != "reject-publish":
        text = 'at-least-once needs overflow = "reject-publish": else the broker falls back to at-most-once silently'
        yield "dead_letter_strategy", text
    if row.overflow and not row.max_length and not exchange:
        yield "overflow", "there is no max_length beside it"
    if row.delivery_limit >= 0 and not exchange:
        yield "delivery_limit", "without a dead_letter_exchange what is over it is discarded silently"


def _queue_problems(
    queue: QueueSettings, queues: Sequence[QueueSettings], policies: Sequence[PolicySettings]
) -> Iterator[tuple[str, str]]:
    if queue.type == "stream":
        for key in (*_UNSAID, "retry_to", "priority"):
            if getattr(queue, key) != _UNSAID.get(key, ""):
                yield key, "a stream knows only max_age_s; for this it must be a quorum queue"
        return
    if queue.priority:
        yield from _priority_problems(queue, queues)
        return
    if queue.max_age_s:
        yield "max_age_s", "only a stream has it; a quorum queue has message_ttl_s"
    if not queue.retry_to:
        return
    if queue.retry_to not in {each.name for each in queues if each.type == "quorum" and not each.retry_to}:
        yield "retry_to", f'there is no quorum queue [queues."{queue.retry_to}"] that could take it'
    if not _with_policy(queue, policies).message_ttl_s:
        yield "message_ttl_s", "missing: with retry_to it says how long a message waits here"
    for key in ("overflow", "expires_s", "dead_letter_exchange", "delivery_limit"):
        if getattr(queue, key) != _UNSAID[key]:
            yield key, "a queue with retry_to keeps what it has until its time, and then sends it there: leave this out"


def _priority_problems(queue: QueueSettings, queues: Sequence[QueueSettings]) -> Iterator[tuple[str, str]]:
    for key in (*(key for key in _UNSAID if key != "max_length"), "retry_to", "max_age_s"):
        if getattr(queue, key) != _UNSAID.get(key, type(getattr(queue, key))()):
            yield key, "with priority it is a queue of tasks, which has its own: only max_length is to be said"
    if len(queue.bindings) > 1 or any(_binding(text, "").key != queue.name for text in queue.bindings):
        yield "bindings", f'with priority it is one, "<direct exchange> {queue.name}"'
    names = {each.name for each in _queue_topology(replace(queue, bindings=())).queues} - {queue.name}
    if other := next((each.name for each in queues if each.name in names), None):
        yield "priority", f"it makes a queue {other}, which is declared as well; rename that"


def _binding_problems(queue: QueueSettings, kinds: dict[str, ExchangeType]) -> Iterator[tuple[str, str]]:
    for text in queue.bindings:
        binding = _binding(text, queue.name)
        kind = kinds.get(binding.exchange)
        words = binding.key.split(".")
        if kind is None:
            yield "bindings", f'"{text}": {_unknown_exchange(binding.exchange, kinds)}'
        elif kind == "fanout" and binding.key:
            yield "bindings", f'"{text}": {binding.exchange} is a fanout exchange, which has no keys'
        elif queue.priority and kind != "direct":
            yield "bindings", f'"{text}": {binding.exchange} is a {kind} exchange; a queue of tasks needs a direct one'
        elif kind != "fanout" and (not binding.key or " " in binding.key):
            yield "bindings", f'"{text}": expected "<exchange> <key>", because {binding.exchange} is a {kind} exchange'
        elif kind == "direct" and {"*", "#"} & set(words):
            yield "bindings", f'"{text}": {binding.exchange} is a direct exchange, which takes * and # literally'
        elif kind == "topic" and any(len(word) > 1 and {"*", "#"} & set(word) for word in words):
            yield "bindings", f'"{text}": * and # stand for whole words, between dots'


def _unknown_exchange(name: str, kinds: dict[str, ExchangeType]) -> str:
    near = difflib.get_close_matches(name, kinds, n=1)
    there = f"did you mean {near[0]}?" if near else "declare it in [exchanges]"
    return f'there is no exchange "{name}"; {there}'


def _circles(
    exchanges: Sequence[ExchangeSettings],
    queues: Sequence[QueueSettings],
    policies: Sequence[PolicySettings],
    system: Topology,
) -> Iterator[Conflict]:
    for way in circles(system + declared_topology(exchanges, queues, policies)):
        queue = next((each for each in queues if each.name == way[0]), None)
        key = "priority" if queue is not None and queue.priority else "dead_letter_exchange"
        if queue is None or not getattr(_with_policy(queue, policies), key):
            continue  # it is told once, for the queue that a consumer reads
        text = (
            f"what it gives up by itself comes back to it ({' -> '.join(way)}), and the broker drops such a message "
            "silently; only what a consumer rejects may go round"
        )
        yield (dotted("queues", queue.name, key),), text

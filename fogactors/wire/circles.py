"""Dead letters that come back to the queue that gave them up.

A message that goes round by itself, expired, over a delivery limit or pushed out of a full queue, is dropped by the
broker without a word when it meets a queue for the second time and no consumer has rejected it in between. By
rejections alone it may go round, through a queue that holds it for a while; with nothing that holds it, for ever and as
fast as the broker can.
"""

from __future__ import annotations

from collections.abc import Iterator

from fogactors.wire.topology import Queue, Topology

__all__ = ["circles"]


def circles(topology: Topology) -> list[tuple[str, ...]]:
    """The queues on each such way, the first of them at its end once more."""
    queues = {each.name: each for each in topology.queues}
    return [way for queue in topology.queues if (way := _circle(queue, queues, topology))]


def _circle(first: Queue, queues: dict[str, Queue], topology: Topology) -> tuple[str, ...]:
    by_itself = _gives_up_by_itself(first)
    pending: list[tuple[str, ...]] = [(first.name,)]
    seen: set[str] = set()
    while pending:
        way = pending.pop()
        for name in _targets(queues[way[-1]], topology):
            if name == first.name and (by_itself or len(way) == 1):
                return (*way, name)
            if name in seen or name not in queues or not _gives_up_by_itself(queues[name]):
                continue
            seen.add(name)
            pending.append((*way, name))
    return ()


def _gives_up_by_itself(queue: Queue) -> bool:
    policy = queue.policy
    pushes_out = policy.max_length is not None and policy.overflow != "reject-publish"
    return policy.message_ttl_ms is not None or policy.delivery_limit >= 0 or pushes_out


def _targets(queue: Queue, topology: Topology) -> Iterator[str]:
    """Where its dead letters may go. One that is sent on by the default exchange with the key that it came with may go
    anywhere: that is for who published it to know."""
    exchange, key = queue.policy.dead_letter_exchange, queue.policy.dead_letter_routing_key
    if exchange is None:
        return
    if not exchange:
        if key is not None:
            yield key
        return
    keys = [key] if key is not None else list(_keys(queue, topology))
    kind = topology.exchange(exchange).type
    for binding in topology.bindings:
        if binding.exchange == exchange and (kind == "fanout" or any(_meet(binding.key, each, kind) for each in keys)):
            yield binding.queue


def _keys(queue: Queue, topology: Topology) -> Iterator[str]:
    """With which its messages come, as patterns: by its bindings, and from where they have waited."""
    yield from (each.key for each in topology.bindings if each.queue == queue.name)
    if any(each.policy.dead_letter_routing_key == queue.name for each in topology.queues):
        yield queue.name


def _meet(pattern: str, key: str, kind: str) -> bool:
    """Whether some key fits both: `key` may be a pattern itself, that of a binding through which messages come."""
    return _words_meet(pattern.split("."), key.split(".")) if kind == "topic" else pattern == key


def _words_meet(left: list[str], right: list[str]) -> bool:
    # Row by row instead of by recursion, which several # would make exponential.
    row = [False] * len(right) + [True]
    for at in range(len(right) - 1, -1, -1):
        row[at] = right[at] == "#" and row[at + 1]
    for word in reversed(left):
        below, row = row, [False] * len(row)
        row[-1] = word == "#" and below[-1]
        for at in range(len(right) - 1, -1, -1):
            other = right[at]
            if "#" in (word, other):
                row[at] = below[at] or row[at + 1]
            else:
                row[at] = (word == other or "*" in (word, other)) and below[at + 1]
    return row[0]

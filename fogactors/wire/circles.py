"""Dead letters that come back to the queue that gave them up.

A message that goes round by itself, expired, over a delivery limit or pushed out of a full queue, is dropped by the
broker without a word when it meets a queue for the second time and no consumer has rejected it in between. By
rejections alone it may go round, through a queue that holds it for a while; with nothing that holds it, for ever and as
fast as the broker can.
"""

from __future__ import annotations

from collections import defaultdict

from fogactors.wire.topology import Binding, Queue, Topology

__all__ = ["circles"]


def circles(topology: Topology) -> list[tuple[str, ...]]:
    """The queues on each such way, the first of them at its end once more."""
    targets = _targets(topology)
    by_themselves = {queue.name for queue in topology.queues if _gives_up_by_itself(queue)}
    return [way for queue in topology.queues if (way := _circle(queue.name, targets, by_themselves))]


def _circle(first: str, targets: dict[str, list[str]], by_themselves: set[str]) -> tuple[str, ...]:
    pending: list[tuple[str, ...]] = [(first,)]
    seen: set[str] = set()
    while pending:
        way = pending.pop()
        for name in targets.get(way[-1], ()):
            if name == first and (first in by_themselves or len(way) == 1):
                return (*way, name)
            if name not in seen and name in by_themselves:
                seen.add(name)
                pending.append((*way, name))
    return ()


def _gives_up_by_itself(queue: Queue) -> bool:
    policy = queue.policy
    pushes_out = policy.max_length is not None and policy.overflow != "reject-publish"
    return policy.message_ttl_ms is not None or policy.delivery_limit >= 0 or pushes_out


def _targets(topology: Topology) -> dict[str, list[str]]:
    """Where the dead letters of each queue may go. What is sent on by the default exchange with the key that it came
    with may go anywhere: that is for who published it to know."""
    kinds = {each.name: each.type for each in topology.exchanges}
    keys, leads = _keys(topology), defaultdict[str, list[Binding]](list)
    for binding in topology.bindings:
        leads[binding.exchange].append(binding)
    found: dict[str, list[str]] = {}
    for queue in topology.queues:
        exchange, key = queue.policy.dead_letter_exchange, queue.policy.dead_letter_routing_key
        if exchange:
            own, kind = keys[queue.name] if key is None else [key], kinds[exchange]
            found[queue.name] = [
                each.queue
                for each in leads[exchange]
                if kind == "fanout" or any(_meet(each.key, each_key, kind) for each_key in own)
            ]
        elif exchange is not None and key is not None:
            found[queue.name] = [key]
    return found


def _keys(topology: Topology) -> dict[str, list[str]]:
    """With which the messages of each queue come, as patterns: by its bindings, and from where they have waited."""
    keys = defaultdict[str, list[str]](list)
    for binding in topology.bindings:
        keys[binding.queue].append(binding.key)
    for queue in topology.queues:
        if (name := queue.policy.dead_letter_routing_key) is not None:
            keys[name].append(name)
    return keys


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

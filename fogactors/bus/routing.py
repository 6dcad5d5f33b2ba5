"""Which queues a message goes to: the matching of AMQP 0-9-1's direct, topic and fanout exchanges, without a
broker."""

from __future__ import annotations

from functools import lru_cache

from fogactors.wire.topology import ExchangeType

__all__ = ["Routes", "topic_matches"]

_CACHED_KEYS = 4096


def topic_matches(pattern: str, key: str) -> bool:
    """Whether a topic binding fits a routing key: words between dots, `*` for one word, `#` for any number of
    them.

    The empty key is no word at all, so `#` fits it and `*` does not.
    """
    return _fits(_words(pattern), _words(key))


@lru_cache(maxsize=_CACHED_KEYS)
def _words(text: str) -> tuple[str, ...]:
    return tuple(text.split(".")) if text else ()


def _fits(pattern: tuple[str, ...], words: tuple[str, ...]) -> bool:
    # Glob matching with one backtrack point (the last `#`): linear in practice, and never exponential, as
    # recursion over several `#` would be on a key that a peer chooses.
    at = word = 0
    hash_at, hash_word = -1, 0
    while word < len(words):
        if at < len(pattern) and pattern[at] == "#":
            hash_at, hash_word = at, word
            at += 1
        elif at < len(pattern) and pattern[at] in ("*", words[word]):
            at += 1
            word += 1
        elif hash_at >= 0:
            hash_word += 1
            at, word = hash_at + 1, hash_word
        else:
            return False
    return all(rest == "#" for rest in pattern[at:])


class Routes:
    """One exchange: its bindings, and the queues that a key leads to, each once and in the order of
    binding."""

    __slots__ = ("_bindings", "_known", "type")

    def __init__(self, type: ExchangeType) -> None:  # noqa: A002
        self.type: ExchangeType = type
        self._bindings: dict[tuple[str, str], None] = {}
        self._known: dict[str, tuple[str, ...]] = {}

    def bind(self, key: str, queue: str) -> None:
        """Idempotent, as in AMQP."""
        self._bindings[key, queue] = None
        self._known.clear()

    def bound(self, key: str, queue: str) -> bool:
        return (key, queue) in self._bindings

    def unbind_queue(self, queue: str) -> None:
        """Remove all that leads to a queue."""
        self._bindings = {binding: None for binding in self._bindings if binding[1] != queue}
        self._known.clear()

    def route(self, key: str) -> tuple[str, ...]:
        """The names of the queues for a routing key."""
        known = self._known.get(key)
        if known is None:
            if len(self._known) >= _CACHED_KEYS:  # keys such as `reply.<id>` never come back
                self._known.clear()
            known = self._known[key] = tuple(
                dict.fromkeys(queue for pattern, queue in self._bindings if self._takes(pattern, key))
            )
        return known

    def _takes(self, pattern: str, key: str) -> bool:
        match self.type:
            case "fanout":
                return True
            case "direct":
                return pattern == key
            case "topic":
                return topic_matches(pattern, key)

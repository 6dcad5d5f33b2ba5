"""What may be made to go wrong in the embedded broker. Documented for its users in
`fogactors.testing.faults`."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable

__all__ = ["Faults"]


class Faults:
    """Faults that the broker consults at each publish, confirm, ack and open. Counts run down to nothing;
    states stay until they are taken back."""

    __slots__ = ("_drop", "_lost_confirms", "_redeliver", "_refuse", "confirm_delay_s", "down_reason", "login_refused")

    def __init__(self, drop: Callable[[str], int]) -> None:
        self._drop = drop
        self._refuse: Counter[str] = Counter()
        self._redeliver: Counter[str] = Counter()
        self._lost_confirms = 0
        self.confirm_delay_s = 0.0
        """Seconds between the broker having a message and its publisher knowing it. A delay past the
        publisher's own deadline is a publish that raises and still arrives."""
        self.down_reason: str | None = None
        """Why the broker is down; `None` while it is up."""
        self.login_refused: str | None = None
        """Why a login is refused, as with a password that is wrong; `None` while everybody may connect. Who is
        connected stays so."""

    def refuse(self, name: str, times: int = 1) -> None:
        """Refuse the next publishes to an exchange, or to a queue, of this name: `QueueFull`."""
        self._refuse[name] += times

    def lose_confirms(self, times: int = 1) -> None:
        """Take the next messages and let their publishers believe that they were lost: `BusUnavailable`."""
        self._lost_confirms += times

    def redeliver(self, queue: str, times: int = 1) -> None:
        """Lose the next acks on a queue: each of its messages is delivered a second time, as after a lost
        connection."""
        self._redeliver[queue] += times

    def drop_connections(self, reason: str = "connection dropped by a fault") -> int:
        """Cut every connection: consumers die, what was not settled goes back. Returns how many there
        were."""
        return self._drop(reason)

    def down(self, reason: str = "broker down by a fault") -> None:
        """Cut every connection and refuse new ones until `up`."""
        self.down_reason = reason
        self._drop(reason)

    def up(self) -> None:
        """Accept connections again. What the queues held is still there."""
        self.down_reason = None

    # -- for the broker

    def take_refusal(self, name: str) -> bool:
        return bool(self._refuse) and _take(self._refuse, name)

    def take_redelivery(self, queue: str) -> bool:
        return bool(self._redeliver) and _take(self._redeliver, queue)

    def take_lost_confirm(self) -> bool:
        if self._lost_confirms <= 0:
            return False
        self._lost_confirms -= 1
        return True


def _take(counts: Counter[str], name: str) -> bool:
    if counts[name] <= 0:
        return False
    counts[name] -= 1
    return True

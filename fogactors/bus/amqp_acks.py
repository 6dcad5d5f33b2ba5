"""The acks of one channel in as few frames as they can be told in."""

from __future__ import annotations

__all__ = ["Acks"]


class Acks:
    """Tags of a channel that are acked and not yet told to the broker. A frame with `multiple` settles a tag and all
    below it, so it may only be sent when none below is still in someone's hands. Tags count from 1, without gaps."""

    def __init__(self) -> None:
        self._lowest = 1
        """Of the tags in someone's hands, or the next one to come. What is below needs no memory."""
        self._above: set[int] = set()
        """Settled tags above it."""
        self._untold: list[int] = []

    def __bool__(self) -> bool:
        return bool(self._untold)

    def add(self, tag: int) -> None:
        """Acked, and to be told."""
        self._untold.append(tag)
        self.settled(tag)

    def settled(self, tag: int) -> None:
        """Settled by other means: rejected."""
        self._above.add(tag)
        while self._lowest in self._above:
            self._above.remove(self._lowest)
            self._lowest += 1

    def take(self) -> list[tuple[int, bool]]:
        """What to tell now, as `(tag, multiple)`."""
        untold, self._untold = self._untold, []
        below = [tag for tag in untold if tag < self._lowest]
        single = [(tag, False) for tag in untold if tag >= self._lowest]
        return [(max(below), len(below) > 1), *single] if below else single

"""Where a result goes besides its record: to the feed, and as a reply to a submitter that asked for one."""

from __future__ import annotations

from typing import Final

from fogactors.bus.base import Bus, Message
from fogactors.errors import BusError
from fogactors.messages import TaskResult
from fogactors.wire.codec import encode
from fogactors.wire.topology import RESULTS

__all__ = ["announce", "fits_key"]

_KEY_LIMIT: Final = 255
"""Bytes of a routing key (an AMQP short string). A foreign task's name or `reply_to` may be longer."""


def fits_key(text: str) -> bool:
    return len(text.encode()) <= _KEY_LIMIT


async def announce(bus: Bus, result: TaskResult, reply_to: str | None, *, timeout: float, feed: bool = True) -> None:
    """Raises nothing: that nobody listens, or that the feed is full, must not keep a task from its end. `feed`: not
    only to who asked for a reply."""
    kind = "success" if result.state == "succeeded" else "failed"
    keys = [f"results.{kind}.{result.name}"] if feed else []
    # Anything but a `reply.` key would let a submitter write into the feed.
    if reply_to and reply_to.startswith("reply."):
        keys.append(reply_to)
    if not keys:
        return
    message = Message(encode(result), type="result", correlation_id=result.correlation_id)
    for key in keys:
        if not fits_key(key):
            continue
        try:
            await bus.publish(RESULTS, key, message, mandatory=False, timeout=timeout)
        except BusError:
            continue

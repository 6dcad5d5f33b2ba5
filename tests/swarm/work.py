"""The task of the load. It leaves a trace of each run where the load counts them: a datagram to its address."""

from __future__ import annotations

import socket
from contextlib import suppress

from fogactors import task

_SOCKET = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
_SOCKET.setblocking(False)


@task(name="swarm.touch")
async def touch(number: int, host: str, port: int) -> int:
    """Says that this number ran. A trace that cannot be sent is left out: runs are counted, not promised."""
    with suppress(OSError):
        _SOCKET.sendto(b"%d" % number, (host, port))
    return number

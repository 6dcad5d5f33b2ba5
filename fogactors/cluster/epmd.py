"""Asks the Erlang port mapper of a host which nodes it has: a question over TCP that costs milliseconds."""

from __future__ import annotations

import re
import socket
from functools import partial
from typing import Final, Literal

import anyio
import anyio.to_thread

__all__ = ["has_node"]

_NAMES: Final = b"\x00\x01n"
"""Its length, and NAMES_REQ."""
_LINE: Final = re.compile(r"^name (\S+) at port \d+$", re.MULTILINE)


async def has_node(node: str, port: int, timeout: float = 2.0) -> Literal["unresolved", "silent", "down", "there"]:
    """Whether a node of this name is registered at its host. `there` says that its Erlang machine runs, not that its
    broker does."""
    name, _, host = node.partition("@")
    try:
        with anyio.fail_after(timeout):
            # In a thread that may be left alone: a resolver takes longer than we wait, and its error is nobody's then.
            addresses = await anyio.to_thread.run_sync(
                partial(socket.getaddrinfo, host, port, type=socket.SOCK_STREAM), abandon_on_cancel=True
            )
    except (OSError, TimeoutError, UnicodeError):  # a resolver that does not answer knows the name no better
        return "unresolved"
    try:
        with anyio.fail_after(timeout):
            return "there" if name in await _names(str(addresses[0][4][0]), port) else "down"
    except (OSError, TimeoutError, anyio.BrokenResourceError) as error:
        refused = isinstance(error, ConnectionRefusedError) or isinstance(error.__cause__, ConnectionRefusedError)
        return "down" if refused else "silent"


async def _names(address: str, port: int) -> set[str]:
    answer = bytearray()
    async with await anyio.connect_tcp(address, port) as stream:
        await stream.send(_NAMES)
        async for chunk in stream:
            answer += chunk
    return set(_LINE.findall(answer[4:].decode(errors="replace")))

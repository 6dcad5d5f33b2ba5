"""A loop that was blocked for longer than a call may take: the answer that came meanwhile counts."""

import asyncio
import socket
import time

import pytest

from fogactors.bus.amqp_errors import BLOCKED_S, Call
from fogactors.errors import BusUnavailable

pytestmark = pytest.mark.asyncio

TIMEOUT_S = 0.2


class Peer:
    """Its answer comes as the client library's do: by a reader, a queue and a task, some turns of the loop later."""

    def __init__(self) -> None:
        self._ours, self.theirs = socket.socketpair()
        self._frames: asyncio.Queue[bytes] = asyncio.Queue()
        self.answer: asyncio.Future[bytes] = asyncio.get_running_loop().create_future()

    async def read(self) -> None:
        reader, writer = await asyncio.open_connection(sock=self._ours)
        try:
            await self._frames.put(await reader.readexactly(1))
        finally:
            writer.close()
            await writer.wait_closed()

    async def pass_on(self) -> None:
        self.answer.set_result(await self._frames.get())


async def call(peer: Peer, *, answered: bool) -> bytes:
    reading = [asyncio.create_task(peer.read()), asyncio.create_task(peer.pass_on())]

    async def ask() -> bytes:
        with Call("inspect", TIMEOUT_S):
            return await peer.answer

    asking = asyncio.create_task(ask())
    await asyncio.sleep(TIMEOUT_S / 4)  # they wait
    if answered:
        peer.theirs.send(b"x")
    time.sleep(TIMEOUT_S + BLOCKED_S + 0.1)  # noqa: ASYNC251 - the loop is blocked, that is what is tested
    try:
        return await asking
    finally:
        for each in reading:
            each.cancel()
        await asyncio.gather(*reading, return_exceptions=True)
        peer.theirs.close()


async def test_what_came_while_the_loop_was_blocked_was_in_time():
    assert await call(Peer(), answered=True) == b"x"


async def test_what_never_came_is_given_up_all_the_same():
    with pytest.raises(BusUnavailable, match="did not answer within"):
        await call(Peer(), answered=False)

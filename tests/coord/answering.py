"""A Redis that says what the test wants, where the real one would take long to be brought to it."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress

import anyio
from anyio.abc import SocketAttribute, SocketStream

_HELLO = b"%1\r\n$5\r\nproto\r\n:3\r\n"


class Answering:
    """`answer`: of a command, in capital letters, and b"" for what a Redis that is well says to it. `asked`: how many
    connections came; redis-py tries twice where one is refused."""

    def __init__(self, answer: Callable[[bytes], bytes]) -> None:
        self.answer = answer
        self.port = 0
        self.asked = 0

    @classmethod
    @asynccontextmanager
    async def open(cls, answer: Callable[[bytes], bytes]) -> AsyncIterator[Answering]:
        redis = cls(answer)
        async with (
            await anyio.create_tcp_listener(local_host="127.0.0.1") as listener,
            anyio.create_task_group() as tasks,
        ):
            redis.port = listener.extra(SocketAttribute.local_port)
            tasks.start_soon(listener.serve, redis._serve)
            yield redis
            tasks.cancel_scope.cancel()

    async def _serve(self, stream: SocketStream) -> None:
        with suppress(anyio.BrokenResourceError):  # the client has gone
            async with stream:
                await self._talk(stream)

    async def _talk(self, stream: SocketStream) -> None:
        self.asked += 1
        async for chunk in stream:
            for command in re.split(rb"^\*\d+\r\n", chunk, flags=re.MULTILINE)[1:]:
                name = command.split(b"\r\n")[1].upper()
                await stream.send(self.answer(name) or (_HELLO if name == b"HELLO" else b"+OK\r\n"))

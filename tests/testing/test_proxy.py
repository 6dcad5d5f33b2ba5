"""The TCP proxy has the bad days that it promises, between plain sockets."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import anyio
import pytest
from anyio.abc import SocketAttribute, SocketStream

from fogactors.testing.proxy import TcpProxy
from tests.bus.support import eventually as until

pytestmark = pytest.mark.asyncio

DEADLINE_S = 5.0
SILENCE_S = 0.15
"""How long nothing must come before we believe that nothing comes."""


class Echo:
    """Sends back what it gets; `bye` makes it close every connection."""

    def __init__(self) -> None:
        self.port = 0
        self.heard = b""
        self.ended = 0
        self.bye = anyio.Event()

    async def serve(self, stream: SocketStream) -> None:
        async with stream, anyio.create_task_group() as tasks:
            tasks.start_soon(self._until_bye, tasks.cancel_scope)
            try:
                async for chunk in stream:
                    self.heard += chunk
                    await stream.send(chunk)
            except (anyio.BrokenResourceError, anyio.ClosedResourceError):
                pass
            self.ended += 1
            tasks.cancel_scope.cancel()

    async def _until_bye(self, scope: anyio.CancelScope) -> None:
        await self.bye.wait()
        scope.cancel()


@asynccontextmanager
async def world() -> AsyncIterator[tuple[Echo, TcpProxy]]:
    echo = Echo()
    listener = await anyio.create_tcp_listener(local_host="127.0.0.1")
    echo.port = listener.extra(SocketAttribute.local_port)
    with anyio.fail_after(DEADLINE_S):
        async with listener, anyio.create_task_group() as tasks:
            tasks.start_soon(listener.serve, echo.serve)
            async with TcpProxy.to("127.0.0.1", echo.port) as proxy:
                yield echo, proxy
            tasks.cancel_scope.cancel()


async def dial(proxy: TcpProxy) -> SocketStream:
    return await anyio.connect_tcp("127.0.0.1", proxy.port)


async def ask(stream: SocketStream, word: bytes) -> bytes:
    await stream.send(word)
    return await stream.receive()


async def hears_nothing(stream: SocketStream) -> bool:
    with anyio.move_on_after(SILENCE_S):
        await stream.receive()
        return False
    return True


async def test_it_passes_everything_both_ways_and_the_ends_too():
    async with world() as (echo, proxy), await dial(proxy) as client:
        assert await ask(client, b"one") == b"one"
        body = b"x" * 1_000_000
        got = bytearray()
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(client.send, body)
            while len(got) < len(body):
                got += await client.receive()
        assert bytes(got) == body
        assert (proxy.accepted, proxy.connections) == (1, 1)
        await client.send_eof()
        with pytest.raises(anyio.EndOfStream):
            await client.receive()
        await until(lambda: echo.ended == 1 and proxy.connections == 0)


async def test_what_the_server_closes_is_closed():
    async with world() as (echo, proxy), await dial(proxy) as client:
        assert await ask(client, b"one") == b"one"
        echo.bye.set()
        with pytest.raises(anyio.EndOfStream):
            await client.receive()


async def test_a_cut_resets_every_connection_and_new_ones_are_accepted():
    async with world() as (echo, proxy), await dial(proxy) as one, await dial(proxy) as two:
        assert await ask(one, b"1") == b"1"
        assert await ask(two, b"2") == b"2"
        assert proxy.cut() == 2
        for client in (one, two):
            with pytest.raises(anyio.BrokenResourceError) as caught:
                await client.receive()
            assert isinstance(caught.value.__cause__, ConnectionResetError)
        await until(lambda: echo.ended == 2)
        assert (proxy.cut(), proxy.connections) == (0, 0)
        async with await dial(proxy) as three:
            assert await ask(three, b"3") == b"3"
        assert proxy.accepted == 3


async def test_a_stall_holds_everything_back_loses_nothing_and_hides_the_end():
    async with world() as (echo, proxy), await dial(proxy) as client:
        assert await ask(client, b"one") == b"one"
        proxy.stall()
        await client.send(b"two")
        assert await hears_nothing(client)
        assert echo.heard == b"one"
        async with await dial(proxy) as late:
            await late.send(b"late")
            assert await hears_nothing(late)
        proxy.resume()
        assert await client.receive() == b"two"
        proxy.stall()
        echo.bye.set()
        assert await hears_nothing(client)
        proxy.resume()
        with pytest.raises(anyio.EndOfStream):
            await client.receive()


async def test_a_stalled_connection_can_be_cut():
    async with world() as (_, proxy), await dial(proxy) as client:
        assert await ask(client, b"one") == b"one"
        proxy.stall()
        await client.send(b"two")
        assert proxy.cut() == 1
        with pytest.raises(anyio.BrokenResourceError):
            await client.receive()


async def test_half_open_hears_the_client_and_loses_the_answers_and_the_goodbye():
    async with world() as (echo, proxy), await dial(proxy) as client:
        assert await ask(client, b"one") == b"one"
        proxy.half_open()
        await client.send(b"two")
        await until(lambda: echo.heard == b"onetwo")
        echo.bye.set()
        assert await hears_nothing(client)
        proxy.resume()
        with pytest.raises(anyio.EndOfStream):
            await client.receive()


async def test_after_half_open_answers_come_again_and_lost_ones_stay_lost():
    async with world() as (echo, proxy), await dial(proxy) as client:
        proxy.half_open()
        await client.send(b"lost")
        await until(lambda: echo.heard == b"lost")
        assert await hears_nothing(client)
        proxy.resume()
        assert await ask(client, b"found") == b"found"


async def test_slow_is_late_by_its_delay_each_way():
    async with world() as (_, proxy), await dial(proxy) as client:
        proxy.delay_s = 0.1
        began = anyio.current_time()
        assert await ask(client, b"one") == b"one"
        assert anyio.current_time() - began >= 0.2


@pytest.mark.parametrize("how", ["refusing", "nobody listens"])
async def test_a_refused_connection_is_reset_at_once(how):
    async with world() as (echo, proxy):
        if how == "refusing":
            proxy.refusing = True
        else:
            proxy._target = ("127.0.0.1", 1)
        async with await dial(proxy) as client:
            with pytest.raises((anyio.BrokenResourceError, anyio.EndOfStream)):
                await client.receive()
        assert (proxy.accepted, proxy.connections, echo.heard) == (1, 0, b"")

"""The port mapper's answers, from one that speaks its protocol on a real socket."""

from __future__ import annotations

import socket

import anyio
import pytest

from fogactors.cluster.epmd import has_node
from fogactors.cluster.look import reach

pytestmark = pytest.mark.asyncio


async def mapper(listener: anyio.abc.SocketListener, answer: bytes | None) -> None:
    """Answers each question; None: says nothing."""

    async def serve(stream: anyio.abc.SocketStream) -> None:
        async with stream:
            assert await stream.receive() == b"\x00\x01n"
            if answer is None:
                await anyio.sleep_forever()
            await stream.send(answer)

    await listener.serve(serve)


@pytest.mark.parametrize(
    ("answer", "found"),
    [
        (b"\x00\x00\x11\x11name rabbit at port 25672\nname other at port 1\n", "there"),
        (b"\x00\x00\x11\x11name rabbit2 at port 25672\n", "down"),
        (b"\x00\x00\x11\x11", "down"),
        (None, "silent"),
    ],
)
async def test_whether_a_node_is_there(answer, found):
    listener = await anyio.create_tcp_listener(local_host="127.0.0.1")
    port = listener.extra(anyio.abc.SocketAttribute.local_port)
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(mapper, listener.listeners[0], answer)
        assert await has_node("rabbit@127.0.0.1", port, timeout=0.5) == found
        tasks.cancel_scope.cancel()
    await listener.aclose()


async def test_no_mapper_at_a_host_that_answers():
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]

    assert await has_node("rabbit@127.0.0.1", port) == "down"


async def test_a_name_that_resolves_to_nobody():
    assert await has_node("rabbit@no-such-host.invalid", 4369) == "unresolved"


async def test_all_are_asked_at_once():
    found = await reach(("a@127.0.0.1", "b@no-such-host.invalid"), 1)

    assert found == {"a@127.0.0.1": "down", "b@no-such-host.invalid": "unresolved"}

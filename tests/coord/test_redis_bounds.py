"""What the client's own failures become."""

from __future__ import annotations

import asyncio
from contextlib import AbstractContextManager

import anyio
import pytest
import uvloop

from fogactors.coord.redis_bounds import quietly, translated
from fogactors.errors import CoordUnavailable


def write_with(guard: AbstractContextManager[None], writer: asyncio.StreamWriter) -> None:
    with guard:
        writer.writelines([b"PING"])


def test_a_write_on_a_connection_that_uvloop_has_closed_is_a_store_that_is_away() -> None:
    """An executor took it for an error of its own and ended, which charged each task in its hands a delivery."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read()
        writer.close()

    async def write() -> None:
        async with await asyncio.start_server(serve, "127.0.0.1", 0) as server:
            host, port = server.sockets[0].getsockname()
            _, writer = await asyncio.open_connection(host, port)
            writer.transport.abort()
            with anyio.fail_after(5):
                await writer.wait_closed()
            with pytest.raises(CoordUnavailable, match="the connection to Redis was closed"):
                write_with(translated("record a result"), writer)
            write_with(quietly(), writer)

    uvloop.run(write())


@pytest.mark.parametrize("guard", [quietly, lambda: translated("record a result")])
def test_any_other_error_of_the_runtime_is_a_fault_of_ours(guard) -> None:
    with pytest.raises(RuntimeError, match="no such loop"), guard():
        raise RuntimeError("no such loop")

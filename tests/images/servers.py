"""Real servers for the images' own configuration."""

from __future__ import annotations

from contextlib import asynccontextmanager

import anyio

from tests.services import ServiceUnavailable, skip_or_fail


@asynccontextmanager
async def running(server):
    try:
        await server.start()
        yield server
    except ServiceUnavailable as error:
        skip_or_fail(error)
    finally:
        with anyio.CancelScope(shield=True):
            await server.stop(grace_s=0)

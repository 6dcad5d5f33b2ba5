"""A Redis that reads its file back after a restart: it is away for as long, and refuses nobody."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest

from fogactors.errors import CoordUnavailable
from fogactors.messages import Beat, TaskResult
from tests.coord.answering import Answering
from tests.coord.far import client

pytestmark = pytest.mark.asyncio

AT = datetime(2026, 1, 1, tzinfo=UTC)
AT_ANY_TIME = {b"HELLO", b"AUTH", b"CLIENT"}
"""What Redis answers also while it loads."""


def loading(command: bytes) -> bytes:
    return b"" if command in AT_ANY_TIME else b"-LOADING Redis is loading the dataset in memory\r\n"


async def test_one_that_loads_is_away():
    async with Answering.open(loading) as redis, client(f"redis://u:p@127.0.0.1:{redis.port}/0") as coord:
        for call in (
            coord.open(5),
            coord.holder("lease"),
            coord.acquire("lease", "n1", 1),
            coord.record(TaskResult(task_id="me-1", name="t", state="succeeded", finished=AT)),
            coord.beat(Beat(node="n1", role="heartbeat", at=AT), 90),
        ):
            with pytest.raises(CoordUnavailable, match="is loading"):
                await call

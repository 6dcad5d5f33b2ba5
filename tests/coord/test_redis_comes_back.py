"""A Redis with our ACL file has after a restart what it had before."""

from __future__ import annotations

from datetime import UTC, datetime
from secrets import token_urlsafe

import anyio
import pytest

from fogactors.coord import Copy
from fogactors.messages import TaskResult
from fogactors.wire.access import User
from tests.coord.far import client
from tests.coord.walled import AclRedis
from tests.services import ServiceUnavailable, skip_or_fail

pytestmark = [pytest.mark.services, pytest.mark.asyncio]
AT = datetime(2026, 1, 1, tzinfo=UTC)


async def test_what_scripts_have_written_is_there_after_a_restart() -> None:
    """What a script writes is a transaction in Redis' file, which Redis reads back as its default user: where that one
    may do nothing, it is left out."""
    executor = User("worker1", ("tier-executor",), (), token_urlsafe(12))
    results = [TaskResult(task_id=f"me-{number}", name="t", state="succeeded", finished=AT) for number in range(20)]
    server = AclRedis({"executor": executor})
    try:
        await server.start()
    except ServiceUnavailable as error:
        skip_or_fail(error)
    try:
        async with client(server.url_of("executor")) as coord:
            for each in results:
                assert await coord.begin(Copy(each.task_id, 0, 1, "mark", 0), ttl_s=60)
                await coord.record(each)
        await server.kill9()
        await server.start()
        async with client(server.url_of("executor")) as coord:
            assert [await coord.result(each.task_id) for each in results] == results
        assert "NOPERM" not in server.log_path.read_text()
    finally:
        with anyio.CancelScope(shield=True):
            await server.stop(0)

"""A client that is not ours, with a library that is not ours: the script of docs/foreign-clients.md, as it stands
there."""

from __future__ import annotations

import ast
import os
import re
import sys
from pathlib import Path
from subprocess import PIPE
from urllib.parse import quote
from uuid import uuid4

import anyio
import pytest

from tests.integration.fog import DEADLINE_S, Fog, parked

pytestmark = [pytest.mark.services, pytest.mark.asyncio]

PAGE = (Path(__file__).parents[2] / "docs" / "foreign-clients.md").read_text()
(SCRIPT,) = re.findall(r"^```python-pika\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)
(PERMISSIONS,) = re.findall(r"^\| `(\^\S+)` \| `(\^\S+)` \| `(\^\S+)` \|$", PAGE, re.MULTILINE)

REPORTS = """
from fogactors import task


@task
async def add(a: int, b: int) -> int:
    return a + b
"""


async def executor(fog: Fog) -> None:
    (fog.folder / "reports.py").write_text(REPORTS)
    await fog.role("tier-executor", "--tier", "light", "--import", "reports")


async def run(fog: Fog, script: str = SCRIPT, amqp_url: str = "") -> dict:
    """What the script prints."""
    file = fog.folder / "client.py"
    file.write_text(script)
    env = {**os.environ, "AMQP_URL": amqp_url or fog.services.amqp_url}
    with anyio.fail_after(DEADLINE_S):
        done = await anyio.run_process([sys.executable, str(file)], env=env, stderr=PIPE, check=False)
    assert done.returncode == 0, done.stderr.decode()
    return ast.literal_eval(done.stdout.decode())


def changed(old: str, new: str) -> str:
    assert old in SCRIPT
    return SCRIPT.replace(old, new)


async def test_the_script_of_the_docs_submits_a_task_and_prints_its_result(fog):
    await executor(fog)
    result = await run(fog)
    assert (result["schema"], result["name"], result["state"]) == ("result/1", "reports.add", "succeeded")
    assert (result["value"], result["attempts"]) == (42, 1)
    assert result["created"] < result["started"] < result["finished"]


async def test_the_permissions_of_the_docs_are_enough(fog):
    name, vhost = f"fog-test-{uuid4().hex[:6]}", quote(fog.services.vhost, safe="")
    rights = [each.replace("\\|", "|") for each in PERMISSIONS]  # a table's column ends at a plain one
    fog.services.api("PUT", f"/users/{name}", {"password": "secret", "tags": ""})
    try:
        body = dict(zip(("configure", "write", "read"), rights, strict=True))
        fog.services.api("PUT", f"/permissions/{vhost}/{name}", body)
        await executor(fog)
        assert (await run(fog, amqp_url=fog.services.as_user(name, "secret").amqp_url))["value"] == 42
    finally:
        fog.services.api("DELETE", f"/users/{name}")


@pytest.mark.parametrize(
    ("old", "new", "error"),
    [
        ('"reports.add"', '"reports.ad"', "UnknownTask"),
        ('{"a": 40, "b": 2}', '{"a": 40, "b": "two"}', "TaskArgumentError"),
        ('{"a": 40, "b": 2}', "[40, 2]", "TaskArgumentError"),
    ],
)
async def test_what_cannot_be_run_is_answered_as_well(fog, old, new, error):
    await executor(fog)
    await fog.role("dlq-reaper")
    result = await run(fog, changed(old, new))
    assert (result["state"], result["error"]["type"]) == ("failed", error)
    async with parked(fog.services) as letter:
        assert (await letter(result["task_id"])).error.type == error


async def test_fields_of_its_own_do_no_harm_and_the_schema_may_be_left_out(fog):
    await executor(fog)
    result = await run(fog, changed('"schema": "task/1"', '"tenant": {"id": 7}, "correlation_id": "order-9"'))
    assert (result["value"], result["correlation_id"]) == (42, "order-9")


async def test_a_task_that_no_queue_takes_is_an_error_at_once(fog):
    with pytest.raises(AssertionError, match="UnroutableError"):
        await run(fog, changed('"tasks.direct", "normal"', '"tasks.direct", "nowhere"'))

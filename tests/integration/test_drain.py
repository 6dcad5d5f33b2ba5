"""Behaviour 6: an executor that is told to end, with a broker that is real and processes that are.

That nothing is counted is a matter of the broker's version: 4.0 counts each delivery that comes back, however politely.
"""

from __future__ import annotations

import time
from datetime import datetime, timedelta
from typing import Any

import anyio
import msgspec
import pytest
from msgspec import Raw

from fogactors.tasks.client import Handle, Submitter
from fogactors.tasks.settle import DEATHS_ALLOWED
from fogactors.wire.topology import DLQ
from tests.integration.fog import Command, Fog, apply_topology, connected, own_vhost, submitting, until

pytestmark = [pytest.mark.services, pytest.mark.versions, pytest.mark.asyncio]

NOTHING_NEW_S = 1.0
ELSEWHERE_S = 5.0
DRAIN_S = 3.0
ENDED_S = 3.0
"""Of grace above the drain: for what was cancelled to end, and for the process."""


@pytest.fixture
def services(shared_services):
    """Each test's own: what one leaves behind is not the next one's load."""
    with own_vhost(shared_services) as own:
        anyio.run(apply_topology, own)
        yield own


@pytest.fixture
def executor(fog: Fog):
    """Starts an executor on a node of this name."""

    async def start(node: str, drain_s: float = DRAIN_S) -> Command:
        return await fog.executor(NODE__NAME=node, EXECUTOR__DRAIN_S=f"{drain_s:g}", LOG__LEVEL="debug")

    return start


async def submit(submitter: Submitter, fog: Fog, task: str, **args: Any) -> Handle[Any]:
    return await submitter.submit_raw(
        f"{fog.module}.{task}", Raw(msgspec.json.encode(args, enc_hook=str)), tier="light"
    )


def at(line: dict[str, Any]) -> datetime:
    return datetime.fromisoformat(line["ts"])


def runs(command: Command, handle: Handle[Any]) -> list[dict[str, Any]]:
    return [line for line in command.logged("TaskStarted") if line["message_id"] == handle.id]


async def test_under_load_what_fits_finishes_and_the_rest_starts_elsewhere_soon(fog, executor, tmp_path):
    leaving = await executor("leaving")
    go, soon = tmp_path / "go", tmp_path / "soon"
    async with submitting(fog.services) as submitter:
        marks = [tmp_path / f"holds {n}" for n in range(4)]
        fit = [await submit(submitter, fog, "hold", mark=mark, until=soon) for mark in marks[:2]]
        held = [await submit(submitter, fog, "hold", mark=mark, until=go) for mark in marks[2:]]
        await until(lambda: all(mark.exists() for mark in marks), f"all slots are taken, by {leaving}")
        load = [await submit(submitter, fog, "append", path=tmp_path / "load", line=f"{n}") for n in range(20)]
        staying = await executor("staying")

        began = time.monotonic()
        leaving.process.terminate()
        await until(lambda: bool(leaving.logged("TaskHandedBack")), f"it drains: {leaving}")
        soon.touch()
        await anyio.sleep(NOTHING_NEW_S)  # the time that it has
        late = [await submit(submitter, fog, "append", path=tmp_path / "late", line=f"{n}") for n in range(20)]
        assert (await leaving.wait(DRAIN_S + ENDED_S)).code == 0, leaving
        assert DRAIN_S < time.monotonic() - began < DRAIN_S + ENDED_S
        assert not {line.get("message_id") for line in leaving.log} & {handle.id for handle in late}

        for handle in fit:
            outcome = await handle.outcome(1)
            assert (outcome.worker, outcome.attempts, len(runs(staying, handle))) == ("leaving/light", 1, 0)
        gave_back = {line["message_id"]: line for line in leaving.logged("TaskHandedBack")}
        assert {handle.id for handle in held} <= gave_back.keys()
        assert len(gave_back) > len(held), "what waited in its hands goes back as well"
        for id_, line in gave_back.items():
            handle = submitter.handle(id_)
            await until(lambda handle=handle: bool(runs(staying, handle)), f"{id_} starts on {staying}", ELSEWHERE_S)
            assert at(runs(staying, handle)[0]) - at(line) < timedelta(seconds=ELSEWHERE_S)
        go.touch()
        for handle in (*held, *load, *late):
            outcome = await handle.outcome(ELSEWHERE_S)
            assert (outcome.state, outcome.worker, outcome.attempts) == ("succeeded", "staying/light", 1)


async def test_a_task_that_is_handed_back_more_often_than_the_limit_is_still_at_its_first_attempt(
    fog, executor, tmp_path
):
    mark, go = tmp_path / "mark", tmp_path / "go"
    async with submitting(fog.services) as submitter, connected(fog.services) as bus:
        now = await executor("n0", 0.1)
        handle = await submit(submitter, fog, "hold", mark=mark, until=go)
        for number in range(DEATHS_ALLOWED + 2):
            await until(mark.exists, f"it runs in {now}")
            following = await executor(f"n{number + 1}", 0.1)
            mark.unlink()
            assert (await now.stop()).code == 0
            assert [line["message_id"] for line in now.logged("TaskHandedBack")] == [handle.id]
            now = following
        await until(mark.exists, f"it runs in {now}")
        assert [line["attempt"] for line in runs(now, handle)] == [1]
        go.touch()
        outcome = await handle.outcome(5)
        assert (outcome.state, outcome.attempts) == ("succeeded", 1)
        assert (await bus.inspect(DLQ)).ready == 0


async def test_an_order_to_drain_does_what_a_signal_does(fog, executor, tmp_path):
    leaving = await executor("leaving", 0.1)
    mark, go = tmp_path / "mark", tmp_path / "go"
    async with submitting(fog.services) as submitter:
        handle = await submit(submitter, fog, "hold", mark=mark, until=go)
        await until(mark.exists, f"it runs in {leaving}")
        staying = await executor("staying")
        assert (await fog.run("drain", "leaving")).code == 0
        assert (await leaving.wait()).code == 0, leaving
        await until(lambda: bool(runs(staying, handle)), f"it starts on {staying}", ELSEWHERE_S)
        go.touch()
        outcome = await handle.outcome(5)
        assert (outcome.state, outcome.worker, outcome.attempts) == ("succeeded", "staying/light", 1)

"""A task that kills its whole executor, each time that it runs, among fifty that do nothing wrong."""

from __future__ import annotations

import msgspec
import pytest
from msgspec import Raw

from fogactors.errors import WorkerLost
from fogactors.tasks.settle import DEATHS_ALLOWED
from tests.integration.fog import connected, parked, store, submitting, until

pytestmark = [pytest.mark.services, pytest.mark.versions, pytest.mark.asyncio]

INNOCENTS = 50

POISON = """
import asyncio
import os
import signal
from pathlib import Path

from fogactors import task


@task
async def kill(trace: Path) -> None:
    with trace.open("a") as file:
        file.write("poison\\n")
    await asyncio.sleep(0.1)  # so that others run beside it
    os.kill(os.getpid(), signal.SIGKILL)
"""


def args(**values):
    return Raw(msgspec.json.encode(values))


async def test_one_poisoned_task_among_fifty_is_the_only_dead_letter(fog):
    (fog.folder / "poison.py").write_text(POISON)
    trace = fog.folder / "trace"
    await fog.role("dlq-reaper")
    async with submitting(fog.services) as submitter, store(fog.services) as coord, parked(fog.services) as letter:
        poison = await submitter.submit_raw("poison.kill", args(trace=str(trace)), tier="light")
        name = f"{fog.module}.append"
        innocents = [
            await submitter.submit_raw(name, args(path=str(trace), line=f"i{n}", seconds=0.3), tier="light")
            for n in range(INNOCENTS)
        ]

        async def all_have_ended() -> bool:
            return None not in [await coord.result(handle.id) for handle in (poison, *innocents)]

        deaths = 0
        while True:
            words = ("--tier", "light", "-i", fog.module, "-i", "poison")
            executor = await fog.role("tier-executor", *words, EXECUTOR__LOOK_AHEAD="2")

            async def died_or_done(process=executor.process) -> bool:
                return process.poll() is not None or await all_have_ended()

            await until(died_or_done, "the executor's death, or the end of all tasks")
            if executor.process.poll() is None:
                break
            deaths += 1
        with pytest.raises(WorkerLost):
            await poison.result(5)
        assert {(await each.outcome(5)).state for each in innocents} == {"succeeded"}
        assert (await letter(poison.id)).reason == "worker_lost"
        assert deaths == trace.read_text().splitlines().count("poison") == DEATHS_ALLOWED + 1
        async with connected(fog.services) as bus:
            assert (await bus.inspect("dlq")).ready == 0
    assert (await executor.stop()).code == 0

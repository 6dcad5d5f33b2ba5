"""A program's end."""

from __future__ import annotations

import anyio
import pytest

from fogactors.app.program import Program
from fogactors.app.services import Embedded
from fogactors.app.settings import Settings
from fogactors.core import ActorExited, ActorStarted, Events
from fogactors.tasks.events import TaskStarted
from fogactors.tasks.registry import Registry
from fogactors.tasks.task import task
from fogactors.testing import EventRecorder
from fogactors.testing.kit import eventually

EXECUTOR = "fogactors/tier-executor-light/executor"


@pytest.mark.asyncio
async def test_an_executor_whose_connection_breaks_while_it_drains_does_not_come_back():
    registry, events = Registry(), Events()
    recorder = EventRecorder(events)

    @task(name="hold", registry=registry)
    async def hold() -> None:
        await anyio.sleep_forever()

    async def leave() -> None:
        async with (
            Program.start(
                Settings(), ("tier-executor",), tiers=("light",), events=events, registry=registry
            ) as program,
            program.submitter() as submitter,
        ):
            programs.append(program)
            await submitter.submit(hold)
            await recorder.wait_for(TaskStarted)

    programs = list[Program]()
    with anyio.fail_after(10):
        async with anyio.create_task_group() as leaving:
            leaving.start_soon(leave)
            await recorder.wait_for(TaskStarted)
            executor = programs[0].system.ref(EXECUTOR)
            tree = programs[0].system.supervisors[EXECUTOR.rpartition("/")[0]]
            await eventually(lambda: "stopping" in [each.state for each in tree.which_children()], "it drains")
            services = programs[0].services
            assert isinstance(services, Embedded)
            services.broker.faults.drop_connections()
            await recorder.wait_for(ActorExited, path="fogactors/tier-executor-light/link")
    assert not executor.is_alive
    assert len(recorder.of(ActorStarted, EXECUTOR)) == 1

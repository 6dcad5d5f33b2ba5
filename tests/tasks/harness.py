"""The shipped kit, with the tests' tasks; and a store that can hang."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import anyio
import msgspec

from fogactors.bus import Message
from fogactors.core import ActorExited
from fogactors.errors import CoordRefused
from fogactors.messages import Task
from fogactors.testing.kit import eventually
from fogactors.testing.kit import fog as any_fog
from fogactors.wire import encode
from fogactors.wire.topology import TASKS
from tests.tasks import fog_tasks


def fog(**options):
    return any_fog(registry=fog_tasks.registry, **options)


def message(task, args=b"{}", **fields):
    """The bytes of a task that another client might have sent."""
    return encode(Task(id="foreign-1", name=task.name, created=datetime.now(UTC), args=msgspec.Raw(args), **fields))


async def publish(system, body, key="normal", **properties):
    await system.bus.publish(TASKS, key, Message(body, type="task", **properties))


async def settled(system):
    """The executor is idle, still its first incarnation, and the broker holds nothing that is unsettled."""
    await system.wait_idle()
    assert not system.recorder.of(ActorExited)
    await nothing_in_hand(system)


async def nothing_in_hand(system):
    await eventually(lambda: not any(each.unsettled for each in system.broker.depths().values()), "all settled")


class Hanging:
    """A store whose methods of these names never answer, while `hangs`."""

    def __init__(self, coord, *names):
        self._coord = coord
        self._names = names
        self.hangs = True
        self.asked = 0

    def __getattr__(self, name: str) -> Any:
        method = getattr(self._coord, name)
        if name not in self._names:
            return method

        async def maybe_hang(*args, **kwargs):
            self.asked += 1
            if self.hangs:
                await anyio.sleep_forever()
            return await method(*args, **kwargs)

        return maybe_hang


class Refusing:
    """A store without the permission for methods of these names, while `refuses`."""

    def __init__(self, coord, *names):
        self._coord = coord
        self._names = names
        self.refuses = True
        self.asked = 0

    def __getattr__(self, name: str) -> Any:
        if name not in self._names or not self.refuses:
            return getattr(self._coord, name)

        async def refuse(*args, **kwargs):
            self.asked += 1
            raise CoordRefused("no permission")

        return refuse

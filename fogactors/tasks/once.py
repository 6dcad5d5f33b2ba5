"""One task for one idempotency key: claim it, publish, confirm.

A crash between the steps leaves a claim that nobody confirmed, and then nobody knows whether the task arrived. Whoever
comes next publishes it again under the id of the claim, so that it may be delivered twice and is recorded once.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Final

import anyio

from fogactors.coord.base import Claim, Coord
from fogactors.errors import CoordError, TaskDefinitionError, WireError
from fogactors.messages import Task

__all__ = ["IDEMPOTENCY_TTL_S", "Once"]

IDEMPOTENCY_TTL_S: Final = 86_400.0
"""How long a key stands for its task by default (a day)."""
KEY_LIMIT: Final = 200
PATIENCE_S: Final = 1.0
"""How long to wait for another to confirm its claim: it may be publishing at this very moment, and a second message
would only be a duplicate."""
LOOK_S: Final = 0.05
LATER_S: Final = 1.0


class Once:
    """For one submitter. `publish` hands a task to the broker; `ttl_s`: how long a key stands for its task; `scope`:
    among whose tasks of a name."""

    def __init__(self, coord: Coord, publish: Callable[[Task], Awaitable[None]], ttl_s: float, scope: str = "") -> None:
        self._coord = coord
        self._publish = publish
        self._ttl_s = ttl_s
        self._scope = scope
        self._late: dict[str, str] = {}
        self._has_late = anyio.Event()

    async def publish(self, task: Task, key: str) -> str:
        """Publish it unless the key's task was published before; returns the id of the key's task.

        A key is of one task's name: two kinds of work on `order-7` are two tasks. Raises `TaskDefinitionError` for what
        is no key, `CoordError` (then nothing was published), and what `publish` raises.
        """
        if not isinstance(key, str) or not 0 < len(key) <= KEY_LIMIT:  # pyright: ignore[reportUnnecessaryIsInstance]
            raise TaskDefinitionError(
                f"task {task.name}: idempotency_key must be text of 1 to {KEY_LIMIT} characters, not {key!r:.60}"
            )
        # Neither a name nor a scope has a blank, so no two of them make the same.
        scoped = f"{self._scope} {task.name} {key}" if self._scope else f"{task.name} {key}"
        claim = await self._claim(scoped, task.id)
        if claim.confirmed:
            return claim.task_id
        if claim.task_id == task.id:
            await self._publish(task)
        elif not await self._has_ended(claim.task_id):
            if task.correlation_id == task.id:
                task.correlation_id = claim.task_id
            task.id = claim.task_id
            task.hops += 1  # so that an executor looks its record up before it runs it
            await self._publish(task)
        await self._confirm(scoped, claim.task_id)
        return claim.task_id

    async def _confirm(self, scoped: str, task_id: str) -> None:
        try:
            await self._coord.confirm(scoped, task_id, ttl_s=self._ttl_s)
        except CoordError:
            # It is published, which is what was asked for; and an error here would bring it a second time. A store that
            # refuses is asked again too: somebody may grant the permission that is missing.
            self._late[scoped] = task_id
            self._has_late.set()

    async def _has_ended(self, task_id: str) -> bool:
        """Then it has arrived, whoever did not live to confirm it."""
        try:
            return await self._coord.result(task_id) is not None
        except WireError:  # of a newer version, and so there
            return True

    async def confirm_late(self) -> None:
        """Confirm, as long as this runs, what the store did not take at once."""
        while True:
            await self._has_late.wait()
            for scoped, task_id in list(self._late.items()):
                try:
                    await self._coord.confirm(scoped, task_id, ttl_s=self._ttl_s)
                except CoordError:
                    break
                del self._late[scoped]
            if not self._late:
                self._has_late = anyio.Event()
            await anyio.sleep(LATER_S)

    async def _claim(self, scoped: str, task_id: str) -> Claim:
        deadline = anyio.current_time() + PATIENCE_S
        while True:
            claim = await self._coord.claim(scoped, task_id, ttl_s=self._ttl_s)
            if claim.confirmed or claim.task_id == task_id or anyio.current_time() >= deadline:
                return claim
            await anyio.sleep(LOOK_S)

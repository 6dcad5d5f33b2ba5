"""What the executors of a process have in hand, for those who tell others of it."""

from __future__ import annotations

from typing import Final

import anyio

from fogactors.core import ActorSystem
from fogactors.errors import FogError
from fogactors.tasks.executor import GetLoad, Load

__all__ = ["loads_of"]

LOAD_S: Final = 0.5
"""How long an executor may take to say what it has in hand."""


async def loads_of(system: ActorSystem, executors: tuple[str, ...]) -> list[Load]:
    """In the order of `executors`, which are paths; without those that are down or too busy to say."""
    loads: dict[str, Load] = {}

    async def ask(path: str) -> None:
        try:
            loads[path] = await system.ref(path).ask(GetLoad(), timeout=LOAD_S)
        except FogError:
            return  # of this one we know nothing now

    async with anyio.create_task_group() as asking:
        for path in executors:
            asking.start_soon(ask, path)
    return [loads[path] for path in executors if path in loads]

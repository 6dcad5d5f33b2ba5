"""What a running program looks like at one moment, as data."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Final, Protocol

import anyio

from fogactors.core import ActorSystem, Node
from fogactors.errors import FogError
from fogactors.tasks.executor import GetLoad, Load

__all__ = ["Depth", "ProgramLike", "Progress", "Snapshot", "TierRow", "look"]

LOAD_TIMEOUT_S: Final = 0.5
"""How long a display waits for an executor: one that is slower has something better to do, or hangs."""

EXECUTOR: Final = "tier-executor-"


class Depth(Protocol):
    """A queue: `ready` messages wait, `unsettled` ones are with consumers, `stalled` dead letters are refused."""

    @property
    def ready(self) -> int: ...
    @property
    def unsettled(self) -> int: ...
    @property
    def stalled(self) -> int: ...
    @property
    def consumers(self) -> int: ...


class ProgramLike(Protocol):
    """What is needed of `fogactors.app.program.Program`."""

    @property
    def system(self) -> ActorSystem: ...
    async def depths(self) -> Mapping[str, Depth]: ...


@dataclass(frozen=True, slots=True)
class TierRow:
    """`load` is missing while the executor is down or slow, and `why` says so."""

    tier: str
    load: Load | None
    why: str = ""


@dataclass(frozen=True, slots=True)
class Snapshot:
    at: datetime
    tiers: tuple[TierRow, ...]
    depths: Mapping[str, Depth]
    nodes: tuple[Node, ...]


@dataclass(frozen=True, slots=True)
class Progress:
    """Of a job that has an end."""

    done: int
    total: int
    failed: int


async def look(program: ProgramLike) -> Snapshot:
    """Takes at most `LOAD_TIMEOUT_S`, whatever the executors do."""
    nodes = program.system.tree()
    executors = list(_executors(nodes))
    rows = [TierRow(tier, None) for tier, _ in executors]

    async def ask(at: int, tier: str, path: str) -> None:
        try:
            rows[at] = TierRow(tier, await program.system.ref(path).ask(GetLoad(), timeout=LOAD_TIMEOUT_S))
        except FogError as error:
            rows[at] = TierRow(tier, None, str(error))

    async with anyio.create_task_group() as asking:
        for at, (tier, path) in enumerate(executors):
            asking.start_soon(ask, at, tier, path)
    return Snapshot(datetime.now(UTC), tuple(rows), await program.depths(), nodes)


def _executors(nodes: tuple[Node, ...]) -> Iterator[tuple[str, str]]:
    """Tier and path of every executor, from the tree: what this process serves, which need not be every tier."""
    for node in nodes:
        if node.kind == "supervisor" and node.id.startswith(EXECUTOR):
            yield node.id.removeprefix(EXECUTOR), f"{node.path}/executor"
        yield from _executors(node.children)

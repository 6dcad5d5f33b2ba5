"""What the parts of a sentinel share, and the facts that they tell. All of it lives on one event loop.

In facts `broker` is our own node's name at RabbitMQ, such as `rabbit@rabbitmq1`.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

import anyio

from fogactors.cluster.config import ClusterConfig
from fogactors.cluster.ctl import Ctl, Status
from fogactors.cluster.data import DataDir
from fogactors.cluster.plan import majority
from fogactors.cluster.server import ServerProcess
from fogactors.coord.base import Coord, Lease
from fogactors.messages import ClusterChange, ClusterFact

__all__ = [
    "BrokerExited",
    "BrokerStarted",
    "ClusterChanged",
    "ClusterPlanned",
    "ClusterRefused",
    "ClusterSettled",
    "Sentinel",
    "SetupDone",
    "StaleData",
    "StopTurn",
    "StoreAway",
]


@dataclass(frozen=True, slots=True, kw_only=True)
class _Told:
    """What every fact begins with."""

    at: datetime
    broker: str


@dataclass(frozen=True, slots=True, kw_only=True)
class ClusterPlanned(_Told):
    """What is about to be done, and why: the log of every step. `action` is a class of `fogactors.cluster.plan`."""

    action: str
    why: str
    peer: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class ClusterRefused(_Told):
    """Nothing goes on until somebody changes something."""

    why: str


@dataclass(frozen=True, slots=True, kw_only=True)
class ClusterSettled(_Told):
    """The node is up in its cluster; its own words and a peer's agree. `missing`: the nodes that are not running."""

    members: tuple[str, ...]
    missing: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class StaleData(_Told):
    """The node has settled with data that is older than what Redis knows of, which said nothing when it was started: a
    voter that had forgotten what it confirmed elsewhere, so confirmed messages may be lost. `own`, `known`: their
    incarnations; the node's data is its last from now on."""

    own: int
    known: int


@dataclass(frozen=True, slots=True, kw_only=True)
class BrokerStarted(_Told):
    pid: int
    start: int


@dataclass(frozen=True, slots=True, kw_only=True)
class BrokerExited(_Told):
    """The server ended although nobody had asked it to. `code`: negative for a signal."""

    code: int | None


@dataclass(frozen=True, slots=True, kw_only=True)
class SetupDone(_Told):
    """`what`: of the cluster, was applied."""

    what: str


@dataclass(frozen=True, slots=True, kw_only=True)
class StopTurn(_Told):
    """`step` of an orderly stop, and what came of it."""

    step: str
    outcome: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class ClusterChanged(_Told):
    """A `ClusterChange` that this sentinel has seen; `about`: the node whom it concerns."""

    what: ClusterFact
    on: bool
    about: str
    detail: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class StoreAway(_Told):
    """Redis cannot be asked for what the cluster needs, or can again (`away` is false). The broker goes on."""

    away: bool
    error: str = ""


@dataclass(slots=True)
class Sentinel:
    """Made once for a process, and not by an actor: what it holds outlives every one of them.

    `status` is what our own node said last. `settled`: it is up in its cluster; `came_up`: it was, since the last start
    of its server; `fresh`: it has just begun a cluster, in which there are no users yet. `why`: of what it waits, for
    probes. `definitions`: what RabbitMQ is to import, without queues or with them. `unsent`: what the bus is still to
    be told; of more than a thousand the oldest are dropped. `changed` is set whenever `settled`, `status`, `fresh` or
    `master` may have changed; `look_again` asks for a look before the next is due.
    """

    config: ClusterConfig
    ctl: Ctl
    server: ServerProcess
    data: DataDir
    coord: Coord
    definitions: Callable[[bool], Mapping[str, Any]]
    now: Callable[[], datetime]
    settled: bool = False
    came_up: bool = False
    fresh: bool = False
    status: Status | None = None
    why: str | None = "it has not looked yet"
    master: Lease | None = None
    stop_lease: Lease | None = None
    unsent: deque[ClusterChange] = field(default_factory=lambda: deque[ClusterChange](maxlen=1000))
    changed: anyio.Event = field(default_factory=anyio.Event)
    look_again: anyio.Event = field(default_factory=anyio.Event)

    @property
    def node(self) -> str:
        return self.config.node

    @property
    def whole(self) -> bool:
        """Every configured node runs in our cluster."""
        return self.settled and self.status is not None and set(self.config.nodes) <= self.status.running

    @property
    def serves(self) -> bool:
        """Our node and a majority of its cluster run, in its own words."""
        status = self.status if self.settled else None
        return status is not None and len(status.running) >= majority(len(status.members))

    def tell_changed(self) -> None:
        self.changed.set()
        self.changed = anyio.Event()

    def ask_look(self) -> None:
        self.look_again.set()
        self.look_again = anyio.Event()

    def unsettle(self, why: str) -> None:
        self.why = why
        if self.settled:
            self.settled = False
            self.status = None
            self.tell_changed()

"""`node-sentinel`: forms, joins, heals and watches one RabbitMQ node, whose server it runs.

Every branch pauses and none escalates, and the server is no part of any: an error here must not stop a broker that is
well. It stops at SIGTERM, in its turn, or by its own exit.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import replace
from typing import Any, Final

import anyio

from fogactors.cluster.ctl import Ctl
from fogactors.cluster.data import DataDir
from fogactors.cluster.server import ServerProcess, environment
from fogactors.core import Actor, ChildSpec, StartChild, Stop, StopRequested, SupervisorSpec
from fogactors.errors import ConfigError, SpecError
from fogactors.roles import heartbeat
from fogactors.roles.base import RoleContext, controlled
from fogactors.roles.sentinel.former import Former
from fogactors.roles.sentinel.leases import LeaseKeeper
from fogactors.roles.sentinel.setup import Setup
from fogactors.roles.sentinel.state import Sentinel
from fogactors.roles.sentinel.stopping import ServerKeeper, Stopper
from fogactors.roles.sentinel.watcher import Announcer, Watcher

__all__ = ["ROLE", "Ear", "sentinel_of", "tree"]

ROLE: Final = "node-sentinel"


class Ear(Actor[Any]):
    """Adds the branch that stands on the bus when there is a broker: at the start of the tree there is none."""

    def __init__(self, sentinel: Sentinel, spec: SupervisorSpec) -> None:
        self._it = sentinel
        self.spec = spec

    async def run(self) -> None:
        async with anyio.create_task_group() as tasks:

            async def settled() -> None:
                while not self._it.settled or self._it.fresh:  # each turn waits for a change
                    await self._it.changed.wait()
                tasks.cancel_scope.cancel()

            async def stop() -> None:
                await self.ctx.wait_stop()
                tasks.cancel_scope.cancel()

            tasks.start_soon(settled)
            tasks.start_soon(stop)
        if self.ctx.stop_requested:
            raise StopRequested
        parent = self.ctx.system.ref(self.ctx.path.rpartition("/")[0])
        with suppress(SpecError):  # it is there already: this actor died before it could end
            await parent.ask(StartChild(self.spec), self.spec.start_s)
        raise Stop


def sentinel_of(context: RoleContext, inherited: Mapping[str, str] = os.environ) -> Sentinel:
    """`inherited`: the environment of RabbitMQ's programs, to which the node's name and the like are added. Raises
    `ConfigError` where the settings name no cluster."""
    config, definitions = context.cluster, context.definitions
    if config is None or definitions is None:
        raise ConfigError("[cluster] nodes must name this node, or node-sentinel has none to look after")
    environ = environment(config, inherited)
    return Sentinel(
        config=config,
        ctl=Ctl(config.node, config.command, environ),
        server=ServerProcess(config, environ),
        data=DataDir(config.data_dir, config.node),
        coord=context.coord,
        definitions=definitions,
        now=context.now,
    )


def tree(context: RoleContext, sentinel: Sentinel | None = None) -> SupervisorSpec:
    """Start order: the server's keeper first, so that it stops last; who waits for the stop's turn last."""
    it = sentinel or sentinel_of(context)
    config = it.config
    context.health.ready("broker", lambda: it.why)
    bus = context.make_bus(ROLE)
    ear = controlled(context, ROLE, bus, ChildSpec(id="announcer", factory=lambda: Announcer(it, bus)))
    beats = replace(context, broker_node=lambda: it.node if it.came_up and it.server.running else "")
    return SupervisorSpec(
        id=ROLE,
        exceeded="pause",
        intensity=context.intensity,
        backoff=context.backoff,
        children=(
            ChildSpec(id="server", factory=lambda: ServerKeeper(it), shutdown_s=config.stop_s + 15.0),
            ChildSpec(id="former", factory=lambda: Former(it)),
            ChildSpec(id="setup", factory=lambda: Setup(it)),
            ChildSpec(id="leases", factory=lambda: LeaseKeeper(it, context.heartbeat.ttl_s)),
            ChildSpec(id="watcher", factory=lambda: Watcher(it)),
            heartbeat.tree(beats),
            ChildSpec(id="ear", factory=lambda: Ear(it, ear), restart="transient"),
            ChildSpec(
                id="stopper",
                factory=lambda: Stopper(it),
                shutdown_s=config.stop_wait_s + config.stop_drain_s + 10.0,
            ),
        ),
    )

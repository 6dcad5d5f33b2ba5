"""What goes wrong inside a sentinel is none of its broker's business."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from contextlib import AsyncExitStack
from typing import Any

import anyio
import pytest

from fogactors.app.program import role_context
from fogactors.app.services import Remote
from fogactors.app.settings import load
from fogactors.core import (
    Actor,
    ActorExited,
    ActorStarted,
    ActorSystem,
    Backoff,
    ChildSpec,
    Intensity,
    SupervisorSpec,
    walk,
)
from fogactors.roles import node_sentinel
from fogactors.roles.sentinel.state import ClusterSettled, StopTurn
from fogactors.testing import EventRecorder
from fogactors.testing.kit import eventually
from tests.integration.brokers import Brokers

pytestmark = pytest.mark.services

RAISES = 100


class Bomb(Exception):
    """Ours, so that no other failure is taken for it."""


class Bombs:
    """Real actors, beside whose loop something raises when the test says so."""

    def __init__(self) -> None:
        self._fuses: dict[str, anyio.Event] = {}

    async def throw(self, path: str) -> None:
        await eventually(lambda: path in self._fuses, f"{path} at work", timeout=30.0)
        self._fuses.pop(path).set()

    def lay(self, spec: ChildSpec | SupervisorSpec) -> Any:
        """The same tree, with a bomb in each worker."""
        if isinstance(spec, SupervisorSpec):
            return dataclasses.replace(spec, children=tuple(self.lay(child) for child in spec.children))
        make = spec.factory

        def factory() -> Actor[Any]:
            actor = make()
            if isinstance(actor, node_sentinel.Ear):
                actor.spec = self.lay(actor.spec)
            actor.run = self._armed(actor, actor.run)  # type: ignore[method-assign]
            return actor

        return dataclasses.replace(spec, factory=factory)

    def _armed(self, actor: Actor[Any], run: Callable[[], Any]) -> Callable[[], Any]:
        async def armed() -> None:
            fuse = self._fuses[actor.ctx.path] = anyio.Event()
            raised: list[Exception] = []
            async with anyio.create_task_group() as tasks:

                async def explode() -> None:
                    await fuse.wait()
                    raised.append(Bomb(actor.ctx.path))
                    tasks.cancel_scope.cancel()

                async def work() -> None:
                    try:
                        await run()
                    except Exception as error:
                        raised.append(error)
                    tasks.cancel_scope.cancel()

                tasks.start_soon(explode)
                tasks.start_soon(work)
            if self._fuses.get(actor.ctx.path) is fuse:
                del self._fuses[actor.ctx.path]  # it ended by itself
            if raised:
                raise raised[0]

        return armed


def test_raising_in_every_child_a_hundred_times_leaves_the_broker_alone():
    with Brokers.open("4.3") as brokers:
        anyio.run(_raise_everywhere, brokers)


async def _raise_everywhere(brokers: Brokers) -> None:
    node = brokers.nodes[0]
    env = node.environment() | {"FOGACTORS_CLUSTER__NODES": node.name}  # a cluster of one
    settings = load(None, env, default_ok=True)
    async with Remote.open(settings, None) as services, AsyncExitStack() as stack:
        context = dataclasses.replace(
            role_context(settings, services), backoff=Backoff(first_s=0.005, max_s=0.01), intensity=Intensity(5, 1.0)
        )
        stack.push_async_callback(context.coord.close)
        sentinel = node_sentinel.sentinel_of(context, env)
        bombs = Bombs()
        tree = bombs.lay(node_sentinel.tree(context, sentinel))
        async with ActorSystem() as system:
            recorder = EventRecorder(system)
            await system.start(tree)
            await recorder.wait_for(ClusterSettled, timeout=60)
            paths = [path for path, spec in walk(tree) if isinstance(spec, ChildSpec) and spec.restart == "permanent"]
            paths += [f"node-sentinel/node-sentinel/{child}" for child in ("link", "announcer", "control")]
            for path in paths:
                await recorder.wait_for(ActorStarted, path=path, timeout=60)
            pid, uptime_s = sentinel.server.pid, await node.uptime_s()
            began = anyio.current_time()

            for path in paths:
                for _ in range(RAISES):
                    recorder.clear()
                    await bombs.throw(path)
                    await recorder.wait_for(
                        ActorExited, path=path, where=lambda event: isinstance(event.exit.error, Bomb), timeout=30
                    )
                    await recorder.wait_for(ActorStarted, path=path, timeout=30)

            assert sentinel.server.running
            assert sentinel.server.pid == pid
            assert sentinel.server.starts == 1
            # The figure is up to five seconds old; of a server that had been started again it would be none to compare.
            assert await node.uptime_s() >= uptime_s + (anyio.current_time() - began) - 6.0
            recorder.clear()
        await recorder.wait_for(StopTurn, step="server stopped", outcome="in order", timeout=1)
        assert not sentinel.server.running

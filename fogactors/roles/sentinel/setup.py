"""Sets the cluster up: virtual host, users, permissions, policies, topology, feature flags.

Done by the holder of the master lease, and idempotent: once when it is up, so that clients can log in, and once more
each time that the cluster becomes whole. Queues wait for that: one that is declared while a node is missing has no
replica there.
"""

from __future__ import annotations

import json
from typing import Any, Final

import anyio

from fogactors.cluster.data import DataError, private_file
from fogactors.core import Actor, StopRequested
from fogactors.roles.sentinel.state import Sentinel, SetupDone
from fogactors.wire.access import TAG

__all__ = ["Setup"]

DEFAULT_USER: Final = "guest"
"""RabbitMQ's own user with a password that all the world knows."""
DEFINITIONS: Final = ".fog-definitions.json"
LATE_S: Final = 60.0
"""How long the queues wait for a cluster that is not whole: a node may be away for a week."""


class Setup(Actor[Any]):
    """A loop of its own. What was done is forgotten when the actor dies, and then done again, which changes nothing."""

    def __init__(self, sentinel: Sentinel) -> None:
        self._it = sentinel
        self._users_of: str | None = None
        self._whole_done = False
        self._late_done = False
        self._since = float("inf")

    async def run(self) -> None:
        while not self.ctx.stop_requested:
            changed = self._it.changed
            await self._turn()
            with anyio.move_on_after(self._due_s()):
                async with anyio.create_task_group() as tasks:

                    async def until(wait: Any) -> None:
                        await wait()
                        tasks.cancel_scope.cancel()

                    tasks.start_soon(until, changed.wait)
                    tasks.start_soon(until, self.ctx.wait_stop)
        raise StopRequested

    async def _turn(self) -> None:
        it = self._it
        if not it.whole:
            self._whole_done = False
        if not it.settled or it.master is None:
            self._users_of, self._late_done, self._since = None, False, float("inf")
            return
        if self._users_of is None:
            self._since = self.ctx.now()
            await self._import(queues=False)
            await self._remove_users()
            self._users_of = it.node
            it.fresh = False
            it.tell_changed()
            self._done("users, permissions and policies")
        if it.whole and not self._whole_done:
            await self._import(queues=True)
            await it.ctl.enable_feature_flags()
            await it.ctl.rebalance()
            self._whole_done = self._late_done = True
            self._done("topology, feature flags; leaders are balanced")
        elif not self._late_done and self.ctx.now() - self._since >= LATE_S:
            await self._import(queues=True)
            self._late_done = True
            self._done("topology, without the nodes that are missing")

    async def _remove_users(self) -> None:
        """RabbitMQ's own, and those of ours that are in `[users]` no more: their old passwords would open the broker
        for ever. Settings that name nobody are no reason to remove all."""
        ours = {user["name"] for user in self._it.definitions(False)["users"]}
        gone: list[str] = []
        for name, tags in sorted((await self._it.ctl.users()).items()):
            if TAG in tags and ours and name not in ours:
                gone.append(name)
            elif name != DEFAULT_USER:
                continue
            await self._it.ctl.delete_user(name)
        if gone:
            self._done(f"users removed that are not in [users]: {', '.join(gone)}")

    async def _import(self, *, queues: bool) -> None:
        """By a file that only the server's account reads and that is gone afterwards: hashes of passwords are in it."""
        file = self._it.config.data_dir / DEFINITIONS
        try:
            private_file(file, json.dumps(self._it.definitions(queues)))
            await self._it.ctl.import_definitions(file)
        except OSError as error:
            raise DataError(f"[cluster] data_dir: {error}") from error
        finally:
            file.unlink(missing_ok=True)

    def _due_s(self) -> float:
        if self._users_of is None or self._late_done:
            return float("inf")
        return max(0.1, self._since + LATE_S - self.ctx.now())

    def _done(self, what: str) -> None:
        self.ctx.emit(SetupDone(at=self._it.now(), broker=self._it.node, what=what))

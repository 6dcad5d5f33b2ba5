"""Forms, joins and rejoins: looks, lets the plan decide, does it, and looks again."""

from __future__ import annotations

import time
from contextlib import suppress
from dataclasses import replace
from typing import Any, Final

import anyio

from fogactors.cluster.ctl import CtlFailed, Status
from fogactors.cluster.look import look_at, reach
from fogactors.cluster.plan import (
    Action,
    Bootstrap,
    ForgetThenJoin,
    Join,
    On,
    Peer,
    Ready,
    Refuse,
    Start,
    Store,
    View,
    Wait,
    WipeThenJoin,
    plan,
)
from fogactors.cluster.server import place_cookie
from fogactors.coord.cluster import CLUSTER_MASTER
from fogactors.core import Actor, StopRequested
from fogactors.errors import CoordError, FogError
from fogactors.roles.sentinel.incarnation import Incarnations
from fogactors.roles.sentinel.state import (
    BrokerStarted,
    ClusterPlanned,
    ClusterRefused,
    ClusterSettled,
    Sentinel,
    StaleData,
)

__all__ = ["Former", "NotFormed", "blank_lease"]

STORE_S: Final = 5.0
PACE_S: Final = 1.0
"""Between two looks that ask only port mappers and Redis."""
BOOT_PACE_S: Final = 2.0
"""Between two questions whether the broker is up yet, each of which costs the one that boots some processor time."""
COMES_S: Final = 3.0
RESTS: Final = 2.0
"""A rest is at least so many times as long as the question before it: on a busy machine each takes seconds of the
processor time for which brokers that boot and those that serve wait."""
LONGEST_REST_S: Final = 10.0
DOUBTS: Final = 3
SILENT: Final = 3
"""Status calls in a row without an answer, after which a node that was up must answer for itself."""
BLANK_S: Final = 15.0
"""How long a node that said that it is blank is taken at its word."""
AGAIN_S: Final = 5.0
"""Before the server is started again that ended by itself: a fault that stays must not burn a core."""


class NotFormed(FogError):
    """The node waited for as long as it may, or a step failed; it begins again."""


def blank_lease(node: str) -> str:
    """The key under which a node without data says so, for as long as its sentinel lives."""
    return f"fog:cluster:blank:{node}"


class Former(Actor[Any]):
    """A loop of its own. Everything that it must know after its own death is with the node, its data or its peers."""

    def __init__(self, sentinel: Sentinel) -> None:
        self._it = sentinel
        self._told: object = None
        self._waiting: tuple[str, float] = ("", 0.0)
        self._asked_at = float("-inf")
        self._peers: tuple[Peer, ...] = ()
        self._ended_at = float("-inf")
        self._own_status: Status | None = None
        self._doubts = 0
        self._silent = 0
        self._look_s = 0.0
        self._incarnations = Incarnations(sentinel.node, sentinel.data, sentinel.coord, sentinel.now)
        self._last = 0

    async def run(self) -> None:
        place_cookie(self._it.config)
        while not self.ctx.stop_requested:
            pause_s = await self._turn()
            await self._rest(pause_s)
        raise StopRequested

    async def _turn(self) -> float:
        """One look and what follows from it; returns how long to rest."""
        view = await self._view(fresh=False)
        action = plan(view)
        if isinstance(action, Bootstrap | ForgetThenJoin | WipeThenJoin | Join):
            # Its guards are read once more, right before: time has passed, and what is done cannot be taken back.
            action = plan(await self._view(fresh=True))
        self._tell(action)
        return await self._do(action)

    async def _do(self, action: Action) -> float:
        it = self._it
        match action:
            case Bootstrap():
                it.fresh = True
                number = self._incarnations.next(self._last)
                # Of a join that did not come to its end: half a member would begin, and be ended for its mark as one
                # that did not find its cluster, each time anew.
                it.data.clear_joining()
                it.data.unmark("growing")
                it.data.unmark("joining")  # the last: without it what lies there would be kept
                it.data.begin(number)
                await self._start()
                return PACE_S
            case Start():
                if it.server.starts and not it.came_up and (waited := time.monotonic() - self._ended_at) < AGAIN_S:
                    return AGAIN_S - waited
                await self._start()
                return PACE_S
            case Join(peer):
                it.data.mark("joining")
                it.data.mark("growing")
                number = self._incarnations.next(self._last)
                it.data.clear_joining()
                it.data.begin(number)
                await self._start(join=peer)
                return PACE_S
            case ForgetThenJoin(peer):
                await it.ctl.forget(it.node, via=peer)
                self._asked_at = float("-inf")
                return 0.0
            case WipeThenJoin():
                it.unsettle("its data is put aside: it was forgotten")
                await it.server.kill()
                it.data.put_aside()
                it.came_up = False
                self._asked_at = float("-inf")
                return 0.0
            case Wait(why, on):
                return self._wait(why, on)
            case Refuse(why):
                it.unsettle(why)
                return it.config.reach_every_s
            case Ready(missing):
                if self._silent:
                    return self._pace(COMES_S)
                if not await self._settle(missing):
                    return self._pace(COMES_S)
                # One that boots is about to come: the cluster is to know of it soon, and not at the next slow look.
                comes = missing and "up" in (await reach(missing, it.config.epmd_port)).values()
                return self._pace(COMES_S) if comes else it.config.watch_s

    def _pace(self, rest_s: float) -> float:
        return max(rest_s, min(RESTS * self._look_s, LONGEST_REST_S))

    # -- looking

    async def _view(self, *, fresh: bool) -> View:
        """`fresh`: ask everybody now. Otherwise the peers are asked only when a decision hangs on them."""
        it = self._it
        data = it.data.state()
        server, own, failed = await self._own()
        self._own_status = own
        if server == "stopped" and data == "blank":
            await self._say_blank()
        peers = await self._ask_peers(server, data, own, failed=failed, fresh=fresh)
        store = await self._store(peers, data, server)
        if store is not None and data == "blank":
            peers = tuple([replace(peer, blank=await self._is_blank(peer)) for peer in peers])
        return View(
            node=it.node,
            nodes=it.config.nodes,
            data=data,
            server=server,
            failed=failed,
            members=own.members if own else frozenset(),
            running=own.running if own else frozenset(),
            peers=peers,
            store=store,
            incarnation=it.data.incarnation(),
        )

    async def _own(self) -> tuple[Any, Status | None, bool]:
        """What our own server is, what it says, and whether it has failed with the data that it has."""
        it = self._it
        if not it.server.running:
            if it.settled:
                it.unsettle("its server ended")
            if it.server.starts and self._ended_at < it.server.started_at:
                self._ended_at = time.monotonic()
            return "stopped", None, it.server.starts > 0 and not it.came_up
        asked_at = time.monotonic()
        try:
            own = await it.ctl.status()
        except CtlFailed as error:
            self._silent = self._silent + 1 if error.kind == "timeout" else 0
            if it.settled and self._silent and (self._silent < SILENT or await it.ctl.answers()):
                return "up", it.status, False  # slow is not down, nor is one whose peer does not answer it
            it.unsettle(f"its server does not say that it is up: {error}")
            if it.came_up:
                return "starting", None, False  # whatever keeps it from answering, it is not for us to end it
            booting_s = time.monotonic() - it.server.started_at
            if booting_s > it.config.boot_s:
                await it.server.kill()
                raise NotFormed(
                    f"{it.node} did not come up within {it.config.boot_s:g} s; it is started anew. Give it more "
                    "([cluster] boot_s) if it has that much to recover"
                ) from error
            return "starting", None, booting_s > it.config.forgotten_s
        finally:
            self._look_s = time.monotonic() - asked_at
        self._silent = 0
        await self._joined(own)
        return "up", own, False

    async def _joined(self, own: Status) -> None:
        """Whether a node that was to join has joined, by its own word."""
        it = self._it
        if not it.data.marked("joining"):
            return
        if own.members == frozenset((it.node,)):
            # It found nobody while it booted and became a cluster of its own, which nobody must come to rely on.
            await it.server.kill()
            raise NotFormed(f"{it.node} did not find the cluster that it was to join; it begins again")
        it.data.unmark("joining")

    async def _ask_peers(
        self, server: str, data: str, own: Status | None, *, failed: bool, fresh: bool
    ) -> tuple[Peer, ...]:
        it = self._it
        alone = own is not None and not set(it.config.nodes) <= own.running
        if data == "kept" and not failed and not alone:
            self._peers = ()
        elif fresh or time.monotonic() - self._asked_at >= it.config.reach_every_s or not self._peers_were_asked():
            self._peers = await look_at(it.ctl, it.config.peers, it.config.epmd_port)
            self._asked_at = time.monotonic()
        return self._peers

    def _peers_were_asked(self) -> bool:
        """Whether the last look at the peers cost anything: those whose machine runs are asked by a tool."""
        return any(peer.reach in ("up", "refused") for peer in self._peers)

    async def _store(self, peers: tuple[Peer, ...], data: str, server: str) -> Store | None:
        it = self._it
        if server != "stopped":
            return Store()  # nothing hangs on it
        if data == "kept":
            return Store(incarnation=await self._incarnations.last_heard())
        try:
            with anyio.fail_after(STORE_S):
                if not any(peer.reach == "up" for peer in peers):
                    it.master = await it.coord.acquire(CLUSTER_MASTER, it.node, it.config.lease_s)
                elif it.master is not None:  # there is a cluster, whose members look after it
                    await it.coord.release(it.master)
                    it.master = None
                self._last = await self._incarnations.last()
                return Store(master=await it.coord.holder(CLUSTER_MASTER), members=await it.coord.cluster_members())
        except (CoordError, TimeoutError):
            it.master = None
            return None

    async def _say_blank(self) -> None:
        with suppress(CoordError, TimeoutError), anyio.fail_after(STORE_S):
            await self._it.coord.acquire(blank_lease(self._it.node), self._it.node, BLANK_S)

    async def _is_blank(self, peer: Peer) -> bool:
        if peer.reach == "up":
            return False
        with suppress(CoordError, TimeoutError), anyio.fail_after(STORE_S):
            return await self._it.coord.holder(blank_lease(peer.name)) is not None
        return False

    # -- doing

    async def _start(self, *, join: str | None = None) -> None:
        it = self._it
        it.unsettle("its server boots")
        it.came_up = False
        with suppress(CoordError, TimeoutError), anyio.fail_after(STORE_S):
            lease = await it.coord.acquire(blank_lease(it.node), it.node, BLANK_S)
            if lease is not None:
                await it.coord.release(lease)  # blank no more
        await it.server.start(join=join)
        self.ctx.emit(BrokerStarted(at=it.now(), broker=it.node, pid=it.server.pid or 0, start=it.server.starts))
        it.tell_changed()

    async def _settle(self, missing: tuple[str, ...]) -> bool:
        """It is up, and says itself that it is a member. Somebody else must say so too, where there is one; false: it
        does not yet."""
        it, own = self._it, self._own_status
        if own is None:
            return False
        changed = not it.settled or it.status != own
        if changed and not await self._a_peer_agrees(own):
            return False
        it.settled, it.came_up, it.status, it.why = True, True, own, None
        if changed:
            members = tuple(sorted(own.members))
            self.ctx.emit(ClusterSettled(at=it.now(), broker=it.node, members=members, missing=missing))
            it.tell_changed()
        number = it.data.incarnation()
        if later := await self._incarnations.keep():
            self.ctx.emit(StaleData(at=it.now(), broker=it.node, own=number, known=later))
        if it.data.marked("growing"):  # after a failure it is done again: it hinders nobody meanwhile
            [vhost] = it.definitions(False)["vhosts"]
            await it.ctl.grow(vhost["name"])
            it.data.unmark("growing")
        return True

    async def _a_peer_agrees(self, own: Status) -> bool:
        """Where a member comes or goes they differ for a moment. Raises `NotFormed` when it takes longer."""
        it = self._it
        peer = min(own.running - {it.node}, default=None)
        if peer is not None:
            try:
                theirs = await it.ctl.status(peer)
            except CtlFailed:
                theirs = None  # it has just gone, which our own node is about to see
            if theirs is None or it.node not in theirs.running or theirs.members != own.members:
                self._doubts += 1
                if self._doubts > DOUBTS:
                    raise NotFormed(f"{it.node} says that it runs in the cluster of {peer}, which does not say so")
                return False
        self._doubts = 0
        return True

    def _wait(self, why: str, on: On) -> float:
        """How long to rest. Bounded: what waits for ever says nothing. Raises `NotFormed`, and the supervisor begins
        again."""
        it, own = self._it, self._own_status
        if own is not None:  # up, and without a majority
            changed = not it.settled or it.status != own
            it.settled, it.came_up, it.status, it.why = True, True, own, why
            if changed:
                it.tell_changed()
            return it.config.reach_every_s
        if it.server.running:
            return self._pace(BOOT_PACE_S)  # bounded where it is asked
        it.unsettle(why)
        now = time.monotonic()
        if self._waiting[0] != on:
            self._waiting = (on, now)
        limit_s = self._limit_s(on)
        if now - self._waiting[1] > limit_s:
            raise NotFormed(f"{it.node} waited {limit_s:g} s: {why}")
        return it.config.reach_every_s if self._peers_were_asked() else PACE_S

    def _limit_s(self, on: On) -> float:
        config = self._it.config
        bounds = {"store": config.redis_wait_s, "lease": config.master_wait_s}
        return bounds.get(on, config.reach_tries * config.reach_every_s)

    # -- telling and resting

    def _tell(self, action: Action) -> None:
        it = self._it
        if action == self._told or isinstance(action, Ready):
            self._told = action
            return
        self._told = action
        if isinstance(action, Refuse):
            self.ctx.emit(ClusterRefused(at=it.now(), broker=it.node, why=action.why))
            return
        peer = getattr(action, "peer", "")
        self.ctx.emit(
            ClusterPlanned(at=it.now(), broker=it.node, action=type(action).__name__, why=action.why, peer=peer)
        )

    async def _rest(self, seconds: float) -> None:
        """Until the next look is due, somebody asks for one, the server ends, or we are to stop."""
        look_again = self._it.look_again
        with anyio.move_on_after(seconds):
            async with anyio.create_task_group() as tasks:

                async def until(wait: Any) -> None:
                    await wait()
                    tasks.cancel_scope.cancel()

                tasks.start_soon(until, self.ctx.wait_stop)
                tasks.start_soon(until, look_again.wait)
                if self._it.server.running:
                    tasks.start_soon(until, self._it.server.wait)

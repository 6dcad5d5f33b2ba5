"""`heartbeat`: says that this process is alive, and notices when its event loop is not.

The beat comes from a thread, because a handler that blocks the loop for a second must not make a healthy node look
dead. It carries how late the loop runs, and it stops when the loop has not turned for `loop_dead_s`: a beat that
came from the thread alone for ever would hide a dead loop.
"""

from __future__ import annotations

import asyncio
import sys
import threading
import time
import traceback
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from types import FrameType
from typing import Any, Final

import anyio
import anyio.to_thread

from fogactors.coord.base import BeatWriter
from fogactors.core import Actor, ChildSpec, Exit, StopRequested, SupervisorSpec
from fogactors.errors import ActorError, CoordError
from fogactors.messages import Beat
from fogactors.roles.base import HeartbeatConfig, RoleContext
from fogactors.roles.loads import loads_of
from fogactors.tasks.executor import Load

__all__ = ["HeartbeatActor", "HeartbeatLost", "LoopBlocked", "tree"]

TURN_S: Final = 0.2
"""How often the loop shows that it turns."""
AGAIN_S: Final = 1.0
"""After a beat that could not be written: a store that is back should know soon who is there."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LoopBlocked:
    """The event loop has not turned for `blocked_s`. `what`: the name of the task that holds it; `where`: file,
    line and function at that moment. Told from a thread when it is noticed (`RoleContext.urgent`), and on the loop
    afterwards."""

    at: datetime
    node: str
    blocked_s: float
    what: str
    where: str


@dataclass(frozen=True, slots=True, kw_only=True)
class HeartbeatLost:
    """Beats cannot be written, or can again (`away` is false)."""

    at: datetime
    node: str
    away: bool
    error: str = ""


class _Watch(threading.Thread):
    """Beats, and looks at the loop from outside. It reads what the loop writes and never waits for it."""

    def __init__(
        self,
        config: HeartbeatConfig,
        node: str,
        role: str,
        writer: BeatWriter,
        tell: Callable[[object], None],
        urgent: Callable[[object], None],
        broker_node: Callable[[], str],
    ) -> None:
        self.loads: list[Load] = []
        super().__init__(name="fogactors heartbeat", daemon=True)
        self.ended = threading.Event()
        self.turned = time.monotonic()
        self._config = config
        self._node = node
        self._role = role
        self._writer = writer
        self._tell = tell
        self._urgent = urgent
        self._broker_node = broker_node
        self._loop_thread = threading.get_ident()
        self._loop = _running_loop()
        self._alarmed = False
        self._away = False
        self.error: Exception | None = None

    def run(self) -> None:
        try:
            self._beat_on()
        except Exception as error:  # a thread ends in silence: the actor looks, and ends with it
            self.error = error
        finally:
            self._writer.close()

    def _beat_on(self) -> None:
        config = self._config
        look_s = min(config.interval_s, config.loop_blocked_s / 4, 1.0)
        next_beat, able = 0.0, False
        while True:
            now = time.monotonic()
            silent_s = now - self.turned
            self._look(silent_s)
            if self.loads and not able:  # what it can do is worth a beat of its own
                next_beat, able = now, True
            if now >= next_beat and silent_s < config.loop_dead_s:
                written = self._beat(max(0.0, silent_s - TURN_S))
                next_beat = now + (config.interval_s if written else min(config.interval_s, AGAIN_S))
            if self.ended.wait(look_s):
                return

    def _beat(self, lag_s: float) -> bool:
        """Whether it could be written."""
        beat = Beat(node=self._node, role=self._role, at=datetime.now(UTC), lag_s=round(lag_s, 3))
        if loads := self.loads:
            size, free = [load.size for load in loads], [load.free for load in loads]
            beat.tier = ",".join(load.tier for load in loads)
            beat.cpu = round(sum(each.cpu for each in size), 3)
            beat.memory_mb = int(sum(each.memory_mb for each in size))
            beat.cpu_used = round(beat.cpu - sum(each.cpu for each in free), 3)
            beat.memory_used_mb = beat.memory_mb - int(sum(each.memory_mb for each in free))
            beat.running = sum(load.running for load in loads)
        try:
            self._writer.write(beat, self._config.ttl_s)
            if node := self._broker_node():
                self._writer.broker_beat(node, self._config.ttl_s)
            error = ""
        except CoordError as away:
            error = str(away)
        if bool(error) != self._away:
            self._away = bool(error)
            self._tell(HeartbeatLost(at=beat.at, node=self._node, away=self._away, error=error))
        return not error

    def _look(self, silent_s: float) -> None:
        if silent_s < self._config.loop_blocked_s:
            self._alarmed = False
        elif not self._alarmed:
            self._alarmed = True
            what, where = self._culprit()
            alarm = LoopBlocked(at=datetime.now(UTC), node=self._node, blocked_s=silent_s, what=what, where=where)
            self._urgent(alarm)
            self._tell(alarm)

    def _culprit(self) -> tuple[str, str]:
        task = asyncio.current_task(self._loop) if self._loop is not None else None
        frame: FrameType | None = sys._current_frames().get(self._loop_thread)  # pyright: ignore[reportPrivateUsage]
        where = ""
        if frame is not None:
            last = traceback.extract_stack(frame)[-1]
            where = f"{last.filename}:{last.lineno} in {last.name}"
        return (task.get_name() if task is not None else "outside any task"), where


class HeartbeatActor(Actor[Any]):
    """Owns the thread. Its own loop turns, and asks the `executors` of this process what they have in hand.
    `broker_node`, asked from the thread, names the RabbitMQ node that lives with this process and beats with it."""

    def __init__(
        self,
        config: HeartbeatConfig,
        node: str,
        role: str,
        writer: Callable[[], BeatWriter],
        urgent: Callable[[object], None],
        broker_node: Callable[[], str] = lambda: "",
        executors: tuple[str, ...] = (),
    ) -> None:
        self._executors = executors
        self._config = config
        self._node = node
        self._role = role
        self._make_writer = writer
        self._urgent = urgent
        self._broker_node = broker_node
        self._watch: _Watch

    async def on_start(self) -> None:
        loop = _running_loop()

        def tell(event: object) -> None:
            if loop is not None:
                with suppress(RuntimeError):  # it is closed
                    loop.call_soon_threadsafe(self.ctx.emit, event)

        self._watch = _Watch(
            self._config, self._node, self._role, self._make_writer(), tell, self._urgent, self._broker_node
        )
        self._watch.start()

    async def run(self) -> None:
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(self._ask_executors)
            while self._watch.is_alive() and not self.ctx.stop_requested:
                self._watch.turned = time.monotonic()
                with anyio.move_on_after(TURN_S):
                    await self.ctx.wait_stop()
            tasks.cancel_scope.cancel()
        if self.ctx.stop_requested:
            raise StopRequested
        raise ActorError(f"the heartbeat's thread ended: {self._watch.error!r}") from self._watch.error

    async def _ask_executors(self) -> None:
        while self._executors:
            self._watch.loads = await loads_of(self.ctx.system, self._executors)
            # At the start they are not there yet: the beats should not have to wait for what they can do.
            await anyio.sleep(self._config.interval_s / 2 if self._watch.loads else TURN_S)

    async def on_stop(self, exit: Exit) -> None:  # noqa: A002
        self._watch.ended.set()
        # The thread may be inside a write to a store that is away; it is a daemon and ends by itself.
        with anyio.move_on_after(1.0, shield=True):
            await anyio.to_thread.run_sync(self._watch.join, 1.0, abandon_on_cancel=True)


def _running_loop() -> asyncio.AbstractEventLoop | None:
    try:
        return asyncio.get_running_loop()
    except RuntimeError:
        return None


def tree(context: RoleContext) -> SupervisorSpec:
    return SupervisorSpec(
        id="heartbeat",
        exceeded="pause",
        intensity=context.intensity,
        backoff=context.backoff,
        children=(
            ChildSpec(
                id="beat",
                factory=lambda: HeartbeatActor(
                    context.heartbeat,
                    context.node,
                    context.process,
                    context.coord.beat_writer,
                    context.urgent,
                    context.broker_node,
                    context.executors,
                ),
            ),
        ),
    )

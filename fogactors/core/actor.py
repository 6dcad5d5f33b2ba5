"""What one writes: an actor, and what it is given."""

from __future__ import annotations

from contextlib import suppress
from typing import TYPE_CHECKING, Any, Final, Generic, TypeVar

import anyio

from fogactors.core.events import Exit, MessagesDiscarded
from fogactors.core.ref import Ask, Ref
from fogactors.core.timers import Timer
from fogactors.errors import ActorDead, MailboxFull, RemoteError

if TYPE_CHECKING:
    from collections.abc import Callable

    from fogactors.core.mailbox import Mailbox
    from fogactors.core.system import ActorSystem

__all__ = ["STOP", "Actor", "Context", "Stop", "StopRequested"]

M = TypeVar("M")

STOP: Final = object()
"""The supervision message that asks an actor to end."""


MIN_PERIOD_S: Final = 0.001
"""What `send_every` makes of less: a tick costs some microseconds, and a shorter period would leave nothing else."""


class Stop(Exception):
    """Raised by `handle`: I am done. The actor exits as `returned`."""


class StopRequested(Exception):
    """Raised within an actor's `run` after it was asked to end. Let it pass; the actor exits as `stopped`."""


class Context(Generic[M]):
    """An incarnation's place in the tree: its own ref, its neighbours, the clock, timers and events."""

    __slots__ = ("_stop", "_timers", "incarnation", "is_restart", "mailbox", "ref", "system")

    def __init__(
        self, ref: Ref[M], mailbox: Mailbox, incarnation: int, system: ActorSystem, *, is_restart: bool = False
    ) -> None:
        self.is_restart = is_restart
        """Started by a supervisor that restarts it, itself or what it is part of; nobody waits for that."""
        self.ref = ref
        self.mailbox = mailbox
        self.incarnation = incarnation
        self.system = system
        self._stop = anyio.Event()
        self._timers: list[Timer] = []

    @property
    def path(self) -> str:
        return self.ref.path

    def now(self) -> float:
        """The event loop's clock, in seconds."""
        return self.system.clock()

    def emit(self, event: object) -> None:
        self.system.events.emit(event)

    def sibling(self, id: str) -> Ref[Any]:  # noqa: A002
        """The ref of the child `id` of the same supervisor; it may not be up yet."""
        parent = self.path.rpartition("/")[0]
        return self.system.ref(f"{parent}/{id}" if parent else id)

    def send_after(self, delay_s: float, message: M) -> Timer:
        """Put a message into my own mailbox later. Gone with this incarnation."""
        timer = self.system.timers.call_at(self.now() + delay_s, lambda: self._put(message))
        self._timers = [*(each for each in self._timers if each.pending), timer]
        return timer

    def send_every(self, period_s: float, message: M) -> Timer:
        """Put a message into my own mailbox again and again, first after `period_s`. A tick is left out while the
        last one has not been read, so that a slow actor is not buried by its own clock."""
        if not period_s > 0:
            raise ValueError(f"send_every needs a period of more than 0 s, got {period_s}")
        period_s = max(period_s, MIN_PERIOD_S)
        mailbox = self.mailbox
        due = self.now() + period_s

        def tick() -> None:
            nonlocal due
            # By identity: an equal message from another is not our tick, and a user's __eq__ may raise.
            if not any(item is message for item in mailbox.items):
                self._put(message)
            due = max(due + period_s, self.now())
            self.system.timers.call_again(due, timer)

        timer = self.system.timers.call_at(due, tick)
        self._timers.append(timer)
        return timer

    @property
    def stop_requested(self) -> bool:
        return self._stop.is_set()

    async def wait_stop(self) -> None:
        """For an actor with a `run` of its own that does not read its mailbox: wait until it is asked to end."""
        await self._stop.wait()

    # -- for the incarnation

    def request_stop(self) -> None:
        if not self._stop.is_set():
            self._stop.set()
            self.mailbox.put_system(STOP)

    def leave(self, state: str) -> None:
        """Take no more messages, and leave nobody who sent one waiting. May be repeated, with a better word."""
        self.ref.unbind(state)
        left = self.mailbox.close()
        asks = [item for item in left if type(item) is Ask]
        for ask in asks:
            ask.fail(ActorDead(f"{self.path} ended before it read the question"))
        if left:
            self.emit(MessagesDiscarded(path=self.path, at=self.now(), tells=len(left) - len(asks), asks=len(asks)))

    def cancel_timers(self) -> None:
        for timer in self._timers:
            timer.cancel()

    def _put(self, message: M) -> None:
        if not self.mailbox.closed:
            with suppress(MailboxFull):  # counted, and told as an event; nobody is here to be told otherwise
                self.mailbox.put_nowait(message)


class Actor(Generic[M]):
    """One loop, one mailbox. Override `handle`, and where needed `on_start` and `on_stop` (gen_server's `handle_call`,
    `init` and `terminate`). A new object for every incarnation: state does not survive a crash.

    An actor that is a loop of its own overrides `run`: it ends when `run` returns, when `ctx.wait_stop()` tells it
    to, or by cancellation when its `shutdown_s` are over.
    """

    ctx: Context[M]

    async def on_start(self) -> None:
        """Before the first message, within the child spec's `start_s`. The next sibling starts after it returns."""

    async def handle(self, message: M) -> Any:
        """One message at a time. What it returns answers an ask. Raising ends the incarnation; whoever asked gets
        `RemoteError`. `raise Stop` ends it as done."""
        raise NotImplementedError(f"{type(self).__name__} has no handle() for {type(message).__name__}")

    async def on_stop(self, exit: Exit) -> None:  # noqa: A002
        """After the last message of an incarnation that was up, however it ended; within `shutdown_s`, or 1 s if it was
        killed. This is where a drainer drains."""

    async def run(self) -> None:
        """Read the mailbox until asked to end."""
        mailbox = self.ctx.mailbox
        handle = self.handle
        while True:
            item = await mailbox.get()
            if type(item) is Ask:
                await self._answer(item)
            elif item is STOP:
                raise StopRequested
            else:
                await handle(item)

    async def _answer(self, ask: Ask) -> None:
        if ask.abandoned:
            return  # the asker gave up; doing it now would only make an overload worse
        try:
            answer = await self.handle(ask.message)
        except Stop:
            ask.answer(None)
            raise
        except Exception as error:
            ask.fail(RemoteError(type(error).__name__, str(error)))
            raise
        except BaseException:
            ask.fail(ActorDead(f"{self.ctx.path} was killed before it answered"))
            raise
        ask.answer(answer)

    # -- for the incarnation and for supervisors

    async def live(self, up: Callable[[], None]) -> None:
        """The whole life of an incarnation. Not for overriding outside `core`."""
        await self.on_start()
        up()
        await self.run()

    def interrupt(self) -> None:
        """Called when a stop is requested, from outside the actor's own task. A supervisor stops waiting for a
        start."""

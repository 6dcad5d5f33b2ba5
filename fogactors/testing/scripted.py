"""An actor that fails on command, for testing supervision trees."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from math import inf
from typing import Any, Literal, NamedTuple

import anyio

from fogactors.core import Actor, ChildSpec, Exit, Stop, StopRequested

__all__ = [
    "Crash",
    "Hang",
    "IgnoreStop",
    "Life",
    "Part",
    "Return",
    "Script",
    "ScriptedChild",
    "ScriptedError",
    "Shield",
]


# -- what one tells a ScriptedChild: `await ref.tell(Crash())`. Any other message is answered with itself.


@dataclass(frozen=True, slots=True)
class Crash:
    """Raise `error`, or a `ScriptedError`."""

    error: Exception | None = None


@dataclass(frozen=True, slots=True)
class Return:
    """End of your own accord."""


@dataclass(frozen=True, slots=True)
class Hang:
    """Handle this message for ever: nothing behind it is read, and only cancellation ends it."""


@dataclass(frozen=True, slots=True)
class IgnoreStop:
    """Go on reading messages, but do not end when asked to: only cancellation does that."""


@dataclass(frozen=True, slots=True)
class Shield:
    """Hang, and do not even end when cancelled: for so many seconds, or until `Script.release()`."""

    seconds: float = inf


class ScriptedError(Exception):
    """What a scripted child raises."""


class Life(NamedTuple):
    """One line of the journal."""

    what: Literal["started", "start failed", "stopped"]
    path: str
    incarnation: int

    @property
    def id(self) -> str:
        return self.path.rpartition("/")[2]


@dataclass(slots=True)
class Part:
    """What a child does by itself, in each incarnation; a test may change it at any time.

    `fail_starts`: so many of the next starts fail, with an `error`. `start_takes_s`, `stop_takes_s`: seconds spent in
    `on_start` and `on_stop`.
    """

    fail_starts: int = 0
    start_takes_s: float = 0.0
    stop_takes_s: float = 0.0
    error: type[Exception] = ScriptedError


class Script:
    """Makes scripted children and keeps the journal of what they lived through.

        script = Script()
        tree = SupervisorSpec(id="root", children=(script.child("a"), script.child("b", restart="transient")))
        async with ActorSystem() as system:
            await system.start(tree)
            script["b"].fail_starts = 2
            await system.ref("root/b").tell(Crash())
            ...
        assert script.ids("stopped") == ["b", "b", "a"]

    Children are known by their id: use each once in a test. `overlaps` lists paths at which two incarnations lived at
    the same time, which must never happen.
    """

    def __init__(self) -> None:
        self.journal: list[Life] = []
        self.messages: list[Any] = []
        self.overlaps: list[str] = []
        self.alive: dict[str, int] = {}
        self._parts: dict[str, Part] = {}
        self._released: anyio.Event | None = None

    def __getitem__(self, id: str) -> Part:  # noqa: A002
        """The part of the child `id`."""
        return self._parts[id]

    def child(
        self,
        id: str,  # noqa: A002
        *,
        fail_starts: int = 0,
        start_takes_s: float = 0.0,
        stop_takes_s: float = 0.0,
        **spec: Any,
    ) -> ChildSpec:
        """A child spec; `spec` is passed on to `ChildSpec` (restart, start_s, shutdown_s, mailbox, overflow)."""
        part = self._parts[id] = Part(fail_starts, start_takes_s, stop_takes_s)
        return ChildSpec(id=id, factory=lambda: ScriptedChild(self, part), **spec)

    def ids(self, what: Literal["started", "start failed", "stopped"], start: int = 0) -> list[str]:
        """The ids of those that did `what`, in order, from line `start` of the journal on."""
        return [life.id for life in self.journal[start:] if life.what == what]

    def release(self) -> None:
        """Let go of all that shield themselves."""
        self._release_event().set()

    def __iter__(self) -> Iterator[Life]:
        return iter(self.journal)

    # -- for ScriptedChild

    def _release_event(self) -> anyio.Event:
        if self._released is None:
            self._released = anyio.Event()
        return self._released

    async def wait_release(self) -> None:
        await self._release_event().wait()

    def begins(self, path: str) -> None:
        if self.alive.get(path, 0):
            self.overlaps.append(path)
        self.alive[path] = self.alive.get(path, 0) + 1

    def ends(self, path: str) -> None:
        self.alive[path] -= 1
        if not self.alive[path]:
            del self.alive[path]


class ScriptedChild(Actor[Any]):
    """Made by `Script.child`."""

    def __init__(self, script: Script, part: Part) -> None:
        self.script = script
        self.part = part
        self._ignores_stop = False

    async def on_start(self) -> None:
        self.script.begins(self.ctx.path)
        try:
            await anyio.sleep(self.part.start_takes_s)
            if self.part.fail_starts > 0:
                self.part.fail_starts -= 1
                raise self.part.error(f"{self.ctx.path} was told not to come up")
        except BaseException:
            self._note("start failed")
            self.script.ends(self.ctx.path)
            raise
        self._note("started")

    async def run(self) -> None:
        while True:
            try:
                await super().run()
            except StopRequested:
                if not self._ignores_stop:
                    raise

    async def handle(self, message: Any) -> Any:
        match message:
            case Crash(error):
                raise error or ScriptedError(f"{self.ctx.path} was told to crash")
            case Return():
                raise Stop
            case Hang():
                await anyio.sleep_forever()
            case IgnoreStop():
                self._ignores_stop = True
            case Shield(seconds):
                with anyio.CancelScope(shield=True), anyio.move_on_after(seconds):
                    await self.script.wait_release()
            case _:
                self.script.messages.append(message)
                return message
        return None

    async def on_stop(self, exit: Exit) -> None:  # noqa: A002
        try:
            await anyio.sleep(self.part.stop_takes_s)
        finally:
            self._note("stopped")
            self.script.ends(self.ctx.path)

    def _note(self, what: Literal["started", "start failed", "stopped"]) -> None:
        self.script.journal.append(Life(what, self.ctx.path, self.ctx.incarnation))

"""What a process says of itself to whoever asks from outside: that it lives, and that it can work.

Facts are small functions, called on the event loop, which answer at once from what is known already. They are collected
there and read from the thread that answers probes (`fogactors.observe.probe`): a loop that hangs can still be told of.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final, Literal

import anyio

from fogactors.coord.base import Coord
from fogactors.core import Actor, ChildSpec, StopRequested, SupervisorSpec
from fogactors.errors import FogError

__all__ = ["Check", "Health", "Report", "StoreWatch", "store_watch"]

Check = Callable[[], str | None]
"""`None`: all is well. Text: what is not, in a few words."""

Question = Literal["livez", "readyz"]

OK: Final = "ok"
LOOP: Final = "loop"
PROGRAM: Final = "program"
STORE: Final = "redis"

STORE_EVERY_S: Final = 2.0
STORE_TIMEOUT_S: Final = 1.0


@dataclass(frozen=True, slots=True)
class Report:
    """The answer to a probe. `facts`: the name of each to `ok`, or to what is wrong."""

    facts: dict[str, str]

    @property
    def ok(self) -> bool:
        return all(text == OK for text in self.facts.values())


class Health:
    """Of one process. `dead_s`: seconds without a turn of the loop after which it counts as dead, as for the heartbeat;
    less would let a handler that blocks for a moment have a healthy container killed.

    `live` and `ready` add facts, also while it runs; the same name again replaces the fact, as the next incarnation of
    an actor does. A fact of life should be one that a restart of the process mends: what only keeps it from working
    (a broker that is away) belongs to `ready`, or a broker's bad day would restart all that wait for it.
    """

    def __init__(self, *, dead_s: float = 60.0) -> None:
        self.dead_s = dead_s
        self.program = "starting"
        """What the program as a whole does: `ok` is the word for all is up."""
        self._checks: dict[Question, dict[str, Check]] = {"livez": {}, "readyz": {}}
        self._seen: dict[Question, dict[str, str]] = {"livez": {}, "readyz": {}}

    def live(self, name: str, check: Check) -> None:
        self._checks["livez"][name] = check

    def ready(self, name: str, check: Check) -> None:
        self._checks["readyz"][name] = check

    def look(self) -> None:
        """Ask every fact. On the loop, where they are at home."""
        self._seen = {
            question: {name: _answer(check) for name, check in checks.items()}
            for question, checks in self._checks.items()
        }

    def report(self, question: Question, silent_s: float) -> Report:
        """What was seen last. From any thread. `silent_s`: for how long the loop has not turned."""
        seen = self._seen
        facts = {LOOP: OK if silent_s < self.dead_s else f"it has not turned for {silent_s:.0f} s"}
        facts |= seen["livez"]
        if question == "readyz":
            # What is there to be asked and has not been is no sign that all is well.
            unasked = dict.fromkeys(tuple(self._checks["readyz"]), "not asked yet")
            facts |= {PROGRAM: self.program} | unasked | seen["readyz"]
        return Report(facts)


def _answer(check: Check) -> str:
    try:
        return check() or OK
    except Exception as error:  # a fact that cannot be told is no good sign, and no reason to tell none of them
        return f"{type(error).__name__}: {error}"


class StoreWatch(Actor[Any]):
    """Asks the coordination store every two seconds whether it is there, because a client of it has no connection
    that could be seen to be lost. Only where somebody may probe."""

    def __init__(self, coord: Coord, health: Health) -> None:
        self._coord = coord
        self._health = health
        self._trouble: str | None = "not asked yet"

    async def on_start(self) -> None:
        self._health.ready(STORE, lambda: self._trouble)

    async def run(self) -> None:
        while not self.ctx.stop_requested:
            try:
                await self._coord.open(timeout=STORE_TIMEOUT_S)
                self._trouble = None
            except FogError as error:
                self._trouble = str(error)
            with anyio.move_on_after(STORE_EVERY_S):
                await self.ctx.wait_stop()
        raise StopRequested


def store_watch(coord: Coord, health: Health) -> SupervisorSpec:
    """A tree of its own, beside the roles: its failure concerns none of them."""
    child = ChildSpec(id="store", factory=lambda: StoreWatch(coord, health))
    return SupervisorSpec(id="probe", exceeded="pause", children=(child,))

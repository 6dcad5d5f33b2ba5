"""Crash points: a process that dies at a chosen call of its broker or its store.

Between two such calls a process changes nothing outside itself, so a crash anywhere between them is the same as one
right after the first. To die before and after each call, and in the middle of a task, is therefore to die everywhere,
and no hook in the production code is needed. (After the fail points of FreeBSD and TiKV, but at the edges only.)

    dies = crash_at(1, "before", name="delivery.ack")
    process = Mortal(dies, kill=lambda: system.kill("tier-executor-light"))
    async with fog(roles=("tier-executor",), wrap_bus=process.bus, wrap_coord=process.coord) as system:
        handle = await system.submit(charge, "order-1")
        assert await handle.result(timeout=5) == "charged"  # by which incarnation, nobody can tell

`kill` does what the end of a process does: a broker takes back what it held. With `os.kill(os.getpid(), SIGKILL)` the
same wrappers end a real one.
"""

from __future__ import annotations

import inspect
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any, Final, Literal, cast

from fogactors.bus import Bus, Delivery
from fogactors.coord import Coord
from fogactors.errors import BusUnavailable, CoordUnavailable

__all__ = ["Call", "Mortal", "Plan", "When", "crash_at"]

When = Literal["before", "after"]
"""`before`: the call never happened. `after`: it took effect, and its caller never learned."""


@dataclass(frozen=True, slots=True)
class Call:
    """`number` counts the calls of a process from 1, over all its lives. `name`: `bus.publish`, `delivery.ack`,
    `coord.record`, `letters.apply`, or what `point` was given."""

    number: int
    name: str


Plan = Callable[[Call], Awaitable[When | None]]
"""Asked at every call whether the process dies there. It may wait, so that a test can let others go first."""

_PASSIVE: Final = frozenset({"wait_lost", "wait_open"})
"""Waits that ask nothing of anybody: no crash point, and a dead process may go on in them until it is stopped."""


def crash_at(number: int, when: When, *, name: str = "") -> Plan:
    """Die once, at the call of this number, counted from 1: of all calls, or of those of this `name`."""
    calls = 0

    async def plan(call: Call) -> When | None:
        nonlocal calls
        if name not in ("", call.name):
            return None
        calls += 1
        return when if calls == number else None

    return plan


class _Life:
    """From one opening of the bus to the next crash. A delivery or a consumer belongs to the life that got it: when
    that is over they do nothing for ever, as on a channel that is gone."""

    __slots__ = ("dead",)

    def __init__(self) -> None:
        self.dead = False


class Mortal:
    """What one process holds of the world: `bus` and `coord` take its clients and return such as die by `plan`.

    `kill` is called once per crash, when everything in here has gone dead: no call of that life reaches the broker or
    the store any more. It raises `BusUnavailable` or `CoordUnavailable`; settling does nothing. The next life begins
    when a bus is opened again, as its link does after a restart; with `once` there is none.
    """

    def __init__(self, plan: Plan, kill: Callable[[], object], *, once: bool = False) -> None:
        self.calls = 0
        self._plan = plan
        self._kill = kill
        self._once = once
        self._life = _Life()

    @property
    def dead(self) -> bool:
        return self._life.dead

    def bus(self, name: str, bus: Bus) -> Bus:
        """Takes a name, which it does not need, so that it is what `fog(wrap_bus=...)` wants."""
        del name
        return cast("Bus", _MortalBus("bus", bus, self))

    def coord(self, coord: Coord) -> Coord:
        return cast("Coord", _MortalCoord("coord", coord, self))

    async def point(self, name: str) -> None:
        """A crash point of the test's own, such as the middle of a task. Raises `BusUnavailable` in a dead process:
        what comes after does not happen."""

        async def nothing() -> None: ...

        await self.call(self._life, name, nothing)
        if self.dead:
            raise BusUnavailable(f"{name}: the process is dead")

    def begin(self) -> None:
        """A bus is opened: the process runs, or runs again."""
        if self._life.dead and not self._once:
            self._life = _Life()

    @property
    def life(self) -> _Life:
        return self._life

    async def call(self, life: _Life, name: str, method: Callable[[], Awaitable[Any]]) -> Any:
        """One call. In a dead life nothing happens and `None` is returned, or what a lost connection would raise is
        raised."""
        if life.dead:
            return _gone(name)
        self.calls += 1
        when = await self._plan(Call(self.calls, name))
        if not life.dead and when == "before":
            self._die(life)
        if life.dead:
            return _gone(name)
        try:
            answer = await method()
        finally:
            if when == "after" and not life.dead:
                self._die(life)
        return _gone(name) if life.dead else answer

    def _die(self, life: _Life) -> None:
        life.dead = True
        self._kill()


def _gone(name: str) -> None:
    kind, _, method = name.partition(".")
    if kind in ("coord", "letters"):
        raise CoordUnavailable(f"{name}: the process is dead")
    if kind == "bus" and method != "close":
        raise BusUnavailable(f"{name}: the process is dead")


class _Hooked:
    """Every coroutine method is a crash point, also one that its protocol does not have yet; all else is the
    target's."""

    def __init__(self, kind: str, target: object, mortal: Mortal, life: _Life | None = None) -> None:
        self._kind = kind
        self._target = target
        self._mortal = mortal
        self._own_life = life

    @property
    def _life(self) -> _Life:
        return self._own_life or self._mortal.life

    def __getattr__(self, name: str) -> Any:
        value = getattr(self._target, name)
        if name in _PASSIVE or not inspect.iscoroutinefunction(value):
            return value

        async def call(*args: Any, **kwargs: Any) -> Any:
            return await self._mortal.call(self._life, f"{self._kind}.{name}", lambda: value(*args, **kwargs))

        return call


class _MortalBus(_Hooked):
    async def open(self, timeout: float = 10.0) -> None:
        self._mortal.begin()
        bus = cast("Bus", self._target)
        await self._mortal.call(self._life, "bus.open", lambda: bus.open(timeout=timeout))

    async def consume(self, queue: str, on_delivery: Callable[[Delivery], None], **options: Any) -> Any:
        life = self._life
        on_lost = options.pop("on_lost", None)

        def deliver(delivery: Delivery) -> None:
            if not life.dead:
                on_delivery(cast("Delivery", _Hooked("delivery", delivery, self._mortal, life)))

        def lost(reason: str) -> None:
            if on_lost is not None and not life.dead:
                on_lost(reason)

        bus = cast("Bus", self._target)
        consumer = await self._mortal.call(
            life, "bus.consume", lambda: bus.consume(queue, deliver, on_lost=lost, **options)
        )
        return _Hooked("consumer", consumer, self._mortal, life)


class _MortalCoord(_Hooked):
    @property
    def letters(self) -> Any:
        return _Hooked("letters", cast("Coord", self._target).letters, self._mortal)

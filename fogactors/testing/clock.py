"""Time that a test moves.

Two kinds. `run_virtual` runs actors on trio with its `MockClock`: whenever every task waits, the clock jumps to the
next deadline, so an hour of restarts and backoff takes milliseconds, and a wait that nobody would ever end fails at
once instead of hanging. `FakeClock` is a wall clock for what takes `now` as a parameter, such as `MemoryStore`.

Virtual time needs trio (`pip install trio`), because asyncio cannot be told that nothing will happen until a deadline.
Actors written with anyio run on both; code that needs asyncio itself is tested in real time.
"""

from __future__ import annotations

import functools
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any, ParamSpec, TypeVar

import anyio

__all__ = ["FakeClock", "run_virtual", "virtual_time"]

P = ParamSpec("P")
T = TypeVar("T")


def run_virtual(main: Callable[..., Awaitable[T]], *args: Any, within_s: float = 30 * 86_400.0) -> T:
    """Run `await main(*args)` in virtual time and return its result.

    `within_s`: virtual seconds after which it fails with `TimeoutError`; a test that waits for what never comes gets
    there at once. Raises `RuntimeError` when trio is not installed.

        async def scenario():
            async with ActorSystem() as system:
                ...
                await anyio.sleep(3600)  # returns immediately

        run_virtual(scenario)
    """
    try:
        from trio.testing import MockClock
    except ImportError as error:
        raise RuntimeError("virtual time needs trio; install it with: pip install trio") from error

    async def bounded() -> T:
        with anyio.fail_after(within_s):
            return await main(*args)

    return anyio.run(bounded, backend="trio", backend_options={"clock": MockClock(autojump_threshold=0)})


def virtual_time(test: Callable[P, Coroutine[Any, Any, T]]) -> Callable[P, T]:
    """A decorator that makes an async test an ordinary one that runs in virtual time. Fixtures work as ever.

    @virtual_time
    async def test_gives_up_after_a_day(): ...
    """

    @functools.wraps(test)
    def run(*args: P.args, **kwargs: P.kwargs) -> T:
        return run_virtual(functools.partial(test, *args, **kwargs))

    return run


class FakeClock:
    """A wall clock that stands still until it is moved: `store = MemoryStore(clock := FakeClock())`."""

    def __init__(self, start: float = 1_700_000_000.0) -> None:
        self.now = start

    def __call__(self) -> float:
        return self.now

    def advance(self, seconds: float) -> float:
        """Let `seconds` pass; returns the new time. Raises `ValueError` for time that runs backwards."""
        if seconds < 0:
            raise ValueError(f"time does not run backwards, got {seconds} s")
        self.now += seconds
        return self.now

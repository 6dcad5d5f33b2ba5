"""The threads of a handler that is a plain function: so many at once, and never one more.

A thread cannot be ended. Past the time of its call nobody waits for it, but it runs on, and so it keeps its place: else
the next call would meet it in the handler, and threads that hang would become ever more.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable
from typing import Any

import anyio
from anyio.to_thread import run_sync

from fogactors.tasks.thread import Thread

__all__ = ["Line", "Place", "Threads"]


class Threads:
    """`most` places. It outlives those who wait for one, an actor that is restarted: its threads do so too."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._loop: asyncio.AbstractEventLoop | None = None
        self._places: anyio.CapacityLimiter
        self._unlimited: anyio.CapacityLimiter
        self._abandoned: dict[str, anyio.Event]

    def line(self) -> Line:
        return Line(self)

    async def wait_place(self, key: str) -> Place:
        """Whoever gets it must `run` something in it. The caller bounds the wait."""
        loop = asyncio.get_running_loop()
        if loop is not self._loop:  # the one before has died, and no thread of it can tell us of its end
            self._loop = loop
            self._places, self._unlimited = anyio.CapacityLimiter(self._most), anyio.CapacityLimiter(math.inf)
            self._abandoned = {}
        while key and (ended := self._abandoned.get(key)) is not None:
            await ended.wait()
        place = Place(self, key)
        await self._places.acquire_on_behalf_of(place)
        return place

    async def run(self, place: Place, call: Callable[[], Any]) -> Any:
        thread, places, abandoned = Thread(call), self._places, self._abandoned

        def on_abandoned() -> Callable[[], None]:
            ended = abandoned[place.key] = anyio.Event()

            def on_end() -> None:
                if abandoned.get(place.key) is ended:
                    del abandoned[place.key]
                ended.set()
                places.release_on_behalf_of(place)

            return on_end

        try:
            await run_sync(thread.run, abandon_on_cancel=True, limiter=self._unlimited)
        except BaseException:
            if not thread.abandon(on_abandoned):
                places.release_on_behalf_of(place)
            raise
        places.release_on_behalf_of(place)
        return thread.result()


class Place:
    """For one call. `key`: what it is for; the same is not begun again while a thread still does it."""

    __slots__ = ("_threads", "key")

    def __init__(self, threads: Threads, key: str) -> None:
        self._threads = threads
        self.key = key

    async def run(self, call: Callable[[], Any]) -> Any:
        """Raises what it raises. Cancelled, it leaves the place to the thread, if that has begun."""
        return await self._threads.run(self, call)


class Line:
    """Those of one actor who wait for a place; it can send them all away, and takes nobody from then on."""

    def __init__(self, threads: Threads) -> None:
        self._threads = threads
        self._waiting: set[anyio.CancelScope] = set()
        self.is_closed = False

    async def wait_place(self, wait_s: float, key: str = "") -> Place | None:
        """None: not within `wait_s`, or it was closed."""
        if self.is_closed:
            return None
        with anyio.move_on_after(wait_s) as scope:
            self._waiting.add(scope)
            try:
                return await self._threads.wait_place(key)
            finally:
                self._waiting.discard(scope)
        return None

    def close(self) -> None:
        self.is_closed = True
        for scope in self._waiting:
            scope.cancel()

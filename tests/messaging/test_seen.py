"""What a subscription remembers of the events that it has handled."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from fogactors.coord import MemoryCoord, MemoryStore
from fogactors.messaging.seen import Seen
from fogactors.testing import FakeClock

pytestmark = pytest.mark.asyncio


def seen(
    store: MemoryStore | None = None,
    clock: Callable[[], float] | None = None,
    *,
    window_s: float = 60,
    most: int = 100,
) -> Seen:
    coord = None if store is None else MemoryCoord(store)
    return Seen("event a", window_s, coord, clock=clock or FakeClock(), most=most)


async def test_it_is_forgotten_after_its_window():
    clock = FakeClock()
    memory = seen(clock=clock)
    assert not await memory.handled("e")
    await memory.mark("e")
    clock.advance(59)
    assert await memory.handled("e")
    clock.advance(1)
    assert not await memory.handled("e")


async def test_the_oldest_are_forgotten_when_there_are_too_many():
    memory = seen(most=3)
    for number in range(4):
        await memory.mark(str(number))
    assert [await memory.handled(str(number)) for number in range(4)] == [False, True, True, True]


async def test_without_a_window_nothing_is_remembered():
    memory = seen(MemoryStore(), window_s=0)
    await memory.mark("e")
    assert not await memory.handled("e")


async def test_another_process_knows_by_the_store_what_was_handled_and_not_what_failed():
    store = MemoryStore()
    one, two, other_group = seen(store), seen(store), Seen("event b", 60, MemoryCoord(store))
    assert not await one.handled("e")
    one.leave("e")  # its handler failed, or its process died
    assert not await two.handled("e")
    await two.mark("e")
    assert await one.handled("e")
    assert not await other_group.handled("e")


async def test_a_store_that_is_away_lets_duplicates_through_and_stops_nothing():
    store = MemoryStore()
    one, two = seen(store), seen(store)
    store.away = True
    assert not await one.handled("e")
    await one.mark("e")
    assert await one.handled("e")
    assert not await two.handled("e")
    store.away = False
    assert not await two.handled("e")  # the store was never told, or is not asked again yet

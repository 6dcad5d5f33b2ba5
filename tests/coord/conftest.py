"""One harness for each implementation of `Coord`; a new one is one more entry of `HARNESSES`."""

import pytest

from fogactors.coord import Coord, MemoryCoord, MemoryStore


class MemoryHarness:
    """Clients of one store, whose time the test moves."""

    def __init__(self) -> None:
        self.now = 1000.0
        self.store = MemoryStore(lambda: self.now)

    def client(self) -> Coord:
        return MemoryCoord(self.store)

    async def advance(self, seconds: float) -> None:
        """Let this much of the store's time pass. An implementation with a clock of its own waits for it."""
        self.now += seconds


HARNESSES = {"memory": MemoryHarness}


@pytest.fixture(params=HARNESSES)
def harness(request):
    return HARNESSES[request.param]()


@pytest.fixture
def coord(harness) -> Coord:
    return harness.client()


@pytest.fixture
def other(harness) -> Coord:
    """Another client of the same store."""
    return harness.client()

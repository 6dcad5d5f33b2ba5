"""The broker inside the process: what `fogactors.bus.memory.MemoryBus` connects to. One file per part of
it."""

from fogactors.bus.embedded.broker import MemoryBroker, QueueDepth
from fogactors.bus.embedded.faults import Faults

__all__ = ["Faults", "MemoryBroker", "QueueDepth"]

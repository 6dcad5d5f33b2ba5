"""The way to the broker: the protocol, and the implementation that needs none beside the process."""

from fogactors.bus.base import (
    MAX_BODY,
    Bus,
    BusStats,
    Consumer,
    Death,
    Delivery,
    DeliveryHandler,
    LostHandler,
    Message,
    QueueInfo,
)
from fogactors.bus.embedded import Faults, MemoryBroker, QueueDepth
from fogactors.bus.memory import MemoryBus

__all__ = [
    "MAX_BODY",
    "Bus",
    "BusStats",
    "Consumer",
    "Death",
    "Delivery",
    "DeliveryHandler",
    "Faults",
    "LostHandler",
    "MemoryBroker",
    "MemoryBus",
    "Message",
    "QueueDepth",
    "QueueInfo",
]

"""What travels: the codec of the messages, and the topology that carries them, as data."""

from fogactors.wire.codec import JSON, MSGPACK, decode, encode
from fogactors.wire.topology import (
    Binding,
    Exchange,
    Policy,
    Queue,
    Topology,
    fog_topology,
    retry_exchange,
    task_key,
    task_queue,
)

__all__ = [
    "JSON",
    "MSGPACK",
    "decode",
    "encode",
    "Binding",
    "Exchange",
    "Policy",
    "Queue",
    "Topology",
    "fog_topology",
    "retry_exchange",
    "task_key",
    "task_queue",
]

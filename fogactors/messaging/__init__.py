"""What application code calls: events, calls with an answer, and what is to come. Everything stands on a `Session`."""

from fogactors.messaging.context import correlated, correlation_id
from fogactors.messaging.embedded import embedded_broker
from fogactors.messaging.event import Event
from fogactors.messaging.events import EVENT_RETRY, EventBus, Subscription
from fogactors.messaging.facts import EventDeadLettered, EventGroupFull, EventRetried
from fogactors.messaging.rpc import RPCServer
from fogactors.messaging.rpc_client import RPCClient
from fogactors.messaging.rpc_serving import RequestDropped, RequestFailed
from fogactors.messaging.session import Session
from fogactors.messaging.subscriber import EventStats

__all__ = [
    "EVENT_RETRY",
    "Event",
    "EventBus",
    "EventDeadLettered",
    "EventGroupFull",
    "EventRetried",
    "EventStats",
    "RPCClient",
    "RPCServer",
    "RequestDropped",
    "RequestFailed",
    "Session",
    "Subscription",
    "correlated",
    "correlation_id",
    "embedded_broker",
]

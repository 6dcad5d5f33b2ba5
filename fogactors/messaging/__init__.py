"""What application code calls: calls with an answer, and what is to come. Everything stands on a `Session`."""

from fogactors.messaging.context import correlated, correlation_id
from fogactors.messaging.embedded import embedded_broker
from fogactors.messaging.rpc import RequestDropped, RequestFailed, RPCServer
from fogactors.messaging.rpc_client import RPCClient
from fogactors.messaging.session import Session

__all__ = [
    "RPCClient",
    "RPCServer",
    "RequestDropped",
    "RequestFailed",
    "Session",
    "correlated",
    "correlation_id",
    "embedded_broker",
]

"""What application code calls: events, queues of tasks, calls with an answer. Everything stands on a `Session`."""

from fogactors.messaging.context import correlated, correlation_id
from fogactors.messaging.embedded import embedded_broker
from fogactors.messaging.event import Event
from fogactors.messaging.events import EVENT_RETRY, EventBus, Subscription
from fogactors.messaging.facts import EventDeadLettered, EventGroupFull, EventRetried
from fogactors.messaging.queue_task import QueueTask
from fogactors.messaging.rpc import RPCServer
from fogactors.messaging.rpc_client import RPCClient
from fogactors.messaging.rpc_serving import RequestDropped, RequestFailed
from fogactors.messaging.session import Session
from fogactors.messaging.subscriber import EventStats
from fogactors.messaging.task_handle import TaskHandle
from fogactors.messaging.taskqueue import TASK_RETRY, TaskQueue
from fogactors.tasks.retry import PermanentError, RetryableError

__all__ = [
    "EVENT_RETRY",
    "Event",
    "EventBus",
    "EventDeadLettered",
    "EventGroupFull",
    "EventRetried",
    "EventStats",
    "PermanentError",
    "QueueTask",
    "RPCClient",
    "RPCServer",
    "RequestDropped",
    "RequestFailed",
    "RetryableError",
    "Session",
    "Subscription",
    "TASK_RETRY",
    "TaskHandle",
    "TaskQueue",
    "correlated",
    "correlation_id",
    "embedded_broker",
]

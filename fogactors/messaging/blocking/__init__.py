"""Events, tasks and calls for programs that are not asyncio: plain functions, threads, and methods that block.

Over the asynchronous classes of the same names, which run in an event loop in a thread of its own: heartbeats go on
while a handler blocks, and a lost connection is made anew by itself. docs/blocking.md.
"""

from fogactors.messaging.blocking.events import EventBus, Subscription
from fogactors.messaging.blocking.program import run
from fogactors.messaging.blocking.rpc import RPCClient, RPCServer
from fogactors.messaging.blocking.taskqueue import TaskHandle, TaskQueue
from fogactors.messaging.context import correlated, correlation_id
from fogactors.messaging.event import Event
from fogactors.messaging.queue_task import QueueTask
from fogactors.tasks.retry import PermanentError, Retry, RetryableError, RetryPolicy, Skip

__all__ = [
    "Event",
    "EventBus",
    "PermanentError",
    "QueueTask",
    "RPCClient",
    "RPCServer",
    "Retry",
    "RetryPolicy",
    "RetryableError",
    "Skip",
    "Subscription",
    "TaskHandle",
    "TaskQueue",
    "correlated",
    "correlation_id",
    "run",
]

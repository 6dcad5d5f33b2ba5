"""fogactors: event-driven actors that schedule work over fog and edge machines, and lose none of it.

The public names. Each is imported on first use, so that `from fogactors import task` in a module of tasks costs a
worker process nothing but the task layer.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from fogactors.core import Actor, ActorSystem, ChildSpec, Ref, Stop, SupervisorSpec
    from fogactors.errors import FogError
    from fogactors.messaging.event import Event
    from fogactors.messaging.events import EventBus
    from fogactors.messaging.queue_task import QueueTask
    from fogactors.messaging.rpc import RPCServer
    from fogactors.messaging.rpc_client import RPCClient
    from fogactors.messaging.task_handle import TaskHandle
    from fogactors.messaging.taskqueue import TaskQueue
    from fogactors.tasks.client import Submitter
    from fogactors.tasks.handle import Handle
    from fogactors.tasks.retry import PermanentError, Retry, RetryableError, RetryPolicy, Skip
    from fogactors.tasks.task import task
    from fogactors.tasks.tracker import Cancellation, Whereabouts

__all__ = [
    # actors
    "Actor",
    "ActorSystem",
    "ChildSpec",
    "Ref",
    "Stop",
    "SupervisorSpec",
    # tasks
    "Cancellation",
    "Handle",
    "PermanentError",
    "Retry",
    "RetryPolicy",
    "RetryableError",
    "Skip",
    "Submitter",
    "Whereabouts",
    "task",
    # messaging
    "RPCClient",
    "RPCServer",
    "Event",
    "EventBus",
    "QueueTask",
    "TaskHandle",
    "TaskQueue",
    # errors
    "FogError",
]

_HOME = {
    "Actor": "core",
    "ActorSystem": "core",
    "Cancellation": "tasks.tracker",
    "ChildSpec": "core",
    "Event": "messaging.event",
    "EventBus": "messaging.events",
    "FogError": "errors",
    "Handle": "tasks.handle",
    "PermanentError": "tasks.retry",
    "QueueTask": "messaging.queue_task",
    "RPCClient": "messaging.rpc_client",
    "RPCServer": "messaging.rpc",
    "Ref": "core",
    "Retry": "tasks.retry",
    "RetryPolicy": "tasks.retry",
    "RetryableError": "tasks.retry",
    "Skip": "tasks.retry",
    "Stop": "core",
    "Submitter": "tasks.client",
    "SupervisorSpec": "core",
    "TaskHandle": "messaging.task_handle",
    "TaskQueue": "messaging.taskqueue",
    "Whereabouts": "tasks.tracker",
    "task": "tasks.task",
}


def __getattr__(name: str) -> Any:
    try:
        home = _HOME[name]
    except KeyError:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}") from None
    return getattr(import_module(f"{__name__}.{home}"), name)

"""Actors, mailboxes and supervisors. Knows anyio and the standard library, and no broker."""

from fogactors.core.actor import Actor, Context, Stop, StopRequested
from fogactors.core.events import (
    ActorEvent,
    ActorExited,
    ActorStarted,
    ChildStuck,
    Events,
    Exit,
    MailboxOverflow,
    MessagesDiscarded,
    RestartFailed,
    SubscriberFailed,
    SupervisorEscalated,
    SupervisorPaused,
)
from fogactors.core.intensity import Backoff, Intensity
from fogactors.core.mailbox import Overflow
from fogactors.core.ref import Ask, Ref
from fogactors.core.requests import (
    ChildInfo,
    DeleteChild,
    RemoveChild,
    RestartChild,
    StartChild,
    StopChild,
    WhichChildren,
)
from fogactors.core.spec import (
    CANCEL_GRACE_S,
    ChildSpec,
    Exceeded,
    Restart,
    Strategy,
    SupervisorSpec,
    validate,
    walk,
)
from fogactors.core.supervisor import Supervisor
from fogactors.core.system import ActorSystem, Node
from fogactors.core.timers import Timer

__all__ = [
    # actors
    "Actor",
    "ActorSystem",
    "Ask",
    "Context",
    "Ref",
    "Stop",
    "StopRequested",
    "Timer",
    # policy
    "Backoff",
    "CANCEL_GRACE_S",
    "ChildSpec",
    "Exceeded",
    "Intensity",
    "Overflow",
    "Restart",
    "Strategy",
    "SupervisorSpec",
    "validate",
    "walk",
    # supervisors
    "ChildInfo",
    "DeleteChild",
    "Node",
    "RemoveChild",
    "RestartChild",
    "StartChild",
    "StopChild",
    "Supervisor",
    "WhichChildren",
    # events
    "ActorEvent",
    "ActorExited",
    "ActorStarted",
    "ChildStuck",
    "Events",
    "Exit",
    "MailboxOverflow",
    "MessagesDiscarded",
    "RestartFailed",
    "SubscriberFailed",
    "SupervisorEscalated",
    "SupervisorPaused",
]

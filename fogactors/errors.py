"""Every error that fogactors raises, as one tree.

The docstring of a class is its default message (the idea is procrastinate's). A message is one line that says what
happened, to which thing, and what to do. `Stop`, `Retry` and `Skip` are control flow, not errors, and live with
the code that understands them.
"""

from __future__ import annotations

from typing import Any, Final, cast

__all__ = [
    "FogError",
    "ConfigError",
    "SpecError",
    "ActorError",
    "ActorDead",
    "AskTimeout",
    "MailboxFull",
    "NoSuchChild",
    "StartFailed",
    "RestartIntensityExceeded",
    "ChildStuckError",
    "StrayCancellation",
    "RemoteError",
    "BusError",
    "BusUnavailable",
    "Unroutable",
    "QueueFull",
    "MessageTooLarge",
    "QueueMissing",
    "StoppedAtBoot",
    "TopologyMismatch",
    "AccessRefused",
    "CoordError",
    "CoordUnavailable",
    "CoordRefused",
    "LeaseLost",
    "WireError",
    "TaskError",
    "TaskDefinitionError",
    "UnknownTask",
    "TaskArgumentError",
    "TaskResultError",
    "NoTierFits",
    "ResultTimeout",
    "SubmitterClosed",
    "TaskFailed",
    "TaskCancelled",
    "TaskExpired",
    "WorkerLost",
    "TimeLimitExceeded",
    "MemoryLimitExceeded",
    "ChildCrashed",
    "DeadLetterMissing",
    "NoSuchService",
    "CallTimeout",
    "CallLost",
    "exit_code",
    "leaves",
]


class FogError(Exception):
    """Something went wrong in fogactors."""

    def __init__(self, message: str | None = None) -> None:
        super().__init__(message if message is not None else (type(self).__doc__ or "").strip().splitlines()[0])


# -- configuration


class ConfigError(FogError):
    """The configuration is wrong. The command ends with exit code 2."""


class SpecError(ConfigError):
    """A child specification is invalid. Raised before anything starts."""


# -- actors


class ActorError(FogError):
    """An actor could not do what was asked of it."""


class ActorDead(ActorError):
    """The actor is not running, so it cannot answer."""


class AskTimeout(ActorError):
    """The actor did not answer in time."""


class MailboxFull(ActorError):
    """The mailbox is full and its overflow policy is to refuse."""


class NoSuchChild(ActorError):
    """The supervisor has no such child (any more)."""


class StartFailed(ActorError):
    """A child did not come up; the cause is chained."""


class RestartIntensityExceeded(ActorError):
    """A supervisor gave up: its children failed more often than its restart intensity allows."""


class ChildStuckError(ActorError):
    """A child did not end after it was cancelled, so its place cannot be taken by another."""


class StrayCancellation(ActorError):
    """A library cancelled the actor's task from inside; nobody had asked for it."""


class RemoteError(FogError):
    """A failure that happened at the other end: its type's name and its text, as data."""

    def __init__(self, type: str, detail: str, *, traceback: str | None = None) -> None:  # noqa: A002
        super().__init__(f"{type}: {detail}" if detail else type)
        self.type = type
        self.detail = detail
        self.traceback = traceback


# -- the bus


class BusError(FogError):
    """A message could not be handed to the broker. `unsent` is the message, so that nothing is lost by the error."""

    def __init__(self, message: str | None = None, *, unsent: Any = None) -> None:
        super().__init__(message)
        self.unsent = unsent


class BusUnavailable(BusError):
    """The broker cannot be reached, or did not confirm in time."""


class Unroutable(BusError):
    """No queue takes a message with this exchange and routing key."""


class QueueFull(BusError):
    """The broker refused the message: the queue is full or unavailable (a nack names no cause)."""


class MessageTooLarge(BusError):
    """The message's body is over the limit; publish a reference to the data instead."""


class QueueMissing(BusError):
    """The queue does not exist; run `fogactors topology apply`."""


class StoppedAtBoot(FogError):
    """Stopped while it was waiting for the broker."""


class TopologyMismatch(BusError):
    """A queue or exchange exists with other arguments than the topology says."""


class AccessRefused(BusError):
    """The broker refuses these credentials, this virtual host or this operation."""


# -- coordination


class CoordError(FogError):
    """Coordination failed."""


class CoordUnavailable(CoordError):
    """The coordination store cannot be reached or takes no writes."""


class CoordRefused(CoordError, ConfigError):
    """The coordination store refuses these credentials or this operation."""


class LeaseLost(CoordError):
    """The lease is held by another, or it has run out."""


# -- the wire


class WireError(FogError):
    """These bytes are not the message that they should be."""


# -- tasks


class TaskError(FogError):
    """Something about a task is wrong."""


class TaskDefinitionError(TaskError, ConfigError):
    """The function cannot be a task."""


class UnknownTask(TaskError):
    """No task of this name is registered; name its module with --import or in [tasks] modules."""


class TaskArgumentError(TaskError):
    """The arguments do not fit the task's signature."""


class TaskResultError(TaskError):
    """The task's result has no JSON form."""


class NoTierFits(TaskError):
    """No tier is large enough for what the task needs."""


class ResultTimeout(TaskError):
    """The result was not there in time; the task may still run."""


class SubmitterClosed(TaskError):
    """Whoever waited for a result was closed meanwhile; the task goes on, so ask for it again by its id."""


class TaskFailed(TaskError, RemoteError):
    """The task raised, and its attempts are used up."""

    def __init__(self, type: str, detail: str, *, task_id: str = "", traceback: str | None = None) -> None:  # noqa: A002
        RemoteError.__init__(self, type, detail, traceback=traceback)
        self.task_id = task_id


class TaskCancelled(TaskError):
    """The task was cancelled before it ended."""


class TaskExpired(TaskError):
    """The task's deadline passed before it started, so it was not run."""


class WorkerLost(TaskError):
    """The task took its worker down with it too often, so it was given up."""


class TimeLimitExceeded(TaskError):
    """The task ran longer than its time limit."""


class MemoryLimitExceeded(TaskError):
    """The task took more memory than it may."""


class ChildCrashed(TaskError):
    """A worker process died in the middle of a task."""


class DeadLetterMissing(FogError):
    """There is no dead letter of this id, or its time in the stream is over."""


# -- calls


class NoSuchService(FogError):
    """Nobody serves calls of this name."""


class CallTimeout(FogError):
    """The call was not answered in time; it may still have been carried out."""


class CallLost(BusUnavailable):
    """The way for the answer was lost in mid call; it may have been carried out, or may still be."""


# -- what a program's exit code says about them

_CODES: Final[tuple[tuple[type[BaseException], int], ...]] = (
    (StoppedAtBoot, 0),
    (RestartIntensityExceeded, 4),
    (ConfigError, 2),
    (AccessRefused, 2),
    (TopologyMismatch, 2),
    (QueueMissing, 2),
    (UnknownTask, 2),
    (TaskArgumentError, 2),
    (NoTierFits, 2),
    (BusUnavailable, 3),
)


def exit_code(error: BaseException) -> int:
    """By the error, or by what caused it: a child that did not come up is as bad as its reason. The codes' meanings are
    in `fogactors.app.boot`; 1 is any other error."""
    seen = [link for leaf in leaves(error) for link in _chain(leaf)]
    return next((code for kind, code in _CODES if any(isinstance(each, kind) for each in seen)), 1)


def leaves(error: BaseException) -> list[BaseException]:
    """The errors in an `ExceptionGroup`, however deep; the error itself if it is none."""
    if isinstance(error, BaseExceptionGroup):
        group = cast("BaseExceptionGroup[BaseException]", error)
        return [leaf for each in group.exceptions for leaf in leaves(each)]
    return [error]


def _chain(error: BaseException) -> list[BaseException]:
    links: list[BaseException] = []
    at: BaseException | None = error
    while at is not None and at not in links:
        links.append(at)
        at = at.__cause__
    return links

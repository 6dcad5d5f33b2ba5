"""The worker process: `python -m fogactors.tasks.child <pid of the parent>`, started by `isolation.ProcessPool`.

It runs one task after the other until its standard input ends. It imports little, because each start waits for it:
neither anyio nor a client of a broker.
"""

from __future__ import annotations

import os
import signal
import sys
from contextlib import suppress
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, cast

from fogactors.errors import UnknownTask
from fogactors.messages import ErrorInfo
from fogactors.tasks.frames import (
    HEADER,
    Answer,
    Command,
    Done,
    Failed,
    Load,
    Outcome,
    Ready,
    Run,
    Setup,
    Skipped,
    decode_command,
    encode,
)
from fogactors.tasks.retry import Retry, RetryPolicy, Skip
from fogactors.tasks.task import TaskDef

if TYPE_CHECKING:
    import io
    from types import FrameType

_PR_SET_PDEATHSIG: Final = 1
_DESCRIPTORS: Final = 65_536
"""One system call, whatever the number; the limit of the process may be a thousand times as high."""
_MESSAGE_LIMIT: Final = 4_000
_TRACEBACK_LIMIT: Final = 16_000
# Characters. A failure travels in a message and is kept in the store: an exception that quotes its input must not
# fill it.


def main() -> None:
    _die_with(int(sys.argv[1]))
    _die_first()
    # A handler instead of SIG_IGN: what the task starts would inherit SIG_IGN and never hear of a Ctrl-C of its own.
    signal.signal(signal.SIGINT, _ignore)
    pipe_in, pipe_out = _take_pipes()
    while (command := _receive(pipe_in)) is not None:
        answer = _answer(command)
        try:
            frame = encode(answer)
        except (ValueError, MemoryError) as error:
            frame = encode(_failed(error, RetryPolicy(retry_on=())))  # as large the next time
        _send(pipe_out, frame)


# -- the process ------------------------------------------------------------------------------------------------------


def _die_with(parent: int) -> None:
    """Be killed when the parent is gone, even in the middle of a task; elsewhere than on Linux, end after the task.

    To the kernel the parent is the thread that started us: the one of the event loop.
    """
    if sys.platform == "linux":
        import ctypes

        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, ctypes.c_ulong(signal.SIGKILL), 0, 0, 0)
    if os.getppid() != parent:  # it died before we asked
        os._exit(1)


def _die_first() -> None:
    """Let the kernel take us, and what the task starts, when memory runs out, and neither the executor nor a broker
    beside it: a task is delivered again, and they would take others with them.

    Not a little more likely but for certain: a broker may well hold half of the memory.
    """
    if sys.platform == "linux":
        with suppress(OSError):  # a sandbox that hides it; then it is as it was
            Path("/proc/self/oom_score_adj").write_text("1000")


def _ignore(_signal: int, _frame: FrameType | None) -> None:
    """The parent decides; it gets its own Ctrl-C."""


def _take_pipes() -> tuple[int, int]:
    """Move the pipes to descriptors of our own: a task's `print()` or `input()` must not touch the protocol.

    Programs that the task starts do not get them (they are not inheritable); what it merely forks has them replaced,
    or the pipe would stay open after our death and the parent would wait for it.
    """
    # uvloop leaves second copies of the pipes in the child, which all that the task starts would inherit.
    os.closerange(3, _DESCRIPTORS)
    pipe_in, pipe_out = os.dup(0), os.dup(1)
    null = os.open(os.devnull, os.O_RDWR)
    os.dup2(null, 0)
    os.dup2(2, 1)
    # It is a log now, and a killed process flushes nothing.
    cast("io.TextIOWrapper[Any]", sys.stdout).reconfigure(line_buffering=True)

    def detach() -> None:
        os.dup2(null, pipe_in, inheritable=False)
        os.dup2(null, pipe_out, inheritable=False)

    os.register_at_fork(after_in_child=detach)
    return pipe_in, pipe_out


def _receive(fd: int) -> Command | None:
    header = _read(fd, HEADER.size)
    return decode_command(_read(fd, HEADER.unpack(header)[0])) if header else None


def _read(fd: int, size: int) -> bytes:
    """Exactly `size` bytes, or none at the end: a half frame means that the parent died while it wrote."""
    data = bytearray()
    while len(data) < size:
        chunk = os.read(fd, size - len(data))
        if not chunk:
            return b""
        data += chunk
    return bytes(data)


def _send(fd: int, frame: bytes) -> None:
    view = memoryview(frame)
    while view:
        view = view[os.write(fd, view) :]


# -- the tasks --------------------------------------------------------------------------------------------------------


def _answer(command: Command) -> Answer:
    match command:
        case Run():
            return _run(command)
        case Load():
            return _load(command.module)
        case Setup():
            sys.path[:] = command.path
            # It carried the path as far as our own imports; programs that a task starts get back what was there.
            os.environ.pop("PYTHONPATH", None)
            if command.pythonpath is not None:
                os.environ["PYTHONPATH"] = command.pythonpath
            return Ready()


def _load(module: str) -> Ready | Failed:
    try:
        import_module(module)
    except BaseException as error:
        return _failed(error, RetryPolicy())
    return Ready()


def _run(job: Run) -> Outcome:
    policy = RetryPolicy()
    try:
        definition = _find(job.module, job.name)
        policy = definition.retry
        args, kwargs = definition.decode_args(job.args)
        return Done(bytes(definition.encode_result(definition.fn(*args, **kwargs))))
    except Skip as skip:
        return Skipped(_text(skip))
    except BaseException as error:  # SystemExit and KeyboardInterrupt too: a task that raises does not end the process
        return _failed(error, policy)


def _find(module: str, name: str) -> TaskDef[..., Any]:
    # The module's own names, not the default registry: a task may stand in a registry of the application's.
    for value in vars(import_module(module)).values():
        if isinstance(value, TaskDef) and value.name == name:
            return cast("TaskDef[..., Any]", value)
    raise UnknownTask(f"no task is named {name!r} in the module {module!r}")


# -- failures as data -------------------------------------------------------------------------------------------------


def _failed(error: BaseException, policy: RetryPolicy) -> Failed:
    info = ErrorInfo(type=type(error).__qualname__, message=_text(error), traceback=_traceback(error))
    return Failed(info, policy.retries(error), error.delay if isinstance(error, Retry) else None)


def _text(error: BaseException) -> str:
    try:
        text = str(error)
    except BaseException as unprintable:
        text = f"<its text raised {type(unprintable).__qualname__}>"
    return _portable(text[:_MESSAGE_LIMIT])


def _traceback(error: BaseException) -> str | None:
    try:
        import traceback

        # Without our own frame, which comes first.
        frames = error.__traceback__ and error.__traceback__.tb_next
        return _portable("".join(traceback.format_exception(type(error), error, frames))[-_TRACEBACK_LIMIT:])
    except BaseException:  # out of memory, or an exception whose __cause__ is a trap: the failure itself still counts
        return None


def _portable(text: str) -> str:
    """Lone surrogates, as in file names that are no UTF-8, cannot be encoded."""
    return text.encode("utf-8", "backslashreplace").decode()


if __name__ == "__main__":
    main()

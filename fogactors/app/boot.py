"""Running the program: the event loop, signals, the shutdown deadline, and errors turned into one line and an exit
code.

| code | meaning |
|---|---|
| 0 | stopped as asked |
| 1 | the work itself failed (a submitted task, a demo that lost something) |
| 2 | configuration or arguments, or refused by the broker |
| 3 | broker unreachable at boot |
| 4 | restart intensity exceeded |
| 5 | stuck: the shutdown budget ran out, or an actor did not end |
| 130, 143 | a second SIGINT or SIGTERM |
"""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import sys
import threading
import traceback
from collections.abc import Awaitable, Callable
from importlib.util import find_spec
from typing import Any, Final

import anyio

from fogactors.core import ChildStuck, Events
from fogactors.errors import FogError, exit_code, leaves

__all__ = ["EXIT_STUCK", "Stopping", "exit_code", "run"]

EXIT_STUCK: Final = 5
EXIT_PIPE: Final = 141
REPEAT_S: Final = 0.2
"""A signal that follows the first so closely is the same one: `timeout` sends it to the process and to its group."""


class Stopping:
    """Whether and why the program is to stop. `event` is set by the first signal, or by a child that is stuck."""

    def __init__(self, budget_s: float, events: Events | None = None) -> None:
        self.event = anyio.Event()
        self.code = 0
        self._asked = 0.0
        self._budget_s = budget_s
        if events is not None:
            events.subscribe(self._on_event)

    async def watch_signals(self) -> None:
        """Run in a task group beside the work. The first SIGINT or SIGTERM asks for a stop; a second one ends the
        process at once, with nothing saved but what the broker holds."""
        with anyio.open_signal_receiver(signal.SIGINT, signal.SIGTERM) as signals:
            async for number in signals:
                if self.event.is_set():
                    if anyio.current_time() - self._asked < REPEAT_S:
                        continue
                    _leave(128 + number, "stopped at once by a second signal; unfinished tasks are delivered again")
                print(f"fogactors: {signal.Signals(number).name}, draining; again to stop at once", file=sys.stderr)
                self.request()

    def request(self, code: int = 0) -> None:
        if not self.event.is_set():
            self.code = code
            self._asked = anyio.current_time()
            self._arm()
            self.event.set()

    def _on_event(self, event: object) -> None:
        # An actor that ignores its cancellation cannot be replaced within this process: start it anew.
        if isinstance(event, ChildStuck):
            self.request(EXIT_STUCK)

    def _arm(self) -> None:
        # A thread, because what keeps us from stopping may be the event loop itself, and os._exit because a hung
        # thread of somebody's library would hold up any politer exit.
        def give_up() -> None:
            _leave(EXIT_STUCK, f"did not stop within {self._budget_s:g} s; unfinished tasks are delivered again")

        timer = threading.Timer(self._budget_s, give_up)
        timer.daemon = True
        timer.start()


def run(main: Callable[[], Awaitable[int]], *, debug: bool = False) -> int:
    """Run `main` on uvloop where it is installed; returns the exit code."""
    # Looked for, not imported: anyio does that, and a platform without it runs on asyncio's own loop.
    use_uvloop = find_spec("uvloop") is not None

    async def quiet_main() -> int:
        asyncio.get_running_loop().set_exception_handler(_on_stray_error)
        return await main()

    try:
        return anyio.run(quiet_main, backend_options={"use_uvloop": use_uvloop})
    except KeyboardInterrupt:
        return 130
    except BaseException as error:
        if isinstance(error, (SystemExit, GeneratorExit)):
            raise
        return report(error, debug=debug)


def _on_stray_error(loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
    """uvloop does not take a lookup back whose connect has been given up: the name of a store that is away would leave
    a traceback in the log every few seconds."""
    if not isinstance(context.get("exception"), socket.gaierror):
        loop.default_exception_handler(context)


def report(error: BaseException, *, debug: bool) -> int:
    """Say what happened in one line; with `debug`, how. Returns the exit code."""
    causes = leaves(error)
    if any(isinstance(cause, BrokenPipeError) for cause in causes):
        # Whoever read our output has enough, as `head` does. What is left in the buffer has nowhere to go.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return EXIT_PIPE
    if debug:
        traceback.print_exception(error)
    # What is not ours is a bug of ours: the type is then half of the message.
    lines = [
        str(each) if isinstance(each, FogError) and str(each) else f"{type(each).__name__}: {each}" for each in causes
    ]
    for line in dict.fromkeys(lines):  # many tasks may have failed for one reason
        print(f"fogactors: {line}", file=sys.stderr)
    if not debug and any(not isinstance(cause, FogError) for cause in causes):
        print("fogactors: this is a bug; --debug shows where", file=sys.stderr)
    return exit_code(error)


def _leave(code: int, why: str) -> None:
    print(f"fogactors: {why}", file=sys.stderr, flush=True)
    os._exit(code)

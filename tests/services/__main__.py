"""The command: ``python -m tests.services start | stop | status | run -- COMMAND``.

Standard output carries only NAME=VALUE lines, so that ``eval "$(python -m tests.services status)"`` works in a shell
that exports what it assigns (``set -a``). Everything else goes to standard error. Exit codes: 0, 1 (`status`: nothing
runs), 2 (a service cannot run here, or did not start), 128 + the signal's number; `run` ends with its command's own.
"""

import argparse
import os
import shutil
import signal
import sys
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from functools import partial

import anyio
from anyio.abc import Process

from tests.services.errors import ServiceFailed, ServiceUnavailable
from tests.services.processes import file_lock
from tests.services.rabbitmq import RabbitMQ
from tests.services.redis_server import RedisServer
from tests.services.server import Server
from tests.services.state import base_folder, records, sweep

_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
_LOCK_S = 1800  # another start may be making the root
_COMMAND_GRACE_S = 30


def main(arguments: Sequence[str] | None = None) -> int:
    options = _parser().parse_args(arguments)
    commands: dict[str, Callable[[argparse.Namespace], Awaitable[int]]] = {
        "start": _start,
        "stop": _stop,
        "status": _status,
        "run": _run,
    }
    code = 2
    try:
        code = anyio.run(commands[options.command], options)
    except* (ServiceUnavailable, ServiceFailed, TimeoutError) as failures:
        _say(str(_first(failures)))
    return code


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m tests.services", description="A real RabbitMQ and a real Redis")
    commands = parser.add_subparsers(dest="command", required=True)
    helps = {"start": "start services and leave them running", "run": "run a command beside services of its own"}
    for name, text in helps.items():
        command = commands.add_parser(name, help=text, description=f"{text}; both services if none is named")
        command.add_argument(
            "--rabbitmq", metavar="VERSION", nargs="?", const=_default_version(), help="4.3 or 4.0 ($RABBITMQ, or 4.3)"
        )
        command.add_argument("--redis", action="store_true")
        if name == "run":
            command.add_argument("program", nargs="+", metavar="COMMAND", help="after --")
    commands.add_parser("stop", help="stop what `start` left running, and what a killed program left behind")
    commands.add_parser("status", help="print the URLs of what runs")
    return parser


async def _start(options: argparse.Namespace) -> int:
    async with _cancelled_by_signals() as received, file_lock(base_folder() / "lock", _LOCK_S):
        await sweep()
        running = {record.release: record for record in records() if record.kept and record.running.alive()}
        wanted = _wanted(options, os.environ, kept=True)
        async with AsyncExitStack() as stack:
            fresh = [server for server in wanted if server.release.name not in running]
            await _start_all(fresh, stack)
            stack.pop_all()  # all are up: from here on they are left running
        for server in wanted:
            record = running.get(server.release.name)
            _print(server.variables() if record is None else record.variables)
    return _exit_code(received)


async def _stop(options: argparse.Namespace) -> int:
    for name in await sweep():
        _say(f"stopped {name}, which a killed program had left behind")
    for record in records():
        if record.kept:
            await record.stop()
            _say(f"stopped {record.folder.name}")
    return 0


async def _status(options: argparse.Namespace) -> int:
    alive = [record for record in records() if record.kept and record.running.alive()]
    for record in alive:
        _say(f"{record.folder.name}, pid {record.running.pid}")
        _print(record.variables)
    return 0 if alive else 1


async def _run(options: argparse.Namespace) -> int:
    async with _cancelled_by_signals() as received, AsyncExitStack() as stack:
        servers = _wanted(options, os.environ, kept=False)
        try:
            await _start_all(servers, stack)
        except* ServiceUnavailable as failures:
            if os.environ.get("CI", "").lower() == "true":
                raise
            _say(f"without services: {_first(failures)}")
            servers = []
        environment = dict(os.environ)
        for server in servers:
            environment.update(server.variables())
        return await _command(options.program, environment, received)
    return _exit_code(received)


def _wanted(options: argparse.Namespace, environment: Mapping[str, str], *, kept: bool) -> list[Server]:
    """What is asked for; for `run` less what the environment already points to."""
    both = options.rabbitmq is None and not options.redis
    servers: list[Server] = []
    if (options.rabbitmq or both) and (kept or not environment.get("FOGACTORS_TEST_AMQP_URL")):
        servers.append(RabbitMQ(options.rabbitmq or _default_version(), kept=kept))
    if (options.redis or both) and (kept or not environment.get("FOGACTORS_TEST_REDIS_URL")):
        servers.append(RedisServer(kept=kept))
    return servers


async def _start_all(servers: Sequence[Server], stack: AsyncExitStack) -> None:
    async with anyio.create_task_group() as group:
        for server in servers:
            stack.push_async_callback(partial(_stop_shielded, server))
            group.start_soon(_start_one, server)


async def _start_one(server: Server) -> None:
    boot = await server.start()
    _say(f"{server.release.product} {server.version} is ready after {boot.ready_s:.1f} s (pid {server.pid})")


async def _stop_shielded(server: Server) -> None:
    with anyio.CancelScope(shield=True):
        await server.stop()


async def _command(program: Sequence[str], environment: dict[str, str], received: "list[signal.Signals]") -> int:
    """Run the command to its end, or, after a signal, until it has had its time to stop."""
    # Without it the command would outlive us when we are killed, and go on without its services.
    follow = ("setpriv", "--pdeathsig", "TERM", "--") if shutil.which("setpriv") else ()
    try:
        process = await anyio.open_process((*follow, *program), stdin=None, stdout=None, stderr=None, env=environment)
    except OSError as error:
        _say(f"{program[0]}: {error.strerror}")
        return 127
    try:
        return await process.wait()
    except anyio.get_cancelled_exc_class():
        with anyio.CancelScope(shield=True):
            await _end_command(process, received[0])
        raise


async def _end_command(process: Process, number: signal.Signals) -> None:
    # Ctrl-C in a terminal has reached the command as well, and a second one would cut off its cleanup.
    if not (number == signal.SIGINT and sys.stdin.isatty()):
        with suppress(ProcessLookupError):  # it has ended by itself, e.g. by the same signal
            process.send_signal(number)
    with anyio.move_on_after(_COMMAND_GRACE_S):
        await process.wait()
    if process.returncode is None:
        process.kill()
        await process.wait()


@asynccontextmanager
async def _cancelled_by_signals() -> AsyncGenerator["list[signal.Signals]"]:
    """The first signal cancels the body, which then cleans up; the caller finds it in the list."""
    received: list[signal.Signals] = []

    async def listen(scope: anyio.CancelScope) -> None:
        with anyio.open_signal_receiver(*_SIGNALS) as signals:
            async for number in signals:
                received.append(number)
                scope.cancel()

    async with anyio.create_task_group() as group:
        with anyio.CancelScope() as body:
            group.start_soon(listen, body)
            yield received
        group.cancel_scope.cancel()


def _exit_code(received: "list[signal.Signals]") -> int:
    return 128 + received[0] if received else 0


def _first(failures: BaseExceptionGroup[BaseException]) -> BaseException:
    error = failures.exceptions[0]
    return _first(error) if isinstance(error, BaseExceptionGroup) else error


def _default_version() -> str:
    return os.environ.get("RABBITMQ") or "4.3"


def _print(variables: dict[str, str]) -> None:
    for name, value in variables.items():
        sys.stdout.write(f"{name}={value}\n")
    sys.stdout.flush()


def _say(text: str) -> None:
    sys.stderr.write(f"{text}\n")


if __name__ == "__main__":
    sys.exit(main())

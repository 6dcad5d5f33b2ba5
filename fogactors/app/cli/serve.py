"""`fogactors run <role>` and `fogactors up`: run until told to stop."""

from __future__ import annotations

import sys
from difflib import get_close_matches
from typing import Annotated

import anyio
import typer
from rich.console import Console

from fogactors.app.boot import Stopping
from fogactors.app.cli.common import Imports, checked_settings
from fogactors.app.cli.common import run as run_main
from fogactors.app.program import Program
from fogactors.app.settings import Settings, masked
from fogactors.app.workers import stop_with
from fogactors.core import Events
from fogactors.errors import ConfigError
from fogactors.observe.board import Board
from fogactors.observe.console import live
from fogactors.observe.log import Log
from fogactors.observe.probe import probing
from fogactors.roles import ROLES, UP

__all__ = ["run", "up"]


def run(
    role: Annotated[str, typer.Argument(metavar="ROLE", help=f"One of: {', '.join(ROLES)}.")],
    tier: Annotated[
        list[str] | None, typer.Option("--tier", "-t", metavar="TIER", help="For tier-executor; repeatable.")
    ] = None,
    imports: Imports = None,
    parent: Annotated[int | None, typer.Option("--parent", hidden=True)] = None,
) -> None:
    """Run one role until SIGTERM or SIGINT, then drain."""
    if parent is not None:
        stop_with(parent)
    if role not in ROLES:
        near = get_close_matches(role, ROLES, n=1)
        hint = f" (did you mean {near[0]}?)" if near else ""
        raise ConfigError(f"there is no role {role!r}{hint}; the roles are: {', '.join(ROLES)}")
    settings = checked_settings(imports)
    tiers = _tiers(settings, tier)
    if role == "tier-executor" and tier is None:
        names = ", ".join(each.name for each in settings.tiers)
        raise ConfigError(f"name the tier that this executor is to serve with --tier: {names}")
    if role == "metrics-sink" and settings.metrics.port == 0:
        raise ConfigError("[metrics] port is 0: name the port for Prometheus, e.g. FOGACTORS_METRICS__PORT=9464")
    roles = (role,) if ROLES[role].beats else ("heartbeat", role)
    run_main(lambda: _serve(settings, roles, tiers, role, show=False))


def up(
    tier: Annotated[
        list[str] | None, typer.Option("--tier", "-t", metavar="TIER", help="Executors for these only; repeatable.")
    ] = None,
    imports: Imports = None,
    no_live: Annotated[bool, typer.Option("--no-live", help="Log lines instead of the live display.")] = False,
) -> None:
    """Run in this process what it takes to run tasks, until SIGTERM or SIGINT, then drain."""
    settings = checked_settings(imports)
    show = not no_live and sys.stdout.isatty()
    run_main(lambda: _serve(settings, UP, _tiers(settings, tier), "up", show=show))


def _tiers(settings: Settings, wanted: list[str] | None) -> tuple[str, ...] | None:
    names = [tier.name for tier in settings.tiers]
    unknown = next((name for name in wanted or () if name not in names), None)
    if unknown is not None:
        raise ConfigError(f"there is no tier {unknown!r}; [tiers] has: {', '.join(names)}")
    return tuple(wanted) if wanted else None


async def _serve(
    settings: Settings, roles: tuple[str, ...], tiers: tuple[str, ...] | None, name: str, *, show: bool
) -> int:
    events = Events()
    log = Log(settings.log.level, settings.log.format, node=settings.node.name, role=name)
    if not show:  # the display has the terminal to itself, and shows what went wrong
        log.attach(events)
    broker = any(ROLES[role].runs_broker for role in roles)
    # An actor that cannot be replaced ends the process, but not a broker that is well: people decide when that ends.
    stopping = Stopping(
        settings.cluster.stop_budget_s if broker else settings.shutdown.budget_s, None if broker else events
    )
    async with anyio.create_task_group() as beside:
        beside.start_soon(stopping.watch_signals)
        with probing(settings.probe.host, settings.probe.port, dead_s=settings.heartbeat.loop_dead_s) as health:
            async with Program.start(
                settings,
                roles,
                tiers=tiers,
                events=events,
                urgent=log.write_urgent,
                request_stop=stopping.request,
                stop=stopping.event,
                health=health,
            ) as program:
                await _until_stopped(program, events, stopping, name, show=show)
        beside.cancel_scope.cancel()
    return stopping.code


async def _until_stopped(program: Program, events: Events, stopping: Stopping, name: str, *, show: bool) -> None:
    if show:
        async with anyio.create_task_group() as display:
            display.start_soon(_live, program, events)
            await stopping.event.wait()
            display.cancel_scope.cancel()
    else:
        hint = "; the bus is embedded, so nothing outside this process reaches it"
        where = hint if program.services.is_embedded else f" on {masked(program.settings.bus.url)}"
        print(f"fogactors: {name} is up{where} (stop with Ctrl-C or SIGTERM)", file=sys.stderr, flush=True)
        await stopping.event.wait()


async def _live(program: Program, events: Events) -> None:
    board = Board()
    board.attach(events)
    await live(program, board, console=Console())

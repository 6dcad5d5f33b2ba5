"""`fogactors nodes`: who beats, and what its tier has in hand. It asks Redis alone, so it works without the broker."""

from __future__ import annotations

import sys
from datetime import UTC, datetime
from typing import Final

from rich.console import Console

from fogactors.app.cli.common import Json, load_settings, print_json
from fogactors.app.cli.common import run as run_main
from fogactors.app.reach import open_redis
from fogactors.app.settings import Settings
from fogactors.errors import ConfigError
from fogactors.messages import Beat
from fogactors.observe.trees import plain_table

__all__ = ["nodes"]

EXIT_NOBODY: Final = 1


def nodes(json: Json = False) -> None:
    """List the processes whose heartbeat lives, and how full their tiers are. Exits 1 when there is none."""
    settings = load_settings()
    if settings.coord.url.startswith("memory:"):
        raise ConfigError("[coord] url is memory://: its heartbeats end with its process; name the Redis, redis://...")
    run_main(lambda: _nodes(settings, json))


async def _nodes(settings: Settings, json: bool) -> int:
    async with open_redis(settings, "nodes") as coord:
        beats = await coord.beats()
    if json:
        print_json(beats)
    elif beats:
        print_beats(beats, datetime.now(UTC))
    else:
        print("fogactors: nobody beats; do roles run with this Redis?", file=sys.stderr)
    return 0 if beats else EXIT_NOBODY


def print_beats(beats: list[Beat], now: datetime) -> None:
    """`lag`: by how much the event loop was late. `cpu`, `memory`: reserved by what runs, of what the tier may use."""
    table = plain_table("node", "role", "beat", "lag", "cpu", "memory", "running", numbers=("running",))
    for beat in beats:
        ago_s = max(0.0, (now - beat.at).total_seconds())  # clocks of two machines: it may come out below 0
        has = beat.cpu is not None
        cpu = f"{beat.cpu_used or 0:g}/{beat.cpu:g}" if has else ""
        memory = f"{beat.memory_used_mb or 0}/{beat.memory_mb} MiB" if has else ""
        running = str(beat.running or 0) if has else ""
        table.add_row(beat.node, beat.role, f"{ago_s:.0f} s ago", f"{beat.lag_s:g} s", cpu, memory, running)
    Console().print(table)

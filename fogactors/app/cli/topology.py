"""`fogactors topology`: the exchanges, queues, bindings and policies, wanted and there."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import msgspec
import typer
from rich.console import Console

from fogactors.app.cli.common import Json, load_settings, print_json
from fogactors.app.cli.common import run as run_main
from fogactors.app.services import topology_of
from fogactors.app.settings import Settings
from fogactors.app.topology import apply_topology, diff_topology, is_embedded
from fogactors.bus.hosts import parse_hosts
from fogactors.bus.management import definitions, policy_definition
from fogactors.errors import ConfigError
from fogactors.observe.trees import plain_table
from fogactors.wire import Topology

__all__ = ["topology"]

EXIT_DIFFERENT = 2

topology = typer.Typer(
    help="Exchanges, queues, bindings and policies: show, apply, diff, export.", no_args_is_help=True
)


@topology.command()
def show(json: Json = False) -> None:
    """What the system needs of a broker, from the tiers in actors.toml. Asks no broker."""
    wanted = topology_of(load_settings())
    if json:
        print_json(definitions(wanted, "/fog"))
        return
    console = Console()
    table = plain_table("exchange", "type")
    for exchange in wanted.exchanges:
        table.add_row(exchange.name, exchange.type)
    console.print(table, "")
    table = plain_table("queue", "type", "bound to")
    policies: dict[str, list[str]] = {}
    for queue in (*wanted.queues, *(family.queue for family in wanted.families)):
        bound = ", ".join(f"{each.exchange} {each.key}".strip() for each in wanted.bindings if each.queue == queue.name)
        table.add_row(queue.name, queue.type, bound)
        policy = "\n".join(
            f"{key} {'(default)' if value == '' else value}" for key, value in policy_definition(queue).items()
        )
        policies.setdefault(policy, []).append(queue.name)
    console.print(table, "")
    table = plain_table("policy", "of the queues")
    table.columns[0].no_wrap = False  # 80 columns do not hold the name of a long queue beside that of its waiting room
    for policy, queues in policies.items():
        table.add_row(policy + "\n", "\n".join(queues) + "\n")
    console.print(table)


@topology.command()
def apply(
    create_vhost: Annotated[bool, typer.Option("--create-vhost", help="Make the virtual host first.")] = False,
    json: Json = False,
) -> None:
    """Make the broker have it: policies first, then exchanges, queues and bindings. May be repeated. Exits 2 when
    something could not be mended."""
    settings = _remote(load_settings())
    run_main(lambda: _apply(settings, create_vhost, json))


@topology.command()
def diff(json: Json = False) -> None:
    """What the broker lacks or has otherwise, a line each. Exits 2 when there is anything."""
    settings = _remote(load_settings())
    run_main(lambda: _diff(settings, json))


@topology.command()
def export(
    out: Annotated[Path | None, typer.Option("--out", "-o", metavar="FILE", help="Instead of standard output.")] = None,
) -> None:
    """Print definitions.json: for a broker that loads it at boot. It has no users in it."""
    settings = load_settings()
    vhost = "/fog" if is_embedded(settings) else parse_hosts(settings.bus.url).vhost
    text = msgspec.json.format(msgspec.json.encode(definitions(topology_of(settings), vhost))).decode()
    if out is None:
        print(text)
        return
    try:
        out.write_text(text + "\n")
    except OSError as error:
        raise ConfigError(f"--out {out} cannot be written: {error.strerror or error}") from error


async def _apply(settings: Settings, create_vhost: bool, json: bool) -> int:
    done = await apply_topology(settings, create_vhost=create_vhost)
    if json:
        print_json({"mended": done.mended, "left": done.left})
        return EXIT_DIFFERENT if done.left else 0
    mended = f"{done.mended} differences mended" if done.mended or done.left else "all there already"
    print(f"{_count(done.topology)}: {mended}")
    for each in done.left:  # another's policy takes precedence over ours: to change it is the operator's decision
        print(f"not mended: {each}")
    return EXIT_DIFFERENT if done.left else 0


async def _diff(settings: Settings, json: bool) -> int:
    found = await diff_topology(settings)
    if json:
        print_json(found)
    else:
        for each in found:
            print(each)
        if not found:
            print(f"{_count(topology_of(settings))}: no difference")
    return EXIT_DIFFERENT if found else 0


def _remote(settings: Settings) -> Settings:
    if is_embedded(settings):
        raise ConfigError("[bus] url is memory://, which always has its topology; name a RabbitMQ, amqp://...")
    if not settings.bus.management_url:
        raise ConfigError("[bus] management_url is needed for this, e.g. http://user:password@host:15672")
    return settings


def _count(wanted: Topology) -> str:
    return f"{len(wanted.exchanges)} exchanges, {len(wanted.queues)} queues, {len(wanted.bindings)} bindings"

"""`fogactors ping`, `pause`, `resume` and `drain`: orders to roles that run."""

from __future__ import annotations

import sys
from typing import Annotated

import typer
from rich.console import Console

from fogactors.app.cli.common import Json, load_settings, print_json
from fogactors.app.cli.common import run as run_main
from fogactors.app.orders import ANSWER_S, give
from fogactors.app.settings import Settings
from fogactors.messages import Command, ControlReply
from fogactors.observe.trees import plain_table

__all__ = ["NodeOption", "RoleOption", "WaitOption", "drain", "pause", "ping", "print_replies", "resume"]

EXIT_NOBODY = 1

NodeOption = Annotated[str | None, typer.Option("--node", metavar="NODE", help="Only the roles of this node.")]
RoleOption = Annotated[
    str | None,
    typer.Option("--role", metavar="ROLE", help="Only this role, e.g. tier-executor or tier-executor-light."),
]
WaitOption = Annotated[float, typer.Option("--wait", metavar="SECONDS", help="How long to collect answers.")]


def ping(node: NodeOption = None, role: RoleOption = None, wait: WaitOption = ANSWER_S, json: Json = False) -> None:
    """List the roles that answer. Exits 1 when none does."""
    _order("ping", node, role, wait, json)


def pause(node: NodeOption = None, role: RoleOption = None, wait: WaitOption = ANSWER_S, json: Json = False) -> None:
    """Executors take nothing more and hand back what waits; what runs may finish. Until `resume`, or their end."""
    _order("pause", node, role, wait, json)


def resume(node: NodeOption = None, role: RoleOption = None, wait: WaitOption = ANSWER_S, json: Json = False) -> None:
    """The end of a pause."""
    _order("resume", node, role, wait, json)


def drain(
    node: Annotated[str, typer.Argument(metavar="NODE", help="The node whose processes are to drain and end.")],
    role: RoleOption = None,
    wait: WaitOption = ANSWER_S,
    json: Json = False,
) -> None:
    """Processes of a node drain and end with exit code 0, as on SIGTERM."""
    _order("drain", node, role, wait, json)


def _order(command: Command, node: str | None, role: str | None, wait: float, json: bool) -> None:
    settings = load_settings()
    run_main(lambda: _give(settings, command, node, role, wait, json))


async def _give(
    settings: Settings, command: Command, node: str | None, role: str | None, wait: float, json: bool
) -> int:
    replies = await give(settings, command, node=node, role=role, wait_s=wait)
    print_replies(replies, json=json)
    return 0 if replies else EXIT_NOBODY


def print_replies(replies: list[ControlReply], *, json: bool) -> None:
    if json:
        print_json(replies)
        return
    if not replies:
        print("fogactors: nobody answered; do the roles run on this broker?", file=sys.stderr)
        return
    table = plain_table("node", "role", "answer")
    for reply in replies:
        table.add_row(reply.node, reply.role, reply.error or "ok")
    Console().print(table)

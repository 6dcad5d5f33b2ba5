"""`fogactors ping`, `pause`, `resume` and `drain`, which are orders to roles; `cancel` and `where`, about tasks."""

from __future__ import annotations

import sys
from typing import Annotated

import anyio
import typer
from rich.console import Console

from fogactors.app.cli.common import Json, load_settings, print_json
from fogactors.app.cli.common import run as run_main
from fogactors.app.cli.dlq.printing import printable
from fogactors.app.orders import ANSWER_S, give, tracking
from fogactors.app.settings import Settings
from fogactors.errors import BusError, CoordError
from fogactors.messages import Command, ControlReply
from fogactors.observe.trees import plain_table
from fogactors.tasks.tracker import Cancellation, Tracker, Whereabouts

__all__ = [
    "NodeOption",
    "RoleOption",
    "WaitOption",
    "cancel",
    "drain",
    "pause",
    "ping",
    "print_replies",
    "resume",
    "where",
]

EXIT_NOBODY = 1
EXIT_NOT_CANCELLED = 1
AT_ONCE = 100
"""Tasks that are cancelled at the same time: each waits up to a second for the executor that has it."""

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


# -- tasks


def cancel(
    ids: Annotated[list[str], typer.Argument(metavar="ID...", help="Ids of tasks.")],
    json: Json = False,
) -> None:
    """End tasks as cancelled, wherever they are. Exits 1 when one had ended otherwise, or could not be cancelled."""
    settings = load_settings()
    run_main(lambda: _cancel(settings, list(dict.fromkeys(ids)), json))


def where(
    id: Annotated[str, typer.Argument(metavar="ID", help="A task's id.")],  # noqa: A002
    json: Json = False,
) -> None:
    """Say where a task is: how it ended, or who has it in hand since when, or that it is queued or unknown."""
    settings = load_settings()
    run_main(lambda: _where(settings, id, json))


async def _cancel(settings: Settings, ids: list[str], json: bool) -> int:
    done: dict[str, Cancellation | BusError | CoordError] = {}
    room = anyio.CapacityLimiter(AT_ONCE)

    async def end(tracker: Tracker, id_: str) -> None:
        async with room:
            try:
                done[id_] = await tracker.cancel(id_)
            except (BusError, CoordError) as error:  # the others are tried all the same
                done[id_] = error

    async with tracking(settings) as tracker, anyio.create_task_group() as tasks:
        for id_ in ids:
            tasks.start_soon(end, tracker, id_)
    results = [done[id_] for id_ in ids]
    errors = [each for each in results if isinstance(each, Exception)]
    found = [each for each in results if isinstance(each, Cancellation)]
    if json:
        print_json(found)
    else:
        for each in found:
            print(_cancelled(each))
    for error in errors[:-1]:
        print(f"fogactors: {error}", file=sys.stderr)
    if errors:
        raise errors[-1]  # says itself, and gives the exit code
    return 0 if all(each.state == "cancelled" for each in found) else EXIT_NOT_CANCELLED


def _cancelled(each: Cancellation) -> str:
    held = f", it was {each.found} on {each.worker}" if each.found != "not held" else ""
    note = f"; {each.note}" if each.note else ""
    return f"{each.task_id}: {each.state}{held}{note}"


async def _where(settings: Settings, id_: str, json: bool) -> int:
    async with tracking(settings) as tracker:
        found = await tracker.where(id_)
    if json:
        print_json(found)
    else:
        print(_found(found))
    return 0


def _found(each: Whereabouts) -> str:
    name = f", {each.name}" if each.name else ""
    worker = f" on {each.worker}" if each.worker else ""
    since = f" since {each.since.isoformat(timespec='seconds')}" if each.since else ""
    attempt = f", attempt {each.attempts}" if each.attempts else ""
    progress = "" if each.progress is None else f", {each.progress:.0%} done"
    note = f" ({printable(' '.join(each.note.split()))})" if each.note else ""
    return f"{each.task_id}: {each.state}{worker}{since}{attempt}{name}{progress}{note}"

"""`fogactors check` and `fogactors tree`: look, without running anything."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any

import msgspec
import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from fogactors.app.check import check as find
from fogactors.app.cli.common import Imports, Json, load_settings, print_json
from fogactors.app.cli.common import run as run_main
from fogactors.app.cli.control import NodeOption, WaitOption, print_replies
from fogactors.app.orders import ANSWER_S, give
from fogactors.app.program import role_context
from fogactors.app.services import Embedded
from fogactors.app.settings import Settings, masked
from fogactors.bus import MemoryBroker
from fogactors.core import ChildSpec, Node, SupervisorSpec
from fogactors.errors import ConfigError
from fogactors.observe.trees import tree_live, tree_spec
from fogactors.roles import ROLES, UP, up_tree

__all__ = ["check", "tree"]

EXIT_CONFIG = 2


@dataclass(frozen=True, slots=True)
class _Row:
    key: str
    value: object
    source: str


def _shown(key: str, value: object) -> object:
    if key.endswith(".password"):
        return "***" if value else ""
    return masked(value) if isinstance(value, str) else value


def check(
    imports: Imports = None,
    json: Json = False,
    values: Annotated[bool, typer.Option("--values", help="Also every value and where it comes from.")] = False,
) -> None:
    """Validate actors.toml, the environment and the task modules; say what does not go together."""
    settings = load_settings(imports)
    findings = find(settings)
    failed = any(finding.level == "error" for finding in findings)
    rows = [_Row(key, _shown(key, value), settings.source(key)) for key, value in settings.items()]
    if json:
        print_json({"ok": not failed, "findings": findings, "values": rows})
    else:
        console = Console()
        if values:
            table = Table("key", "value", "from", box=None, pad_edge=False)
            for row in rows:
                table.add_row(row.key, escape(str(row.value)), row.source)
            console.print(table)
        for finding in findings:
            console.print(f"{finding.level}: {finding.key}: {finding.text}", markup=False, highlight=False)
        if not findings:
            console.print(f"ok: {len(rows)} settings, nothing that does not go together", highlight=False)
    raise typer.Exit(EXIT_CONFIG if failed else 0)


def tree(
    role: Annotated[str | None, typer.Argument(metavar="[ROLE]", help="Only this role's trees.")] = None,
    live: Annotated[bool, typer.Option("--live", help="Of the processes that run, with state and restarts.")] = False,
    node: NodeOption = None,
    wait: WaitOption = ANSWER_S,
    json: Json = False,
) -> None:
    """Print the supervision tree: its specification (strategies, restarts, budgets), or the live ones."""
    if role is not None and role not in ROLES:
        raise ConfigError(f"there is no role {role!r}; the roles are: {', '.join(ROLES)}")
    settings = load_settings()
    if live:
        run_main(lambda: _live(settings, node, role, wait, json))
    # Only looked at: neither a broker nor a store is asked, whatever the URLs say.
    context = role_context(settings, Embedded(MemoryBroker()))
    names = UP if role is None else (role,)
    spec = up_tree(context, names, context.tiers.names)
    if json:
        print_json(_as_data(spec))
    else:
        Console().print(tree_spec((spec,)))


async def _live(settings: Settings, node: str | None, role: str | None, wait: float, json: bool) -> int:
    replies = await give(settings, "tree", node=node, role=role, wait_s=wait)
    if json or not replies:
        print_replies(replies, json=json)
    # Every role of a process answers with the tree of all of it: one of them will do.
    seen: set[bytes] = set()
    for reply in () if json else replies:
        body = bytes(reply.data or b"[]")
        if body not in seen:
            seen.add(body)
            console = Console()
            console.print(f"{reply.node}", style="bold")
            console.print(tree_live(msgspec.json.decode(body, type=tuple[Node, ...])))
    return 0 if replies else 1


def _as_data(spec: ChildSpec | SupervisorSpec) -> dict[str, Any]:
    row: dict[str, Any] = {"id": spec.id, "kind": spec.kind, "restart": spec.restart}
    row |= {"start_s": spec.start_s, "shutdown_s": spec.shutdown_s}
    if isinstance(spec, ChildSpec):
        return row | {"mailbox": spec.mailbox, "overflow": spec.overflow}
    row |= {"strategy": spec.strategy, "exceeded": spec.exceeded}
    row |= {"intensity": spec.intensity.max_restarts, "period_s": spec.intensity.period_s}
    return row | {"children": [_as_data(child) for child in spec.children]}

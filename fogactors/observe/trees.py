"""Trees of actors as tables: what they should be (`tree_spec`) and what they are (`tree_live`)."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Final

from rich.table import Table
from rich.text import Text

from fogactors.core import ChildSpec, Node, SupervisorSpec, walk

__all__ = ["plain_table", "tree_live", "tree_spec"]

_STYLES: Final = {"running": "green", "stuck": "bold red", "restarting": "yellow", "starting": "yellow"}


def plain_table(*headers: str, numbers: Iterable[str] = ()) -> Table:
    """A table without lines, as wide as its content. `numbers`: the columns that are aligned to the right."""
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="dim")
    for header in headers:
        table.add_column(header, justify="right" if header in numbers else "left", no_wrap=True, overflow="ellipsis")
    return table


def tree_spec(specs: Iterable[ChildSpec | SupervisorSpec]) -> Table:
    """The specification. Start and stop are budgets in seconds; a supervisor's are the sums of its children's."""
    table = plain_table("actor", "restart", "policy", "start", "stop", numbers=("start", "stop"))
    for root in specs:
        for path, spec in walk(root):
            style = "bold" if spec.kind == "supervisor" else ""
            name = Text("  " * path.count("/") + spec.id, style=style)
            table.add_row(name, spec.restart, Text(_policy(spec)), f"{spec.start_s:g} s", f"{spec.shutdown_s:g} s")
    return table


def _policy(spec: ChildSpec | SupervisorSpec) -> str:
    if isinstance(spec, SupervisorSpec):
        intensity = f"{spec.intensity.max_restarts} in {spec.intensity.period_s:g} s"
        return f"{spec.strategy}, {intensity}, {spec.exceeded}"
    return f"mailbox {spec.mailbox}, {spec.overflow}"


def tree_live(nodes: Iterable[Node]) -> Table:
    """The tree as it is now: state, restarts so far, messages in the mailbox."""
    table = plain_table("actor", "state", "restarts", "mailbox", numbers=("restarts", "mailbox"))
    for depth, node in _flat(nodes):
        style = "bold" if node.kind == "supervisor" else ""
        table.add_row(
            Text("  " * depth + node.id, style=style),
            Text(node.state, style=_STYLES.get(node.state, "dim")),
            Text(str(node.restarts), style="yellow" if node.restarts else "dim"),
            Text(str(node.queued), style="" if node.queued else "dim"),
        )
    return table


def _flat(nodes: Iterable[Node], depth: int = 0) -> Iterator[tuple[int, Node]]:
    for node in nodes:
        yield depth, node
        yield from _flat(node.children, depth + 1)

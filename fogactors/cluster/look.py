"""Looks at the other nodes: first whether there is one, which is cheap, then what it says of its cluster."""

from __future__ import annotations

from collections.abc import Iterable

import anyio

from fogactors.cluster.ctl import Ctl, CtlFailed
from fogactors.cluster.epmd import has_node
from fogactors.cluster.plan import Peer, Reach

__all__ = ["look_at", "reach"]


async def reach(nodes: Iterable[str], port: int) -> dict[str, Reach]:
    """What the port mappers say, all at once. `up` means here that the node's Erlang machine runs."""
    found: dict[str, Reach] = {}

    async def ask(node: str) -> None:
        seen = await has_node(node, port)
        found[node] = "up" if seen == "there" else seen

    async with anyio.create_task_group() as tasks:
        for node in nodes:
            tasks.start_soon(ask, node)
    return found


async def look_at(ctl: Ctl, nodes: Iterable[str], port: int) -> tuple[Peer, ...]:
    """Each node in its own words. Those whose machine runs are asked one after the other."""
    peers: list[Peer] = []
    names = tuple(nodes)
    reached = await reach(names, port)
    for node in names:
        if reached[node] != "up":
            peers.append(Peer(name=node, reach=reached[node]))
            continue
        try:
            status = await ctl.status(node)
        except CtlFailed as error:
            # A broker that boots, or whose answer takes too long, is one that nobody can build on now.
            peers.append(Peer(name=node, reach="refused" if error.kind == "refused" else "down"))
        else:
            peers.append(Peer(name=node, reach="up", members=status.members, running=status.running))
    return tuple(peers)

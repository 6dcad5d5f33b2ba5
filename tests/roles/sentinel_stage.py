"""A stage for a sentinel. Its tools and its server are scripts: real processes, whose answers the test has written."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import anyio
from anyio.abc import SocketAttribute, SocketStream

from fogactors.app.program import role_context
from fogactors.app.services import Embedded
from fogactors.app.settings import ClusterSettings, Settings
from fogactors.app.settings_users import DEFAULT_USERS, UserSettings
from fogactors.bus import MemoryBroker
from fogactors.core import ActorSystem, Backoff
from fogactors.roles import node_sentinel
from fogactors.testing import EventRecorder
from fogactors.wire import fog_topology

__all__ = ["A", "B", "C", "Stage", "running", "stage"]

A, B, C = "rabbit@127.0.0.1", "other@127.0.0.1", "third@127.0.0.1"
_TOOL = """#!/bin/sh
# $1: the program. Answers are files; the server runs until it is told to end.
here="{folder}"
echo "$@" >> "$here/calls"
case "$1" in
rabbitmq-server)
    [ -e "$here/breaks" ] && exit 1
    mkdir -p "$here/data/{node}" && touch "$here/data/{node}/something"
    echo "$RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS" > "$here/arguments"
    trap 'rm -f "$here/up"; exit 0' TERM
    touch "$here/up"
    while :; do sleep 0.02; done ;;
esac
[ -e "$here/hangs" ] && exec sleep 60
case "$*" in
*cluster_status*)
    [ -e "$here/peer-hangs" ] && exec sleep 60
    name={node}
    [ "$2" = -n ] && name="$3"
    [ "$name" != {node} ] || [ -e "$here/up" ] || {{ echo "Error: unable to perform an operation on node"; exit 69; }}
    cat "$here/status-$name" ;;
*await_online_quorum_plus_one*)
    rm "$here/elects" 2>/dev/null || exit 0
    echo "Error:"; echo "a queue does not answer"; exit 69 ;;
*check_if_node_is_quorum_critical*)
    rm "$here/busy" 2>/dev/null && {{ echo "Error: unable to perform an operation on node"; exit 69; }}
    echo "Error:"; echo "quorum queue 'tasks.normal' in vhost '/fog'"; exit 69 ;;
*list_queues*) echo '[]' ;;
*list_users*) cat "$here/users" 2>/dev/null || echo '[{{"user":"guest","tags":["administrator"]}}]' ;;
esac
"""


@dataclass
class Stage:
    """A sentinel of `A`, with what its tools say. `registered`: the nodes that the port mapper knows."""

    folder: Path
    store: Any = None
    sentinel: Any = None
    recorder: Any = None
    tree: Any = None
    registered: set[str] = field(default_factory=set)

    def says(self, node: str, members: str, running: str) -> None:
        answer = {"disk_nodes": members.split(), "running_nodes": running.split(), "alarms": [], "partitions": {}}
        fresh = self.folder / "fresh"
        fresh.write_text(json.dumps(answer))
        fresh.rename(self.folder / f"status-{node}")

    @property
    def calls(self) -> list[str]:
        path = self.folder / "calls"
        return path.read_text().splitlines() if path.exists() else []

    @property
    def data(self) -> Path:
        return self.folder / "data" / A


@asynccontextmanager
async def stage(
    folder: Path, *nodes: str, users: tuple[UserSettings, ...] = DEFAULT_USERS, **settings: Any
) -> AsyncIterator[Stage]:
    """Nothing runs before `running`."""
    here = Stage(folder)
    tool = folder / "tool"
    tool.write_text(_TOOL.format(folder=folder, node=A))
    tool.chmod(0o755)

    async def answer(stream: SocketStream) -> None:
        async with stream:
            await stream.receive()
            lines = "".join(f"name {name} at port 1\n" for name in here.registered)
            await stream.send(b"\x00\x00\x11\x11" + lines.encode())

    listener = await anyio.create_tcp_listener(local_host="127.0.0.1")
    async with anyio.create_task_group() as tasks, MemoryBroker() as broker:
        tasks.start_soon(listener.serve, answer)
        broker.declare(fog_topology())
        services = Embedded(broker)
        here.store = services.store
        cluster = ClusterSettings(
            nodes=nodes,
            node=A,
            data_dir=str(folder / "data"),
            command=(str(tool),),
            epmd_port=listener.extra(SocketAttribute.local_port),
            **{"reach_every_s": 0.1, "lease_s": 1.0, "stop_wait_s": 2.0, **settings},
        )
        context = role_context(Settings(cluster=cluster, users=users), services)
        here.sentinel = node_sentinel.sentinel_of(context, {"PATH": "/usr/bin:/bin"})
        tree = node_sentinel.tree(context, here.sentinel)
        here.tree = replace(tree, backoff=Backoff(first_s=0.05, max_s=0.1))
        try:
            yield here
        finally:
            with anyio.CancelScope(shield=True):
                await here.sentinel.server.kill()
                await context.coord.close()
            tasks.cancel_scope.cancel()
    await listener.aclose()


@asynccontextmanager
async def running(here: Stage) -> AsyncIterator[EventRecorder]:
    async with ActorSystem() as system:
        recorder = EventRecorder(system)
        await system.start(here.tree)
        yield recorder
    here.recorder = recorder

"""RabbitMQ's own command line tools as processes: documented commands only, each with a deadline, one at a time, and
beside it one of those that go through all queues: the cluster is looked at also while they do.

Each costs half a second of processor time or more, because it starts an Erlang machine of its own. So the sentinel asks
seldom, and `fogactors.cluster.epmd` first, which costs nothing.
"""

from __future__ import annotations

import json
import os
import re
import signal
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from subprocess import DEVNULL, PIPE, STDOUT
from typing import Any, Final, Literal

import anyio

from fogactors.errors import FogError

__all__ = ["Ctl", "CtlFailed", "Status"]

STATUS_S: Final = 20.0
CALL_S: Final = 60.0
LONG_S: Final = 300.0
"""For what goes through all queues."""
KILLED_S: Final = 5.0
NAMED: Final = 5
GROW_TRIES: Final = 5
_QUEUE: Final = re.compile(r"(?:queue|stream) '([^']+)' in vhost")


class CtlFailed(FogError):
    """One of RabbitMQ's tools failed. `kind`: `refused` (the cookie), `away` (no such node, or its broker is not up),
    `timeout`, `failed`. `output`: all that it printed."""

    def __init__(self, message: str, kind: Literal["refused", "away", "timeout", "failed"], output: str = "") -> None:
        super().__init__(message)
        self.kind = kind
        self.output = output


@dataclass(frozen=True, slots=True)
class Status:
    """What a node says of its cluster. `partitions`: node to those that it does not see. `alarms`: (node, resource)."""

    members: frozenset[str]
    running: frozenset[str]
    partitions: Mapping[str, tuple[str, ...]] = field(default_factory=dict[str, "tuple[str, ...]"])
    alarms: frozenset[tuple[str, str]] = frozenset()


class Ctl:
    """`command`: words before each program. `environment`: of the programs, which name the node there."""

    def __init__(self, node: str, command: tuple[str, ...], environment: Mapping[str, str]) -> None:
        self._node = node
        self._command = command
        self._environment = environment
        self._one = anyio.Lock()
        self._long = anyio.Lock()

    async def status(self, node: str | None = None) -> Status:
        """What `node` (by default our own) says. Raises `CtlFailed`."""
        words = ("-n", node or self._node, "-q", "cluster_status", "--formatter", "json")
        return _status(await self.run("rabbitmqctl", *words, timeout=STATUS_S))

    async def answers(self) -> bool:
        """Whether our own node does, from what it has itself: a status asks every node that runs."""
        try:
            await self.run("rabbitmqctl", "-n", self._node, "-q", "list_vhosts", timeout=STATUS_S)
        except CtlFailed:
            return False
        return True

    async def forget(self, member: str, *, via: str) -> None:
        """Take `member`, which is stopped, out of the cluster of `via`. Cannot be taken back."""
        await self.run("rabbitmqctl", "-n", via, "-q", "forget_cluster_node", member, timeout=LONG_S, beside=True)

    async def grow(self, vhost: str) -> None:
        """A replica of each quorum queue, and of each stream of `vhost`, on our node. Idempotent. Raises `CtlFailed`,
        also when some queue has none after all tries: the tool ends well whatever became of a single queue."""
        lacking: dict[str, str] = {}
        for _ in range(GROW_TRIES):
            await self.run("rabbitmq-queues", "-q", "grow", self._node, "all", timeout=LONG_S, beside=True)
            lacking = await self._lacking(vhost)
            for name, kind in lacking.items():
                if kind == "stream":  # which are not grown with the others, and then hold up the stop of every node
                    await self.run("rabbitmq-streams", "-q", "add_replica", name, self._node, "--vhost", vhost)
            if not lacking:
                return
        raise CtlFailed(f"{', '.join(sorted(lacking)[:NAMED])}: no replica on {self._node} yet", "failed")

    async def _lacking(self, vhost: str) -> dict[str, str]:
        """The queues with replicas that have none on our node, and their types."""
        words = ("-q", "list_queues", "-p", vhost, "name", "type", "members", "--formatter", "json")
        return {
            queue["name"]: queue["type"]
            for queue in _json(await self.run("rabbitmqctl", *words))
            if queue["type"] != "classic" and self._node not in (queue.get("members") or ())
        }

    async def rebalance(self) -> None:
        await self.run("rabbitmq-queues", "-q", "rebalance", "quorum", timeout=LONG_S, beside=True)

    async def critical(self) -> str:
        """The queues that would lose their majority with our node; empty: none. Raises `CtlFailed`."""
        try:
            words = ("-n", self._node, "-q", "check_if_node_is_quorum_critical")
            await self.run("rabbitmq-queues", *words, beside=True)
        except CtlFailed as error:
            if error.kind != "failed":
                raise
            names = sorted(set(_QUEUE.findall(error.output)))
            more = f" and {len(names) - NAMED} more" if len(names) > NAMED else ""
            return f"{', '.join(names[:NAMED])}{more}" or str(error)
        return ""

    async def import_definitions(self, file: Path) -> None:
        """Not by standard input: with a pipe there the tool of 4.3 fails now and then."""
        await self.run("rabbitmqctl", "-q", "import_definitions", str(file), timeout=LONG_S, beside=True)

    async def users(self) -> dict[str, frozenset[str]]:
        """Who may log in, and the tags of each."""
        listed = await self.run("rabbitmqctl", "-q", "list_users", "--formatter", "json")
        return {each["user"]: frozenset(each.get("tags", ())) for each in _json(listed)}

    async def delete_user(self, name: str) -> None:
        await self.run("rabbitmqctl", "-q", "delete_user", name)

    async def enable_feature_flags(self) -> None:
        """All stable ones, which a node that was upgraded leaves off."""
        await self.run("rabbitmqctl", "-q", "enable_feature_flag", "all", timeout=LONG_S, beside=True)

    async def await_quorum_plus_one(self, timeout: float) -> None:
        """Until no queue needs our node for its majority. Raises `CtlFailed` when that takes longer."""
        seconds = max(1, int(timeout))
        await self.run("rabbitmq-upgrade", "-t", str(seconds), "await_online_quorum_plus_one", timeout=seconds + 10.0)

    async def drain(self, timeout: float) -> None:
        """Our node takes no more clients and gives its leaders away; the next start undoes it."""
        await self.run("rabbitmq-upgrade", "drain", timeout=timeout)

    async def run(self, program: str, *words: str, timeout: float = CALL_S, beside: bool = False) -> str:
        """What the program printed. `beside`: it goes through all queues, and keeps only its like waiting. Raises
        `CtlFailed`."""
        shown = " ".join((program, *words))
        async with self._long if beside else self._one:
            done, output = await self._run([*self._command, program, *words], timeout)
        if done is None:
            raise CtlFailed(f"{shown}: no answer within {timeout:g} s", "timeout")
        if done != 0:
            kind = _kind(output)
            raise CtlFailed(f"{shown} ended with {done}: {_reason(output)}", kind, output)
        return output

    async def _run(self, words: list[str], timeout: float) -> tuple[int | None, str]:
        process = await anyio.open_process(
            words,
            stdin=DEVNULL,
            stdout=PIPE,
            stderr=STDOUT,
            env=self._environment,
            start_new_session=True,  # what it starts is ended with it
        )
        output = bytearray()
        try:
            with anyio.move_on_after(timeout):
                if process.stdout is not None:
                    async for chunk in process.stdout:
                        output += chunk
                return await process.wait(), output.decode(errors="replace")
            return None, ""
        finally:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            with anyio.move_on_after(KILLED_S, shield=True):
                await process.aclose()


def _status(text: str) -> Status:
    found = _json(text)
    partitions = {node: tuple(others) for node, others in found.get("partitions", {}).items() if others}
    return Status(
        members=frozenset(found["disk_nodes"]) | frozenset(found.get("ram_nodes", ())),
        running=frozenset(found["running_nodes"]),
        partitions=partitions,
        alarms=frozenset((each["node"], str(each.get("resource", "?"))) for each in found.get("alarms", ())),
    )


def _json(text: str) -> Any:
    try:
        return json.loads(text[min((at for at in (text.find("{"), text.find("[")) if at >= 0), default=0) :])
    except ValueError:
        raise CtlFailed(f"expected JSON, got {text.strip()[:200]!r}", "failed") from None


def _kind(output: str) -> Literal["refused", "away", "failed"]:
    if "Erlang distribution failed" in output or "Authentication failed" in output:
        return "refused"
    if "unable to perform an operation on node" in output or "requires the 'rabbit' app" in output:
        return "away"
    return "failed"


def _reason(output: str) -> str:
    lines = [line.strip() for line in output.splitlines() if line.strip()]
    at = next((number for number, line in enumerate(lines) if line.startswith("Error")), None)
    if at is None:
        return " ".join(lines[:3])[:300]
    return " ".join(lines[at : at + 1 if lines[at] != "Error:" else at + 3])[:300]  # some begin it on the next line

"""Commands inside the stack's containers on this host: docker reaches those of no other."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import IO, Any, Final

from fogactors.app.swarm.docker import Docker, DockerFailed
from fogactors.errors import ConfigError

__all__ = ["BROKER_FILE", "BrokerView", "broker_view", "container_of", "in_broker", "in_redis", "read_json", "view_of"]

_TOOL_S: Final = 60.0
_BROKER: Final = 'HOME="${FOGACTORS_CLUSTER__DATA_DIR:-$HOME}" exec "$@"'
"""The cookie lies where the sentinel put it."""
BROKER_FILE: Final = (
    'file=$(mktemp) || exit 1; trap \'rm -f "$file"\' EXIT; cat >"$file" || exit 1; '
    'HOME="${FOGACTORS_CLUSTER__DATA_DIR:-$HOME}" "$@" "$file" </dev/null'
)
"""Standard input becomes a file, the last word: with a pipe there the tools of 4.3 fail now and then."""
_REDIS: Final = (
    'REDISCLI_AUTH=$(cat "$FOGACTORS_USERS__REDIS__PASSWORD_FILE") || exit 1; export REDISCLI_AUTH; '
    'exec redis-cli --user "${FOGACTORS_USERS__REDIS__LOGIN:-redis}" ${REDIS_CLI_OPTIONS:-} "$@"'
)
"""The password never leaves the container, and is in no list of processes."""


@dataclass(frozen=True, slots=True)
class BrokerView:
    """What a broker says of its cluster. `short`: quorum queues and streams to the members that are not online, or
    empty if there are too few members at all."""

    members: tuple[str, ...]
    running: tuple[str, ...]
    alarms: tuple[str, ...] = ()
    partitions: tuple[str, ...] = ()
    short: Mapping[str, tuple[str, ...]] = field(default_factory=dict[str, "tuple[str, ...]"])
    queues: int = 0

    def lacking(self, size: int) -> list[str]:
        """What keeps a cluster of `size` brokers from being whole; a line each, none: it is."""
        found = [f"{len(self.running)} of {size} brokers run"] if len(self.running) < size else []
        found += [f"{node} is a member and does not run" for node in self.members if node not in self.running]
        found += [f"alarm: {each}" for each in self.alarms]
        found += [f"partition: {each}" for each in self.partitions]
        if self.short:
            names = ", ".join(list(self.short)[:3]) + (" ..." if len(self.short) > 3 else "")
            found.append(f"{len(self.short)} of {self.queues} queues lack replicas ({names})")
        return found


def container_of(docker: Docker, stack: str, services: Iterable[str]) -> str:
    """The id of a container of the first of these services that runs on this host. Raises `ConfigError` when none does,
    `DockerFailed`."""
    services = list(services)
    for service in services:
        label = f"label=com.docker.swarm.service.name={stack}_{service}"
        ids = docker.run("ps", "--quiet", "--no-trunc", "--filter", label, "--filter", "status=running").split()
        if ids:
            return ids[0]
    raise ConfigError(f"no container of {', '.join(services)} runs on this host; do it on one where one does")


def in_broker(
    docker: Docker, container: str, *words: str, timeout: float = _TOOL_S, stdin: IO[bytes] | None = None
) -> str:
    """One of RabbitMQ's tools in it. `stdin`: the content of a file, whose name it gets as its last word. Raises
    `DockerFailed`."""
    if stdin is None:
        return docker.run("exec", container, "sh", "-c", _BROKER, "sh", *words, timeout=timeout)
    program = ("sh", "-c", BROKER_FILE, "sh")
    return docker.run("exec", "-i", container, *program, *words, stdin=stdin, timeout=timeout)


def in_redis(docker: Docker, container: str, *words: str, timeout: float = _TOOL_S) -> str:
    """A command of Redis, by the user that looks after it. Raises `DockerFailed`, also for an error of Redis'."""
    said = docker.run("exec", container, "sh", "-c", _REDIS, "sh", "-e", *words, timeout=timeout)
    return said.strip()


def broker_view(docker: Docker, container: str, size: int, vhost: str = "/fog", node: str | None = None) -> BrokerView:
    """Asks the broker of this container, or from there another `node`, e.g. `rabbit@rabbitmq2`. Raises `DockerFailed`:
    it may not be up."""
    ctl = ("rabbitmqctl", *(("-n", node) if node else ()), "-q")
    status = in_broker(docker, container, *ctl, "cluster_status", "--formatter", "json")
    columns = ("name", "type", "members", "online")
    listing = (*ctl, "list_queues", "-p", vhost, *columns, "--formatter", "json")
    return view_of(read_json(status), read_json(in_broker(docker, container, *listing)), size)


def view_of(status: Mapping[str, Any], queues: Sequence[Mapping[str, Any]], size: int) -> BrokerView:
    """From what the tools print."""
    replicated = [each for each in queues if each["type"] in ("quorum", "stream")]
    short: dict[str, tuple[str, ...]] = {}
    for queue in replicated:
        members, online = _names(queue.get("members")), _names(queue.get("online"))
        if len(members) < size or set(members) - set(online):
            short[queue["name"]] = tuple(sorted(set(members) - set(online)))
    return BrokerView(
        members=tuple(sorted(status["disk_nodes"])),
        running=tuple(sorted(status["running_nodes"])),
        alarms=tuple(f"{each.get('resource', '?')} on {each.get('node', '?')}" for each in status.get("alarms") or ()),
        partitions=tuple(f"{node} does not see {', '.join(lost)}" for node, lost in _partitions(status) if lost),
        short=short,
        queues=len(replicated),
    )


def _partitions(status: Mapping[str, Any]) -> Iterable[tuple[str, Sequence[str]]]:
    found: Any = status.get("partitions") or {}
    return found.items() if isinstance(found, dict) else ()  # pyright: ignore[reportUnknownVariableType]


def _names(value: Any) -> list[str]:
    """A column that a queue does not have is an empty text."""
    return list(value) if isinstance(value, list) else []  # pyright: ignore[reportUnknownArgumentType]


def read_json(text: str) -> Any:
    """What one of RabbitMQ's tools printed, which may say something before it. Raises `DockerFailed`."""
    start = min((at for at in (text.find("{"), text.find("[")) if at >= 0), default=0)
    try:
        return json.loads(text[start:])
    except ValueError:
        raise DockerFailed(f"a broker's tool printed no JSON: {text.strip()[:200]!r}") from None

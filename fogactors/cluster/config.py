"""What a sentinel needs to know of its node and of the cluster; the keys of `[cluster]`."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Final

from fogactors.errors import SpecError

__all__ = ["ClusterConfig", "host_of", "node_name"]

PREFIX: Final = "rabbit"
"""The part of a node's name before its host, where none is given."""


def node_name(name: str) -> str:
    """`rabbitmq1` is `rabbit@rabbitmq1`; a whole node name stays as it is."""
    return name if "@" in name else f"{PREFIX}@{name}"


def host_of(node: str) -> str:
    return node.partition("@")[2]


@dataclass(frozen=True, slots=True, kw_only=True)
class ClusterConfig:
    """`node` and `nodes` are names as RabbitMQ has them, e.g. `rabbit@rabbitmq1`; times are seconds.

    `data_dir` is where the node's own folder lies, RabbitMQ's MNESIA_BASE. `cookie_file`: copied to `data_dir`, where
    only its owner reads it; None: the cookie is in the home directory already. `command`: words before each of
    RabbitMQ's programs, such as those that enter a container. Raises `SpecError`.
    """

    node: str
    nodes: tuple[str, ...]
    data_dir: Path
    cookie_file: Path | None = None
    command: tuple[str, ...] = ()
    server: str = "rabbitmq-server"
    epmd_port: int = 4369
    redis_wait_s: float = 120.0
    master_wait_s: float = 180.0
    reach_tries: int = 30
    reach_every_s: float = 5.0
    boot_s: float = 300.0
    forgotten_s: float = 30.0
    watch_s: float = 30.0
    lease_s: float = 15.0
    stop_wait_s: float = 150.0
    stop_drain_s: float = 30.0
    stop_s: float = 60.0

    def __post_init__(self) -> None:
        if self.node not in self.nodes:
            raise SpecError(f"this node is {self.node}, which is none of [cluster] nodes: {', '.join(self.nodes)}")

    @property
    def peers(self) -> tuple[str, ...]:
        return tuple(name for name in self.nodes if name != self.node)

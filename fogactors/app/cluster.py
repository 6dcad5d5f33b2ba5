"""What a node of the broker cluster is told, from the settings."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

from fogactors.app.services import topology_of
from fogactors.app.settings import Settings
from fogactors.app.settings_users import users_of
from fogactors.bus.management import definitions
from fogactors.cluster.config import ClusterConfig, node_name
from fogactors.wire.access import user_definitions

__all__ = ["broker_definitions", "cluster_config"]


def cluster_config(settings: Settings) -> ClusterConfig | None:
    """`None` where this host is no node of the cluster."""
    given = settings.cluster
    node, nodes = node_name(given.node), tuple(node_name(each) for each in given.nodes)
    if node not in nodes:
        return None
    return ClusterConfig(
        node=node,
        nodes=nodes,
        data_dir=Path(given.data_dir),
        cookie_file=Path(given.cookie_file) if given.cookie_file else None,
        command=given.command,
        server=given.server,
        epmd_port=given.epmd_port,
        redis_wait_s=given.redis_wait_s,
        master_wait_s=given.master_wait_s,
        reach_tries=given.reach_tries,
        reach_every_s=given.reach_every_s,
        boot_s=given.boot_s,
        forgotten_s=given.forgotten_s,
        watch_s=given.watch_s,
        lease_s=given.lease_s,
        stop_wait_s=given.stop_wait_s,
        stop_drain_s=given.stop_drain_s,
        stop_s=given.stop_s,
    )


def broker_definitions(settings: Settings, *, queues: bool) -> Mapping[str, Any]:
    """What RabbitMQ imports: the virtual host of `[bus] url`, users, permissions, policies and exchanges; with
    `queues` queues and bindings as well."""
    vhost = unquote(urlsplit(settings.bus.url).path[1:]) or "/fog"
    whole = definitions(topology_of(settings), vhost)
    if not queues:
        whole |= {"queues": [], "bindings": []}
    users = users_of(settings.users, settings.exchanges, settings.queues)
    return whole | user_definitions(users, [tier.name for tier in settings.tiers], vhost)

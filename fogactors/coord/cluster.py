"""The keys of the broker cluster, under the names that the shell-script scheduler before us gave them: whoever looks
into Redis, or has a script that does, finds them where they were.

The master key is a lease here, and its value the node's name, as before. All else of ours is under `fog:`.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Final

from fogactors.coord.base import Lease

__all__ = ["CLUSTER_MASTER", "CLUSTER_MEMBERS", "CLUSTER_STOPPING", "CLUSTER_WATCH", "ClusterMembers"]

CLUSTER_MASTER: Final = "rabbitmq:cluster:master"
"""The lease of who bootstraps and looks after the members."""
CLUSTER_STOPPING: Final = "fog:cluster:stopping"
"""The lease of who may stop a broker node."""
CLUSTER_MEMBERS: Final = "rabbitmq:cluster:members"
CLUSTER_WATCH: Final = "fog:cluster:watch"
"""Since when the holder of the master lease looks who beats."""


class ClusterMembers(ABC):
    """The set of members, by an implementation's own groups."""

    @abstractmethod
    async def join(self, group: str, member: str) -> None: ...
    @abstractmethod
    async def leave(self, group: str, member: str, *, lease: Lease | None = None) -> None: ...
    @abstractmethod
    async def members(self, group: str) -> frozenset[str]: ...

    async def cluster_join(self, node: str) -> None:
        await self.join(CLUSTER_MEMBERS, node)

    async def cluster_leave(self, node: str, *, lease: Lease) -> None:
        await self.leave(CLUSTER_MEMBERS, node, lease=lease)

    async def cluster_members(self) -> frozenset[str]:
        return await self.members(CLUSTER_MEMBERS)

"""The roles: each a supervised tree. `fogactors run <role>` runs one, `fogactors up` all that apply."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from fogactors.core import SupervisorSpec
from fogactors.roles import dlq_reaper, heartbeat, tier_executor
from fogactors.roles.base import HeartbeatConfig, RoleContext
from fogactors.roles.health import Health

__all__ = ["ROLES", "Health", "HeartbeatConfig", "Role", "RoleContext", "up_tree"]


@dataclass(frozen=True, slots=True)
class Role:
    """`trees`: the trees of the role on this node, given the tiers that it is to serve (only `tier-executor` asks)."""

    name: str
    about: str
    trees: Callable[[RoleContext, tuple[str, ...]], tuple[SupervisorSpec, ...]]


ROLES: dict[str, Role] = {
    role.name: role
    for role in (
        Role("heartbeat", "says that this node is alive", lambda context, _: (heartbeat.tree(context),)),
        Role("dlq-reaper", "gives an end to dead letters", lambda context, _: (dlq_reaper.tree(context),)),
        Role(
            "tier-executor",
            "runs tasks inside a resource tier",
            lambda context, tiers: tuple(tier_executor.tree(context, tier) for tier in tiers),
        ),
    )
}
"""In start order: executors last, so that they stop first."""


def up_tree(context: RoleContext, names: tuple[str, ...], tiers: tuple[str, ...]) -> SupervisorSpec:
    """One tree of several roles. They stand side by side: each pauses by itself when its broker is away."""
    children = tuple(tree for name, role in ROLES.items() if name in names for tree in role.trees(context, tiers))
    return SupervisorSpec(id="fogactors", children=children, intensity=context.intensity, backoff=context.backoff)

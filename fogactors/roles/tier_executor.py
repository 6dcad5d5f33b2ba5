"""`tier-executor`: runs tasks inside one resource tier."""

from __future__ import annotations

from fogactors.core import ChildSpec, SupervisorSpec
from fogactors.roles.base import DRAIN_MARGIN_S, RoleContext, with_link
from fogactors.tasks.executor import TierExecutor

__all__ = ["EXECUTOR", "tree"]

EXECUTOR = "executor"
"""The id of the child that drains."""


def tree(context: RoleContext, tier: str) -> SupervisorSpec:
    """Link, then executor. The drainer is last, so it stops first, while its link still stands.

    Raises `NoTierFits` for a tier that does not exist.
    """
    config = context.executor(tier)
    name = f"tier-executor-{tier}"
    bus = context.make_bus(name)
    slots = context.tiers.get(tier).slots
    helped = 3 * len(context.tiers.smaller_than(tier))
    executor = ChildSpec(
        id=EXECUTOR,
        factory=lambda: TierExecutor(
            config, bus, context.coord, context.registry, context.tiers, lambda: context.make_pool(slots)
        ),
        shutdown_s=config.drain_s + DRAIN_MARGIN_S,
        # All that the broker may deliver at once fits, so a delivery never finds the mailbox full.
        mailbox=max(context.mailbox, 2 * (3 * config.prefetch(context.tiers) + helped)),
    )
    return with_link(context, name, bus, executor)

"""The roles: each a supervised tree. `fogactors run <role>` runs one, `fogactors up` all that apply."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Final

from fogactors.core import SupervisorSpec
from fogactors.roles import dlq_reaper, heartbeat, metrics_sink, node_sentinel, reporter, tier_executor
from fogactors.roles.base import HeartbeatConfig, RoleContext
from fogactors.roles.health import Health
from fogactors.roles.reports import ALL_ROLES

__all__ = ["ROLES", "UP", "WORK", "Health", "HeartbeatConfig", "Role", "RoleContext", "up_tree"]


@dataclass(frozen=True, slots=True)
class Role:
    """`trees`: the trees of the role on this node, given the tiers that it is to serve (only `tier-executor` asks).
    `beats`: it has a heartbeat in its own tree; else one is run beside it. `runs_broker`: there is none before it, so
    nobody waits for one, and it is no part of `fogactors up`."""

    name: str
    about: str
    trees: Callable[[RoleContext, tuple[str, ...]], tuple[SupervisorSpec, ...]]
    beats: bool = False
    runs_broker: bool = False


ROLES: dict[str, Role] = {
    role.name: role
    for role in (
        Role(
            node_sentinel.ROLE,
            "forms, heals and watches a RabbitMQ node",
            lambda context, _: (node_sentinel.tree(context),),
            beats=True,
            runs_broker=True,
        ),
        Role("heartbeat", "says that this node is alive", lambda context, _: (heartbeat.tree(context),), beats=True),
        Role("dlq-reaper", "gives an end to dead letters", lambda context, _: (dlq_reaper.tree(context),)),
        Role(metrics_sink.NAME, "serves figures to Prometheus", lambda context, _: metrics_sink.trees(context)),
        Role(
            "tier-executor",
            "runs tasks inside a resource tier",
            lambda context, tiers: tuple(tier_executor.tree(context, tier) for tier in tiers),
        ),
    )
}
"""In start order: executors last, so that they stop first."""

WORK: Final = ("heartbeat", "dlq-reaper", "tier-executor")
"""What it takes to run tasks: what `demo` and `submit` embed."""
UP: Final = ("heartbeat", "dlq-reaper", metrics_sink.NAME, "tier-executor")
"""What `fogactors up` runs."""


def up_tree(context: RoleContext, names: tuple[str, ...], tiers: tuple[str, ...]) -> SupervisorSpec:
    """One tree of several roles. They stand side by side: each pauses by itself when its broker is away. First who
    reports of them, so that it goes last and has seen all."""
    executors = tuple(f"fogactors/tier-executor-{tier}/executor" for tier in tiers if "tier-executor" in names)
    context = replace(context, executors=executors, process=_process(names, tiers))
    children = (
        *reporter.trees(context, names),
        *(tree for name, role in ROLES.items() if name in names for tree in role.trees(context, tiers)),
    )
    return SupervisorSpec(id="fogactors", children=children, intensity=context.intensity, backoff=context.backoff)


def _process(names: tuple[str, ...], tiers: tuple[str, ...]) -> str:
    """`heartbeat` where it runs nothing else, `tier-executor-light`, `dlq-reaper`; `up` for several roles or tiers."""
    roles = [f"{name}-{tier}" for name in names if name == "tier-executor" for tier in tiers]
    roles += [name for name in names if name not in ("tier-executor", "heartbeat")]
    return (roles or ["heartbeat"])[0] if len(roles) <= 1 else ALL_ROLES

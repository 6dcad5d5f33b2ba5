"""`tier-executor`: runs tasks inside one resource tier."""

from __future__ import annotations

from typing import Final

from fogactors.core import ChildSpec, SupervisorSpec
from fogactors.messages import Command, Control
from fogactors.roles.base import DRAIN_MARGIN_S, RoleContext, controlled
from fogactors.tasks.control import ControlActor, Order
from fogactors.tasks.executor import TierExecutor
from fogactors.tasks.requests import Cancel, Pause, Refresh, Resume, Switch, TaskWhere, Where

__all__ = ["EXECUTOR", "tree"]

EXECUTOR = "executor"
"""The id of the child that drains."""


def tree(context: RoleContext, tier: str) -> SupervisorSpec:
    """Link, executor, control. The drainer stops while its link still stands.

    Raises `NoTierFits` for a tier that does not exist.
    """
    config = context.executor(tier)
    name = f"tier-executor-{tier}"
    bus = context.make_bus(name)
    switch = Switch()
    # All that the broker may deliver at once: so no delivery finds the mailbox full, and no task that is small enough
    # to run beside many others waits for a process.
    most = 3 * (config.prefetch(context.tiers) + len(context.tiers.smaller_than(tier)))
    executor = ChildSpec(
        id=EXECUTOR,
        factory=lambda: TierExecutor(
            config,
            bus,
            context.coord,
            context.registry,
            context.tiers,
            lambda: context.make_pool(most),
            switch,
            context.memory,
        ),
        shutdown_s=config.drain_s + DRAIN_MARGIN_S,
        mailbox=max(context.mailbox, 2 * most),
    )
    return controlled(context, name, bus, executor, _ORDERS, listens=_listens)


async def _listens(actor: ControlActor) -> None:
    # What was cancelled after the executor asked the store, and before we could hear of it.
    await actor.ctx.sibling(EXECUTOR).ask(Refresh())


async def _pause(actor: ControlActor, _: Control) -> None:
    await actor.ctx.sibling(EXECUTOR).ask(Pause())


async def _resume(actor: ControlActor, _: Control) -> None:
    await actor.ctx.sibling(EXECUTOR).ask(Resume())


async def _cancel(actor: ControlActor, control: Control) -> TaskWhere | None:
    return await actor.ctx.sibling(EXECUTOR).ask(Cancel(control.task_id or ""))


async def _where(actor: ControlActor, control: Control) -> TaskWhere | None:
    return await actor.ctx.sibling(EXECUTOR).ask(Where(control.task_id or ""))


_ORDERS: Final[dict[Command, Order]] = {"pause": _pause, "resume": _resume, "cancel": _cancel, "where": _where}

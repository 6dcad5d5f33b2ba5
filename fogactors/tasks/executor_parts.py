"""What an executor is put together from, anew for each incarnation."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from fogactors.bus.base import Bus
from fogactors.coord.base import Coord
from fogactors.core import Context
from fogactors.tasks.attempt import Attempt
from fogactors.tasks.executor_config import ExecutorConfig
from fogactors.tasks.intake import Delivered, Intake, Lost, Subscription, Unopened
from fogactors.tasks.isolation import ProcessPool
from fogactors.tasks.runner import Runner
from fogactors.tasks.settle import Settler
from fogactors.tasks.store import Store
from fogactors.tasks.tiers import Tiers
from fogactors.tasks.watchdog import Watchdog

__all__ = ["Parts"]


@dataclass(frozen=True, slots=True)
class Parts:
    """Each does one thing and knows none of the others, but for the watchdog, which watches the intake."""

    pool: ProcessPool
    runner: Runner
    settler: Settler
    intake: Intake
    watchdog: Watchdog

    @classmethod
    def make(
        cls,
        config: ExecutorConfig,
        bus: Bus,
        coord: Coord,
        tiers: Tiers,
        pool: ProcessPool,
        context: Context[Any],
        *,
        tell: Callable[[Delivered | Lost | Unopened], None],
        wanted: Callable[[], bool],
        replace: Callable[[Subscription], None],
    ) -> Parts:
        """`tell` and `wanted` are the intake's, `replace` the watchdog's; none of them may block."""
        routes = config.routes_in(tiers)
        intake = Intake(
            bus,
            tiers,
            config.tier,
            prefetch=config.prefetch(tiers),
            tell=tell,
            wanted=wanted,
            routes=routes,
            topology=config.topology,
            refill_s=config.refill_s,
            clock=context.now,
        )
        attempt = Attempt(
            pool, inline_bytes=config.result_inline_bytes, time_limit_s=config.time_limit_s, rng=context.system.rng
        )
        worker, emit, now = config.worker, context.emit, config.now
        store = Store(coord, worker=worker, emit=emit, now=now, result_ttl_s=config.result_ttl_s)
        settler = Settler(
            bus,
            store,
            worker=worker,
            emit=emit,
            now=now,
            publish_timeout_s=config.publish_timeout_s,
            room=routes.room,
            feed=config.feed,
        )
        watchdog = Watchdog(
            bus,
            intake,
            config.watchdog_s,
            clock=context.now,
            replace=replace,
            emit=context.emit,
            worker=config.worker,
        )
        return cls(pool, Runner(config, tiers, attempt, context.emit), settler, intake, watchdog)

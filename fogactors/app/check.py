"""What is wrong or unwise in settings whose values are fine one by one, and task modules that do not import.

Each rule is one small function of the settings alone; only `unimportable` looks at the outside, and `overlong` at what
it has imported. Prints nothing.
"""

from __future__ import annotations

import importlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final, Literal

from fogactors.app.settings import Settings, conflicts
from fogactors.messages import PRIORITIES
from fogactors.roles.base import DRAIN_MARGIN_S
from fogactors.tasks.limits import too_long
from fogactors.tasks.registry import Registry, default_registry

__all__ = ["Finding", "check", "executor_prefetch", "overlong"]

SILENT_CLIENT_S: Final = 90.0
"""The longest that the broker takes to notice a silent client, and so to deliver again what it held."""


@dataclass(frozen=True, slots=True)
class Finding:
    """`key` is dotted. `error`: it cannot work. `warning`: it works, but hardly as it was meant."""

    level: Literal["error", "warning"]
    key: str
    text: str


def check(settings: Settings) -> list[Finding]:
    """Everything that is wrong with these settings, errors first. Imports the task modules."""
    findings = [Finding("error", keys[0], text) for keys, text in conflicts(settings)]
    for rule in (_mailbox, _shutdown, _heartbeat, _ports, _backoff, _results, unimportable, overlong):
        findings.extend(rule(settings))
    return sorted(findings, key=lambda finding: finding.level)


def executor_prefetch(settings: Settings, tier: int) -> int:
    """How many unsettled deliveries an executor of the n-th tier (0: the smallest) may hold at once.

    Of its own tier, per priority: what its slots run and the look-ahead. Of each smaller tier, per priority: the one
    that a helping consumer takes.
    """
    own = settings.tiers[tier].slots + settings.executor.look_ahead
    return len(PRIORITIES) * (own + tier)


def _mailbox(settings: Settings) -> Iterator[Finding]:
    # A consumer's callback may not wait, so a mailbox shorter than the prefetch would refuse deliveries.
    for index, tier in enumerate(settings.tiers):
        prefetch, mailbox = executor_prefetch(settings, index), settings.supervision.mailbox
        if mailbox < prefetch:
            text = f"{mailbox} is less than the {prefetch} deliveries that an executor of [tiers.{tier.name}] may hold"
            yield Finding("error", "supervision.mailbox", text)


def _shutdown(settings: Settings) -> Iterator[Finding]:
    budget_s, drain_s = settings.shutdown.budget_s, settings.executor.drain_s
    if drain_s < budget_s < drain_s + DRAIN_MARGIN_S:
        text = (
            f"{budget_s} leaves less than {DRAIN_MARGIN_S:g} s after [executor] drain_s = {drain_s}; what does not "
            "finish in the drain may not be handed back in time, and is then delivered again at the cost of an attempt"
        )
        yield Finding("warning", "shutdown.budget_s", text)


def _heartbeat(settings: Settings) -> Iterator[Finding]:
    beat = settings.heartbeat
    if beat.ttl_s < 2 * beat.interval_s:
        text = f"{beat.ttl_s} is less than twice interval_s = {beat.interval_s}; one late beat would look like a death"
        yield Finding("error", "heartbeat.ttl_s", text)
    if beat.loop_dead_s < beat.loop_blocked_s:
        text = f"{beat.loop_dead_s} is less than loop_blocked_s = {beat.loop_blocked_s}; no warning would come first"
        yield Finding("error", "heartbeat.loop_dead_s", text)


def _ports(settings: Settings) -> Iterator[Finding]:
    probe, metrics = settings.probe, settings.metrics
    if metrics.port and (metrics.host, metrics.port) == (probe.host, probe.port):
        yield Finding("error", "metrics.port", f"{metrics.port} is [probe] port as well; the sink needs both")


def _backoff(settings: Settings) -> Iterator[Finding]:
    supervision = settings.supervision
    first_s, max_s = supervision.backoff_first_s, supervision.backoff_max_s
    if max_s < first_s:
        yield Finding("error", "supervision.backoff_max_s", f"{max_s} is less than backoff_first_s = {first_s}")


def _results(settings: Settings) -> Iterator[Finding]:
    coord, bus = settings.coord, settings.bus
    if coord.result_ttl_s <= SILENT_CLIENT_S:
        text = (
            f"{coord.result_ttl_s} is not more than the {SILENT_CLIENT_S:g} s in which the broker notices a silent "
            "worker; a task delivered again later would be recorded a second time"
        )
        yield Finding("warning", "coord.result_ttl_s", text)
    if coord.result_inline_bytes > bus.max_body_bytes:
        text = (
            f"{coord.result_inline_bytes} is more than [bus] max_body_bytes = {bus.max_body_bytes}; such a result "
            "could not be kept on the bus while the coordination store is away"
        )
        yield Finding("warning", "coord.result_inline_bytes", text)


def unimportable(settings: Settings) -> Iterator[Finding]:
    """The task modules that raise when they are imported."""
    for name in settings.tasks.modules:
        try:
            importlib.import_module(name)
        except (Exception, SystemExit) as error:  # a module may end itself at import: that is a finding, not our end
            lines = str(error).splitlines() or [""]
            yield Finding("error", "tasks.modules", f"cannot import {name}: {type(error).__name__}: {lines[0]}")


def overlong(settings: Settings, registry: Registry = default_registry) -> Iterator[Finding]:
    """The tasks that would still run when the broker takes them back."""
    for definition in registry.definitions():
        problem = too_long(definition.time_limit, settings.bus.max_time_limit_s)
        if problem is not None:
            yield Finding("error", "bus.consumer_timeout_s", f"task {definition.name}: {problem}")

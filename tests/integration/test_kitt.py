"""examples/kitt: what it declares, and that its services do their work, on the broker inside and on RabbitMQ."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any
from urllib.parse import quote
from uuid import uuid4

import anyio
import pytest

from examples.kitt import fabrication, names
from fogactors import EventBus, RPCClient
from fogactors.app.services import topology_of
from fogactors.app.settings import Settings, load
from fogactors.app.topology import apply_topology
from fogactors.errors import NoSuchService
from fogactors.wire import Policy, fog_topology
from fogactors.wire.work import declared_work
from tests.integration.fog import Services, connected, until

ROOT = Path(__file__).parents[2]
DECLARES = ROOT / "examples/kitt/actors.toml"
SOON = {"QUEUES__RETRY_FABRICATION__MESSAGE_TTL_S": "1"}

DAY_MS = 24 * 3600 * 1000
FEED = "drop-head"
TABLE = {
    "fabrication.events": Policy(max_length=100_000, overflow=FEED),
    "brain.commands": Policy(
        delivery_limit=3,
        overflow="reject-publish",
        dead_letter_exchange="dlx",
        dead_letter_strategy="at-least-once",
    ),
    "notifications": Policy(max_length=50_000, overflow=FEED),
    "audit.events": Policy(max_length=1_000_000, overflow=FEED, message_ttl_ms=30 * DAY_MS),
    "dlx.queue": Policy(),
    "retry.fabrication": Policy(
        overflow="reject-publish",
        message_ttl_ms=300_000,
        dead_letter_exchange="",
        dead_letter_routing_key="fabrication.events",
        dead_letter_strategy="at-least-once",
    ),
}
TASKS = {"research.tasks": 10_000, "cad.tasks": 5_000}
EXCHANGES = {"kitty.events": "topic", "kitty.tasks": "direct", "kitty.rpc": "direct", "dlx": "topic"}

SAID = {
    "brain: 125.5 cm3 of pla_black_esun would cost 3.11 USD",
    "notification: 3 papers on print failures",
    "notification: print_1 is printed",
    "notification: print_2 has failed",
    "notification: print_3 is printed",
    "brain: done",
}
AGAIN = "notification: print_2 is printed"
LATER = "brain: print_2 is in retry.fabrication, and will be printed again in 300 s"
AUDITED = ["brain.print.requested", "fabrication.print.started", "research.task.completed", "fabrication.print.failed"]


def declared() -> Settings:
    return load(DECLARES, {}, default_ok=False)


def kitt(services: Services | None = None, **env: str) -> list[str]:
    """The lines that it prints. `env`: without `FOGACTORS_`."""
    own = (services.environment() if services else {}) | {f"FOGACTORS_{key}": value for key, value in env.items()}
    rest = {key: value for key, value in os.environ.items() if not key.startswith("FOGACTORS_")}
    done = subprocess.run(
        [sys.executable, "-W", "error", "-m", "examples.kitt"],
        cwd=ROOT,
        env={**rest, **own},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, ""), done.stdout + done.stderr
    return done.stdout.splitlines()


def see_audited(lines: list[str]) -> None:
    """Not the last ones: the end is not held up for what they print."""
    for kind in AUDITED:
        assert any(line.startswith("audit: ") and f" {kind} by " in line for line in lines), kind


def test_it_declares_the_guides_table():
    whole, system = topology_of(declared()), fog_topology()
    whole.validate()
    own = {each.name: each.policy for each in whole.queues if each not in system.queues}
    for name, length in TASKS.items():
        bands = declared_work(name, "kitty.tasks", max_length=length)
        assert {each.name: own.pop(each.name) for each in bands.queues} == {e.name: e.policy for e in bands.queues}
        assert set(bands.bindings) <= set(whole.bindings)
    assert own == TABLE
    assert {each.name: each.type for each in whole.exchanges if each.name in EXCHANGES} == EXCHANGES


def test_all_of_it_in_one_process():
    lines = kitt()
    assert SAID | {LATER} <= set(lines)
    assert AGAIN not in lines
    see_audited(lines)


def test_what_waits_comes_back():
    lines = kitt(**SOON)
    assert SAID | {AGAIN} <= set(lines)
    see_audited(lines)


@pytest.mark.asyncio
async def test_fabrication_answers_calls_only_when_it_hears_what_is_asked_for(monkeypatch: pytest.MonkeyPatch):
    """The brain asks for prints once it has been answered, and on its first start the group has no queue before."""
    settings, subscribe = declared(), EventBus.subscribe
    await apply_topology(settings, create_vhost=True)
    asked = list[str]()

    async def looked(bus: EventBus, pattern: str, *args: Any, **options: Any) -> Any:
        with pytest.raises(NoSuchService):
            await client.call(names.ESTIMATE, part)
        asked.append(pattern)
        return await subscribe(bus, pattern, *args, **options)

    monkeypatch.setattr(EventBus, "subscribe", looked)
    part, stop = fabrication.Part(1.0, "petg_clear"), anyio.Event()
    async with RPCClient(settings.bus.url, exchange=names.RPC) as client, anyio.create_task_group() as tasks:
        await tasks.start(fabrication.run, settings, stop)
        assert asked == ["brain.print.requested", "fabrication.#"]
        await client.call(names.ESTIMATE, part)
        stop.set()


@pytest.mark.services
@pytest.mark.versions
def test_processes_on_a_rabbitmq(bare, command):
    services = bare.in_vhost(f"/kitt-{uuid4().hex[:6]}")
    try:
        lines = kitt(services, **SOON)
        assert SAID | {AGAIN} <= set(lines)
        see_audited(lines)
        diff = command("--config", str(DECLARES), "topology", "diff", services=services, **SOON)
        assert (diff.code, diff.err) == (0, ""), diff.out
        limits(services)
        anyio.run(all_is_done, services)
    finally:
        bare.api("DELETE", f"/vhosts/{quote(services.vhost, safe='')}")


def limits(services: Services) -> None:
    """As the broker says that they are in force."""

    def queues() -> dict[str, Any]:
        return {each["name"]: each for each in services.api("GET", f"/queues/{quote(services.vhost, safe='')}")}

    bands = {f"{name}{band}": length for name, length in TASKS.items() for band in ("", ".high", ".low")}
    limits = {**{name: policy.max_length for name, policy in TABLE.items()}, **bands}
    anyio.run(until, lambda: all("policy" in queues()[name] for name in limits), "it has looked at each queue")
    there = queues()
    for name, length in limits.items():
        assert (there[name]["type"], there[name]["durable"]) == ("quorum", True)
        assert there[name]["policy"] == f"fog.{name}"
        assert there[name]["effective_policy_definition"].get("max-length") == length
    assert there["audit.events"]["effective_policy_definition"]["message-ttl"] == 30 * DAY_MS


async def all_is_done(services: Services) -> None:
    """No task, retry or notification is left, and there is no dead letter. What audit had fetched may be back."""
    async with connected(services) as bus:
        for name in ("research.tasks", "research.tasks.high", "retry.fabrication", "notifications", "dlx.queue", "dlq"):
            assert (await bus.inspect(name)).ready == 0, name

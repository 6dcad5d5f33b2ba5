"""Make a broker have what the settings say: `fogactors topology apply`, and programs that bring their own queues."""

from __future__ import annotations

from dataclasses import dataclass

from fogactors.app.services import topology_of
from fogactors.app.settings import Settings
from fogactors.bus.amqp import AmqpBus
from fogactors.bus.hosts import parse_hosts
from fogactors.bus.management import Difference, Management
from fogactors.errors import ConfigError
from fogactors.messaging.embedded import embedded_broker
from fogactors.wire.topology import Topology

__all__ = ["Applied", "apply_topology", "diff_topology", "is_embedded"]


@dataclass(frozen=True, slots=True)
class Applied:
    """`mended`: how many differences there were and are no more; `left`: those that a declare cannot mend."""

    topology: Topology
    mended: int
    left: list[Difference]


async def apply_topology(settings: Settings, *, create_vhost: bool = False) -> Applied:
    """Policies first, then exchanges, queues and bindings, the system's and those of `[exchanges]`, `[queues]` and
    `[policies]`. May be repeated, and deletes nothing.

    By `[bus] url` and `management_url`; of a `memory://` URL it is the broker of that name in this event loop.
    `create_vhost`: the virtual host as well, if there is none; its user of the management API may then do everything
    in it.

    Raises `ConfigError` for what the broker never changes, such as a queue's type: then nothing was changed; and
    `BusUnavailable`, `AccessRefused`.
    """
    wanted = topology_of(settings)
    if is_embedded(settings):
        embedded_broker(settings.bus.url).declare(wanted)
        return Applied(wanted, 0, [])
    async with Management.open(settings.bus.management_url, parse_hosts(settings.bus.url).vhost) as management:
        if create_vhost:
            await management.create_vhost()
        before = await management.diff(wanted)
        for each in before:
            if each.fatal:
                raise ConfigError(f"{each} (nothing was changed)")
        await management.apply_policies(wanted)
        bus = AmqpBus(settings.bus.url, name="topology")
        await bus.open()
        try:
            await bus.declare(wanted)
        finally:
            await bus.close()
        left = await management.diff(wanted)
    return Applied(wanted, len(before) - len(left), left)


async def diff_topology(settings: Settings) -> list[Difference]:
    """What the broker lacks or has otherwise. Raises as `apply_topology`, and for nothing that differs."""
    async with Management.open(settings.bus.management_url, parse_hosts(settings.bus.url).vhost) as management:
        return await management.diff(topology_of(settings))


def is_embedded(settings: Settings) -> bool:
    return settings.bus.url.startswith("memory:")

"""Which servers we run, and where each comes from.

A Debian suite moves on under us, so a release names the version that must be reported at start, and a server that
reports another one is refused instead of tested by mistake.
"""

import os
from dataclasses import dataclass

from tests.services.errors import ServiceUnavailable


@dataclass(frozen=True)
class Suite:
    """A Debian suite, and the programs that must exist in a root made from it (a root that lacks one is remade)."""

    name: str
    packages: tuple[str, ...]
    programs: tuple[str, ...]


@dataclass(frozen=True)
class Release:
    """One server: `version` is the prefix that its own report must have, `user` its account in the Debian root."""

    product: str
    version: str
    image: str
    suite: Suite
    user: str

    @property
    def name(self) -> str:
        return f"{self.product.lower()}-{self.version}"

    def accepts(self, reported: str) -> bool:
        return reported.startswith(f"{self.version}.")


_RABBITMQ = "usr/lib/rabbitmq/bin/rabbitmq-server"

TRIXIE = Suite("trixie", ("rabbitmq-server",), (_RABBITMQ,))
FORKY = Suite("forky", ("rabbitmq-server", "redis-server"), (_RABBITMQ, "usr/bin/redis-server"))

RABBITMQ = {
    "4.3": Release("RabbitMQ", "4.3", "rabbitmq:4.3-management", FORKY, "rabbitmq"),
    "4.0": Release("RabbitMQ", "4.0", "rabbitmq:4.0-management", TRIXIE, "rabbitmq"),
}
REDIS = Release("Redis", "8", "redis:8", FORKY, "redis")


def version_here() -> str:
    """Of the RabbitMQ beside which this program runs (`python -m tests.services run`): what starts its own takes it."""
    return os.environ.get("FOGACTORS_TEST_RABBITMQ", "4.3")


def rabbitmq_release(version: str) -> Release:
    try:
        return RABBITMQ[version]
    except KeyError:
        known = ", ".join(RABBITMQ)
        raise ServiceUnavailable(f"RabbitMQ {version!r} is not one of those we test on: {known}") from None

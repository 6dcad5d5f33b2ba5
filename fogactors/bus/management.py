"""RabbitMQ's management API: the one place that speaks HTTP to the broker. Policies, and the difference between the
topology that is wanted and the one that is there, which AMQP never tells.

Limits are policies and not queue arguments, so that they can be tuned without deleting a queue: one merged policy
`fog.<queue>` for each queue, because only one policy applies to a queue at a time.
"""

from __future__ import annotations

import re
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any, Final
from urllib.parse import quote, urlsplit

import httpx

from fogactors.errors import AccessRefused, BusUnavailable
from fogactors.wire.topology import Queue, Topology

__all__ = ["Difference", "Management", "definitions", "policy_definition", "policy_name"]

TIMEOUT_S: Final = 10.0

_KEYS: Final = (
    ("max_length", "max-length"),
    ("overflow", "overflow"),
    ("message_ttl_ms", "message-ttl"),
    ("dead_letter_exchange", "dead-letter-exchange"),
    ("dead_letter_routing_key", "dead-letter-routing-key"),
    ("dead_letter_strategy", "dead-letter-strategy"),
)


def policy_name(queue: str) -> str:
    return f"fog.{queue}"


def policy_definition(queue: Queue) -> dict[str, Any]:
    """The policy of a queue in the broker's words."""
    policy = queue.policy
    found: dict[str, Any] = {
        theirs: getattr(policy, ours) for ours, theirs in _KEYS if getattr(policy, ours) is not None
    }
    if queue.type == "quorum":
        found["delivery-limit"] = policy.delivery_limit
    if policy.max_age_s is not None:
        found["max-age"] = f"{policy.max_age_s}s"
    return found


def _policy(queue: Queue) -> dict[str, Any]:
    return {
        "pattern": f"^{re.escape(queue.name)}$",
        "apply-to": "streams" if queue.type == "stream" else "queues",
        "priority": 10,
        "definition": policy_definition(queue),
    }


def definitions(topology: Topology, vhost: str) -> dict[str, Any]:
    """`definitions.json` of this topology: exchanges, queues, bindings and policies, and no users."""
    return {
        "vhosts": [{"name": vhost}],
        "policies": [
            {"vhost": vhost, "name": policy_name(queue.name), **_policy(queue)}
            for queue in topology.queues
            if policy_definition(queue)
        ],
        "exchanges": [
            {
                "name": each.name,
                "vhost": vhost,
                "type": each.type,
                "durable": True,
                "auto_delete": False,
                "internal": False,
                "arguments": {},
            }
            for each in topology.exchanges
        ],
        "queues": [
            {
                "name": each.name,
                "vhost": vhost,
                "durable": True,
                "auto_delete": False,
                "arguments": {"x-queue-type": each.type},
            }
            for each in topology.queues
        ],
        "bindings": [
            {
                "source": each.exchange,
                "vhost": vhost,
                "destination": each.queue,
                "destination_type": "queue",
                "routing_key": each.key,
                "arguments": {},
            }
            for each in topology.bindings
        ],
    }


@dataclass(frozen=True, slots=True)
class Difference:
    """One thing that is not as the topology says. `what`: `exchange tasks.direct`, `policy fog.dlq` ..."""

    what: str
    wanted: str
    found: str

    def __str__(self) -> str:
        return f"{self.what}: wanted {self.wanted}, found {self.found}"


class Management:
    """One client of the management API. `url`: `http://user:password@host:15672`. Methods raise `BusUnavailable`, and
    `AccessRefused` for a wrong password or a missing permission."""

    def __init__(self, client: httpx.AsyncClient, vhost: str) -> None:
        self._client = client
        self._vhost = quote(vhost, safe="")

    @classmethod
    @asynccontextmanager
    async def open(cls, url: str, vhost: str = "/fog") -> AsyncGenerator[Management]:
        parts = urlsplit(url)
        base = f"{parts.scheme}://{parts.hostname}:{parts.port or 15672}"
        login = httpx.BasicAuth(parts.username or "guest", parts.password or "guest")
        # trust_env off: a proxy for the world outside is not the way to our own broker.
        async with httpx.AsyncClient(base_url=base, auth=login, timeout=TIMEOUT_S, trust_env=False) as client:
            yield cls(client, vhost)

    async def apply_policies(self, topology: Topology) -> None:
        """Set the policy of each queue. Do it before the queue is declared, so that it never lives without its
        limits."""
        for queue in topology.queues:
            path = f"/api/policies/{self._vhost}/{quote(policy_name(queue.name), safe='')}"
            if policy_definition(queue):
                await self._call("PUT", path, json=_policy(queue))

    async def diff(self, topology: Topology) -> list[Difference]:
        """What is missing or different. What is there and not in the topology is somebody else's, and left out."""
        found: list[Difference] = []
        exchanges = {each["name"]: each for each in await self._list("exchanges")}
        for exchange in topology.exchanges:
            there = exchanges.get(exchange.name)
            if there is None or there["type"] != exchange.type:
                found.append(Difference(f"exchange {exchange.name}", exchange.type, there["type"] if there else "none"))
        queues = {each["name"]: each for each in await self._list("queues")}
        policies = {each["name"]: each["definition"] for each in await self._list("policies")}
        for queue in topology.queues:
            there = queues.get(queue.name)
            if there is None or there["type"] != queue.type:
                found.append(Difference(f"queue {queue.name}", queue.type, there["type"] if there else "none"))
            wanted, is_there = policy_definition(queue), policies.get(policy_name(queue.name), {})
            for key in sorted(wanted.keys() | is_there.keys()):
                if wanted.get(key) != is_there.get(key):
                    what = f"policy {policy_name(queue.name)} {key}"
                    found.append(Difference(what, _shown(wanted.get(key)), _shown(is_there.get(key))))
        bound = {(each["source"], each["routing_key"], each["destination"]) for each in await self._list("bindings")}
        for binding in topology.bindings:
            if (binding.exchange, binding.key, binding.queue) not in bound:
                found.append(Difference(f"binding of {binding.queue} to {binding.exchange}", repr(binding.key), "none"))
        return found

    async def delete_queue(self, name: str) -> None:
        await self._call("DELETE", f"/api/queues/{self._vhost}/{quote(name, safe='')}")

    async def connections(self) -> list[dict[str, Any]]:
        """Those that the broker knows of; it learns of them seconds late."""
        return await self._call("GET", "/api/connections")

    async def close_connection(self, name: str) -> None:
        await self._call("DELETE", f"/api/connections/{quote(name, safe='')}")

    async def _list(self, what: str) -> list[dict[str, Any]]:
        return await self._call("GET", f"/api/{what}/{self._vhost}")

    async def _call(self, method: str, path: str, *, json: Any = None) -> Any:
        where = f"the management API at {self._client.base_url}"
        try:
            answer = await self._client.request(method, path, json=json)
        except httpx.HTTPError as error:
            raise BusUnavailable(f"{where} cannot be reached: {type(error).__name__}: {error}") from error
        if answer.status_code in (401, 403):
            raise AccessRefused(f"{where} refuses {method} {path}: {answer.text.strip()[:200]}")
        if answer.status_code >= 400:
            raise BusUnavailable(
                f"{where} answered {answer.status_code} to {method} {path}: {answer.text.strip()[:200]}"
            )
        return answer.json() if answer.content else None


def _shown(value: Any) -> str:
    return "none" if value is None else str(value)

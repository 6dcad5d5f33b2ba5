"""RabbitMQ's management API: the one place that speaks HTTP to the broker. Policies, and the difference between the
topology that is wanted and the one that is there, which AMQP never tells.

Limits are policies and not queue arguments, so that they can be tuned without deleting a queue: one merged policy
`fog.<queue>` for each queue, because only one policy applies to a queue at a time.
"""

from __future__ import annotations

import re
import ssl
from collections.abc import AsyncGenerator, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any, Final
from urllib.parse import parse_qsl, quote, unquote, urlsplit

import httpx

from fogactors.errors import AccessRefused, BusUnavailable, ConfigError
from fogactors.wire.topology import Family, Policy, Queue, Topology

__all__ = ["Difference", "Management", "definitions", "policy_definition", "policy_name"]

TIMEOUT_S: Final = 10.0
REPLACE: Final = "the broker refuses to change it (PRECONDITION_FAILED): empty and delete it, then apply again"
UNBIND: Final = "messages come by it as well: unbind it, or add it to the bindings"

_KEYS: Final = (
    ("max_length", "max-length"),
    ("overflow", "overflow"),
    ("message_ttl_ms", "message-ttl"),
    ("expires_ms", "expires"),
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


def _family_policy(family: Family, families: tuple[Family, ...]) -> dict[str, Any]:
    """Of a lower priority than that of a queue by its whole name, and of a higher one than those of wider families."""
    wider = sum(each is not family and family.prefix.startswith(each.prefix) for each in families)
    return {**_policy(family.queue), "pattern": f"^{re.escape(family.prefix)}", "priority": 5 + wider}


def _policies(topology: Topology) -> Iterator[tuple[str, dict[str, Any]]]:
    """All policies by their names."""
    prefixes = tuple(family.prefix for family in topology.families)
    for queue in topology.queues:
        # One for the queue alone would take the place of its family's.
        if policy_definition(queue) and not (queue.policy == Policy() and queue.name.startswith(prefixes)):
            yield policy_name(queue.name), _policy(queue)
    for family in topology.families:
        yield policy_name(family.queue.name), _family_policy(family, topology.families)


def definitions(topology: Topology, vhost: str) -> dict[str, Any]:
    """`definitions.json` of this topology: exchanges, queues, bindings and policies, and no users."""
    return {
        "vhosts": [{"name": vhost}],
        "policies": [{"vhost": vhost, "name": name, **policy} for name, policy in _policies(topology)],
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
    """One thing that is not as the topology says. `what`: `exchange tasks.direct`, `policy fog.dlq` ... `todo`: what an
    operator has to do, where declaring it again does not mend it. `fatal`: a declare would be refused for it."""

    what: str
    wanted: str
    found: str
    todo: str = ""
    fatal: bool = False

    def __str__(self) -> str:
        return f"{self.what}: wanted {self.wanted}, found {self.found}" + (f"; {self.todo}" if self.todo else "")


class Management:
    """One client of the management API. `url`: `http://user:password@host:15672`, or `https` and the options of TLS
    that a broker's URL takes, `?cafile=/run/ca.pem`. Methods raise `BusUnavailable`, and `AccessRefused` for a wrong
    password, a missing permission or a certificate that is not trusted."""

    def __init__(self, client: httpx.AsyncClient, user: str, vhost: str) -> None:
        self._client = client
        self._user = user
        self._vhost_name = vhost
        self._vhost = quote(vhost, safe="")

    @classmethod
    @asynccontextmanager
    async def open(cls, url: str, vhost: str = "/fog") -> AsyncGenerator[Management]:
        """Raises `ConfigError` for what is no URL of it."""
        base, user, password = _parsed(url)
        # trust_env off: a proxy for the world outside is not the way to our own broker.
        login, trusted = httpx.BasicAuth(user, password), _trusted(url)
        async with httpx.AsyncClient(
            base_url=base, auth=login, timeout=TIMEOUT_S, trust_env=False, verify=trusted
        ) as client:
            yield cls(client, user, vhost)

    async def apply_policies(self, topology: Topology) -> None:
        """Set the policy of each queue. Do it before the queue is declared, so that it never lives without its
        limits."""
        for name, policy in _policies(topology):
            await self._call("PUT", f"/api/policies/{self._vhost}/{quote(name, safe='')}", json=policy)

    async def diff(self, topology: Topology) -> list[Difference]:
        """What is missing or different. What is there and not in the topology is somebody else's, and left out."""
        found: list[Difference] = []
        exchanges = {each["name"]: each for each in await self._list("exchanges")}
        for exchange in topology.exchanges:
            found.extend(_entity_differences("exchange", exchange.name, exchange.type, exchanges.get(exchange.name)))
        queues = {each["name"]: each for each in await self._list("queues")}
        policies = await self._list("policies")
        for queue in topology.queues:
            found.extend(_entity_differences("queue", queue.name, queue.type, queues.get(queue.name)))
            found.extend(_policy_differences(queue, policies))
        for family in topology.families:
            found.extend(_policy_differences(family.queue, policies))
        bound = {(each["source"], each["routing_key"], each["destination"]) for each in await self._list("bindings")}
        for binding in topology.bindings:
            if (binding.exchange, binding.key, binding.queue) not in bound:
                found.append(Difference(f"binding of {binding.queue} to {binding.exchange}", repr(binding.key), "none"))
        ours = {(each.exchange, each.key, each.queue) for each in topology.bindings}
        names = {queue.name for queue in topology.queues}
        for source, key, name in sorted(bound - ours):
            if source and name in names:  # every queue is bound to the default exchange
                found.append(Difference(f"binding of {name} to {source}", "none", repr(key), UNBIND))
        return found

    async def create_vhost(self) -> None:
        """If there is none."""
        await self._call("PUT", f"/api/vhosts/{self._vhost}", needs="the tag administrator")

    async def delete_queue(self, name: str) -> None:
        await self._call("DELETE", f"/api/queues/{self._vhost}/{quote(name, safe='')}")

    async def _list(self, what: str) -> list[dict[str, Any]]:
        return await self._call("GET", f"/api/{what}/{self._vhost}")

    async def _call(self, method: str, path: str, *, json: Any = None, needs: str = "the tag policymaker") -> Any:
        where = f"the management API at {self._client.base_url}"
        try:
            answer = await self._client.request(method, path, json=json)
        except httpx.HTTPError as error:
            why = f"{type(error).__name__} {error}".strip()
            if "CERTIFICATE_VERIFY_FAILED" in why:
                raise AccessRefused(f"{where} shows a certificate that is not trusted: {why}") from error
            raise BusUnavailable(f"{where} cannot be reached: {why}; is [bus] management_url right?") from error
        text = answer.text.strip()[:200]
        if answer.status_code == 404 and method == "GET":
            raise AccessRefused(f"{where} knows no virtual host {self._vhost_name!r}; create it, or correct [bus] url")
        if 400 <= answer.status_code < 500:
            needs = "a right password and the tag management" if method == "GET" else needs
            raise AccessRefused(f"{where} refuses user {self._user!r} {method} {path}, which needs {needs}: {text}")
        if answer.status_code >= 500:
            raise BusUnavailable(f"{where} answered {answer.status_code} to {method} {path}: {text}")
        return answer.json() if answer.content else None


def _parsed(url: str) -> tuple[str, str, str]:
    """Base URL, user and password."""
    try:
        parts = urlsplit(url)
        port = parts.port or (15671 if parts.scheme == "https" else 15672)
    except ValueError:
        parts, port = urlsplit(""), 0
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise ConfigError("[bus] management_url must be a URL such as http://user:password@host:15672")
    host = f"[{parts.hostname}]" if ":" in parts.hostname else parts.hostname
    return f"{parts.scheme}://{host}:{port}", unquote(parts.username or "guest"), unquote(parts.password or "guest")


def _trusted(url: str) -> ssl.SSLContext | bool:
    """What httpx takes as `verify`. Raises `ConfigError` for a file that cannot be used."""
    parts = urlsplit(url)
    options = dict(parse_qsl(parts.query))
    if parts.scheme != "https" or not options:
        return True
    try:
        context = ssl.create_default_context(cafile=options.get("cafile"))
        if certificate := options.get("certfile"):
            context.load_cert_chain(certificate, options.get("keyfile"))
    except OSError as error:  # ssl.SSLError too
        raise ConfigError(f"[bus] management_url: its TLS files cannot be used: {error}") from error
    return context


def _entity_differences(what: str, name: str, kind: str, there: dict[str, Any] | None) -> Iterator[Difference]:
    """Of a queue or an exchange: what a broker never changes, but refuses a declare for."""
    if there is None:
        yield Difference(f"{what} {name}", kind, "none")
        return
    if there["type"] != kind:
        yield Difference(f"{what} {name}", kind, there["type"], REPLACE, fatal=True)
        return
    for key, wanted in (("durable", True), ("auto_delete", False), ("internal", False), ("exclusive", False)):
        if there.get(key, wanted) != wanted:
            yield Difference(f"{what} {name} {key}", str(wanted).lower(), str(there[key]).lower(), REPLACE, fatal=True)
    for key, value in sorted(there["arguments"].items()):
        if key != "x-queue-type":
            yield Difference(f"{what} {name} argument {key}", "none", str(value), REPLACE, fatal=True)


def _policy_differences(queue: Queue, policies: list[dict[str, Any]]) -> Iterator[Difference]:
    name, wanted = policy_name(queue.name), policy_definition(queue)
    ours = next((each for each in policies if each["name"] == name), None)
    if ours is None:
        if wanted:
            yield Difference(f"policy {name}", ", ".join(f"{key} {value}" for key, value in wanted.items()), "none")
        return
    there: dict[str, Any] = ours["definition"]
    for key in sorted(wanted.keys() | there.keys()):
        if wanted.get(key) != there.get(key):
            yield Difference(f"policy {name} {key}", _shown(wanted.get(key)), _shown(there.get(key)))
    # Only one policy applies to a queue: one of somebody else's with a higher priority takes all of our limits away.
    in_force = max(
        (each for each in policies if _applies(each, queue)),
        key=lambda each: (each["priority"], each is not ours),  # of equals the broker takes any
        default=None,
    )
    if in_force is not ours:
        yield Difference(f"policy in force for queue {queue.name}", name, in_force["name"] if in_force else "none")


def _applies(policy: dict[str, Any], queue: Queue) -> bool:
    kind = "streams" if queue.type == "stream" else "quorum_queues"
    try:
        return policy["apply-to"] in ("all", "queues", kind) and re.search(policy["pattern"], queue.name) is not None
    except re.error:  # the broker's expressions know a little more than ours
        return False


def _shown(value: Any) -> str:
    return "none" if value is None else str(value)

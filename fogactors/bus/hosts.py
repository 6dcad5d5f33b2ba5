"""Where the broker is: a URL with one or several hosts, and which of them to try first."""

from __future__ import annotations

import random
from dataclasses import dataclass
from typing import Final
from urllib.parse import parse_qsl, quote, unquote

from fogactors.errors import ConfigError

__all__ = ["Hosts", "parse_hosts"]

_PORTS: Final = {"amqp": 5672, "amqps": 5671}
_OPTIONS: Final = ("cafile", "capath", "certfile", "keyfile", "no_verify_ssl")
"""Of TLS, as the client library names them. What else it takes from a URL (heartbeat, timeout) is ours to decide."""


@dataclass(frozen=True, slots=True)
class Hosts:
    """`amqp://user:password@host1:5672,host2,host3/vhost` taken apart. `str()` leaves the password out. `options`: of
    TLS, such as `?cafile=/run/secrets/ca.pem`."""

    scheme: str
    user: str
    password: str
    hosts: tuple[tuple[str, int], ...]
    vhost: str
    options: tuple[tuple[str, str], ...] = ()

    def __str__(self) -> str:
        hosts = ",".join(f"{host}:{port}" for host, port in self.hosts)
        return f"{self.scheme}://{self.user}@{hosts}/{quote(self.vhost, safe='')}"

    def url(self, index: int, **query: str | int) -> str:
        """One host's URL, as the client library takes it."""
        host, port = self.hosts[index]
        name = f"[{host}]" if ":" in host else host
        login = f"{quote(self.user, safe='')}:{quote(self.password, safe='')}"
        pairs = (*self.options, *query.items())
        extra = "&".join(f"{key}={quote(str(value), safe='')}" for key, value in pairs)
        return f"{self.scheme}://{login}@{name}:{port}/{quote(self.vhost, safe='')}?{extra}"

    def order(self, last_good: int | None, rng: random.Random, *, lost: int | None = None) -> list[int]:
        """Which to try one after the other: the one that worked last, then the others at random, so that the
        clients of a broker that died spread over those that are left. The one that was just `lost` comes last: where
        its machine is gone, asking it first would cost the time that it takes to get no answer."""
        rest = [index for index in range(len(self.hosts)) if index not in (last_good, lost)]
        rng.shuffle(rest)
        first = [] if last_good in (None, lost) else [last_good]
        return [*first, *rest, *([] if lost is None else [lost])]


def parse_hosts(url: str) -> Hosts:
    """Raises `ConfigError` that never repeats the password."""
    scheme, separator, rest = url.partition("://")
    if not separator or scheme not in _PORTS:
        raise ConfigError("a broker's URL begins with amqp:// or amqps://")
    rest, _, query = rest.partition("?")
    options = tuple(parse_qsl(query, keep_blank_values=True))
    for key, _ in options:
        if key not in _OPTIONS:
            raise ConfigError(f"a broker's URL takes only {', '.join(_OPTIONS)} after the ?, got {key!r}")
    netloc, _, path = rest.partition("/")
    login, at, hosts = netloc.rpartition("@")
    user, _, password = login.partition(":") if at else ("guest", "", "guest")
    found: list[tuple[str, int]] = []
    for part in hosts.split(","):
        bracket = part.rpartition("]")[2] if part.startswith("[") else part
        host = part[1 : part.index("]")] if part.startswith("[") and "]" in part else part.partition(":")[0]
        port = bracket.partition(":")[2]
        if not host or (port and not (port.isdecimal() and 0 < int(port) < 65_536)):
            raise ConfigError(f"a broker's URL names its hosts as host or host:port, got {part!r}")
        found.append((host, int(port) if port else _PORTS[scheme]))
    return Hosts(scheme, unquote(user), unquote(password), tuple(found), unquote(path) or "/", options)

"""`[tls]`: the one switch that makes every client speak TLS, to the broker, its management API and Redis."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final
from urllib.parse import quote, urlencode

__all__ = ["TlsSettings", "tls_conflicts", "with_tls"]

_SCHEMES: Final = {"amqp": "amqps", "http": "https", "redis": "rediss"}
_PORTS: Final = {"amqp": (5672, 5671), "http": (15672, 15671)}
"""The plain port and that of TLS, where they differ by custom. Redis has none of its own for TLS."""
_OPTIONS: Final = {
    "amqps": ("cafile", "certfile", "keyfile"),
    "https": ("cafile", "certfile", "keyfile"),
    "rediss": ("ssl_ca_certs", "ssl_certfile", "ssl_keyfile"),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class TlsSettings:
    """`ca_file`: who signed the servers' certificates; empty: the authorities of this machine. `cert_file`, `key_file`:
    of this client, where a server asks for one. All are PEM."""

    enabled: bool = False
    ca_file: str = ""
    cert_file: str = ""
    key_file: str = ""


def with_tls(url: str, tls: TlsSettings) -> str:
    """The URL over TLS, with the port that goes with it, and with the files as options. What speaks TLS already keeps
    what it says of files."""
    scheme, separator, rest = url.partition("://")
    secure = _SCHEMES.get(scheme, scheme)
    if not tls.enabled or not separator or secure not in _OPTIONS:
        return url
    place, _, query = rest.partition("?")
    netloc, slash, path = place.partition("/")
    login, at, hosts = netloc.rpartition("@")
    if scheme in _PORTS:
        plain, port = _PORTS[scheme]
        hosts = re.sub(rf":{plain}(?=,|$)", f":{port}", hosts)
    files = zip(_OPTIONS[secure], (tls.ca_file, tls.cert_file, tls.key_file), strict=True)
    missing = {key: value for key, value in files if value and f"{key}=" not in query}
    options = urlencode(missing, safe="/", quote_via=quote)
    query = "&".join(part for part in (query, options) if part)
    return f"{secure}://{login}{at}{hosts}{slash}{path}" + (f"?{query}" if query else "")


def tls_conflicts(tls: TlsSettings) -> Iterator[tuple[tuple[str, ...], str]]:
    """As `fogactors.app.settings.conflicts`; and the files must be there, because a client that cannot read one would
    only say that it cannot connect."""
    if not tls.enabled:
        return
    if bool(tls.cert_file) != bool(tls.key_file):
        missing = "key_file" if tls.cert_file else "cert_file"
        yield (f"tls.{missing}",), "missing; a certificate and its key are given together"
    for key, name in (("ca_file", tls.ca_file), ("cert_file", tls.cert_file), ("key_file", tls.key_file)):
        if name and not Path(name).is_file():
            yield (f"tls.{key}",), f"there is no file {name}"

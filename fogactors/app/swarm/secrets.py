"""Docker secrets of the stack. A secret cannot be changed: another content is another name, `fog_<key>_<8 hex digits>`,
and that is what makes a service take it up.
"""

from __future__ import annotations

import hashlib
import hmac
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from fogactors.app.swarm.docker import Docker
from fogactors.app.swarm.env import COOKIE, PASSWORDS, generated
from fogactors.errors import ConfigError

__all__ = ["CERTIFICATES", "Secret", "cookie_in_use", "create", "missing", "of_certs", "of_values", "variable"]

CERTIFICATES: Final[Mapping[str, str]] = {"tls_ca": "ca.crt", "tls_cert": "server.crt", "tls_key": "server.key"}
"""Key to the file in `certs/`."""


@dataclass(frozen=True, slots=True)
class Secret:
    """`key`: the file's name below /run/secrets. `name`: in docker."""

    key: str
    name: str
    content: bytes = field(repr=False)


def variable(key: str) -> str:
    """That stack.yml expands to the secret's name."""
    return f"FOG_SECRET_{key.upper()}"


def of_values(stack: str, values: Mapping[str, str]) -> list[Secret]:
    """One for each password. Raises `ConfigError` when one is missing."""
    lacking = [name for name in PASSWORDS if name not in values]
    if lacking:
        raise ConfigError(f"{', '.join(lacking)} missing; `fogactors swarm secrets` adds what is missing to .env")
    return [_secret(stack, key, values[name].encode(), values) for name, key in PASSWORDS.items()]


def of_certs(stack: str, folder: Path, values: Mapping[str, str]) -> list[Secret]:
    """The CA's certificate, the servers' and its key. Raises `ConfigError` when one is not there."""
    found: list[Secret] = []
    for key, file in CERTIFICATES.items():
        try:
            content = (folder / file).read_bytes()
        except OSError as error:
            why = error.strerror or str(error)
            raise ConfigError(f"{folder / file}: {why}; `fogactors swarm certs` makes it") from None
        found.append(_secret(stack, key, content, values))
    return found


def _secret(stack: str, key: str, content: bytes, values: Mapping[str, str]) -> Secret:
    # Keyed by the cookie: a plain hash in a name would let whoever sees names try passwords at home.
    digest = hmac.new(values[COOKIE].encode(), key.encode() + b"\0" + content, hashlib.sha256).hexdigest()
    return Secret(key, f"{stack}_{key}_{digest[:8]}", content)


def create(docker: Docker, wanted: Iterable[Secret]) -> list[str]:
    """Make those that are not there; their names. The content goes by standard input. Raises `DockerFailed`."""
    there = docker.names("secret")
    made: list[str] = []
    for secret in wanted:
        if secret.name not in there:
            docker.run("secret", "create", "--label", f"fog.key={secret.key}", secret.name, "-", stdin=secret.content)
            made.append(secret.name)
    return made


def missing(
    stack: str, values: Mapping[str, str], there: Iterable[str], *, renew: Iterable[str] = ()
) -> dict[str, str]:
    """New values for those passwords that nobody names, and for those to `renew`. `there`: the names of the secrets in
    the swarm.

    Raises `ConfigError` where the swarm has had such a secret: then it is in somebody's `.env`, and another one here
    would lock the running servers' clients out.
    """
    renew, there = set(renew), list(there)
    unknown = sorted(renew - PASSWORDS.keys())
    if unknown:
        raise ConfigError(f"there is no password {unknown[0]}; there are {', '.join(PASSWORDS)}")
    lacking = [name for name in PASSWORDS if name not in values and name not in renew]
    for name in lacking:
        pattern = re.compile(rf"{re.escape(stack)}_{PASSWORDS[name]}_[0-9a-f]{{8}}")
        other = next((each for each in there if pattern.fullmatch(each)), None)
        if other is not None:
            raise ConfigError(
                f"{name} is missing, but the swarm has the secret {other}: bring the .env that it was made from, or "
                f"replace it with `fogactors swarm secrets --renew {name}`"
            )
    return generated([name for name in PASSWORDS if name in renew or name in lacking])


def cookie_in_use(services: Iterable[Mapping[str, Any]]) -> str | None:
    """The name of the secret that running brokers have as their cookie. `services`: as docker inspects them."""
    for service in services:
        for each in service["Spec"]["TaskTemplate"]["ContainerSpec"].get("Secrets") or ():
            file: dict[str, Any] = each.get("File") or {}
            if file.get("Name") == "erlang_cookie":
                return each["SecretName"]
    return None

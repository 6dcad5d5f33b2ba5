"""Put the stack on the swarm, and take it away."""

from __future__ import annotations

import json
import tempfile
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from fogactors.app.swarm.docker import Docker, DockerFailed
from fogactors.app.swarm.env import LOGINS, PASSWORDS, PREFIX
from fogactors.app.swarm.secrets import CERTIFICATES, cookie_in_use, create, of_certs, of_values, variable
from fogactors.app.swarm.services import NAMESPACE, replicas_of, service_names
from fogactors.app.swarm.stack import Stack, switched_on
from fogactors.errors import ConfigError

__all__ = ["Deployment", "deploy", "down", "prepare", "scale"]

DEPLOY_S: Final = 300.0
"""Docker asks a registry for the digest of each image."""
_POLL_S: Final = 1.0


@dataclass(frozen=True, slots=True)
class Deployment:
    """All that `docker stack deploy` needs. `variables`: those that the files expand; no password is among them.
    `replicas`: of services that were scaled, which a deploy would forget."""

    name: str
    stack: Stack
    variables: Mapping[str, str]
    secrets: tuple[str, ...] = ()
    replicas: Mapping[str, int] | None = None


def prepare(docker: Docker, name: str, stack: Stack, values: Mapping[str, str], certs: Path) -> Deployment:
    """Make the secrets that the files name, where they are not there yet. Raises `ConfigError`, `DockerFailed`.

    Another cookie than that of brokers that run is refused: brokers with two cookies are two clusters.
    """
    wanted = of_values(name, values)
    if set(stack.secrets) & CERTIFICATES.keys():
        wanted += of_certs(name, certs, values)
    wanted = [secret for secret in wanted if secret.key in stack.secrets]
    unknown = [key for key in stack.secrets if key not in {secret.key for secret in wanted}]
    if unknown:
        raise ConfigError(f"{stack.files[0]}: nothing makes the secret {unknown[0]}")
    there = docker.inspect("service", *service_names(docker, name))
    names = {secret.key: secret.name for secret in wanted}
    cookie = cookie_in_use(there)
    if cookie not in (None, names.get("erlang_cookie")):
        raise ConfigError(
            f"the running brokers have another cookie, {cookie}; bring the .env that it was made from, or stop the "
            f"stack first (`fogactors swarm down`)"
        )
    made = create(docker, wanted)
    passed = {key: value for key, value in values.items() if key in LOGINS or key.startswith(PREFIX)}
    variables = {key: value for key, value in passed.items() if key not in PASSWORDS}
    variables |= {variable(key): secret for key, secret in names.items()}
    variables |= stack.config_hashes()
    if switched_on(values, "FOG_TLS"):
        variables.setdefault("FOG_MANAGEMENT_PORT", "15671")
    return Deployment(name, stack, variables, tuple(made), _scaled(name, stack, there))


def _scaled(name: str, stack: Stack, there: Sequence[Mapping[str, Any]]) -> dict[str, int]:
    scaled: dict[str, int] = {}
    for service in there:
        short = service["Spec"]["Name"].removeprefix(f"{name}_")
        count = replicas_of(service)
        if short in stack.scalable and count != 1:
            scaled[short] = count
    return scaled


def deploy(docker: Docker, wanted: Deployment, services: Collection[str] | None = None) -> str:
    """`docker stack deploy`, of these services alone if they are named; what it printed. Raises `DockerFailed`."""
    with tempfile.TemporaryDirectory(prefix="fog-stack-") as place:
        folder = Path(place)
        stack = wanted.stack
        files = list(stack.files) if services is None else stack.only(services, folder)
        replicas = {
            name: {"deploy": {"replicas": count}}
            for name, count in (wanted.replicas or {}).items()
            if services is None or name in services
        }
        if replicas:
            scaled = folder / "replicas.json"
            scaled.write_text(json.dumps({"version": stack.documents[0].get("version", "3.8"), "services": replicas}))
            files.append(scaled)
        words = [word for path in files for word in ("-c", str(path))]
        return docker.run(
            "stack", "deploy", "--with-registry-auth", *words, wanted.name, extra=wanted.variables, timeout=DEPLOY_S
        )


def scale(docker: Docker, name: str, stack: Stack, wanted: Mapping[str, int]) -> None:
    """Raises `ConfigError` for a service of which there is to be one, `DockerFailed`."""
    for service in wanted:
        if service not in stack.scalable:
            raise ConfigError(f"{service} cannot be scaled; these can: {', '.join(stack.scalable)}")
    docker.run("service", "scale", "--detach", *(f"{name}_{service}={n}" for service, n in wanted.items()))


def down(docker: Docker, name: str, timeout: float, say: Callable[[str], None] = lambda _: None) -> bool:
    """Remove the stack's services and network, and wait until they and this host's containers are gone, so that it can
    be deployed again at once. Volumes, secrets and labels stay. False: there was no such stack.

    Raises `DockerFailed`.
    """
    label = f"label={NAMESPACE}={name}"
    deadline = time.monotonic() + timeout
    first = True
    while True:
        services = service_names(docker, name)
        networks = docker.run("network", "ls", "--quiet", "--filter", label).split()
        containers = docker.run("ps", "--all", "--quiet", "--filter", label).split()
        left = {"services": services, "networks": networks, "containers": containers}
        if not any(left.values()):
            return not first
        shown = ", ".join(f"{len(each)} {what}" for what, each in left.items() if each)
        if time.monotonic() >= deadline:
            raise DockerFailed(
                f"not gone within {timeout:g} s: {shown}; `docker stack rm {name}` once more, or look at them"
            )
        if first:
            say(f"removing {shown}")
        if first and services:
            docker.run("stack", "rm", name, timeout=DEPLOY_S)
        elif networks and not services:
            with suppress(DockerFailed):  # it is refused while a container that is stopping still uses the network
                docker.run("network", "rm", *networks)
        first = False
        time.sleep(_POLL_S)

"""What docker does not say of its hosts, asked there: a job that runs once on each of them, in our own image."""

from __future__ import annotations

import json
import secrets
import time
from collections.abc import Collection, Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Final

from fogactors.app.swarm.docker import Docker, DockerFailed

__all__ = ["ASK_S", "HostFacts", "ask_hosts"]

ASK_S: Final = 120.0
"""A host may have to pull the image first."""
_POLL_S: Final = 0.5
_HOST_NETWORK: Final = "host"


@dataclass(frozen=True, slots=True)
class HostFacts:
    """`disk_free_mb`: MiB. `taken`: of the ports that were asked for, those on which something listens. `tcp_retries2`:
    how often Linux repeats what nobody acknowledges before it gives a connection up; None: it does not say."""

    disk_free_mb: int
    taken: tuple[int, ...] = ()
    tcp_retries2: int | None = None


def ask_hosts(
    docker: Docker, image: str, hosts: Collection[str], ports: Iterable[int], timeout: float = ASK_S
) -> dict[str, HostFacts]:
    """Host to its answer; those that gave none within `timeout` seconds are left out. Raises `DockerFailed` where the
    job cannot be made."""
    name = f"fog-doctor-{secrets.token_hex(4)}"
    mode = ("--detach", "--quiet", "--mode", "global-job", "--restart-condition", "none", "--network", _HOST_NETWORK)
    program = ("--env", "FOG_HOST={{.Node.Hostname}}", "--entrypoint", "python -m fogactors.app.swarm.host")
    words = ("service", "create", "--name", name, *mode, *program, "--no-healthcheck", image, *map(str, ports))
    deadline = time.monotonic() + timeout
    try:
        docker.run(*words, timeout=timeout)
        found: dict[str, HostFacts] = {}
        while time.monotonic() < deadline:
            with suppress(DockerFailed):  # no logs yet, or a host that is asked for its own is away
                found = _answers(docker.run("service", "logs", "--raw", name))
            if found.keys() >= set(hosts) or _over(docker, name):
                break
            time.sleep(_POLL_S)
        return found
    finally:
        with suppress(DockerFailed):  # it is made by now, or never was
            docker.run("service", "rm", name)


def _answers(text: str) -> dict[str, HostFacts]:
    found: dict[str, HostFacts] = {}
    for line in text.splitlines():
        try:
            answer: Mapping[str, Any] = json.loads(line)
            found[answer["host"]] = HostFacts(
                int(answer["disk_free_mb"]), tuple(answer["taken"]), answer.get("tcp_retries2")
            )
        except (ValueError, KeyError, TypeError):
            continue  # something else that was said on the way
    return found


def _over(docker: Docker, name: str) -> bool:
    """Whether every task has failed: without the image there is nothing to wait for."""
    states = docker.run("service", "ps", "--format", "{{.CurrentState}}", name).splitlines()
    return bool(states) and all(state.startswith(("Failed", "Rejected")) for state in states)

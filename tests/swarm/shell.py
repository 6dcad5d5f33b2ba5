"""Programs of the machine: run with a deadline, installed when they are missing."""

import os
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import TypeVar

import anyio

from tests.services import ServiceUnavailable
from tests.services.archive import ensure_tools

DOCKER = "/usr/bin/docker"  # the client of docker.io; another one may come first on PATH
TOOLS = {
    "/usr/sbin/dockerd": "docker.io",
    DOCKER: "docker.io",
    "docker-init": "tini",
    "docker-registry": "docker-registry",
    "ip": "iproute2",
    "iptables": "iptables",
    "unshare": "util-linux",
    "nsenter": "util-linux",
    "setpriv": "util-linux",
    "tar": "tar",
}


T = TypeVar("T")


class SwarmFailed(Exception):
    """Something on the test's machines did not do what it must; the message ends with what it said."""


def require() -> None:
    """Raises ServiceUnavailable where no such Swarm can be made, with the reason."""
    if os.uname().sysname != "Linux":
        raise ServiceUnavailable("a Swarm of network namespaces needs Linux")
    if os.geteuid() != 0:
        raise ServiceUnavailable("a Swarm of network namespaces needs root")
    anyio.run(partial(ensure_tools, **TOOLS))


def run(
    command: Sequence[str], *, timeout: float = 60, stdin: str | None = None, env: Mapping[str, str] | None = None
) -> str:
    """What a program printed on standard output.

    Raises SwarmFailed on another exit code than 0 and when it has not ended after `timeout` seconds.
    """
    shown = " ".join(command[:9])
    try:
        done = subprocess.run(
            list(command),
            input=stdin,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=timeout,
            check=False,
            env=None if env is None else {**os.environ, **env},
        )
    except subprocess.TimeoutExpired:
        raise SwarmFailed(f"`{shown}` did not end within {timeout:.0f} s") from None
    if done.returncode != 0:
        said = "\n".join((done.stdout + done.stderr).strip().splitlines()[-30:])
        raise SwarmFailed(f"`{shown}` ended with exit code {done.returncode}:\n{said}")
    return done.stdout


def wait_for(what: str, look: Callable[[], T | None], *, timeout: float, every: float = 1.0) -> T:
    """Look until it returns something true, and return that. Raises SwarmFailed, naming what did not come. `every`: a
    look mostly starts programs, whose processor time is that of what is measured."""
    deadline = time.monotonic() + timeout
    while True:
        found = look()
        if found:
            return found
        if time.monotonic() > deadline:
            raise SwarmFailed(f"waited {timeout:.0f} s in vain for {what}")
        time.sleep(every)

"""What this machine's own apt knows: the address of its Debian archive, and how it gets there.

apt is asked, its files are not parsed: it alone knows one-line and deb822 sources, included folders and disabled
entries. The address is this machine's business and stays out of messages (`Archive.hide`).
"""

import os
import re
import shutil
from dataclasses import dataclass
from subprocess import PIPE, STDOUT

import anyio

from tests.services.errors import ServiceUnavailable

_TARGETS = ("apt-get", "indextargets", "--format", "$(LABEL) $(REPO_URI)", "Created-By: Packages")
_TRANSPORT = re.compile(r"Acquire::(https?|Retries|Check-[A-Za-z-]+)(::|\s)")
_UPDATE_S = 300
_ASK_S = 60


@dataclass(frozen=True)
class Archive:
    """Where Debian's packages come from: `uri`, apt's transport options (proxies, checks), and the same for wget."""

    uri: str
    options: str
    environment: dict[str, str]

    def hide(self, text: str) -> str:
        return text.replace(self.uri, "<archive>").replace(self.uri.rstrip("/"), "<archive>")


async def ensure_tools(**packages: str) -> None:
    """Install what is missing on the host, given as program=package. Raises ServiceUnavailable."""
    missing = sorted({package for program, package in packages.items() if shutil.which(program) is None})
    if not missing:
        return
    if shutil.which("apt-get") is None:
        raise ServiceUnavailable(f"{', '.join(missing)} is missing here, and there is no apt-get to install it with")
    await _update()
    await _apt("apt-get", "install", "--yes", "--quiet", "--no-install-recommends", *missing, timeout=_UPDATE_S)


async def find_archive() -> Archive:
    """The Debian archive of this machine's apt sources. Raises ServiceUnavailable where there is none."""
    if shutil.which("apt-get") is None:
        raise ServiceUnavailable("there is no apt on this machine, hence no Debian archive to build a root from")
    uri = await _debian_uri()
    if uri is None:
        await _update()  # a slim image comes without lists, and only the lists tell whose archive an address is
        uri = await _debian_uri()
    if uri is None:
        raise ServiceUnavailable("none of this machine's apt sources is a Debian archive over http or https")
    options = "".join(
        f"{line}\n" for line in (await _apt("apt-config", "dump", "Acquire")).splitlines() if _TRANSPORT.match(line)
    )
    environment = {
        f"{scheme}_proxy": found.group(1)
        for scheme in ("http", "https")
        if (found := re.search(rf'^Acquire::{scheme}::Proxy "([^"]+)";', options, re.MULTILINE))
    }
    return Archive(uri, options, environment)


async def _debian_uri() -> str | None:
    targets = await _apt(*_TARGETS)
    for line in targets.splitlines():
        label, _, uri = line.partition(" ")
        if label == "Debian" and uri.startswith(("http://", "https://")):
            return uri
    return None


async def _update() -> None:
    await _apt("apt-get", "update", "--quiet", timeout=_UPDATE_S)


async def _apt(*command: str, timeout: float = _ASK_S) -> str:
    environment = {**os.environ, "DEBIAN_FRONTEND": "noninteractive", "LC_ALL": "C"}
    try:
        with anyio.fail_after(timeout):
            done = await anyio.run_process(command, stdout=PIPE, stderr=STDOUT, check=False, env=environment)
    except TimeoutError:
        raise ServiceUnavailable(f"`{' '.join(command[:2])}` did not end within {timeout:.0f} s") from None
    if done.returncode != 0:
        raise ServiceUnavailable(f"`{' '.join(command[:2])}` failed with exit code {done.returncode}")
    return done.stdout.decode(errors="replace")

"""Stand-ins for the official base images, made from the Debian roots of `tests.services`.

No container registry is needed, so the Swarm can run where only Debian's archive and PyPI can be reached. A stand-in is
what our Dockerfiles rely on in the official image and no more: the programs, the accounts and their numbers, the paths.
It also carries what this machine needs to reach its package sources (certificates, pip's own settings), of which
the project's Dockerfiles know nothing.
"""

import hashlib
import re
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import anyio

from tests.services.releases import FORKY, TRIXIE, Suite
from tests.services.roots import ensure_root
from tests.swarm.hosts import Engine
from tests.swarm.shell import DOCKER, SwarmFailed, run

_CERTIFICATES = Path("/etc/ssl/certs/ca-certificates.crt")
# Not where Debian has its bundle: installing its package of certificates would write over it.
_COPY = "/etc/ssl/machine.crt"
_ROOT_S = 600
_BUILD_S = 900
# The official image keeps its programs in /opt/rabbitmq/sbin and numbers its account 999. Debian's own wrappers in
# /usr/sbin want root; those below /usr/lib do not.
_RABBITMQ = """
RUN usermod -o --uid 999 rabbitmq && groupmod -o --gid 999 rabbitmq \\
 && install -d -o rabbitmq -g rabbitmq -m 0755 /var/lib/rabbitmq /var/log/rabbitmq /etc/rabbitmq \\
 && chown -R rabbitmq:rabbitmq /var/lib/rabbitmq /var/log/rabbitmq /etc/rabbitmq \\
 && rm -f /var/lib/rabbitmq/.erlang.cookie /etc/rabbitmq/rabbitmq-env.conf /etc/rabbitmq/enabled_plugins \\
 && mkdir -p /opt/rabbitmq && ln -s /usr/lib/rabbitmq/bin /opt/rabbitmq/sbin
ENV PATH=/opt/rabbitmq/sbin:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin \\
    RABBITMQ_DATA_DIR=/var/lib/rabbitmq HOME=/var/lib/rabbitmq LANG=C.UTF-8
"""
_REDIS = """
RUN usermod -o --uid 999 redis && groupmod -o --gid 1000 redis && install -d -o redis -g redis -m 0755 /data \\
 && rm -rf /etc/redis
WORKDIR /data
"""
_PYTHON = """
RUN apt-get update && apt-get install -y --no-install-recommends python3 python3-venv python3-pip \\
 && rm -rf /var/lib/apt/lists/* /usr/lib/python3*/EXTERNALLY-MANAGED \\
 && ln -s /usr/bin/python3 /usr/local/bin/python && ln -s /usr/bin/python3 /usr/local/bin/python3
ENV LANG=C.UTF-8
CMD ["python3"]
"""


@dataclass(frozen=True)
class Base:
    """`official` is the image that the stand-in is for, `suite` the Debian root, `recipe` what is done to it."""

    official: str
    suite: Suite
    recipe: str


BASES = {
    "rabbitmq-4.3": Base("rabbitmq:4.3-management", FORKY, _RABBITMQ),
    "rabbitmq-4.0": Base("rabbitmq:4.0-management", TRIXIE, _RABBITMQ),
    "redis": Base("redis:8", FORKY, _REDIS),
    "python": Base("python:3.13-slim", TRIXIE, _PYTHON),
}


def ensure_base(builder: Engine, name: str) -> str:
    """The stand-in's image on the engine that builds, made now if need be. Raises ServiceUnavailable, SwarmFailed."""
    base = BASES[name]
    root = anyio.run(ensure_root, base.suite)
    settings = _machine_settings()
    digest = hashlib.sha256("\n".join((root.name, base.recipe, settings)).encode()).hexdigest()[:10]
    tag = f"stand-in/{name}:{digest}"
    if _has(builder, tag):
        return tag
    imported = f"stand-in/root:{root.name}"
    if not _has(builder, imported):
        _import(builder, root, imported)
    folder = Path(builder.socket.removeprefix("unix://")).with_name(f"base-{name}")
    folder.mkdir(exist_ok=True)
    (folder / "ca-certificates.crt").write_bytes(_CERTIFICATES.read_bytes() if _CERTIFICATES.exists() else b"")
    (folder / "pip.conf").write_text(settings, encoding="utf-8")
    lines = (
        f"FROM {imported}",
        f"COPY ca-certificates.crt {_COPY}",
        "COPY pip.conf /etc/pip.conf",
        base.recipe.strip(),
    )
    (folder / "Dockerfile").write_text("\n".join(lines) + "\n", encoding="utf-8")
    builder.docker("build", "--quiet", "--network", "host", "--tag", tag, str(folder), timeout=_BUILD_S)
    return tag


def _has(builder: Engine, tag: str) -> bool:
    return bool(builder.docker("image", "ls", "--quiet", tag).strip())


def _import(builder: Engine, root: Path, tag: str) -> None:
    """A Debian root as an image of one layer."""
    pack = ("tar", "--directory", str(root), "--numeric-owner", "--exclude=./proc/*", "--exclude=./srv/*", "-c", ".")
    take = (DOCKER, "--host", builder.socket, "import", "-", tag)
    with subprocess.Popen(pack, stdout=subprocess.PIPE) as packing:
        done = subprocess.run(take, stdin=packing.stdout, capture_output=True, text=True, timeout=_ROOT_S, check=False)
    if packing.returncode or done.returncode:
        raise SwarmFailed(f"the root {root.name} could not be imported: {done.stderr.strip()}")


def _machine_settings() -> str:
    """pip's settings of this machine that mean something in a container: where its index is, and whom it trusts."""
    listed = run((sys.executable, "-m", "pip", "config", "list"))
    lines = ["[global]"]
    if _CERTIFICATES.exists():
        lines.append(f"cert = {_COPY}")
    for name, value in re.findall(r"^\S+\.([\w-]+)='(.*)'$", listed, re.MULTILINE):
        if name in ("index-url", "trusted-host", "proxy"):
            lines.append(f"{name} = {value}")
    return "\n".join(lines) + "\n"

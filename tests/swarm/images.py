"""The project's images on stand-in bases, and one more: the load's, made as users make theirs, FROM fogactors."""

import shutil
import sys
from pathlib import Path

from tests.swarm.bases import ensure_base
from tests.swarm.hosts import REGISTRY
from tests.swarm.shell import DOCKER, run
from tests.swarm.testbed import Testbed

ROOT = Path(__file__).parents[2]
LOAD_IMAGE = "fogactors-load"
LOAD_MODULES = "tests.swarm.work"
_BUILD_S = 1200
_PUSH_S = 300
# What the load needs of the tests; the image has fogactors itself.
_LOAD_FILES = ("tests/__init__.py", "tests/swarm/__init__.py", "tests/swarm/ledger.py")
_LOAD_FILES = (*_LOAD_FILES, "tests/swarm/load.py", "tests/swarm/work.py")


def build(bed: Testbed, version: str) -> str:
    """Build all images on RabbitMQ `version` ("4.3"), push them; the tag that they have in the hosts' registry.

    Raises ServiceUnavailable, SwarmFailed.
    """
    tag = f"on-{version}"
    builder = bed.builder
    environment = {
        "DOCKER": DOCKER,
        "DOCKER_HOST": builder.socket,
        "DOCKER_BUILDKIT": "0",
        "PYTHON": sys.executable,
        "FOG_REGISTRY": f"{REGISTRY}/",
        "FOG_VERSION": tag,
        "BASE_RABBITMQ": ensure_base(builder, f"rabbitmq-{version}"),
        "BASE_REDIS": ensure_base(builder, "redis"),
        "BASE_PYTHON": ensure_base(builder, "python"),
    }
    run(("sh", str(ROOT / "images/build"), "--network", "host", "--quiet"), timeout=_BUILD_S, env=environment)
    _build_load(bed, tag)
    for name in ("fogactors", "fogactors-redis", "fogactors-rabbitmq", LOAD_IMAGE):
        builder.docker("push", "--quiet", f"{REGISTRY}/{name}:{tag}", timeout=_PUSH_S)
    return tag


def retag(bed: Testbed, tag: str, fresh: str) -> None:
    """Push all images under another tag as well: what an update brings."""
    for name in ("fogactors", "fogactors-redis", "fogactors-rabbitmq", LOAD_IMAGE):
        bed.push(f"{REGISTRY}/{name}:{tag}", f"{name}:{fresh}")


def _build_load(bed: Testbed, tag: str) -> None:
    context = bed.folder / "load"
    shutil.rmtree(context, ignore_errors=True)
    for name in _LOAD_FILES:
        (context / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(ROOT / name, context / name)
    lines = (f"FROM {REGISTRY}/fogactors:{tag}", "COPY tests /srv/fogactors/tests")
    (context / "Dockerfile").write_text("\n".join(lines) + "\n", encoding="ascii")
    bed.builder.docker("build", "--quiet", "--tag", f"{REGISTRY}/{LOAD_IMAGE}:{tag}", str(context), timeout=_BUILD_S)


def above_base_mb(bed: Testbed, tag: str) -> float:
    """What the image `fogactors` adds to its base, in 10**6 bytes, unpacked."""
    names = (f"{REGISTRY}/fogactors:{tag}", ensure_base(bed.builder, "python"))
    image, base = (int(bed.builder.docker("image", "inspect", "--format", "{{.Size}}", name)) for name in names)
    return round((image - base) / 1e6, 1)

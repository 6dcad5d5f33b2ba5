"""The one testbed of this machine: what a killed run left is removed, images are built, the hosts run, all of it ends.

~/.cache/fogactors/swarm/lock       held by the run that is on
~/.cache/fogactors/swarm/run        this run's files; gone when it ends
~/.cache/fogactors/swarm/builder    images and layers, kept so that a second run builds only what has changed
~/.cache/fogactors/swarm/registry   what the hosts pull, kept for the same reason
"""

import fcntl
import json
import os
import signal
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.services import ServiceUnavailable
from tests.services.processes import ProcessId
from tests.swarm.hosts import REGISTRY, Engine, Hosts, remove_cgroups, remove_leg
from tests.swarm.shell import require, wait_for

_PUSH_S = 300
_REMOVE_S = 300
_LOCK_S = 1800


class Testbed:
    """`hosts` and the engine that builds images (`builder`); `push` gives an image to the hosts' registry."""

    __test__ = False  # not a class of tests

    def __init__(self, folder: Path) -> None:
        self.folder = folder / "run"
        self.builder = Engine("builder", self.folder / "builder", data=folder / "builder")
        self.hosts = Hosts(self.folder, folder / "registry")

    def push(self, image: str, name: str) -> str:
        """Tag a built image as REGISTRY/name and push it; the name that hosts pull. Raises SwarmFailed."""
        target = f"{REGISTRY}/{name}"
        self.builder.docker("tag", image, target)
        self.builder.docker("push", "--quiet", target, timeout=_PUSH_S)
        return target

    def start(self) -> None:
        self.hosts.start_lan()
        self.builder.spawn()
        self.builder.begin()
        self.hosts.start()
        self.builder.wait_ready()
        trees = [*self.hosts.identities(), self.builder.identity]
        text = json.dumps([[tree.pid, tree.started] for tree in trees])
        (self.folder / "trees.json").write_text(text, encoding="ascii")

    def stop(self) -> None:
        self.builder.stop()
        self.hosts.close()
        _remove(self.folder)


@contextmanager
def testbed() -> Iterator[Testbed]:
    """Engines on five hosts, not yet a Swarm. Raises ServiceUnavailable where this machine can have none."""
    require()
    folder = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "fogactors" / "swarm"
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "lock").open("a") as lock:
        _take(lock.fileno())
        sweep(folder / "run")
        bed = Testbed(folder)
        try:
            bed.start()
            yield bed
        finally:
            bed.stop()


testbed.__test__ = False  # type: ignore[attr-defined]


def sweep(run: Path) -> None:
    """Remove what a killed run left. Its processes have died with it; any that has not is ended here."""
    trees = run / "trees.json"
    if trees.exists():
        for pid, started in json.loads(trees.read_text(encoding="ascii")):
            ProcessId(pid, started).signal(signal.SIGKILL)
    remove_cgroups()
    remove_leg()
    _remove(run)


def _remove(folder: Path) -> None:
    # An engine that was killed a moment ago may still be unmounting what lies below.
    def gone() -> bool:
        # Five engines' images: half a million files, of which a program in C removes more in a second.
        subprocess.run(("rm", "-rf", str(folder)), capture_output=True, check=False, timeout=_REMOVE_S)
        return not folder.exists()

    wait_for(f"the removal of {folder}", gone, timeout=10)


def _take(lock: int) -> None:
    deadline = time.monotonic() + _LOCK_S
    while True:
        try:
            return fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() > deadline:
                raise ServiceUnavailable(f"another run has had the testbed for {_LOCK_S} s") from None
            time.sleep(0.5)

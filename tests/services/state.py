"""The folders of running servers, from which another program can stop them.

.services/<name>/service.json   what runs there, for whom, and how it is reached
.services/<name>/console.log    what the server wrote to its terminal
.services/<name>/home/          the server's own folder: configuration, data, log
"""

import json
import shutil
import signal
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from subprocess import DEVNULL

from tests.services.errors import ServiceFailed
from tests.services.processes import ProcessId, wait_gone
from tests.services.routes import Running

_BASE = Path(__file__).resolve().parents[2] / ".services"


@dataclass(frozen=True)
class Record:
    """`owner` is the program that will stop the server; None means that it is kept until somebody stops it."""

    folder: Path
    release: str
    running: Running
    owner: ProcessId | None
    variables: dict[str, str]

    def save(self) -> None:
        owner = None if self.owner is None else [self.owner.pid, self.owner.started]
        data = {
            "release": self.release,
            "running": self.running.dump(),
            "owner": owner,
            "variables": self.variables,
        }
        # Renamed into place: a reader never sees half of it. Not for others' eyes: the URLs hold passwords.
        fresh = self.folder / "service.json.new"
        fresh.touch(mode=0o600)
        fresh.write_text(json.dumps(data, indent=2), encoding="utf-8")
        fresh.rename(self.folder / "service.json")

    @classmethod
    def load(cls, folder: Path) -> "Record":
        data = json.loads((folder / "service.json").read_text(encoding="utf-8"))
        owner = None if data["owner"] is None else ProcessId(*data["owner"])
        return cls(folder, data["release"], Running.load(data["running"]), owner, data["variables"])

    @property
    def kept(self) -> bool:
        return self.owner is None

    @property
    def abandoned(self) -> bool:
        return self.owner is not None and not self.owner.alive()

    async def stop(self, grace_s: float = 10) -> None:
        """Ask, wait, kill; then remove the folder."""
        self.running.signal(signal.SIGTERM)
        await wait_gone(self.running.processes[0], grace_s)
        await self.running.kill()
        remove(self.folder)


def base_folder() -> Path:
    """.services, which hides itself from git."""
    _BASE.mkdir(mode=0o700, exist_ok=True)
    ignore = _BASE / ".gitignore"
    if not ignore.exists():
        ignore.write_text("*\n", encoding="ascii")
    return _BASE


def new_folder(name: str) -> Path:
    """A private folder with a home in it. Raises FileExistsError."""
    folder = base_folder() / name
    folder.mkdir(mode=0o700)
    (folder / "home").mkdir(mode=0o700)
    return folder


def remove(folder: Path) -> None:
    home = folder / "home"
    if home.is_mount():  # a disk of its own
        subprocess.run(["umount", "--lazy", home], stdout=DEVNULL, stderr=DEVNULL, timeout=30, check=False)
    shutil.rmtree(folder, ignore_errors=True)
    if folder.exists():
        raise ServiceFailed(f"{folder} could not be removed")


def records() -> Iterator[Record]:
    for file in sorted(_BASE.glob("*/service.json")):
        try:
            yield Record.load(file.parent)
        except FileNotFoundError:
            continue  # stopped by its owner a moment ago


async def sweep() -> list[str]:
    """Stop what programs left behind that were killed; the names of what was stopped."""
    stopped: list[str] = []
    for record in records():
        if record.abandoned:
            await record.running.kill()
            remove(record.folder)
            stopped.append(record.folder.name)
    return stopped

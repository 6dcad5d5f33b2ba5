"""A node's data directory, and what in it outlives a crash of the sentinel: two marks and a number.

`joining`: the node is about to become a member and has nothing yet that anybody could need, so what lies there is as
good as nothing. `growing`: it is a member, and its queues do not have their replicas on it yet. The number is the
data's incarnation, and goes where the data goes.
"""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import Final, Literal

from fogactors.errors import FogError

__all__ = ["DataDir", "DataError", "private_file"]

ASIDE: Final = "fog-aside"
"""Where data goes that no cluster can use: kept until the next, for whoever wants to look."""


class DataError(FogError):
    """The data directory cannot be read or written."""


def private_file(path: Path, text: str) -> None:
    """For the account of the server alone, whose folder it is in. Raises `OSError`."""
    path.unlink(missing_ok=True)
    path.touch(mode=0o600)
    path.write_text(text, encoding="utf-8")
    path.chmod(0o400)
    if os.geteuid() == 0:  # the server's account may be another
        owner = path.parent.stat()
        os.chown(path, owner.st_uid, owner.st_gid)


class DataDir:
    """Of one node, below `base`. Methods raise `DataError`."""

    def __init__(self, base: Path, node: str) -> None:
        self._base = base
        self._node = node
        self._own = base / node

    def state(self) -> Literal["blank", "kept"]:
        try:
            self._base.mkdir(parents=True, exist_ok=True)
            there = self._own.is_dir() and any(self._own.iterdir())
        except OSError as error:
            raise _failed(error) from error
        return "kept" if there and not self.marked("joining") else "blank"

    def marked(self, mark: Literal["joining", "growing"]) -> bool:
        return self._mark(mark).exists()

    def mark(self, mark: Literal["joining", "growing"]) -> None:
        """On the disk when it returns: after a power cut a node that has just begun must not look like one with
        data."""
        try:
            with self._mark(mark).open("w") as file:
                os.fsync(file.fileno())
            self._sync()
        except OSError as error:
            raise _failed(error) from error

    def unmark(self, mark: Literal["joining", "growing"]) -> None:
        """Gone from the disk when it returns: after a power cut a node with data must not look like one that has just
        begun."""
        try:
            self._mark(mark).unlink(missing_ok=True)
            self._sync()
        except OSError as error:
            raise _failed(error) from error

    def incarnation(self) -> int:
        """0: none, or none that can be read."""
        try:
            text = self._number.read_text(encoding="ascii").strip()
        except (OSError, UnicodeError):
            return 0
        return int(text) if text.isdecimal() else 0

    def begin(self, incarnation: int) -> None:
        """The data is of this one from now on. On the disk when it returns."""
        fresh = self._number.with_suffix(".new")
        try:
            self._base.mkdir(parents=True, exist_ok=True)
            with fresh.open("w", encoding="ascii") as file:
                file.write(f"{incarnation}\n")
                file.flush()
                os.fsync(file.fileno())
            fresh.rename(self._number)
            self._sync()
        except OSError as error:
            raise _failed(error) from error

    def put_aside(self) -> None:
        """The node is blank afterwards. Renamed, not removed: it takes no time, and can be taken back by hand until
        the next time. Only on a word of the plan."""
        aside = self._base / ASIDE
        try:
            shutil.rmtree(aside, ignore_errors=True)
            aside.mkdir(parents=True)
            for path in self._files():
                path.rename(aside / path.name)
        except OSError as error:
            raise _failed(error) from error

    def clear_joining(self) -> None:
        """Remove what a join has left that did not come to its end, and nothing else: without its mark nothing is
        removed."""
        if not self.marked("joining"):
            return
        try:
            for path in self._files():
                shutil.rmtree(path) if path.is_dir() else path.unlink()
        except OSError as error:
            raise _failed(error) from error

    def _files(self) -> list[Path]:
        """The node's folder, and what RabbitMQ and we put beside it."""
        endings = ("", "-feature_flags", "-plugins-expand", ".pid", ".incarnation")
        return [path for ending in endings if (path := self._base / f"{self._node}{ending}").exists()]

    @property
    def _number(self) -> Path:
        return self._base / f"{self._node}.incarnation"

    def _sync(self) -> None:
        folder = os.open(self._base, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)

    def _mark(self, mark: str) -> Path:
        return self._base / f"fog-{mark}"


def _failed(error: OSError) -> DataError:
    return DataError(f"[cluster] data_dir: {error.strerror or error}: {error.filename}; it must be ours to write to")

"""Which files the job is about. What is found here is what must come back: losses are counted from this list."""

from __future__ import annotations

import os
import stat
import sysconfig
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from fogactors.errors import ConfigError
from fogactors.messages import Priority

__all__ = ["File", "Found", "printable", "scan"]

SMALL: Final = 4 * 1024
LARGE: Final = 32 * 1024


@dataclass(frozen=True, slots=True)
class File:
    """`path` is absolute, `size` in bytes as it was when the folder was read."""

    path: str
    size: int

    @property
    def is_source(self) -> bool:
        return self.path.endswith(".py")

    @property
    def priority(self) -> Priority:
        """Small files first: no short answer waits behind a long one."""
        return "high" if self.size < SMALL else "low" if self.size >= LARGE else "normal"


@dataclass(frozen=True, slots=True)
class Found:
    """`files` in the order of the folders, each sorted by name. `left_out`: links, sockets and the like;
    `unreadable`: folders that could not be listed, with the reason."""

    root: Path
    files: tuple[File, ...]
    left_out: int
    unreadable: tuple[str, ...]


def scan(path: Path | None, *, limit: int | None = None, leave_out: Collection[Path] = ()) -> Found:
    """The regular files below `path`, at most `limit`; without a path, of Python's standard library, without the
    packages that are installed in it. Caches of byte code are left out, links are not followed.

    Raises `ConfigError` for a path that does not exist, is no folder, cannot be read or holds no file.
    """
    root = Path(sysconfig.get_path("stdlib")) if path is None else path
    skip = {"__pycache__"} if path is not None else {"__pycache__", "site-packages", "dist-packages"}
    try:
        root = root.resolve(strict=True)
        next(root.iterdir(), None)
    except NotADirectoryError:
        raise ConfigError(f"{printable(root)} is not a folder; name one that holds files") from None
    except (OSError, RuntimeError) as error:
        reason = error.strerror if isinstance(error, OSError) else str(error)
        raise ConfigError(f"{printable(root)} cannot be read: {reason}") from error
    files: list[File] = []
    unreadable: list[str] = []
    left_out = 0

    def note(error: OSError) -> None:
        unreadable.append(f"{printable(error.filename)}: {error.strerror}")

    without = {str(each) for each in leave_out}
    for folder, folders, names in os.walk(root, onerror=note):
        left_out += sum(os.path.islink(os.path.join(folder, each)) for each in folders)  # noqa: PTH114, PTH118
        folders[:] = sorted(each for each in folders if each not in skip)
        for name in sorted(names):
            file = os.path.join(folder, name)  # noqa: PTH118 - a Path for each of a million files is a second of work
            size = _regular_size(file)
            if size is None or file in without:
                left_out += 1
                continue
            files.append(File(file, size))
            if len(files) == limit:
                return Found(root, tuple(files), left_out, tuple(unreadable))
    if not files:
        reason = f" (not readable: {unreadable[0]})" if unreadable else ""
        raise ConfigError(f"{printable(root)} holds no regular file{reason}")
    return Found(root, tuple(files), left_out, tuple(unreadable))


def _regular_size(path: str) -> int | None:
    """`None`: no regular file. One that cannot be examined counts as a file: its tasks will say what is wrong."""
    try:
        status = os.lstat(path)
    except OSError:
        return 0
    return status.st_size if stat.S_ISREG(status.st_mode) else None


def printable(path: str | Path) -> str:
    """A path as text that can be written anywhere: what is not UTF-8 in it becomes `\\xff`."""
    return os.fsencode(path).decode("utf-8", "backslashreplace")

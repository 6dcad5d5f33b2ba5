"""What is expected and what came back. The expectation comes from the files alone, so that nothing that happens to a
task on its way can lower it."""

from __future__ import annotations

import heapq
import os
from dataclasses import dataclass, field
from typing import Any, Final, Literal

from msgspec import Raw, Struct

from fogactors.app.demo.files import File, Found, printable
from fogactors.app.demo.work import Compression, Digest, Tokens
from fogactors.messages import ErrorInfo, Priority, TaskState
from fogactors.observe.stats import Sketch

__all__ = ["KINDS", "Group", "Job", "Kind", "Ledger", "Row"]

Kind = Literal["digest", "compression", "tokens"]
KINDS: Final[tuple[Kind, ...]] = ("digest", "compression", "tokens")

TOP: Final = 5
RATIO_FROM: Final = 1024
"""Bytes from which a file is compared by its ratio: of a smaller one it says more about the codec's header."""


@dataclass(frozen=True, slots=True)
class Job:
    """One task: a file, by its place in the list, and what is done with it."""

    index: int
    file: File
    kind: Kind


class Row(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """How one task ended; a line of `--out`. `wait_s`: from submit to start, `run_s`: the last attempt; both are
    missing for what never started."""

    path: str
    kind: Kind
    tier: str
    priority: Priority
    state: TaskState
    attempts: int
    wait_s: float | None = None
    run_s: float | None = None
    value: Raw | None = None
    error: ErrorInfo | None = None


@dataclass(slots=True)
class Group:
    """Figures of one tier and priority."""

    count: int = 0
    failed: int = 0
    wait: Sketch = field(default_factory=Sketch)
    run: Sketch = field(default_factory=Sketch)


@dataclass(slots=True)
class _Source:
    files: int = 0
    lines: int = 0
    code_lines: int = 0
    tokens: int = 0


class Ledger:
    """One entry per file and kind, and figures that stay small."""

    def __init__(self, found: Found) -> None:
        self.found = found
        # A bit per kind and a byte per file: a set of a million pairs would be the largest thing in the process.
        self._open = bytearray(0b111 if file.is_source else 0b011 for file in found.files)
        self.expected = sum(bits.bit_count() for bits in self._open)
        self.recorded = 0
        self.failed = 0
        self.groups: dict[tuple[str, Priority], Group] = {}
        self.failures: list[Row] = []
        """The first few."""
        self.largest: list[tuple[int, str, str]] = []
        """Size, path, SHA-256; a heap."""
        self.densest: list[tuple[float, str, Compression]] = []
        """Best ratio, path, all of it; a heap."""
        self.source = _Source()

    @property
    def missing(self) -> int:
        """Tasks without a result."""
        return sum(bits.bit_count() for bits in self._open)

    def is_open(self, job: Job) -> bool:
        return bool(self._open[job.index] & _bit(job.kind))

    def record(self, job: Job, row: Row, value: Digest | Compression | Tokens | None) -> None:
        """Raises `ValueError` for a second result of the same task, or one that nobody expects."""
        if not self.is_open(job):
            raise ValueError(f"there is no open entry for {job.kind} of {row.path}")
        self._open[job.index] ^= _bit(job.kind)
        self.recorded += 1
        group = self.groups.setdefault((row.tier, row.priority), Group())
        group.count += 1
        if row.wait_s is not None:
            group.wait.add(row.wait_s)
        if row.run_s is not None:
            group.run.add(row.run_s)
        if row.state != "succeeded":
            self.failed += 1
            group.failed += 1
            if len(self.failures) < TOP:
                self.failures.append(row)
        match value:
            case Digest():
                _keep(self.largest, (value.size, row.path, value.sha256))
            case Compression() if value.size >= RATIO_FROM:
                _keep(self.densest, (max(value.zlib_ratio, value.bz2_ratio), row.path, value))
            case Tokens():
                self.source.files += 1
                self.source.lines += value.lines
                self.source.code_lines += value.code_lines
                self.source.tokens += value.tokens
            case _:
                pass

    def shown(self, file: File) -> str:
        """The file's path below the folder that was scanned."""
        return printable(os.path.relpath(file.path, self.found.root))


def _bit(kind: Kind) -> int:
    return 1 << KINDS.index(kind)


def _keep(heap: list[Any], entry: tuple[float, str, object]) -> None:
    heapq.heappush(heap, entry)
    if len(heap) > TOP:
        heapq.heappop(heap)

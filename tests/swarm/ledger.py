"""The account of a load: what the broker confirmed, and what became of it.

A line is in the ledger when its task was confirmed and the disk has it: the publisher may die at any moment and the
ledger claims nothing that was not so. Whoever checks compares it with the records of results AND with the dead letters;
what is in neither is lost. Standard library only: it is copied into the image of the load as it is.
"""

from __future__ import annotations

import os
import queue
import threading
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path


@dataclass(frozen=True, slots=True)
class Entry:
    """One confirmed task. `number`: what its traces say; `lane`: its task queue; `sent`, `confirmed`: seconds since the
    epoch."""

    id: str
    number: int
    lane: str
    sent: float
    confirmed: float


class Ledger:
    """Appends entries to a file from a thread of its own; those that come during one fsync share the next."""

    def __init__(self, path: Path) -> None:
        self._file = path.open("ab", buffering=0)
        self._waiting: queue.SimpleQueue[Entry | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._write, name="ledger", daemon=True)
        self._thread.start()
        self.durable = 0
        """Entries that the disk has."""

    def add(self, entry: Entry) -> None:
        self._waiting.put(entry)

    def close(self) -> None:
        """Everything that was added is on the disk when it returns. May be called twice."""
        self._waiting.put(None)
        self._thread.join()
        self._file.close()

    def _write(self) -> None:
        last = False
        while not last:
            entries = [self._waiting.get()]
            while not self._waiting.empty():
                entries.append(self._waiting.get())
            last = None in entries
            lines = [f"{e.id} {e.number} {e.lane} {e.sent:.6f} {e.confirmed:.6f}\n" for e in entries if e is not None]
            if lines:
                self._file.write("".join(lines).encode("ascii"))
                os.fsync(self._file.fileno())
                self.durable += len(lines)


def read(path: Path) -> list[Entry]:
    """What a ledger holds. A last line without an end was cut off by a crash and was never durable."""
    entries: list[Entry] = []
    for line in path.read_text(encoding="ascii").splitlines(keepends=True):
        if line.endswith("\n"):
            name, number, lane, sent, confirmed = line.split()
            entries.append(Entry(name, int(number), lane, float(sent), float(confirmed)))
    return entries


@dataclass(frozen=True, slots=True)
class Account:
    """`states`: how the recorded ones ended; `dead`: in the dead letters and not recorded; `lost`: in neither."""

    confirmed: int
    states: Mapping[str, int]
    dead: int
    lost: tuple[str, ...]


def balance(entries: Iterable[Entry], ends: Mapping[str, str], dead: Iterable[str]) -> Account:
    """`ends`: the recorded state by task id; `dead`: ids of tasks with a dead letter."""
    ids = {entry.id for entry in entries}
    letters = frozenset(dead)
    return Account(
        confirmed=len(ids),
        states=dict(Counter(ends[each] for each in ids if each in ends)),
        dead=sum(1 for each in ids if each in letters and each not in ends),
        lost=tuple(sorted(each for each in ids if each not in ends and each not in letters)),
    )


@dataclass(frozen=True, slots=True)
class Runs:
    """`runs`: how often the confirmed tasks ran together; `duplicates`: those that ran more than once; `unseen`: those
    that left no trace; `pause_s`: the longest time in which none ran."""

    runs: int
    duplicates: int
    unseen: int
    pause_s: float


def runs_of(entries: Iterable[Entry], traces: Iterable[tuple[int, float]], since: float, until: float) -> Runs:
    """`traces`: the number and the time of each run; the pause is looked for between two moments."""
    counts = dict.fromkeys((entry.number for entry in entries), 0)
    times = [since]
    for number, at in sorted(traces, key=lambda trace: trace[1]):
        if number in counts:
            counts[number] += 1
        if since <= at <= until:
            times.append(at)
    return Runs(
        runs=sum(counts.values()),
        duplicates=sum(1 for count in counts.values() if count > 1),
        unseen=sum(1 for count in counts.values() if count == 0),
        pause_s=max(later - earlier for earlier, later in zip(times, [*times[1:], until], strict=True)),
    )


def silences(entries: Iterable[Entry], lanes: Iterable[str], since: float, until: float) -> dict[str, float]:
    """The longest time without a confirm between two moments, in seconds, for each lane: how long nobody could be sure
    of a publish to it. A lane that got no confirm at all was silent all the time."""
    times: dict[str, list[float]] = {lane: [since] for lane in lanes}
    for entry in sorted(entries, key=lambda entry: entry.confirmed):
        if since <= entry.confirmed <= until and entry.lane in times:
            times[entry.lane].append(entry.confirmed)
    return {
        lane: max(later - earlier for earlier, later in zip(at, [*at[1:], until], strict=True))
        for lane, at in times.items()
    }


@dataclass(slots=True)
class Refusals:
    """Publishes that raised, by lane and by the error's name: none of them may be in the ledger."""

    counts: Counter[tuple[str, str]] = field(default_factory=Counter[tuple[str, str]])

    def add(self, lane: str, error: Exception) -> None:
        self.counts[lane, type(error).__name__] += 1

    def by_error(self) -> dict[str, int]:
        found: Counter[str] = Counter()
        for (_, error), count in self.counts.items():
            found[error] += count
        return dict(found)


def quantile(values: Iterable[float], share: float) -> float:
    """The smallest value that `share` of them do not exceed; 0.0 of none."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))] if ordered else 0.0

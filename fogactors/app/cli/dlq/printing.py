"""Dead letters as text: a table that begins before its end is known, one letter with its body, and JSON.

Everything in a letter may come from anybody, so nothing of it reaches the terminal that a terminal would obey.
"""

from __future__ import annotations

import shutil
import sys
from collections.abc import Iterable
from datetime import datetime
from typing import TYPE_CHECKING, Any, Final

import msgspec
from msgspec.structs import asdict

from fogactors.coord.letters import ParkedLetter
from fogactors.messages import DeadLetter
from fogactors.tasks.failures import brief

if TYPE_CHECKING:
    from fogactors.app.dlq_reader import PastEvent

__all__ = ["JsonArray", "LetterTable", "as_json", "print_letter", "printable"]

TEXT_LIMIT: Final = 65_536
HEX_LIMIT: Final = 1_024
HEX_ROW: Final = 16
MIN_ERROR: Final = 16
HEADERS: Final = ("id", "state", "reason", "task", "queue", "attempts", "age", "error")


class LetterTable:
    """Rows as wide as the first ones need, so that fifty thousand of them are not held to measure them. On a terminal
    the last column is cut to what is left of the line; a pipe gets all of it."""

    def __init__(self, now: datetime) -> None:
        self._now = now
        self._widths: list[int] | None = None
        self._columns = shutil.get_terminal_size().columns if sys.stdout.isatty() else None

    def add(self, letters: Iterable[ParkedLetter]) -> None:
        rows = [self._row(letter) for letter in letters]
        if self._widths is None:
            self._widths = [max(map(len, column)) for column in zip(HEADERS, *rows, strict=True)]
            self._widths[-1] = 0
            rows.insert(0, HEADERS)
        sys.stdout.write("".join(f"{self._line(row, self._widths)}\n" for row in rows))

    def end(self) -> None:
        sys.stdout.flush()

    def _row(self, letter: ParkedLetter) -> tuple[str, ...]:
        name, queue = letter.name or "-", letter.queue or "-"
        texts = (letter.id, letter.state, letter.reason, name, queue, str(letter.attempts), self._age(letter))
        return (*(printable(text) for text in texts), printable(letter.error))

    def _age(self, letter: ParkedLetter) -> str:
        return age(letter.last, self._now)

    def _line(self, row: tuple[str, ...], widths: list[int]) -> str:
        line = "  ".join(text.ljust(width) for text, width in zip(row, widths, strict=True))
        if self._columns is not None and len(line) > self._columns:
            room = max(self._columns, len(line) - len(row[-1]) + MIN_ERROR)
            line = line if len(line) <= room else f"{line[: room - 1]}…"
        return line.rstrip()


class JsonArray:
    """One array, written as it comes, a letter on each line: for a program that reads all of it, and for one that
    reads lines."""

    def __init__(self) -> None:
        self._encoder = msgspec.json.Encoder()
        self._before = "[\n"

    def add(self, letters: Iterable[ParkedLetter]) -> None:
        # As a dict, because the index leaves out what has its default, and who filters by state should find it.
        lines = b",\n".join([self._encoder.encode(asdict(letter)) for letter in letters])
        sys.stdout.write(f"{self._before}{lines.decode()}")
        self._before = ",\n"

    def end(self) -> None:
        sys.stdout.write("[]\n" if self._before == "[\n" else "\n]\n")
        sys.stdout.flush()


def age(at: datetime, now: datetime) -> str:
    """Such as `35s`, `12m`, `5h` and `3d`: in the units that the filters take."""
    seconds = max(0, int((now - at).total_seconds()))
    for unit, size in (("d", 86400), ("h", 3600), ("m", 60)):
        if seconds >= 2 * size:
            return f"{seconds // size}{unit}"
    return f"{seconds}s"


def printable(text: str, keep: str = "") -> str:
    """With each character that a terminal might obey, or that would break the line, as its escape."""
    if text.isprintable():
        return text
    escaped = (
        c if c.isprintable() or c in keep else c.encode("unicode_escape", "surrogatepass").decode() for c in text
    )
    return "".join(escaped)


# -- one letter


def as_json(entry: ParkedLetter, letter: DeadLetter | None, history: list[PastEvent] | None) -> dict[str, Any]:
    """What `show --json` prints. `letter` has the body as base64; `body` has it readable, where it is JSON or
    MessagePack."""
    row: dict[str, Any] = {**asdict(entry), "letter": letter, "body": None}
    if letter is not None:
        row["body"] = _decoded(letter)
    return row if history is None else {**row, "history": history}


def print_letter(
    entry: ParkedLetter, letter: DeadLetter | None, history: list[PastEvent] | None, now: datetime
) -> None:
    rows = [(name, printable(text)) for name, text in _fields(entry, letter, now) if text]
    width = max(len(name) for name, _ in rows)
    print("\n".join(f"{name.ljust(width)}  {text}" for name, text in rows))
    if letter is not None and letter.error is not None and letter.error.traceback:
        _block("traceback", letter.error.traceback.rstrip())
    if history is not None:
        _block("history", "\n".join(_past(event) for event in history))
    if letter is not None:
        _block("body", _body(letter))


def _fields(entry: ParkedLetter, letter: DeadLetter | None, now: datetime) -> Iterable[tuple[str, str]]:
    touched = f" {_at(entry.since)} by {entry.by or 'somebody'}" if entry.since else ""
    edits = f", edited {_times(entry.revision)}" if entry.revision else ""
    error = brief(letter.error) if letter is not None else entry.error
    content_type = f", {letter.content_type}" if letter is not None else ""
    yield "id", entry.id
    yield "state", f"{entry.state}{touched}"
    yield "reason", entry.reason
    yield "error", error
    yield "task", entry.name or ""
    yield "queue", entry.queue or ""
    yield "attempts", str(entry.attempts)
    yield "worker", entry.worker or ""
    yield "first", _at(entry.first)
    yield "last", f"{_at(entry.last)}, {age(entry.last, now)} ago"
    yield "generation", f"{entry.generation}{edits}"
    yield "correlation", entry.correlation_id or ""
    yield "trace", entry.traceparent or ""
    yield "size", f"{entry.size} bytes{content_type}, at offset {entry.offset}"


def _times(count: int) -> str:
    return "once" if count == 1 else f"{count} times"


def _at(at: datetime) -> str:
    return f"{at:%Y-%m-%d %H:%M:%S} UTC"


def _past(event: PastEvent) -> str:
    return f"{_at(event.at)}  generation {event.generation}  {event.what}  {event.detail}".rstrip()


def _block(title: str, text: str) -> None:
    lines = printable(text, keep="\n\t").split("\n")
    print("\n".join(["", title, *(f"  {line}".rstrip() for line in lines)]))


def _decoded(letter: DeadLetter) -> Any:
    for codec in (msgspec.json, msgspec.msgpack) if "msgpack" in letter.content_type else (msgspec.json,):
        try:
            return codec.decode(letter.body)
        except (msgspec.MsgspecError, UnicodeError, RecursionError):
            continue
    return None


def _body(letter: DeadLetter) -> str:
    """Readable JSON, else the text that it is, else bytes in hexadecimal; bounded."""
    if not letter.body:
        return "(empty)"
    value = _decoded(letter)
    text = None if value is None else msgspec.json.format(msgspec.json.encode(value, enc_hook=str)).decode()
    if text is None:
        try:
            text = letter.body.decode()
        except UnicodeError:
            return _bounded(_hex(letter.body[:HEX_LIMIT]), len(letter.body) - HEX_LIMIT)
    return _bounded(text[:TEXT_LIMIT], len(text) - TEXT_LIMIT)


def _bounded(text: str, more: int) -> str:
    return f"{text}\n... and {more} more; --raw writes all of it" if more > 0 else text


def _hex(body: bytes) -> str:
    rows: list[str] = []
    for start in range(0, len(body), HEX_ROW):
        row = body[start : start + HEX_ROW]
        text = "".join(chr(byte) if 32 <= byte < 127 else "." for byte in row)
        rows.append(f"{start:06x}  {row.hex(' ').ljust(3 * HEX_ROW)} {text}")
    return "\n".join(rows)

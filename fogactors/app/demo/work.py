"""What is done with each file: three tasks, from light to heavy. Worker processes import this module, so it imports
little.

Each reads its file in pieces: what it takes of memory does not depend on the size of the file.
"""

from __future__ import annotations

import bz2
import hashlib
import tokenize
import zlib
from collections import Counter
from pathlib import Path
from typing import Final

from msgspec import Struct

from fogactors.tasks.task import task

__all__ = ["Compression", "Digest", "Tokens", "compression", "digest", "tokens"]

PIECE: Final = 1024 * 1024
"""Bytes that are read at once."""

LAYOUT: Final = frozenset(
    (
        tokenize.COMMENT,
        tokenize.NL,
        tokenize.NEWLINE,
        tokenize.INDENT,
        tokenize.DEDENT,
        tokenize.ENCODING,
        tokenize.ENDMARKER,
    )
)
"""Tokens that do not make a line a line of code."""


class Digest(Struct, frozen=True):
    """`size`: bytes."""

    sha256: str
    size: int


class Compression(Struct, frozen=True):
    """Bytes before and after, by codec; a ratio is before / after, 1 for an empty file."""

    size: int
    zlib: int
    bz2: int
    zlib_ratio: float
    bz2_ratio: float


class Tokens(Struct, frozen=True):
    """Of Python source. `code_lines`: those that hold more than a comment."""

    lines: int
    code_lines: int
    comments: int
    names: int
    strings: int
    tokens: int


@task(name="demo.digest", tier="light")
def digest(path: Path) -> Digest:
    """SHA-256 and size. In a thread: hashing lets other threads run."""
    with path.open("rb") as file:
        return Digest(hashlib.file_digest(file, "sha256").hexdigest(), file.tell())


@task(name="demo.compression", tier="medium")
def compression(path: Path) -> Compression:
    """How well two codecs compress it. In a thread: compressing lets other threads run."""
    deflate, burrows_wheeler = zlib.compressobj(), bz2.BZ2Compressor()
    size = by_zlib = by_bz2 = 0
    with path.open("rb") as file:
        while piece := file.read(PIECE):
            size += len(piece)
            by_zlib += len(deflate.compress(piece))
            by_bz2 += len(burrows_wheeler.compress(piece))
    by_zlib += len(deflate.flush())
    by_bz2 += len(burrows_wheeler.flush())
    return Compression(size, by_zlib, by_bz2, _ratio(size, by_zlib), _ratio(size, by_bz2))


def _ratio(size: int, compressed: int) -> float:
    return round(size / compressed, 3) if size else 1.0


@task(name="demo.tokens", tier="heavy", cpu=True)
def tokens(path: Path) -> Tokens:
    """Counts by `tokenize`. In a process: this is Python code, which would keep the event loop waiting.

    A file that is not valid Python fails with what `tokenize` raises.
    """
    kinds = Counter[int]()
    code: set[int] = set()
    last = 0
    with path.open("rb") as file:
        for token in tokenize.tokenize(file.readline):
            kinds[token.type] += 1
            last = token.start[0]
            if token.type not in LAYOUT:
                code.add(last)
    return Tokens(
        lines=last - 1,  # the end marker stands on a line of its own
        code_lines=len(code),
        comments=kinds[tokenize.COMMENT],
        names=kinds[tokenize.NAME],
        strings=kinds[tokenize.STRING],
        tokens=kinds.total(),
    )

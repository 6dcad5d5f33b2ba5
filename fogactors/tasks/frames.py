"""What a worker process and its parent say to each other: a length (4 bytes, big endian), then MessagePack.

A file of its own because the child runs as `__main__`: a struct defined there would exist twice.
"""

from __future__ import annotations

import struct
from typing import Final

import msgspec
from msgspec import Struct

from fogactors.messages import ErrorInfo

__all__ = ["HEADER", "MAX_FRAME", "Answer", "Command", "Done", "Failed", "Load", "Outcome", "Ready", "Run", "Setup"]
__all__ += ["Skipped", "decode_answer", "decode_command", "encode"]

HEADER: Final = struct.Struct("!I")
MAX_FRAME: Final = 64 * 1024 * 1024
"""Bytes. Far above what a message may hold: it only keeps a runaway result from filling the parent's memory."""


class Setup(Struct, frozen=True, array_like=True, tag="setup"):
    """`path`: the parent's `sys.path`, so that what it can import the child can. `pythonpath`: as it was before us."""

    path: list[str]
    pythonpath: str | None


class Load(Struct, frozen=True, array_like=True, tag="load"):
    """Import a module: apart from `Run`, so that a slow import is not charged to the time limit of a task."""

    module: str


class Run(Struct, frozen=True, array_like=True, tag="run"):
    """`args`: JSON, as in `Task.args`."""

    module: str
    name: str
    args: bytes


class Ready(Struct, frozen=True, array_like=True, tag="ready"):
    """`Setup` or `Load` is done."""


class Done(Struct, frozen=True, array_like=True, tag="done"):
    """The task returned. `value`: JSON, as in `TaskResult.value`."""

    value: bytes


class Skipped(Struct, frozen=True, array_like=True, tag="skipped"):
    """The task raised `Skip`."""

    reason: str


class Failed(Struct, frozen=True, array_like=True, tag="failed"):
    """The task raised. `retryable`: its policy wants another run (only the child has the exception's class to ask);
    `retry_after_s`: what a `Retry` asked for. Both are arguments of `retry.next_delay`.
    """

    error: ErrorInfo
    retryable: bool
    retry_after_s: float | None = None


Command = Setup | Load | Run
Outcome = Done | Skipped | Failed
Answer = Ready | Done | Skipped | Failed

_encoder: Final = msgspec.msgpack.Encoder()
decode_command: Final = msgspec.msgpack.Decoder(Command).decode
decode_answer: Final = msgspec.msgpack.Decoder(Answer).decode


def encode(frame: Command | Answer) -> bytes:
    """One frame with its length. Raises `ValueError` when it is over `MAX_FRAME`."""
    buffer = bytearray(HEADER.size)
    _encoder.encode_into(frame, buffer, HEADER.size)
    size = len(buffer) - HEADER.size
    if size > MAX_FRAME:
        raise ValueError(f"{size} bytes are more than the {MAX_FRAME} that fit between two processes")
    HEADER.pack_into(buffer, 0, size)
    return bytes(buffer)

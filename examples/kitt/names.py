"""What the services have in common: where the broker is, and the names of `actors.toml`."""

from __future__ import annotations

import os
import sys
from pathlib import Path

from fogactors.app.settings import Settings, load

EVENTS = "kitty.events"
TASKS = "kitty.tasks"
RPC = "kitty.rpc"

ESTIMATE = "fabrication.estimate.rpc"
RESEARCH = "research.tasks"
RETRY = "retry.fabrication"


def say(line: str) -> None:
    """In one piece and at once: processes share the terminal."""
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


def settings() -> Settings:
    return load(Path(__file__).with_name("actors.toml"), os.environ, default_ok=False)

"""`python -m fogactors.app.swarm.host PORT...`: what docker does not say of a host, as one line of JSON.

Runs on every host in a container on the host's own network (`hosts.ask_hosts`), as a user without rights. Only the
standard library, because it is a process of its own on each of them.
"""

from __future__ import annotations

import errno
import json
import os
import shutil
import socket
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Final

__all__ = ["facts", "taken"]

_RETRIES: Final = Path("/proc/sys/net/ipv4/tcp_retries2")


def taken(ports: Iterable[int]) -> list[int]:
    """Those of the ports on which something listens here, on whatever address."""
    found: list[int] = []
    for port in ports:
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # connections that have ended hold nothing
            try:
                probe.bind(("", port))
            except OSError as error:
                if error.errno == errno.EADDRINUSE:
                    found.append(port)
    return found


def facts(ports: Iterable[int]) -> dict[str, object]:
    """`disk_free_mb`: MiB where docker keeps containers, which is what a container has for its root. `tcp_retries2`: of
    the host's network, which is this container's."""
    return {
        "host": os.environ.get("FOG_HOST", ""),
        "disk_free_mb": shutil.disk_usage("/").free // 1_048_576,
        "taken": taken(ports),
        "tcp_retries2": _retries(),
    }


def _retries() -> int | None:
    try:
        return int(_RETRIES.read_text(encoding="ascii"))
    except (OSError, ValueError):
        return None


if __name__ == "__main__":
    sys.stdout.write(json.dumps(facts(int(word) for word in sys.argv[1:])) + "\n")

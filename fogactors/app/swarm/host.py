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

__all__ = ["facts", "taken"]


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
    """`disk_free_mb`: MiB where docker keeps containers, which is what a container has for its root."""
    free_mb = shutil.disk_usage("/").free // 1_048_576
    return {"host": os.environ.get("FOG_HOST", ""), "disk_free_mb": free_mb, "taken": taken(ports)}


if __name__ == "__main__":
    sys.stdout.write(json.dumps(facts(int(word) for word in sys.argv[1:])) + "\n")

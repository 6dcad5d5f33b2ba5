"""The folder of RabbitMQ nodes that are started one by one, and the script in it that enters a Debian root."""

from __future__ import annotations

import secrets
import tempfile
from pathlib import Path

_ENTER = """#!/bin/sh
# Enter the root with the nodes' folder in it, under the account of the package; then become the program.
set -e
if [ "$1" = --inside ]; then
    shift
    mount -t proc proc "{root}/proc"
    mount -t tmpfs tmpfs "{root}/tmp"
    mkdir -p "{root}{folder}"
    mount --bind "{folder}" "{root}{folder}"
    [ ! -e "{folder}/hosts" ] || mount --bind "{folder}/hosts" "{root}/etc/hosts"
    exec chroot "{root}" /usr/bin/setpriv --reuid {user} --regid {user} --init-groups --no-new-privs \\
        /usr/bin/env PATH=/usr/lib/rabbitmq/bin:/usr/sbin:/usr/bin:/sbin:/bin LANG=C.UTF-8 "$@"
fi
exec unshare --mount "$0" --inside "$@"
"""


def folder_of_nodes(root: Path, user: str) -> Path:
    """Of all nodes. Below /tmp, because it must have the same path inside the root, where that is a mount of ours."""
    folder = Path(tempfile.mkdtemp(prefix="fogactors-", dir="/tmp"))
    folder.chmod(0o755)
    enter = folder / "enter"
    enter.write_text(_ENTER.format(root=root, folder=folder, user=user))
    enter.chmod(0o755)
    (folder / "cookie").write_text(secrets.token_hex(16))
    return folder

"""Copies of what the stack cannot make again: Redis' data and the broker's definitions; and back.

Messages are not among them: each is on three hosts, and a copy would be old before it was whole. Nor is `.env`: a copy
of passwords is the operator's own business.

All of it takes place where Redis runs, in its containers: its volume is on that host alone.
"""

from __future__ import annotations

import hashlib
import json
import os
import tempfile
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

from fogactors.app.swarm.docker import Docker, DockerFailed
from fogactors.app.swarm.inside import in_broker, in_redis, read_json
from fogactors.errors import ConfigError

__all__ = [
    "DEFINITIONS",
    "EXPORT",
    "IMPORT",
    "PUT",
    "RDB",
    "Copy",
    "missing_from",
    "read_copy",
    "restore_broker",
    "restore_redis",
    "save",
]

RDB: Final = "redis.rdb"
DEFINITIONS: Final = "definitions.json"
_MANIFEST: Final = "manifest.json"
_KEPT: Final[Mapping[str, tuple[str, ...]]] = {
    "vhosts": ("name",),
    "policies": ("vhost", "name"),
    "operator_policies": ("vhost", "name"),
    "queues": ("vhost", "name"),
    "exchanges": ("vhost", "name"),
    "bindings": ("vhost", "source", "destination_type", "destination", "routing_key", "arguments"),
    "parameters": ("component", "vhost", "name"),
}
"""Of the definitions, what is brought back, and what makes each of them one. Users and permissions are not: the
sentinel makes them of the secrets that count now."""
_OURS: Final = "fog."
"""How the names of the policies begin that the sentinel, or `topology apply`, makes of the settings that count now."""
EXPORT: Final = ("rabbitmqctl", "-q", "export_definitions", "-")
IMPORT: Final = ("rabbitmqctl", "-q", "import_definitions")
"""From standard input."""
_SAVE_S: Final = 600.0
_COPY_S: Final = 3600.0
_UP_S: Final = 120.0
_POLL_S: Final = 0.2

PUT: Final = """\
set -eu
cd "$1"
rm -f restore.rdb
cat >restore.rdb
redis-check-rdb restore.rdb >/dev/null
rm -rf before-restore new-appendonlydir
mkdir new-appendonlydir
mv restore.rdb new-appendonlydir/appendonly.aof.1.base.rdb
printf 'file appendonly.aof.1.base.rdb seq 1 type b\\n' >new-appendonlydir/appendonly.aof.manifest
sync
if [ -d appendonlydir ]; then mv appendonlydir before-restore; fi
mv new-appendonlydir appendonlydir
"""
"""For sh, while no server runs: makes what it reads the data of the folder `$1`, and keeps the old as `before-restore`.
With `appendonly yes` Redis reads the append-only files alone, so the copy becomes the first of those. A copy that is
damaged changes nothing."""


@dataclass(frozen=True, slots=True)
class Copy:
    """`files`: name to SHA-256. `made`: RFC 3339, UTC."""

    stack: str
    made: str
    redis: str
    files: Mapping[str, str]


def save(docker: Docker, stack: str, redis: str, broker: str, folder: Path) -> Copy:
    """Copy into a new `folder`. `redis`, `broker`: containers on this host. The folder is whole or not there.

    Raises `ConfigError` where the folder cannot be made, `DockerFailed`.
    """
    work = folder.with_name(f".{folder.name}.new")
    try:
        if folder.exists():
            raise ConfigError(f"{folder} is there already; name another with --out")
        work.mkdir(mode=0o700, parents=True)
        version = _save_redis(docker, redis, work / RDB)
        with _private(work / DEFINITIONS) as file:
            file.write(in_broker(docker, broker, *EXPORT).encode())
        files = {name: _digest(work / name) for name in (RDB, DEFINITIONS)}
        copy = Copy(stack, datetime.now(UTC).isoformat(timespec="seconds"), version, files)
        with _private(work / _MANIFEST) as file:
            file.write(json.dumps(asdict(copy), indent=2).encode() + b"\n")
        work.rename(folder)
    except OSError as error:
        raise ConfigError(f"{folder} cannot be written: {error.strerror or error}") from None
    finally:
        with suppress(OSError):
            for path in work.glob("*"):
                path.unlink()
            work.rmdir()
    return copy


def _private(path: Path) -> Any:
    """Results of tasks and hashes of passwords are nobody else's business."""
    return os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb")


def _save_redis(docker: Docker, container: str, path: Path) -> str:
    """A snapshot, checked in the container before it is copied; Redis' version."""
    before = _info(docker, container)
    in_redis(docker, container, "BGSAVE", "SCHEDULE")  # after a rewrite of the append-only files, if one is going on
    deadline = time.monotonic() + _SAVE_S
    while (now := _info(docker, container))["rdb_saves"] == before["rdb_saves"]:
        if now["rdb_last_bgsave_status"] != "ok" and now["rdb_bgsave_in_progress"] == "0":
            raise DockerFailed("Redis cannot save: its log says why; is there disk and memory for a copy?")
        if time.monotonic() > deadline:
            raise DockerFailed(f"Redis has not saved its data within {_SAVE_S:g} s")
        time.sleep(_POLL_S)
    docker.run("exec", container, "redis-check-rdb", "/data/dump.rdb", timeout=_SAVE_S)
    with _private(path) as file:
        docker.run("exec", container, "cat", "/data/dump.rdb", stdout=file, timeout=_COPY_S)
    docker.run("exec", container, "rm", "-f", "/data/dump.rdb")
    return before["redis_version"]


def _info(docker: Docker, container: str) -> dict[str, str]:
    lines = in_redis(docker, container, "INFO").splitlines()
    return dict(line.strip().split(":", 1) for line in lines if ":" in line)


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def read_copy(folder: Path) -> Copy:
    """What is in the folder. Raises `ConfigError` when it is no copy, or not as it was made."""
    try:
        found: dict[str, Any] = json.loads((folder / _MANIFEST).read_bytes())
        copy = Copy(**found)
        for name in (RDB, DEFINITIONS):
            if _digest(folder / name) != copy.files[name]:
                raise ConfigError(f"{folder / name} is not as it was made: its checksum differs")
    except OSError as error:
        raise ConfigError(f"{folder} is no whole copy: {error.filename}: {error.strerror}") from None
    except (ValueError, TypeError, KeyError):
        raise ConfigError(f"{folder / _MANIFEST} is no manifest of a copy") from None
    return copy


def restore_redis(
    docker: Docker, service: str, container: str, folder: Path, wait: Callable[[], object], up_s: float = _UP_S
) -> None:
    """Make the copy Redis' data: stop `service` (with the stack's name), put it into the volume of `container`, start
    it again, also when that failed. `wait` returns when the service is up. Raises `DockerFailed`."""
    [found] = docker.inspect("container", container)
    [volume] = [each["Name"] for each in found["Mounts"] if each["Destination"] == "/data"]
    image = found["Image"]  # by its digest: the same that runs
    _scale(docker, service, 0)
    try:
        _until_gone(docker, container, up_s)
        program = ("run", "--rm", "--interactive", "--network", "none", "--entrypoint", "sh")
        words = (*program, "--volume", f"{volume}:/data", image, "-c", PUT, "sh", "/data")
        with (folder / RDB).open("rb") as file:
            docker.run(*words, stdin=file, timeout=_COPY_S)
    finally:
        _scale(docker, service, 1)
    wait()


def _scale(docker: Docker, service: str, replicas: int) -> None:
    docker.run("service", "scale", "--detach", f"{service}={replicas}")


def _until_gone(docker: Docker, container: str, timeout: float) -> None:
    deadline = time.monotonic() + timeout
    while docker.run(
        "ps", "--quiet", "--no-trunc", "--filter", f"id={container}", "--filter", "status=running"
    ).strip():
        if time.monotonic() > deadline:
            raise DockerFailed(f"Redis has not stopped within {timeout:g} s; nothing was changed")
        time.sleep(_POLL_S)


def restore_broker(docker: Docker, container: str, folder: Path) -> None:
    """Queues, exchanges, bindings, policies and parameters of the copy that are not there; what is there stays as it
    is. Raises `DockerFailed`."""
    missing = missing_from(in_broker(docker, container, *EXPORT), (folder / DEFINITIONS).read_text())
    if not json.loads(missing):
        return
    with tempfile.TemporaryFile() as file:
        file.write(missing)
        file.seek(0)
        in_broker(docker, container, *IMPORT, stdin=file)


def missing_from(there: str, copy: str) -> bytes:
    """What of the copy is brought back: RabbitMQ's own import leaves queues as they are, but sets each policy and
    parameter, and the attributes of each virtual host. Both are definitions as they are exported."""
    live, kept = read_json(there), read_json(copy)
    missing: dict[str, list[Any]] = {}
    for key, named_by in _KEPT.items():
        have = {_identity(each, named_by) for each in live.get(key, ())}
        missing[key] = [
            each
            for each in kept.get(key, ())
            if _identity(each, named_by) not in have and not (key == "policies" and each["name"].startswith(_OURS))
        ]
    return json.dumps({key: found for key, found in missing.items() if found}).encode()


def _identity(each: Mapping[str, Any], named_by: tuple[str, ...]) -> str:
    return json.dumps([each.get(key) for key in named_by], sort_keys=True)

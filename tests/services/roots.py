"""Debian roots with the servers in them, made once and kept in the cache.

A root is made under another name and renamed when it is whole, so one that was cut off halfway is never taken for a
good one. The steps run in mount and pid namespaces of their own and hold the lock: whatever ends them or us, nothing
stays mounted or running, and nobody else begins before they have ended.
"""

import hashlib
import os
import shutil
import sys
import time
from pathlib import Path
from subprocess import STDOUT

import anyio

from tests.services.archive import Archive, ensure_tools, find_archive
from tests.services.errors import ServiceUnavailable, tail
from tests.services.processes import file_lock
from tests.services.releases import Suite

_RECIPE = "1"  # part of a root's name: raise it when the steps below change what they make
_BUILD_S = 1800
_NAMESPACES = (
    "setpriv",
    "--pdeathsig",
    "KILL",
    "unshare",
    "--mount",
    "--pid",
    "--fork",
    "--kill-child=SIGKILL",
    "--mount-proc",
)
_DEBOOTSTRAP_SCRIPTS = Path("/usr/share/debootstrap/scripts")
_INSTALL = """
set -e
root=$1
shift
mount -t proc proc "$root/proc"
chroot "$root" apt-get update --quiet
chroot "$root" apt-get install --yes --quiet --no-install-recommends "$@"
chroot "$root" apt-get clean
rm -rf "$root"/var/lib/apt/lists/*
"""


def cached_root(suite: Suite) -> Path | None:
    """The root of a suite if it has been made and is whole."""
    root = _location(suite)
    whole = (root / ".whole").is_file() and all((root / program).exists() for program in suite.programs)
    return root if whole else None


async def ensure_root(suite: Suite) -> Path:
    """The root of a suite, made now if need be. Raises ServiceUnavailable."""
    require_privilege()
    await ensure_tools(unshare="util-linux", setpriv="util-linux", nsenter="util-linux", mount="mount")
    root = cached_root(suite)
    if root is not None:
        return root
    target = _location(suite)
    try:
        with anyio.fail_after(_BUILD_S):
            async with file_lock(target.with_name(f"{target.name}.lock"), _BUILD_S) as lock:
                root = cached_root(suite)  # another program may have made it while we waited
                return root if root is not None else await _make(suite, target, lock)
    except TimeoutError:
        raise ServiceUnavailable(f"no Debian {suite.name} root within {_BUILD_S} s; the log is beside it") from None


def require_privilege() -> None:
    if os.geteuid() != 0:
        raise ServiceUnavailable("no docker engine can give us the image, and without one this needs root (for chroot)")


def _location(suite: Suite) -> Path:
    recipe = "\n".join((_RECIPE, suite.name, *suite.packages, os.uname().machine, _INSTALL))
    digest = hashlib.sha256(recipe.encode()).hexdigest()[:10]
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return cache / "fogactors" / "roots" / f"{suite.name}-{digest}"


async def _make(suite: Suite, target: Path, lock: int) -> Path:
    began = time.monotonic()
    sys.stderr.write(f"making a Debian {suite.name} root with {', '.join(suite.packages)}: once, some minutes\n")
    await ensure_tools(debootstrap="debootstrap")
    archive = await find_archive()
    partial = target.with_name(f"{target.name}.partial")
    for leftover in (partial, target):
        await anyio.to_thread.run_sync(_remove, leftover)
    partial.mkdir(mode=0o755)
    log = target.with_name(f"{target.name}.log")
    log.unlink(missing_ok=True)
    # An older debootstrap does not know the name of a newer suite; the script of sid fits every recent one.
    script = next(path for name in (suite.name, "sid") if (path := _DEBOOTSTRAP_SCRIPTS / name).exists())
    include = ["--include=ca-certificates"] if archive.uri.startswith("https:") else []
    bootstrap = ("debootstrap", "--variant=minbase", *include, suite.name, str(partial), archive.uri, str(script))
    await _step("debootstrap", bootstrap, archive, log, lock)
    await anyio.to_thread.run_sync(_configure, partial, archive)
    await _step("install", ("sh", "-c", _INSTALL, "install", str(partial), *suite.packages), archive, log, lock)
    absent = [program for program in suite.programs if not (partial / program).exists()]
    if absent:
        raise ServiceUnavailable(f"the packages of Debian {suite.name} do not hold {', '.join(absent)} any more")
    (partial / ".whole").touch()
    partial.rename(target)
    sys.stderr.write(f"made the Debian {suite.name} root in {time.monotonic() - began:.0f} s\n")
    return target


async def _step(name: str, command: tuple[str, ...], archive: Archive, log: Path, lock: int) -> None:
    environment = {**os.environ, **archive.environment, "DEBIAN_FRONTEND": "noninteractive", "LC_ALL": "C"}
    with log.open("ab") as output:
        done = await anyio.run_process(
            (*_NAMESPACES, *command), stdout=output, stderr=STDOUT, check=False, env=environment, pass_fds=(lock,)
        )
    if done.returncode != 0:
        raise ServiceUnavailable(f"{name} failed with exit code {done.returncode}:\n{archive.hide(tail(log))}")


def _configure(root: Path, archive: Archive) -> None:
    # No server may be started by the installation of its package.
    policy = root / "usr/sbin/policy-rc.d"
    policy.write_text("#!/bin/sh\nexit 101\n", encoding="ascii")
    policy.chmod(0o755)
    (root / "etc/apt/apt.conf.d/90host").write_text(archive.options, encoding="utf-8")
    (root / "etc/dpkg/dpkg.cfg.d/90small").write_text(
        "force-unsafe-io\npath-exclude /usr/share/doc/*\npath-exclude /usr/share/man/*\n", encoding="ascii"
    )
    for name in ("etc/hosts", "etc/ssl/certs/ca-certificates.crt"):
        source, copy = Path("/", name), root / name
        if source.exists() and copy.parent.is_dir():
            shutil.copyfile(source, copy)


def _remove(tree: Path) -> None:
    if not tree.exists():
        return
    for folder, _, _ in os.walk(tree):
        if os.path.ismount(folder):
            raise ServiceUnavailable(f"something is mounted at {folder}: unmount it, then try again")
    shutil.rmtree(tree)

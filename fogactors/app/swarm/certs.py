"""A private certificate authority and the servers' certificate, by the `openssl` command, in a folder of one's own.

No library: openssl is on every host that runs Docker, and a CA is made once a year. Elliptic curves (P-256), because
small machines shake hands with them several times faster than with RSA.
"""

from __future__ import annotations

import ipaddress
import os
import re
import subprocess
import tempfile
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from fogactors.errors import ConfigError, FogError

__all__ = ["CA_DAYS", "NAMES", "SERVER_DAYS", "Certs", "make_certs"]

NAMES: Final = ("rabbitmq1", "rabbitmq2", "rabbitmq3", "redis", "localhost", "127.0.0.1")
"""What clients call the servers; host names are verified."""
CA_DAYS: Final = 3650
SERVER_DAYS: Final = 825
"""Longer ones are refused by some clients."""
_RENEW_DAYS: Final = 30
_CALL_S: Final = 60.0

_EXTENSIONS: Final = """\
[ca]
basicConstraints = critical, CA:TRUE, pathlen:0
keyUsage = critical, keyCertSign, cRLSign
subjectKeyIdentifier = hash
[server]
basicConstraints = critical, CA:FALSE
keyUsage = critical, digitalSignature
extendedKeyUsage = serverAuth
subjectKeyIdentifier = hash
authorityKeyIdentifier = keyid:always
subjectAltName = {names}
[req]
distinguished_name = none
[none]
"""


@dataclass(frozen=True, slots=True)
class Certs:
    """What there is now. `made`: the files that are new. `ends`: the servers' certificate, as openssl says it."""

    folder: str
    made: tuple[str, ...]
    names: tuple[str, ...]
    ends: str


def make_certs(folder: Path, hosts: Iterable[str] = (), *, days: int = SERVER_DAYS, renew: bool = False) -> Certs:
    """Make what is missing in `folder`: the CA once, the servers' certificate also when it ends within 30 days or lacks
    one of the names (`NAMES` and `hosts`), or with `renew`. Keys are readable for their owner alone.

    Raises `ConfigError`, and `FogError` for what openssl refuses.
    """
    names = tuple(dict.fromkeys((*NAMES, *hosts)))
    kinds = [f"{'IP' if _is_address(name) else 'DNS'}:{_checked(name)}" for name in names]
    made: list[str] = []
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        # In the same folder, and moved from there when all is well: half a CA would sign nothing that anyone trusts.
        with tempfile.TemporaryDirectory(dir=folder, prefix=".new-") as place:
            work = Path(place)
            (work / "openssl.cnf").write_text(_EXTENSIONS.format(names=", ".join(kinds)))
            good = _serves(folder, names) and not renew
            if not good and not all((folder / name).exists() for name in ("ca.key", "ca.crt")):
                _refuse_half(folder)
                _key(work / "ca.key")
                subject = ("-subj", "/CN=fogactors private CA", "-extensions", "ca", "-days", str(CA_DAYS))
                _openssl(work, "req", "-new", "-x509", "-sha256", "-key", "ca.key", "-out", "ca.crt", *subject)
                made += _move(work, folder, ("ca.key", "ca.crt"))
            if not good:
                _key(work / "server.key")
                request = ("req", "-new", "-sha256", "-key", "server.key", "-out", "server.csr")
                _openssl(work, *request, "-subj", "/CN=fogactors servers")
                authority = ("-CA", str((folder / "ca.crt").resolve()), "-CAkey", str((folder / "ca.key").resolve()))
                serial = ("-set_serial", f"0x{os.urandom(16).hex()}")
                form = ("-sha256", "-days", str(days), "-extfile", "openssl.cnf", "-extensions", "server")
                sign = ("x509", "-req", "-in", "server.csr", "-out", "server.crt")
                _openssl(work, *sign, *authority, *serial, *form)
                _openssl(work, "verify", "-CAfile", str((folder / "ca.crt").resolve()), "server.crt")
                made += _move(work, folder, ("server.key", "server.crt"))
    except OSError as error:
        raise ConfigError(f"{folder} cannot be written: {error.strerror or error}") from None
    ends = _openssl(folder, "x509", "-in", "server.crt", "-noout", "-enddate").strip().partition("=")[2]
    return Certs(str(folder), tuple(made), _names(folder), ends)


def _is_address(name: str) -> bool:
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True


def _checked(name: str) -> str:
    if not _is_address(name) and not re.fullmatch(r"[A-Za-z0-9*][A-Za-z0-9.-]{0,252}", name):
        raise ConfigError(f"{name!r} is neither a host's name nor an address")
    return name


def _refuse_half(folder: Path) -> None:
    """A new CA makes worthless what the old one signed: not without somebody's decision."""
    left = [name for name in ("ca.key", "ca.crt", "server.key", "server.crt") if (folder / name).exists()]
    if left:
        raise ConfigError(
            f"{folder} has {', '.join(left)} but not both ca.key and ca.crt, which are needed now; bring them, or move "
            f"the folder away to begin with a new CA"
        )


def _serves(folder: Path, names: Sequence[str]) -> bool:
    """Whether the servers' certificate is there with its key, of this CA, with these names, and good for some time."""
    if not (folder / "server.crt").exists() or not (folder / "server.key").exists():
        return False
    try:
        _openssl(folder, "x509", "-in", "server.crt", "-noout", "-checkend", str(_RENEW_DAYS * 86_400))
        _openssl(folder, "verify", "-CAfile", "ca.crt", "server.crt")
        key = _openssl(folder, "pkey", "-in", "server.key", "-pubout")
        same = key == _openssl(folder, "x509", "-in", "server.crt", "-noout", "-pubkey")
    except FogError:
        return False
    return same and set(names) <= set(_names(folder))


def _names(folder: Path) -> tuple[str, ...]:
    text = _openssl(folder, "x509", "-in", "server.crt", "-noout", "-ext", "subjectAltName")
    return tuple(re.findall(r"(?:DNS|IP Address):([^,\s]+)", text))


def _key(path: Path) -> None:
    os.close(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600))
    curve = ("-algorithm", "EC", "-pkeyopt", "ec_paramgen_curve:P-256")
    _openssl(path.parent, "genpkey", *curve, "-out", path.name)
    path.chmod(0o600)


def _move(work: Path, folder: Path, files: Iterable[str]) -> list[str]:
    for name in files:
        (work / name).replace(folder / name)
    return list(files)


def _openssl(folder: Path, *words: str) -> str:
    """What it printed. `openssl.cnf` of the folder is its configuration, if there is one: what a distribution says in
    its own must not count."""
    config = folder / "openssl.cnf"
    environment = {**os.environ, "OPENSSL_CONF": str(config.resolve()) if config.exists() else os.devnull}
    try:
        done = subprocess.run(  # noqa: S603 - words of ours
            ["openssl", *words],  # noqa: S607 - the one on PATH
            cwd=folder,
            env=environment,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=_CALL_S,
            check=False,
        )
    except FileNotFoundError:
        raise ConfigError("there is no program openssl; install it (Debian: apt install openssl)") from None
    except subprocess.TimeoutExpired:
        raise FogError(f"openssl {words[0]}: no end within {_CALL_S:g} s") from None
    if done.returncode != 0:
        lines = [line.strip() for line in (done.stderr + done.stdout).splitlines() if line.strip()]
        raise FogError(f"openssl {words[0]} ended with {done.returncode}: {(lines or ['it said nothing'])[0][:300]}")
    return done.stdout

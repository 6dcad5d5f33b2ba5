"""`.env`: logins and passwords of the stack, by the names of the shell-script scheduler, so that its file will do.

Values are never printed, also not in an error. A file that is written is its owner's alone.
"""

from __future__ import annotations

import os
import re
import secrets
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from fogactors.errors import ConfigError

__all__ = ["COOKIE", "LOGINS", "PASSWORDS", "PREFIX", "add_values", "generated", "read_env", "values_of", "warnings"]

COOKIE: Final = "RABBITMQ_ERLANG_COOKIE"
PREFIX: Final = "FOG_"

PASSWORDS: Final[Mapping[str, str]] = {
    "REDIS_PASS": "redis_password",
    COOKIE: "erlang_cookie",
    "MQ_ADMIN_PASS": "admin_password",
    "MQ_NODE1_PASS": "worker1_password",
    "MQ_NODE2_PASS": "worker2_password",
    "MQ_NODE3_PASS": "worker3_password",
    "FOG_OPERATOR_PASS": "operator_password",
    "FOG_SENTINEL_PASS": "sentinel_password",
    "FOG_REAPER_PASS": "reaper_password",
    "FOG_METRICS_PASS": "metrics_password",
    "FOG_SUBMITTER_PASS": "submitter_password",
}
"""Variable to the secret's key, which is also the name of its file in containers. The last five are ours: each role
has a user of its own."""

LOGINS: Final[Mapping[str, str]] = {
    "MQ_ADMIN_USER": "admin",
    "MQ_NODE1_WORKER": "worker1",
    "MQ_NODE2_WORKER": "worker2",
    "MQ_NODE3_WORKER": "worker3",
}
"""Variable to what it is when nothing says so."""

_OTHERS: Final[tuple[str, ...]] = ("operator", "sentinel", "reaper", "metrics", "submitter", "redis")
_NAME: Final = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_LOGIN: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,62}")
_SHORTEST: Final = 12
_PLACEHOLDER: Final = re.compile(r"your_|change_?me|_here$|^worker\d_|^(password|secret|guest|admin)$", re.IGNORECASE)
_ESCAPES: Final = {"n": "\n", "t": "\t", '"': '"', "\\": "\\", "$": "$"}
_BITS: Final = 192


@dataclass(frozen=True, slots=True)
class _Line:
    name: str
    value: str


def read_env(path: Path) -> dict[str, str]:
    """The file's variables; none when there is no file. Raises `ConfigError`: file, line, what is wrong, no value."""
    try:
        text = path.read_text(encoding="utf-8-sig")
    except FileNotFoundError:
        return {}
    except OSError as error:
        raise ConfigError(f"{path} cannot be read: {error.strerror}") from None
    except UnicodeDecodeError:
        raise ConfigError(f"{path}: not UTF-8") from None
    found: dict[str, str] = {}
    for number, raw in enumerate(text.splitlines(), 1):
        line = raw.strip()
        if not line or line.startswith("#"):
            continue
        parsed = _parsed(line)
        if isinstance(parsed, str):
            raise ConfigError(f"{path}: line {number}: {parsed}")
        if parsed.name in found:
            raise ConfigError(f"{path}: line {number}: {parsed.name} is there twice; keep one of them")
        found[parsed.name] = parsed.value
    return found


def _parsed(line: str) -> _Line | str:
    """Or what is wrong with it."""
    name, equals, value = line.removeprefix("export ").partition("=")
    name, value = name.strip(), value.strip()
    if not equals or not _NAME.fullmatch(name):
        return "expected NAME=value"
    if value[:1] in ("'", '"'):
        end = _closing(value)
        if end is None:
            return f"{name}: the quote is not closed"
        rest = value[end + 1 :].strip()
        if rest and not rest.startswith("#"):
            return f"{name}: something follows the closing quote"
        inner = value[1:end]
        if value[0] == '"':
            inner = re.sub(r"\\(.)", lambda found: _ESCAPES.get(found[1], found[0]), inner)
        return _Line(name, inner)
    # A # belongs to the value unless a space is before it: passwords have them.
    return _Line(name, re.split(r"(?:^|\s)#", value, maxsplit=1)[0].rstrip())


def _closing(value: str) -> int | None:
    at = 1
    while at < len(value):
        if value[at] == "\\" and value[0] == '"':
            at += 1
        elif value[at] == value[0]:
            return at
        at += 1
    return None


def values_of(file: Mapping[str, str], environment: Mapping[str, str]) -> dict[str, str]:
    """What counts: the file's variables, those of the environment before them, as docker's own tools have it, and the
    logins that nobody names. Raises `ConfigError` for a value that no server would take."""
    ours = {name: value for name, value in environment.items() if name in PASSWORDS or name in LOGINS}
    ours |= {name: value for name, value in environment.items() if name.startswith(PREFIX)}
    values = {**LOGINS, **{name: value for name, value in {**file, **ours}.items() if value}}
    for name in PASSWORDS:
        if name in values and re.search(r"[^\x21-\x7e]", values[name]):
            raise ConfigError(f"{name}: has a space, a control character or one outside ASCII; use others")
    if len(values.get(COOKIE, "")) > 255:
        raise ConfigError(f"{COOKIE}: is longer than the 255 characters that Erlang takes")
    taken: dict[str, str] = dict.fromkeys(_OTHERS, "another user of the stack")
    for name in LOGINS:
        login = values[name]
        if not _LOGIN.fullmatch(login):
            raise ConfigError(f"{name}: expected at most 63 letters, digits, - and _, got {login!r}")
        if login in taken:
            raise ConfigError(f"{name}: {login!r} is the login of {taken[login]} as well")
        taken[login] = name
    return values


def warnings(values: Mapping[str, str]) -> list[str]:
    """Passwords that are there and that anybody could guess; a line each."""
    return [
        f"{name} {what}; `fogactors swarm secrets --renew {name}` makes a strong one"
        for name in PASSWORDS
        if (value := values.get(name))
        for what in [
            "is a placeholder"
            if _PLACEHOLDER.search(value)
            else f"has fewer than {_SHORTEST} characters"
            if len(value) < _SHORTEST
            else ""
        ]
        if what
    ]


def generated(names: Iterable[str]) -> dict[str, str]:
    """A new value for each: 192 random bits, in characters that need no quoting anywhere."""
    return {name: secrets.token_urlsafe(_BITS // 8) for name in names}


def add_values(path: Path, values: Mapping[str, str]) -> None:
    """Put them into the file: in the place of a line that names them, else at its end. All else stays, and a crash
    leaves the old file or the new one. Raises `ConfigError`."""
    if not values:
        return
    left = dict(values)
    try:
        old = path.read_text(encoding="utf-8-sig") if path.exists() else ""
        lines: list[str] = []
        for line in old.splitlines():
            name = line.strip().removeprefix("export ").partition("=")[0].strip()
            lines.append(f"{name}={left.pop(name)}" if name in left else line)
        if left and not old:
            lines.append(
                "# Logins and passwords of the stack; keep it as a secret. docs/swarm.md says what each is for."
            )
        lines.extend(f"{name}={value}" for name, value in left.items())
        fresh = path.with_name(f"{path.name}.new")
        fresh.unlink(missing_ok=True)
        with os.fdopen(os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
            file.write("\n".join(lines) + "\n")
            file.flush()
            os.fsync(file.fileno())
        fresh.replace(path.resolve())
    except OSError as error:
        raise ConfigError(f"{path} cannot be written: {error.strerror or error}") from None

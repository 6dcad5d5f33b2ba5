"""`fogactors probe`: ask a process on this machine, or in this container, whether it lives or can work.

A healthcheck runs it every few seconds in every container, on small machines. So it has a way of its own, past the
command line's library and the loader of settings: those take four times the time of all the rest. It reads the two
settings that it needs itself where that is plain, and leaves every other case to the loader.
"""

from __future__ import annotations

import json
import os
import socket
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final, cast

__all__ = ["QUESTIONS", "TIMEOUT_S", "ask", "lines", "main", "plain_address"]

QUESTIONS: Final = ("livez", "readyz")
TIMEOUT_S: Final = 3.0

_HOST: Final = "127.0.0.1"
_LOCAL: Final = {"0.0.0.0": _HOST, "": _HOST, "::": "::1"}  # noqa: S104 - where one listens on all, one asks on this
_SETTING: Final = "FOGACTORS_PROBE__"
_FILE: Final = "actors.toml"


def main(words: list[str]) -> int | None:
    """`words`: what follows `probe` on the command line. The exit code; `None` when it is not for this short way."""
    if len(words) != 1 or words[0] not in QUESTIONS:
        return None
    address = plain_address(os.environ)
    if address is None:
        return None
    answer = ask(words[0], *address)
    for line in lines(answer):
        print(line)
    return 0 if answer["ok"] else 1


def plain_address(env: Mapping[str, str]) -> tuple[str, int] | None:
    """Host and port as the loader would find them, or `None` where it should look itself: a file of secrets, or values
    that are not what they should be."""
    if any(name.startswith(_SETTING) and name.endswith("_FILE") for name in env):
        return None
    host: Any = env.get(f"{_SETTING}HOST")
    port: Any = env.get(f"{_SETTING}PORT")
    port = int(port) if port is not None and port.isdecimal() else port
    if host is None or port is None:
        table = _table()
        if table is None:
            return None
        host = table.get("host", _HOST) if host is None else host
        port = table.get("port", 0) if port is None else port
    return (host, port) if isinstance(host, str) and type(port) is int and 0 < port < 65536 else None


def _table() -> dict[str, Any] | None:
    import tomllib  # only where the environment does not say it

    try:
        table: Any = tomllib.loads(Path(_FILE).read_text(encoding="utf-8-sig")).get("probe", {})
    except FileNotFoundError:
        return {}
    except (OSError, ValueError):
        return None
    return cast("dict[str, Any]", table) if isinstance(table, dict) and {*table} <= {"host", "port"} else None


def ask(question: str, host: str, port: int, timeout: float = TIMEOUT_S) -> dict[str, Any]:
    """The process' answer: `ok`, and `facts` by name. One that does not answer is not well, and that is its fact."""
    host = _LOCAL.get(host, host)
    try:
        with socket.create_connection((host, port), timeout) as connection:
            connection.sendall(f"GET /{question} HTTP/1.0\r\nHost: {host}\r\n\r\n".encode())
            with connection.makefile("rb") as stream:
                head, _, body = stream.read().partition(b"\r\n\r\n")
        answer = json.loads(body)
        return {"ok": bool(answer["ok"]) and b" 200 " in head.split(b"\r\n", 1)[0], "facts": dict(answer["facts"])}
    except (OSError, ValueError, KeyError, TypeError) as error:
        what = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
        return {"ok": False, "facts": {"probe": f"no answer from {host}:{port}: {what}"}}


def lines(answer: Mapping[str, Any]) -> list[str]:
    """For people and for a container's log of its health: `ok`, or what is wrong, a line each."""
    wrong = [f"{name}: {text}" for name, text in answer["facts"].items() if text != "ok"]
    return wrong or ["ok" if answer["ok"] else "not ok"]

"""What is taken when the program does not say: the broker from the variables that its other clients read too."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Final
from urllib.parse import quote

__all__ = ["broker_url", "program_name"]

LOCAL: Final = "amqp://localhost:5672"


def broker_url(url: str | None = None, environment: Mapping[str, str] | None = None) -> str:
    """`url`, else `RABBITMQ_URL`, else a broker on this machine. What it leaves open comes from the environment:
    `RABBITMQ_USER` and `RABBITMQ_PASSWORD` when it names no user, `RABBITMQ_VHOST` when its path is empty or `/`
    (`/%2F` names the virtual host `/`)."""
    env = os.environ if environment is None else environment
    given = url or env.get("RABBITMQ_URL") or LOCAL
    scheme, separator, rest = given.partition("://")
    if not separator or scheme not in ("amqp", "amqps"):
        return given  # memory://, or what the one who connects will refuse
    rest, mark, query = rest.partition("?")
    netloc, _, path = rest.partition("/")
    user = env.get("RABBITMQ_USER")
    if user and "@" not in netloc:
        netloc = f"{quote(user, safe='')}:{quote(env.get('RABBITMQ_PASSWORD', ''), safe='')}@{netloc}"
    if not path:
        path = quote(env.get("RABBITMQ_VHOST", ""), safe="")
    return f"{scheme}://{netloc}/{path}{mark}{query}"


def program_name() -> str:
    """Of the script that runs, for those who give no name to what they are."""
    return Path(sys.argv[0] if sys.argv else "").stem or "python"

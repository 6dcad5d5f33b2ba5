"""One Redis, on loopback only, that writes what it is told to an append-only file."""

import secrets
from collections.abc import Mapping
from pathlib import Path
from urllib.parse import quote

import redis.asyncio
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import RedisError

from tests.services.releases import REDIS
from tests.services.routes import HOME
from tests.services.server import Server

_PROBE_S = 5


class RedisServer(Server):
    """A Redis 8 with a password.

    `config` are directives of redis.conf that replace ours, such as ``{"maxmemory": "8mb"}``. `users` maps the name of
    an ACL user to its rules, such as ``{"fog": "on >secret ~fog:* &fog:* +@all"}``.
    """

    def __init__(
        self,
        *,
        config: Mapping[str, str] | None = None,
        users: Mapping[str, str] | None = None,
        kept: bool = False,
    ) -> None:
        super().__init__(REDIS, kept=kept)
        self.password = secrets.token_urlsafe(16)
        self._config = dict(config or {})
        self._users = dict(users or {})

    @property
    def url(self) -> str:
        """As the default user, who may do everything."""
        return self.url_for("", self.password)

    def url_for(self, user: str, password: str) -> str:
        return f"redis://{quote(user, safe='')}:{quote(password, safe='')}@127.0.0.1:{self.port}/0"

    @property
    def log_path(self) -> Path:
        return self.home / "redis.log"

    def environment(self) -> dict[str, str]:
        return {}

    def program(self) -> list[str]:
        return ["redis-server", f"{HOME}/redis.conf"]

    def write_configuration(self) -> None:
        directives = {
            "bind": "127.0.0.1",
            "port": str(self.port),
            "dir": HOME,
            "logfile": f"{HOME}/redis.log",
            "requirepass": self.password,
            "appendonly": "yes",
            "save": '""',
            "maxmemory-policy": "noeviction",
            **self._config,
        }
        lines = [f"{name} {value}" for name, value in directives.items()]
        lines += [f"user {name} {rules}" for name, rules in self._users.items()]
        path = self.home / "redis.conf"
        path.write_text("\n".join(lines) + "\n", encoding="utf-8")
        path.chmod(0o600)

    async def probe(self) -> str | None:
        # Refused with LOADING while it reads its data back. No retries of the client's: we are the retry.
        client = redis.asyncio.from_url(self.url, retry=Retry(NoBackoff(), 0), socket_timeout=_PROBE_S)
        try:
            info = await client.info("server")
        except (RedisError, OSError):
            return None
        finally:
            await client.aclose()
        return info["redis_version"]

    def variables(self) -> dict[str, str]:
        return {"FOGACTORS_TEST_REDIS_URL": self.url}

"""One RabbitMQ node with the management plugin, small and on loopback only."""

import base64
import http.client
import json
import secrets
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from urllib.parse import quote

import aiormq
import anyio

from tests.services.errors import ServiceFailed
from tests.services.releases import rabbitmq_release
from tests.services.routes import HOME
from tests.services.server import Server

VHOST = "/fog"
_ADMIN = "fogadmin"
_PROBE_S = 5
_API_S = 30
_NOTHING = "^$"  # as a permission: matches only the empty name

# Two schedulers and no busy waiting: the node shares a small machine with what is tested against it.
_ERLANG = "+S 2:2 +sbwt none +sbwtdcpu none +sbwtdio none -kernel inet_dist_use_interface {127,0,0,1}"
_ADVANCED = """[
  {{rabbit, [
    {{dead_letter_worker_consumer_prefetch, {prefetch}}},
    {{dead_letter_worker_publisher_confirm_timeout, {confirm_timeout_ms}}},
    {{channel_tick_interval, {channel_tick_ms}}}
  ]}}
].
"""
_TICK_MS = 60_000
_FAST_TICK_MS = 500


class RabbitMQ(Server):
    """A RabbitMQ of the given version, "4.3" or "4.0", with the virtual host /fog and an administrator.

    `settings` are lines of rabbitmq.conf that add to ours or replace them. `consumer_timeout_ms` is the broker-wide
    time that a delivery may stay unacknowledged (None: the broker's 30 minutes). 4.0 looks for such once a minute, or
    twice a second where a time is given. The dead letter workers' settings are those of advanced.config that fogactors
    needs in production; `advanced` is the text of that file in place of ours.
    """

    def __init__(
        self,
        version: str = "4.3",
        *,
        consumer_timeout_ms: int | None = None,
        poll_interval_ms: int = 1000,
        dead_letter_prefetch: int = 1000,
        dead_letter_confirm_timeout_ms: int = 5000,
        settings: Mapping[str, str] | None = None,
        advanced: str | None = None,
        kept: bool = False,
    ) -> None:
        super().__init__(rabbitmq_release(version), kept=kept)
        self.password = secrets.token_urlsafe(16)
        self._cookie = secrets.token_urlsafe(16)
        ours = _ADVANCED.format(
            prefetch=dead_letter_prefetch,
            confirm_timeout_ms=dead_letter_confirm_timeout_ms,
            channel_tick_ms=_TICK_MS if consumer_timeout_ms is None else _FAST_TICK_MS,
        )
        self._advanced = ours if advanced is None else advanced
        self._settings = {
            "log.file.level": "info",
            "disk_free_limit.absolute": "50MB",
            "vm_memory_high_watermark.absolute": "1GiB",
            "raft.adaptive_failure_detector.poll_interval": str(poll_interval_ms),
        }
        if consumer_timeout_ms is not None:
            self._settings["consumer_timeout"] = str(consumer_timeout_ms)
        if "vm_memory_high_watermark.relative" in (settings or {}):
            del self._settings["vm_memory_high_watermark.absolute"]  # which would win
        self._settings.update(settings or {})

    @property
    def amqp_url(self) -> str:
        """As the administrator, who may do everything in /fog."""
        return self.amqp_url_for(_ADMIN, self.password)

    def amqp_url_for(self, user: str, password: str, vhost: str = VHOST) -> str:
        return f"amqp://{quote(user, safe='')}:{quote(password, safe='')}@127.0.0.1:{self.port}/{quote(vhost, safe='')}"

    @property
    def management_url(self) -> str:
        """The root of the management UI with the administrator's credentials; the API is below /api."""
        return f"http://{_ADMIN}:{self.password}@127.0.0.1:{self.management_port}"

    @property
    def management_port(self) -> int:
        return self._base_port + 1

    @property
    def node_name(self) -> str:
        return f"fog-{self.port}@localhost"

    @property
    def log_path(self) -> Path:
        return self.home / "log" / "rabbit.log"

    async def ctl(self, *arguments: str, timeout: float = 60) -> str:
        """rabbitmqctl; takes a second or two. Raises ServiceFailed with its output, TimeoutError."""
        return await self.run_inside("rabbitmqctl", "--quiet", *arguments, timeout=timeout)

    async def flush_declarations(self) -> None:
        """Make the node write down which quorum queues it holds, as it does by itself within a second.

        A queue that was declared less than that before a `kill9` comes back without the messages that were confirmed
        to it (4.0.5 and 4.3.6: names.dets is written late, and the log of a queue unknown to it is skipped).
        """
        await self.ctl("eval", "[ok = dets:sync(Table) || Table <- dets:all()].")

    async def api(self, method: str, path: str, body: object = None) -> object:
        """The management API, with `path` such as "/api/overview"; milliseconds. Raises ServiceFailed."""
        return await anyio.to_thread.run_sync(partial(self._call, method, path, body))

    async def add_user(
        self,
        name: str,
        *,
        configure: str = _NOTHING,
        write: str = _NOTHING,
        read: str = _NOTHING,
        tags: str = "",
        vhost: str = VHOST,
    ) -> str:
        """A user with these permissions (regular expressions; anchor them) in `vhost`; its AMQP URL."""
        password = secrets.token_urlsafe(12)
        await self.api("PUT", f"/api/users/{quote(name, safe='')}", {"password": password, "tags": tags})
        permissions = {"configure": configure, "write": write, "read": read}
        await self.api("PUT", f"/api/permissions/{quote(vhost, safe='')}/{quote(name, safe='')}", permissions)
        return self.amqp_url_for(name, password, vhost)

    def environment(self) -> dict[str, str]:
        port = self.port
        return {
            "ERL_EPMD_PORT": str(port + 3),
            "ERL_EPMD_ADDRESS": "127.0.0.1",
            "RABBITMQ_NODENAME": self.node_name,
            "RABBITMQ_DIST_PORT": str(port + 2),
            "RABBITMQ_CTL_DIST_PORT_MIN": str(port + 4),
            "RABBITMQ_CTL_DIST_PORT_MAX": str(port + 9),
            "RABBITMQ_CONF_ENV_FILE": f"{HOME}/none",  # or the package's own would be read
            "RABBITMQ_CONFIG_FILE": f"{HOME}/rabbitmq.conf",
            "RABBITMQ_ADVANCED_CONFIG_FILE": f"{HOME}/advanced.config",
            "RABBITMQ_ENABLED_PLUGINS_FILE": f"{HOME}/enabled_plugins",
            "RABBITMQ_MNESIA_BASE": f"{HOME}/data",
            "RABBITMQ_LOG_BASE": f"{HOME}/log",
            "RABBITMQ_LOGS": f"{HOME}/log/rabbit.log",
            # Without it the start script stays as a parent that ends the node when it is stopped itself; with it the
            # Erlang VM takes the script's place, and the pid that we keep is the VM's.
            "RABBITMQ_ALLOW_INPUT": "true",
            "RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS": f"{_ERLANG} -noinput",
        }

    def program(self) -> list[str]:
        return ["rabbitmq-server"]

    def write_configuration(self) -> None:
        settings = {
            "listeners.tcp.1": f"127.0.0.1:{self.port}",
            "management.tcp.ip": "127.0.0.1",
            "management.tcp.port": str(self.management_port),
            "default_vhost": VHOST,
            "default_user": _ADMIN,
            "default_pass": self.password,
            "default_user_tags.administrator": "true",
            **self._settings,
        }
        lines = "".join(f"{key} = {value}\n" for key, value in settings.items())
        (self.home / "rabbitmq.conf").write_text(lines, encoding="utf-8")
        (self.home / "advanced.config").write_text(self._advanced, encoding="ascii")
        (self.home / "enabled_plugins").write_text("[rabbitmq_management].\n", encoding="ascii")
        cookie = self.home / ".erlang.cookie"
        cookie.write_text(self._cookie, encoding="ascii")
        cookie.chmod(0o400)  # Erlang refuses one that others may read
        for name in ("data", "log"):
            (self.home / name).mkdir()

    async def probe(self) -> str | None:
        # The port opens before the boot is over, and a management call at that moment fails. `running` is what
        # `rabbitmq-diagnostics check_running` asks, for milliseconds instead of a second; the handshake proves /fog.
        try:
            node = await self.api("GET", f"/api/nodes/{self.node_name}")
            if not (isinstance(node, dict) and node.get("running")):
                return None
            with anyio.fail_after(_PROBE_S):
                connection = await aiormq.connect(self.amqp_url)
                version = str(connection.server_properties["version"])
                await connection.close()
        except (OSError, TimeoutError, http.client.HTTPException, ServiceFailed, aiormq.AMQPError):
            return None
        return version

    def variables(self) -> dict[str, str]:
        urls = {"FOGACTORS_TEST_AMQP_URL": self.amqp_url, "FOGACTORS_TEST_MANAGEMENT_URL": self.management_url}
        return urls | {"FOGACTORS_TEST_RABBITMQ": self.release.version}

    def _call(self, method: str, path: str, body: object) -> object:
        token = base64.b64encode(f"{_ADMIN}:{self.password}".encode()).decode()
        headers = {"Authorization": f"Basic {token}", "Content-Type": "application/json"}
        connection = http.client.HTTPConnection("127.0.0.1", self.management_port, timeout=_API_S)
        try:
            connection.request(method, path, None if body is None else json.dumps(body), headers)
            response = connection.getresponse()
            text = response.read().decode()
        finally:
            connection.close()
        if response.status >= 400:
            raise ServiceFailed(f"{method} {path}: {response.status} {text}")
        return json.loads(text) if text else None

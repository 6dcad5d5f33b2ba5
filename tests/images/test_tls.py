"""What swarm/tls.yml puts in place of stack.yml's, on real servers: they speak TLS and nothing else."""

from __future__ import annotations

import json
import shutil

import aiormq
import httpx
import pytest
import redis
import redis.asyncio

from tests.images.conf import IMAGES, PLACE, rabbitmq_conf
from tests.images.servers import running
from tests.images.test_stack import TLS
from tests.integration.tls import TlsRabbitMQ, TlsRedis, make_authority
from tests.services import ServiceUnavailable, skip_or_fail
from tests.services.routes import HOME

SECRETS = {"tls_ca": "ca.pem", "tls_cert": "cert.pem", "tls_key": "key.pem"}
"""The files of /run/secrets, and what the tests' servers have in their home."""


def placed(text: str) -> str:
    for secret, file in SECRETS.items():
        assert f"/run/secrets/{secret}" in text
        text = text.replace(f"/run/secrets/{secret}", f"{HOME}/{file}")
    return text


@pytest.fixture(scope="module")
def authority(tmp_path_factory):
    if shutil.which("openssl") is None:
        skip_or_fail(ServiceUnavailable("the certificates need openssl"))
    return make_authority(tmp_path_factory.mktemp("certificates"), "authority")


class StackRabbitMQ(TlsRabbitMQ):
    """With rabbitmq.conf as its file and listeners-tls.conf in conf.d, as the stack puts them; on loopback."""

    def __init__(self, authority, version) -> None:
        super().__init__(authority, version)
        self._settings.update({key: value for key, value in rabbitmq_conf().items() if key not in PLACE})

    def environment(self) -> dict[str, str]:
        return super().environment() | {"RABBITMQ_CONFIG_FILES": f"{HOME}/conf.d"}

    def write_configuration(self) -> None:
        super().write_configuration()
        file = self.home / "rabbitmq.conf"
        theirs = ("listeners.", "management.", "ssl_options.")
        lines = [line for line in file.read_text().splitlines() if not line.startswith(theirs)]
        file.write_text("\n".join(lines) + "\n")
        text = placed((IMAGES / "rabbitmq/listeners-tls.conf").read_text())
        for stack, ours in (
            ("listeners.ssl.default = 5671", f"listeners.ssl.1 = 127.0.0.1:{self.port}"),
            ("management.ssl.port = 15671", f"management.ssl.port = {self.management_port}"),
        ):
            assert stack in text
            text = text.replace(stack, ours)
        (self.home / "conf.d").mkdir()
        (self.home / "conf.d/listeners.conf").write_text(text + "management.ssl.ip = 127.0.0.1\n")


@pytest.mark.services
@pytest.mark.asyncio
@pytest.mark.parametrize("version", ["4.3", "4.0"])
async def test_rabbitmq_speaks_tls_only(version, authority):
    async with running(StackRabbitMQ(authority, version)) as server:  # ready: clients got in, at both ports
        with pytest.raises((aiormq.AMQPError, OSError)):
            await aiormq.connect(server.amqp_url.replace("amqps:", "amqp:").partition("?")[0])
        plain = f"http://127.0.0.1:{server.management_port}/"
        async with httpx.AsyncClient() as client:
            with pytest.raises(httpx.HTTPError):
                (await client.get(plain)).raise_for_status()
        said = await server.run_inside("rabbitmq-diagnostics", "--quiet", "listeners", "--formatter", "json")
    kinds = {listener["protocol"] for listener in json.loads(said)["listeners"]}
    assert "amqp/ssl" in kinds
    assert "https" in kinds
    assert not {"amqp", "http"} & kinds


@pytest.mark.services
@pytest.mark.asyncio
async def test_redis_speaks_tls_only(authority):
    command = TLS["services"]["redis"]["command"]
    words = placed(" ".join(command)).split()
    options = dict(zip((word.removeprefix("--") for word in words[::2]), words[1::2], strict=True))
    assert options.pop("tls-port") == "6379"  # the tests' servers have ports of their own
    server = TlsRedis(authority)
    server._config = options
    async with running(server):  # ready: a client got in
        async with redis.asyncio.from_url(server.url.replace("rediss:", "redis:").partition("?")[0]) as plain:
            with pytest.raises((redis.exceptions.RedisError, OSError)):
                await plain.ping()
        given = f"{HOME}/{SECRETS['tls_ca']}"
        assert TLS["services"]["redis"]["environment"]["REDIS_CLI_OPTIONS"] == "--tls --cacert /run/secrets/tls_ca"
        asked = await server.run_inside("redis-cli", "-p", str(server.port), "--tls", "--cacert", given, "ping")
        assert "NOAUTH" in asked

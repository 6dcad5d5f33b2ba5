"""Servers that speak TLS and nothing else, with certificates of a private authority."""

from __future__ import annotations

import base64
import http.client
import json
import ssl
import subprocess
from pathlib import Path
from typing import Any

from tests.services import RabbitMQ, RedisServer, ServiceFailed
from tests.services.routes import HOME

_NAMES = "subjectAltName=DNS:localhost,IP:127.0.0.1"


def _openssl(*words: str | Path) -> None:
    done = subprocess.run(["openssl", *map(str, words)], capture_output=True, text=True, check=False)
    if done.returncode:
        raise ServiceFailed(f"openssl {words[0]}: {done.stderr}")


def make_authority(folder: Path, name: str) -> Path:
    """A certificate authority; its certificate, with the key beside it."""
    ca = folder / f"{name}.pem"
    curve = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days", "2")
    _openssl("req", "-x509", *curve, "-keyout", ca.with_suffix(".key"), "-out", ca, "-subj", f"/CN={name}")
    return ca


def make_certificate(ca: Path, name: str) -> tuple[Path, Path]:
    """A certificate for this machine's loopback, signed by the authority, and its key."""
    certificate, key, request = (ca.parent / f"{name}{end}" for end in (".crt", ".key.pem", ".csr"))
    curve = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes")
    _openssl("req", "-new", *curve, "-keyout", key, "-out", request, "-subj", f"/CN={name}", "-addext", _NAMES)
    signer = ("-CA", ca, "-CAkey", ca.with_suffix(".key"), "-days", "2", "-copy_extensions", "copy")
    _openssl("x509", "-req", "-in", request, *signer, "-out", certificate)
    return certificate, key


def copy_into(home: Path, ca: Path, name: str) -> None:
    """Where the server finds them: it may see nothing but its own folder."""
    certificate, key = make_certificate(ca, name)
    for source, target in ((ca, "ca.pem"), (certificate, "cert.pem"), (key, "key.pem")):
        (home / target).write_bytes(source.read_bytes())
        (home / target).chmod(0o644)


class TlsRabbitMQ(RabbitMQ):
    """AMQP and the management API over TLS, on the ports that are plain elsewhere; nothing is plain."""

    def __init__(self, ca: Path, version: str = "4.3") -> None:
        files = {"cacertfile": f"{HOME}/ca.pem", "certfile": f"{HOME}/cert.pem", "keyfile": f"{HOME}/key.pem"}
        verify = {"ssl_options.verify": "verify_none", "ssl_options.fail_if_no_peer_cert": "false"}
        super().__init__(
            version,
            settings={
                f"{room}.{key}": value for room in ("ssl_options", "management.ssl") for key, value in files.items()
            }
            | verify
            | {"management.ssl.ip": "127.0.0.1"},
        )
        self._ca = ca

    @property
    def management_url(self) -> str:
        return super().management_url.replace("http:", "https:") + f"?cafile={self._ca}"

    def amqp_url_for(self, user: str, password: str, vhost: str = "/fog") -> str:
        return super().amqp_url_for(user, password, vhost).replace("amqp:", "amqps:") + f"?cafile={self._ca}"

    def write_configuration(self) -> None:
        super().write_configuration()
        copy_into(self.home, self._ca, "rabbitmq")
        path = self.home / "rabbitmq.conf"
        lines = [f"management.ssl.port = {self.management_port}"]
        for line in path.read_text().splitlines():
            if line.startswith("listeners.tcp.1"):
                lines += ["listeners.tcp = none", f"listeners.ssl.1 = 127.0.0.1:{self.port}"]
            elif not line.startswith("management.tcp."):
                lines.append(line)
        path.write_text("\n".join(lines) + "\n")

    def _call(self, method: str, path: str, body: object) -> object:
        context = ssl.create_default_context(cafile=str(self._ca))
        connection = http.client.HTTPSConnection("127.0.0.1", self.management_port, timeout=30, context=context)
        login = base64.b64encode(f"fogadmin:{self.password}".encode()).decode()
        headers = {"Authorization": f"Basic {login}", "Content-Type": "application/json"}
        try:
            connection.request(method, path, None if body is None else json.dumps(body), headers)
            response = connection.getresponse()
            text = response.read().decode()
        finally:
            connection.close()
        if response.status >= 400:
            raise ServiceFailed(f"{method} {path}: {response.status} {text}")
        answer: Any = json.loads(text) if text else None
        return answer


class TlsRedis(RedisServer):
    """Over TLS, on its one port."""

    def __init__(self, ca: Path) -> None:
        files = {"tls-ca-cert-file": "ca.pem", "tls-cert-file": "cert.pem", "tls-key-file": "key.pem"}
        config = {key: f"{HOME}/{file}" for key, file in files.items()}
        super().__init__(config=config | {"port": "0", "tls-auth-clients": "no"})
        self._ca = ca

    def url_for(self, user: str, password: str) -> str:
        return super().url_for(user, password).replace("redis:", "rediss:") + f"?ssl_ca_certs={self._ca}"

    def write_configuration(self) -> None:
        self._config["tls-port"] = str(self.port)
        super().write_configuration()
        copy_into(self.home, self._ca, "redis")

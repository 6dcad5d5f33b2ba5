"""One RabbitMQ node below a sentinel of its own."""

from __future__ import annotations

import json
import os
import secrets
import shutil
import signal
import ssl
import subprocess
import sys
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from subprocess import DEVNULL, STDOUT
from typing import TYPE_CHECKING, Any

import anyio
import httpx
import psutil

from fogactors.cluster.config import ClusterConfig
from fogactors.cluster.ctl import Ctl
from fogactors.cluster.server import environment
from tests.integration.fog import until
from tests.integration.tls import copy_into

if TYPE_CHECKING:
    from tests.integration.brokers import Brokers

IMAGE = Path(__file__).parents[2] / "images/rabbitmq"
PASSWORD = secrets.token_hex(8)
USERS = ("ADMIN", "SENTINEL", "WORKER1", "SUBMITTER", "REAPER")
# Two schedulers and no busy waiting: the nodes share a small machine with what is tested.
_ERLANG = "+S 2:2 +sbwt none +sbwtdcpu none +sbwtdio none"


@dataclass(frozen=True)
class Place:
    """Where a node is. `host`: as the others call it; `among`: its address there; `address`: where clients reach it;
    `enter`: words before a program that is to run there."""

    host: str = "localhost"
    among: str = "127.0.0.1"
    address: str = "127.0.0.1"
    enter: tuple[str, ...] = ()


class Node:
    """One node with its sentinel. What it writes goes to `log`."""

    def __init__(self, cluster: Brokers, name: str, port: int, place: Place) -> None:
        self._cluster = cluster
        self.place = place
        self.host = name
        self.name = f"{name}@{place.host}"
        self.port = port
        self.home = cluster.folder / name
        self.data = self.home / "data"
        self.log = self.home / "sentinel.log"
        self._process: subprocess.Popen[bytes] | None = None
        self._write_configuration()

    @property
    def process(self) -> subprocess.Popen[bytes]:
        assert self._process is not None, f"{self.name} was never started"
        return self._process

    def start(self, **env: str) -> None:
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(
                [*self.place.enter, sys.executable, "-m", "fogactors", "run", "node-sentinel"],
                cwd=self.home,
                env=self.environment() | {f"FOGACTORS_{key}": value for key, value in env.items()},
                stdin=DEVNULL,
                stdout=log,
                stderr=STDOUT,
                start_new_session=True,
            )

    def events(self, *names: str) -> list[dict[str, Any]]:
        """What the sentinel logged of these kinds, over all its lives."""
        lines = [line for line in self.log.read_text(errors="replace").splitlines() if line.startswith('{"ts"')]
        return [row for line in lines if (row := _row(line)) is not None and row["event"] in names]

    def kill9(self) -> None:
        """The sentinel, the server and all else of this node die at once, as when its container's host fails."""
        self.process.send_signal(signal.SIGSTOP)  # or it would start again what is killed first
        with suppress(psutil.NoSuchProcess):
            for child in psutil.Process(self.process.pid).children(recursive=True):
                with suppress(psutil.NoSuchProcess):
                    child.kill()
        self.process.kill()
        self.process.wait()

    def wipe(self) -> None:
        """Its volume is lost."""
        shutil.rmtree(self.data)
        self._make_data()

    async def stop(self, timeout: float) -> int:
        """SIGTERM, as Swarm does; its exit code."""
        self.process.terminate()
        await until(lambda: self.process.poll() is not None, f"the end of {self.name}", timeout)
        return self.process.returncode

    def clean_up(self) -> None:
        if self._process is not None and self._process.poll() is None:
            self.kill9()

    @property
    def ctl(self) -> Ctl:
        """rabbitmqctl, as somebody would call it by hand beside the sentinel."""
        names = tuple(each.name for each in self._cluster.nodes)
        cookie = self._cluster.folder / "cookie"
        config = ClusterConfig(
            node=self.name, nodes=names, data_dir=self.data, cookie_file=cookie, epmd_port=self._cluster.epmd_port
        )
        command = (*self.place.enter, str(self._cluster.folder / "enter"))
        return Ctl(self.name, command, environment(config, self.environment()))

    @property
    def amqp_url(self) -> str:
        return f"amqp://admin:{PASSWORD}@{self.place.address}:{self.port}/%2Ffog"

    def api(self, path: str) -> Any:
        """The management API of this node; None while it does not answer."""
        ca = self._cluster.ca
        scheme, verify = ("http", True) if ca is None else ("https", ssl.create_default_context(cafile=str(ca)))
        try:
            with httpx.Client(auth=("admin", PASSWORD), trust_env=False, timeout=10, verify=verify) as client:
                answer = client.get(f"{scheme}://{self.place.address}:{self.port + 1}/api{path}")
        except httpx.HTTPError:
            return None
        return answer.json() if answer.status_code == 200 else None

    async def running(self) -> set[str]:
        """The nodes that run, in this node's own words; empty while it says nothing."""
        nodes = await anyio.to_thread.run_sync(self.api, "/nodes") or []
        return {each["name"] for each in nodes if each.get("running")}

    async def uptime_s(self) -> float:
        found: list[float] = []

        async def said() -> bool:
            node = await anyio.to_thread.run_sync(self.api, f"/nodes/{self.name}")
            found[:] = [node["uptime"] / 1000] if node and "uptime" in node else []
            return bool(found)  # a node that has just begun has no figures yet

        await until(said, f"the uptime of {self.name}")
        return found[0]

    async def replicas(self) -> dict[str, set[str]]:
        """Each quorum queue and each stream with the nodes on which a replica of it runs."""
        queues = await anyio.to_thread.run_sync(self.api, "/queues/%2Ffog?enable_queue_totals=false") or []
        return {each["name"]: set(each.get("online") or ()) for each in queues if each.get("type") != "classic"}

    def environment(self) -> dict[str, str]:
        inherited = {key: value for key, value in os.environ.items() if not key.startswith(("FOGACTORS_", "RABBITMQ"))}
        cluster = self._cluster
        address, among = self.place.address, self.place.among
        interface = among.replace(".", ",")
        ours = {
            "NODE__NAME": self.host,
            "NODE__USER": "sentinel",
            "BUS__URL": f"amqp://{address}:{self.port}/%2Ffog",
            "COORD__URL": cluster.redis_url,
            "LOG__FORMAT": "json",
            "CLUSTER__NODES": ",".join(node.name for node in cluster.nodes),
            "CLUSTER__NODE": self.name,
            "CLUSTER__DATA_DIR": str(self.data),
            "CLUSTER__COOKIE_FILE": str(cluster.folder / "cookie"),
            "CLUSTER__COMMAND": str(cluster.folder / "enter"),
            "CLUSTER__EPMD_PORT": str(cluster.epmd_port),
            "CLUSTER__REACH_EVERY_S": "3",
            "CLUSTER__WATCH_S": "15",
            "CLUSTER__LEASE_S": "6",
            "HEARTBEAT__INTERVAL_S": "3",
            "HEARTBEAT__TTL_S": "9",
            **{f"USERS__{user}__PASSWORD": PASSWORD for user in USERS},
            **({"TLS__ENABLED": "true", "TLS__CA_FILE": str(cluster.ca)} if cluster.ca else {}),
        }
        return {
            **inherited,
            **{f"FOGACTORS_{key}": value for key, value in ours.items()},
            "ERL_EPMD_ADDRESS": among,
            "RABBITMQ_DIST_PORT": str(self.port + 2),
            "RABBITMQ_CTL_DIST_PORT_MIN": str(self.port + 4),
            "RABBITMQ_CTL_DIST_PORT_MAX": str(self.port + 9),
            "RABBITMQ_CONF_ENV_FILE": str(self.home / "none"),
            "RABBITMQ_CONFIG_FILE": str(self.home / "rabbitmq.conf"),
            "RABBITMQ_ENABLED_PLUGINS_FILE": str(self.home / "enabled_plugins"),
            "RABBITMQ_LOG_BASE": str(self.home / "log"),
            "RABBITMQ_LOGS": str(self.home / "log/rabbit.log"),
            "RABBITMQ_ADVANCED_CONFIG_FILE": str(self.home / "advanced.config"),
            "RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS": f"{_ERLANG} -kernel inet_dist_use_interface {{{interface}}}",
        }

    def _write_configuration(self) -> None:
        (self.home / "log").mkdir(parents=True)
        kind = "ssl" if self._cluster.ca else "tcp"
        lines = {
            f"listeners.{kind}.1": f"{self.place.address}:{self.port}",
            f"management.{kind}.ip": self.place.address,
            f"management.{kind}.port": str(self.port + 1),
            "disk_free_limit.absolute": "50MB",
            "vm_memory_high_watermark.absolute": "1GiB",
            "cluster_partition_handling": "pause_minority",
            "raft.adaptive_failure_detector.poll_interval": "1000",
        }
        if self._cluster.ca is not None:
            copy_into(self.home, self._cluster.ca, self.host)
            lines |= {"listeners.tcp": "none", "ssl_options.verify": "verify_none"}
            files = {"cacertfile": "ca.pem", "certfile": "cert.pem", "keyfile": "key.pem"}
            for room in ("ssl_options", "management.ssl"):
                lines |= {f"{room}.{key}": str(self.home / file) for key, file in files.items()}
        text = "".join(f"{key} = {value}\n" for key, value in lines.items())
        (self.home / "rabbitmq.conf").write_text(text)
        (self.home / "enabled_plugins").write_text("[rabbitmq_management].\n")
        shutil.copy(IMAGE / "advanced.config", self.home)
        self._make_data()

    def _make_data(self) -> None:
        self.data.mkdir()
        for path in (self.data, self.home / "log"):
            os.chown(path, *self._cluster.account)


def _row(line: str) -> dict[str, Any] | None:
    try:
        return json.loads(line)
    except ValueError:  # half of a line, of a process that was killed
        return None

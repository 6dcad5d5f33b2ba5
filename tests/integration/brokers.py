"""RabbitMQ nodes on one machine, each below a sentinel of its own: `fogactors run node-sentinel` as a process.

The sentinels are ordinary processes of this machine; what they start of RabbitMQ's they start through a script that
enters a Debian root of `tests.services`, in mounts of its own. All nodes share the loopback: each has ports of its own,
and one port mapper, which is ours, so that it outlives every node.
"""

from __future__ import annotations

import json
import os
import secrets
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from pathlib import Path
from subprocess import DEVNULL, STDOUT
from typing import Any

import anyio
import httpx
import psutil

from fogactors.bus import Delivery, Message
from fogactors.bus.amqp import AmqpBus
from fogactors.coord.redis import RedisCoord
from fogactors.wire.topology import TASKS
from tests.integration.fog import until
from tests.services import RedisServer, ServiceUnavailable, skip_or_fail
from tests.services.releases import rabbitmq_release
from tests.services.roots import ensure_root
from tests.services.server import _free_ports

NAMES = ("fog1", "fog2", "fog3")
PASSWORD = secrets.token_hex(8)
USERS = ("ADMIN", "SENTINEL", "WORKER1", "SUBMITTER", "REAPER")
FORMED_S = 150.0
"""Never reached when the code is right, also on a busy machine of two cores."""
_ENTER = """#!/bin/sh
# Enter the root with the nodes' folder in it, under the account of the package; then become the program.
set -e
if [ "$1" = --inside ]; then
    shift
    mount -t proc proc "{root}/proc"
    mount -t tmpfs tmpfs "{root}/tmp"
    mkdir -p "{root}{folder}"
    mount --bind "{folder}" "{root}{folder}"
    exec chroot "{root}" /usr/bin/setpriv --reuid {user} --regid {user} --init-groups --no-new-privs \\
        /usr/bin/env PATH=/usr/lib/rabbitmq/bin:/usr/sbin:/usr/bin:/sbin:/bin LANG=C.UTF-8 "$@"
fi
exec unshare --mount "$0" --inside "$@"
"""
# Two schedulers and no busy waiting: the nodes share a small machine with what is tested.
_ERLANG = "+S 2:2 +sbwt none +sbwtdcpu none +sbwtdio none -kernel inet_dist_use_interface {127,0,0,1}"


class Node:
    """One node with its sentinel. What it writes goes to `log`."""

    def __init__(self, cluster: Brokers, name: str, port: int) -> None:
        self._cluster = cluster
        self.host = name
        self.name = f"{name}@localhost"
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
                [sys.executable, "-m", "fogactors", "run", "node-sentinel"],
                cwd=self.home,
                env=self.environment() | {f"FOGACTORS_{key}": value for key, value in env.items()},
                stdin=DEVNULL,
                stdout=log,
                stderr=STDOUT,
                start_new_session=True,
            )

    def events(self, name: str) -> list[dict[str, Any]]:
        """What the sentinel logged of this kind, over all its lives."""
        lines = [line for line in self.log.read_text(errors="replace").splitlines() if line.startswith('{"ts"')]
        return [row for line in lines if (row := _row(line)) is not None and row["event"] == name]

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
    def amqp_url(self) -> str:
        return f"amqp://admin:{PASSWORD}@127.0.0.1:{self.port}/%2Ffog"

    def api(self, path: str) -> Any:
        """The management API of this node; None while it does not answer."""
        try:
            with httpx.Client(auth=("admin", PASSWORD), trust_env=False, timeout=10) as client:
                answer = client.get(f"http://127.0.0.1:{self.port + 1}/api{path}")
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
        ours = {
            "NODE__NAME": self.host,
            "NODE__USER": "sentinel",
            "BUS__URL": f"amqp://127.0.0.1:{self.port}/%2Ffog",
            "COORD__URL": cluster.redis.url,
            "LOG__FORMAT": "json",
            "CLUSTER__NODES": ",".join(f"{name}@localhost" for name in NAMES),
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
        }
        return {
            **inherited,
            **{f"FOGACTORS_{key}": value for key, value in ours.items()},
            "ERL_EPMD_ADDRESS": "127.0.0.1",
            "RABBITMQ_DIST_PORT": str(self.port + 2),
            "RABBITMQ_CTL_DIST_PORT_MIN": str(self.port + 4),
            "RABBITMQ_CTL_DIST_PORT_MAX": str(self.port + 9),
            "RABBITMQ_CONF_ENV_FILE": str(self.home / "none"),
            "RABBITMQ_CONFIG_FILE": str(self.home / "rabbitmq.conf"),
            "RABBITMQ_ENABLED_PLUGINS_FILE": str(self.home / "enabled_plugins"),
            "RABBITMQ_LOG_BASE": str(self.home / "log"),
            "RABBITMQ_LOGS": str(self.home / "log/rabbit.log"),
            "RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS": _ERLANG,
        }

    def _write_configuration(self) -> None:
        (self.home / "log").mkdir(parents=True)
        lines = {
            "listeners.tcp.1": f"127.0.0.1:{self.port}",
            "management.tcp.ip": "127.0.0.1",
            "management.tcp.port": str(self.port + 1),
            "disk_free_limit.absolute": "50MB",
            "vm_memory_high_watermark.absolute": "1GiB",
            "raft.adaptive_failure_detector.poll_interval": "1000",
        }
        text = "".join(f"{key} = {value}\n" for key, value in lines.items())
        (self.home / "rabbitmq.conf").write_text(text)
        (self.home / "enabled_plugins").write_text("[rabbitmq_management].\n")
        self._make_data()

    def _make_data(self) -> None:
        self.data.mkdir()
        for path in (self.data, self.home / "log"):
            os.chown(path, *self._cluster.account)


class Brokers:
    """Three nodes, none of them started; their Redis runs."""

    def __init__(self, folder: Path, account: tuple[int, int], redis: RedisServer) -> None:
        self.folder = folder
        self.account = account
        self.redis = redis
        self.epmd_port = _free_ports()
        self._mapper: subprocess.Popen[bytes] | None = None
        self.nodes = tuple(Node(self, name, _free_ports()) for name in NAMES)

    @classmethod
    @contextmanager
    def open(cls, version: str) -> Iterator[Brokers]:
        """None of the nodes is started; their Redis and their port mapper are."""
        release = rabbitmq_release(version)
        try:
            root = anyio.run(ensure_root, release.suite)
        except ServiceUnavailable as error:
            skip_or_fail(error)
        rows = [line.split(":") for line in (root / "etc/passwd").read_text().splitlines()]
        account = next((int(row[2]), int(row[3])) for row in rows if row[0] == release.user)
        folder = _folder(root, release.user)
        brokers = cls(folder, account, RedisServer())
        try:
            anyio.run(brokers.redis.start)
            brokers._start_mapper()
            yield brokers
        finally:
            for node in brokers.nodes:
                node.clean_up()
            if brokers._mapper is not None:
                brokers._mapper.kill()
                brokers._mapper.wait()
            anyio.run(brokers.redis.stop, 0.0)
            shutil.rmtree(folder, ignore_errors=True)

    def start(self, **env: str) -> None:
        for node in self.nodes:
            node.start(**env)

    async def wait_whole(self, timeout: float = FORMED_S) -> None:
        """Every node says that all three run, and every queue of ours has a replica on each."""
        names = {node.name for node in self.nodes}
        lacks: list[str] = []

        async def whole() -> bool:
            lacks[:] = [f"{node.name} sees {seen}" for node in self.nodes if (seen := await node.running()) != names]
            if not lacks:
                replicas = await self.nodes[0].replicas()
                lacks[:] = [f"{queue} is on {on}" for queue, on in replicas.items() if on != names]
                lacks.extend(f"no {name}" for name in ("tasks.normal", "dlq.parked") if name not in replicas)
            return not lacks

        with anyio.move_on_after(timeout):
            while not await whole():  # noqa: ASYNC110 - nobody tells of it
                await anyio.sleep(0.5)
            return
        raise AssertionError(f"not whole within {timeout:g} s: {'; '.join(lacks)}; what they said:\n{self.said()}")

    def plans(self, since: dict[str, int]) -> set[str]:
        """The actions that were planned, beyond the first `since` of each node (`marks`); waits left out."""
        rows = [row for node in self.nodes for row in node.events("ClusterPlanned")[since[node.name] :]]
        return {row["action"] for row in rows} - {"Wait"}

    def marks(self) -> dict[str, int]:
        return {node.name: len(node.events("ClusterPlanned")) for node in self.nodes}

    def said(self) -> str:
        """What the sentinels did, for a test that fails."""
        rows = [
            f"{row['ts']} {node.host} {row['event']} {row.get('action', '')} {row.get('why', row.get('error', ''))}"
            for node in self.nodes
            if node.log.exists()
            for kind in ("ClusterPlanned", "ClusterRefused", "ClusterSettled", "ActorExited", "BrokerExited")
            for row in node.events(kind)
        ]
        return "\n".join(sorted(rows)[-40:])

    async def master(self) -> str | None:
        async with self.coord() as coord:
            return await coord.holder("rabbitmq:cluster:master")

    async def members(self) -> set[str]:
        async with self.coord() as coord:
            return set(await coord.cluster_members())

    @asynccontextmanager
    async def coord(self) -> AsyncIterator[RedisCoord]:
        coord = RedisCoord(self.redis.url)
        try:
            yield coord
        finally:
            with anyio.CancelScope(shield=True):
                await coord.close()

    async def publish(self, count: int, tag: str) -> set[str]:
        """Confirmed messages in `tasks.normal`; their ids."""
        ids = {f"{tag}-{number}" for number in range(count)}
        async with self.bus() as bus:
            for id_ in ids:
                await bus.publish(TASKS, "normal", Message(id_.encode(), message_id=id_), timeout=20.0)
        return ids

    async def take_all(self) -> set[str]:
        """The ids of what is in `tasks.normal`, which is empty afterwards."""
        found: list[Delivery] = []
        async with self.bus() as bus:
            expected = (await bus.inspect("tasks.normal")).ready
            await bus.consume("tasks.normal", found.append, prefetch=10_000)
            await until(lambda: len(found) >= expected, f"{expected} messages")
            for delivery in found:
                await delivery.ack()
        return {delivery.body.decode() for delivery in found}

    @asynccontextmanager
    async def bus(self) -> AsyncIterator[AmqpBus]:
        """A connection to whichever node takes it."""
        hosts = ",".join(f"127.0.0.1:{node.port}" for node in self.nodes)
        bus = AmqpBus(f"amqp://admin:{PASSWORD}@{hosts}/%2Ffog", name="test")
        await bus.open(timeout=30.0)
        try:
            yield bus
        finally:
            with anyio.CancelScope(shield=True):
                await bus.close()

    def _start_mapper(self) -> None:
        command = [self.folder / "enter", "epmd", "-port", str(self.epmd_port), "-address", "127.0.0.1"]
        self._mapper = subprocess.Popen(command, stdin=DEVNULL, stdout=DEVNULL, stderr=DEVNULL, start_new_session=True)


def _folder(root: Path, user: str) -> Path:
    """Of all nodes. Below /tmp, because it must have the same path inside the root, where that is a mount of ours."""
    folder = Path(tempfile.mkdtemp(prefix="fogactors-", dir="/tmp"))
    folder.chmod(0o755)
    enter = folder / "enter"
    enter.write_text(_ENTER.format(root=root, folder=folder, user=user))
    enter.chmod(0o755)
    (folder / "cookie").write_text(secrets.token_hex(16))
    return folder


def _row(line: str) -> dict[str, Any] | None:
    try:
        return json.loads(line)
    except ValueError:  # half of a line, of a process that was killed
        return None

"""RabbitMQ nodes on one machine, each below a sentinel of its own: `fogactors run node-sentinel` as a process.

The sentinels are ordinary processes of this machine; what they start of RabbitMQ's they start through a script that
enters a Debian root of `tests.services`, in mounts of its own. All nodes share the loopback: each has ports of its own,
and one port mapper, which is ours, so that it outlives every node. On a `Lan` each is on a host of its own, where its
mapper is.
"""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import AsyncIterator, Iterator
from contextlib import ExitStack, asynccontextmanager, contextmanager
from pathlib import Path
from subprocess import DEVNULL

import anyio
import msgspec

from fogactors.bus import Delivery, Message
from fogactors.bus.amqp import AmqpBus
from fogactors.coord.redis import RedisCoord
from fogactors.messages import ClusterChange
from fogactors.roles.sentinel.watcher import EVENTS_CHANNEL
from fogactors.wire.topology import TASKS
from tests.integration.broker_node import PASSWORD, Node, Place
from tests.integration.enter import folder_of_nodes
from tests.integration.fog import until
from tests.integration.lan import OUTSIDE, Lan
from tests.integration.tls import TlsRedis, make_authority
from tests.services import RedisServer, ServiceUnavailable, skip_or_fail
from tests.services.releases import REDIS, rabbitmq_release
from tests.services.roots import ensure_root
from tests.services.routes import Chroot
from tests.services.server import _free_ports

NAMES = ("fog1", "fog2", "fog3")
FORMED_S = 150.0
"""Never reached when the code is right, also on a busy machine of two cores."""


class Brokers:
    """Three nodes, none of them started; their Redis runs."""

    def __init__(self, folder: Path, account: tuple[int, int], lan: Lan | None, ca: Path | None) -> None:
        self.folder = folder
        self.account = account
        self.lan = lan
        self.ca = ca
        bind = {"bind": f"127.0.0.1 {OUTSIDE}"} if lan else None
        self.redis = RedisServer(config=bind) if ca is None else TlsRedis(ca)
        self.epmd_port = _free_ports()
        self._mappers: list[subprocess.Popen[bytes]] = []
        places = [Place(each.name, each.among, each.address, each.enter) for each in lan.hosts.values()] if lan else []
        self.nodes = tuple(
            Node(self, name, _free_ports(), place) for name, place in zip(NAMES, places or [Place()] * 3, strict=True)
        )

    @property
    def redis_url(self) -> str:
        """As nodes reach it."""
        return self.redis.url.replace("127.0.0.1", OUTSIDE) if self.lan else self.redis.url

    @classmethod
    @contextmanager
    def open(cls, version: str, *, lan: bool = False, tls: bool = False) -> Iterator[Brokers]:
        """None of the nodes is started; their Redis and their port mappers are. `lan`: each is on a host of its own,
        and this thread on their clients' network. `tls`: clients of the brokers and of Redis speak TLS."""
        release = rabbitmq_release(version)
        try:
            root = anyio.run(ensure_root, release.suite)
        except ServiceUnavailable as error:
            skip_or_fail(error)
        rows = [line.split(":") for line in (root / "etc/passwd").read_text().splitlines()]
        account = next((int(row[2]), int(row[3])) for row in rows if row[0] == release.user)
        folder = folder_of_nodes(root, release.user)
        with ExitStack() as stack:
            stack.callback(shutil.rmtree, folder, ignore_errors=True)
            try:
                made = stack.enter_context(Lan.open(folder, NAMES)) if lan else None
            except ServiceUnavailable as error:
                skip_or_fail(error)
            if made is not None:
                stack.enter_context(made.entered())
            brokers = cls(folder, account, made, make_authority(folder, "authority") if tls else None)
            stack.callback(brokers._end)
            if made is not None:  # an engine's containers would be in its network, and not in ours
                brokers.redis.route = Chroot(anyio.run(ensure_root, REDIS.suite), REDIS.user)
            anyio.run(brokers.redis.start)
            brokers._start_mappers()
            yield brokers

    def _end(self) -> None:
        for node in self.nodes:
            node.clean_up()
        for mapper in self._mappers:
            mapper.kill()
            mapper.wait()
        anyio.run(self.redis.stop, 0.0)

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

    async def wait_settled(self) -> None:
        """Every sentinel has seen that all three run, too."""

        def settled() -> bool:
            rows = [node.events("BrokerStarted", "ClusterSettled")[-1] for node in self.nodes]
            return all(row["event"] == "ClusterSettled" and not row["missing"] for row in rows)

        await until(settled, "every sentinel has settled", 60)

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

    async def node_of_master(self) -> Node:
        found: list[Node] = []

        async def there() -> bool:
            master = await self.master()
            found[:] = [node for node in self.nodes if node.name == master]
            return bool(found)

        await until(there, "a master")
        return found[0]

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

    @asynccontextmanager
    async def notices(self) -> AsyncIterator[list[ClusterChange]]:
        """What the sentinels tell through Redis meanwhile; the list grows."""
        told: list[ClusterChange] = []
        async with (
            self.coord() as coord,
            coord.listen(EVENTS_CHANNEL) as notices,
            anyio.create_task_group() as tasks,
        ):

            async def listen() -> None:
                async for payload in notices:
                    told.append(msgspec.json.decode(payload, type=ClusterChange))

            tasks.start_soon(listen)
            yield told
            tasks.cancel_scope.cancel()

    async def publish(self, count: int, tag: str) -> set[str]:
        """Confirmed messages in `tasks.normal`; their ids."""
        ids = {f"{tag}-{number}" for number in range(count)}
        async with self.bus() as bus:
            for id_ in ids:
                await bus.publish(TASKS, "normal", Message(id_.encode(), message_id=id_), timeout=20.0)
        return ids

    async def take_all(self, queue: str = "tasks.normal") -> set[str]:
        """The ids of what is in the queue, which is empty afterwards."""
        found: list[Delivery] = []
        async with self.bus() as bus:
            expected = (await bus.inspect(queue)).ready
            await bus.consume(queue, found.append, prefetch=10_000)
            await until(lambda: len(found) >= expected, f"{expected} messages")
            for delivery in found:
                await delivery.ack()
        return {delivery.body.decode() for delivery in found}

    @asynccontextmanager
    async def bus(self, *nodes: Node) -> AsyncIterator[AmqpBus]:
        """A connection to whichever of the nodes takes it, by default of all."""
        hosts = ",".join(f"{node.place.address}:{node.port}" for node in nodes or self.nodes)
        login = f"admin:{PASSWORD}@{hosts}/%2Ffog"
        bus = AmqpBus(f"amqps://{login}?cafile={self.ca}" if self.ca else f"amqp://{login}", name="test")
        await bus.open(timeout=30.0)
        try:
            yield bus
        finally:
            with anyio.CancelScope(shield=True):
                await bus.close()

    def _start_mappers(self) -> None:
        for place in {node.place for node in self.nodes}:
            program = ("epmd", "-port", str(self.epmd_port), "-address", place.among)
            command = [*place.enter, str(self.folder / "enter"), *program]
            silent = {"stdin": DEVNULL, "stdout": DEVNULL, "stderr": DEVNULL}
            self._mappers.append(subprocess.Popen(command, **silent, start_new_session=True))

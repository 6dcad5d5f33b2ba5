"""Users of a real broker and a real Redis with the permissions of ours: each does its job, and no more."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, replace
from secrets import token_urlsafe
from typing import Any
from urllib.parse import quote
from uuid import uuid4

import aiormq
import anyio
import httpx
import pytest

from fogactors.bus import Message
from fogactors.bus.amqp import AmqpBus
from fogactors.errors import AccessRefused, NoSuchService, TopologyMismatch
from fogactors.messaging import Event, EventBus, QueueTask, RPCClient, RPCServer, TaskQueue
from fogactors.messaging.rpc_serving import service_queue
from fogactors.wire import Queue, Topology, fog_topology
from fogactors.wire.access import User, user_definitions
from fogactors.wire.topology import RESULTS_PENDING
from fogactors.wire.work import work_queue
from tests.coord.walled import AclRedis
from tests.integration.fog import Fog, Services, until
from tests.integration.page import free_port, shows
from tests.services import ServiceUnavailable, skip_or_fail

pytestmark = [pytest.mark.services, pytest.mark.asyncio]

TIERS = ("light", "medium", "heavy")
JOBS = {
    "light": ("tier-executor", ("light",)),
    "medium": ("tier-executor", ("medium",)),
    "reaper": ("dlq-reaper", ()),
    "sink": ("metrics-sink", ()),
    "sentinel": ("node-sentinel", ()),
    "beat": ("heartbeat", ()),
    "submitter": ("submitter", ()),
    "asker": ("task-submitter", ()),
    "worker": ("task-worker", ()),
    "publisher": ("event-publisher", ()),
    "subscriber": ("event-subscriber", ()),
    "caller": ("rpc-caller", ()),
    "server": ("rpc-server", ()),
    "operator": ("operator", ()),
    "boss": ("admin", ()),
}


TABLES = {
    "light": "worker1",
    "medium": "worker2",
    "sink": "metrics",
    "beat": "worker3",
    "boss": "admin",
}
"""The default table of `[users]` that has a job's role, where it has another name."""


@dataclass(frozen=True)
class Walled:
    """`services`: as the broker's administrator. `users`: by the names of `JOBS`. The same user at both servers; its
    name is this module's own, because a broker's users are those of all virtual hosts."""

    services: Services
    redis: AclRedis
    users: dict[str, User]

    def amqp_url(self, job: str) -> str:
        return self.services.as_user(self.users[job].name, self.users[job].password).amqp_url

    def as_(self, job: str) -> dict[str, Any]:
        """What makes a command this user: URLs that name nobody, `[node] user` and a password."""
        table = TABLES.get(job, job)
        return {
            "services": Services(
                f"amqp://{self.services.address}/{quote(self.services.vhost, safe='')}",
                f"http://{self.services.management_url.rpartition('@')[2]}",
                f"redis://127.0.0.1:{self.redis.port}/0",
            ),
            "NODE__USER": table,
            f"USERS__{table.upper()}__LOGIN": self.users[job].name,
            f"USERS__{table.upper()}__PASSWORD": self.users[job].password,
        }


@pytest.fixture(scope="module")
def walled(services: Services) -> Iterator[Walled]:
    suffix = uuid4().hex[:6]
    users = {job: User(f"{job}-{suffix}", (role,), tiers, token_urlsafe(12)) for job, (role, tiers) in JOBS.items()}
    redis = AclRedis(users)
    try:
        anyio.run(redis.start)
    except ServiceUnavailable as error:
        skip_or_fail(error)
    try:
        services.api("POST", "/definitions", user_definitions(users.values(), TIERS, services.vhost))
        yield Walled(services, redis, users)
    finally:
        for user in users.values():
            with suppress(httpx.HTTPStatusError):
                services.api("DELETE", f"/users/{user.name}")
        anyio.run(redis.stop, 0)


@asynccontextmanager
async def client(walled: Walled, job: str) -> AsyncIterator[AmqpBus]:
    bus = AmqpBus(walled.amqp_url(job), name=job)
    await bus.open()
    try:
        yield bus
    finally:
        with anyio.CancelScope(shield=True):
            await bus.close()


# -- each does its job


@pytest.mark.versions
async def test_the_main_job_goes_its_way_each_role_under_a_user_of_its_own(fog: Fog, walled: Walled, tmp_path):
    executor = await fog.executor("light", **walled.as_("light"))
    helper = await fog.executor("medium", **walled.as_("medium"))
    reaper = await fog.role("dlq-reaper", **walled.as_("reaper"))
    submitter, operator = walled.as_("submitter"), walled.as_("operator")

    done = await fog.submit("add", "--args", '{"a": 40, "b": 2}', **submitter)
    assert (done.code, done.out.strip()) == (0, "42"), f"{done} {executor}"
    again = await fog.submit(
        "twice", "--args", json.dumps({"mark": str(tmp_path / "m")}), "-i", fog.module, **submitter
    )
    assert (again.code, again.out.strip()) == (0, '"at last"'), f"{again} {executor} {helper}"
    medium = await fog.submit("add", "--args", '{"a": 1}', "--tier", "medium", **submitter)
    assert (medium.code, medium.out.strip()) == (0, "2"), f"{medium} {helper}"

    failed = await fog.submit("fails", **submitter)
    assert failed.code == 1, f"{failed} {executor}"

    async def parked() -> bool:
        listed = await fog.run("dlq", "list", "--json", **operator)
        return "no luck" in listed.out

    await until(parked, f"the dead letter, in {reaper}")
    replayed = await fog.run("dlq", "replay", "--all", **operator)
    assert replayed.code == 0, replayed

    roles = {each["role"] for each in json.loads((await fog.run("ping", "--json", **operator)).out)}
    assert roles == {"tier-executor-light", "tier-executor-medium", "dlq-reaper"}
    beats = {each["role"]: each for each in json.loads((await fog.run("nodes", "--json", **operator)).out)}
    assert beats.keys() >= roles
    assert (beats["tier-executor-light"]["tier"], beats["tier-executor-light"]["running"]) == ("light", 0)
    for command in (executor, helper, reaper):
        assert (await command.stop()).code == 0
        errors = [line for line in command.log if line["level"] in ("warning", "error")]
        assert [line for line in errors if "refuse" in json.dumps(line).lower()] == []


@pytest.mark.versions
async def test_figures_go_their_way_each_role_under_a_user_of_its_own(fog: Fog, walled: Walled):
    port, often = free_port(), {"METRICS__INTERVAL_S": "0.5"}
    executor = await fog.executor("light", **often, **walled.as_("light"))
    reaper = await fog.role("dlq-reaper", **often, **walled.as_("reaper"))
    sink = await fog.role("metrics-sink", METRICS__PORT=str(port), **often, **walled.as_("sink"))
    assert (await fog.submit("add", "--args", '{"a": 1}', **walled.as_("submitter"))).code == 0
    ended = ("fogactors_tasks_ended_total", "normal", "tier-executor", "succeeded", "light")
    await shows(
        port, {ended: 1, ("fogactors_queue_messages", "dlq"): 0, ("fogactors_queue_messages", RESULTS_PENDING): 0}
    )
    for command in (executor, reaper, sink):
        assert (await command.stop()).code == 0
        assert not [line for line in command.log if line["event"] == "MetricsLost"]


@pytest.mark.versions
async def test_what_was_submitted_can_be_cancelled_and_an_executor_paused_and_drained(
    fog: Fog, walled: Walled, tmp_path
):
    executor = await fog.executor("light", **walled.as_("light"))
    submitter, operator = walled.as_("submitter"), walled.as_("operator")
    args = json.dumps({"mark": str(tmp_path / "mark"), "until": str(tmp_path / "until")})
    sent = await fog.submit("hold", "--args", args, "--no-wait", **submitter)
    await until((tmp_path / "mark").exists, f"the task runs, {sent} {executor}")
    assert (await fog.run("where", sent.out.strip(), **submitter)).out.split()[1] == "running"
    assert (await fog.run("cancel", sent.out.strip(), **submitter)).code == 0
    for command in ("pause", "resume"):
        assert (await fog.run(command, **operator)).code == 0
    assert (await fog.run("tree", "--live", **operator)).code == 0
    node = json.loads((await fog.run("ping", "--json", **operator)).out)[0]["node"]
    assert (await fog.run("drain", node, **operator)).code == 0
    assert (await executor.wait()).code == 0


@pytest.mark.versions
async def test_the_admin_applies_and_compares_the_topology(fog: Fog, walled: Walled):
    boss = walled.as_("boss")
    assert (await fog.run("topology", "apply", **boss)).code == 0
    assert (await fog.run("topology", "diff", **boss)).code == 0


@pytest.mark.versions
async def test_a_role_whose_part_of_the_topology_is_missing_says_so(fog: Fog, walled: Walled):
    path = f"/queues/{quote(walled.services.vhost, safe='')}/results.pending"
    walled.services.api("DELETE", path)
    try:
        light = await fog.executor("light", **walled.as_("light"))  # not its concern
        reaper = await fog.run("run", "dlq-reaper", **walled.as_("reaper"))
        assert reaper.code == 2, reaper
        assert "queue results.pending is missing; run `fogactors topology apply`" in " ".join(reaper.said)
        assert (await light.stop()).code == 0
    finally:
        assert (await fog.run("topology", "apply", **walled.as_("boss"))).code == 0


@pytest.mark.versions
async def test_a_service_is_called_each_side_under_a_user_of_its_own(walled: Walled):
    async def twice(number: int) -> int:
        return 2 * number

    service = f"t{uuid4().hex[:8]}.rpc"
    async with RPCServer(walled.amqp_url("server"), service) as server, RPCClient(walled.amqp_url("caller")) as caller:
        with pytest.raises(NoSuchService, match="it has no queue"):
            await caller.call(service, 1)
        server.register_handler(twice)
        await server.start()
        assert await caller.call(service, 21) == 42
        with pytest.raises(AccessRefused):
            await caller.session.bus.consume(service_queue(service), lambda _: None, prefetch=1)
        with pytest.raises(AccessRefused):
            await caller.session.bus.declare(Topology(queues=(Queue("rpc.mine"),)))
        for name in ("rpc.", "rpcx", "tasks.mine", f"ctl.{walled.users['caller'].name}.x"):
            with pytest.raises(AccessRefused):
                await server.session.bus.declare(Topology(queues=(Queue(name),)))
        await server.stop()
        with pytest.raises(NoSuchService, match="its queue has no consumer"):
            await caller.call(service, 1)


@pytest.mark.versions
async def test_events_go_from_one_user_to_another_and_each_may_do_its_side_only(walled: Walled):
    seen: list[str] = []

    async def fail_once(event: Event[dict[str, int]]) -> None:
        seen.append(f"group {event.attempt}")
        if event.attempt == 1:
            raise ConnectionError("not yet")

    async with (
        EventBus(walled.amqp_url("publisher"), source="maker") as maker,
        EventBus(walled.amqp_url("subscriber"), source="reader", store=walled.redis.url_of("subscriber")) as reader,
    ):
        group = await reader.subscribe("shop.order.*", fail_once, group=f"g{uuid4().hex[:6]}")
        await reader.subscribe("shop.#", lambda event: seen.append("live"))
        await maker.publish("shop.order.paid", {"id": 1})
        await until(lambda: sorted(seen) == ["group 1", "group 2", "live"], f"the event, and once more; {seen}")
        with pytest.raises(AccessRefused):
            await maker.subscribe("shop.#", print)
        with pytest.raises(AccessRefused):
            await reader.publish("shop.order.paid", {"id": 2})
        await reader.unsubscribe(group, forget=True)


@pytest.mark.versions
async def test_a_task_queue_is_worked_on_by_one_user_for_another_and_each_may_do_its_side_only(walled: Walled):
    name = f"t{uuid4().hex[:8]}.tasks"

    async def fail_once(task: QueueTask[int]) -> int:
        if task.retry_count == 0:
            raise ConnectionError("not yet")
        return 2 * task.data

    ask = TaskQueue(walled.amqp_url("asker"), name, store=walled.redis.url_of("asker"))
    work = TaskQueue(walled.amqp_url("worker"), name, store=walled.redis.url_of("worker"))
    with pytest.raises(TopologyMismatch, match=r"is missing.*may not make it; start a worker first"):
        async with ask:
            raise AssertionError
    async with work as worker, ask as asker:
        worker.register_handler("twice", fail_once)
        await worker.start()
        handle = await asker.submit("twice", 21, priority=8, idempotency_key="k")
        assert await asker.submit("twice", 22, idempotency_key="k") == handle
        assert await handle.result(timeout=15) == 42
        late = await asker.submit("twice", 1, delay=600)
        assert (await late.cancel()).state == "cancelled"
        assert await asker.size() == 0
        with pytest.raises(AccessRefused):
            await asker.session.bus.consume(work_queue(name), lambda _: None, prefetch=1)
        with pytest.raises(AccessRefused):
            await worker.submit("twice", 1)
        for mine in ("tasks.mine", "mine"):
            with pytest.raises(AccessRefused):
                await worker.session.bus.declare(Topology(queues=(Queue(mine),)))


# -- and no more

QUEUES = [queue.name for queue in fog_topology().queues]
EXCHANGES = [exchange.name for exchange in fog_topology().exchanges]
LIGHT = {"tasks.high_priority", "tasks.normal", "tasks.low_priority"}
MEDIUM = LIGHT | {f"{queue}.medium" for queue in LIGHT}
RETRY = {f"retry.{4**n}" for n in range(9)}
READS = {
    "light": LIGHT,
    "medium": MEDIUM,
    "reaper": {"dlq", "dlq.parked", "results.pending"},
    "sink": {"metrics.node"},
    "sentinel": set(),
    "beat": set(),
    "submitter": set(),
    "asker": set(),
    "worker": set(),
    "publisher": set(),
    "subscriber": set(),
    "caller": set(),
    "server": set(),
    "operator": set(QUEUES),
}
WRITES = {
    "light": {"results.topic", "metrics.topic", "dlx"} | RETRY,
    "medium": {"results.topic", "metrics.topic", "dlx"} | RETRY,
    "reaper": {"results.topic", "metrics.topic", "tasks.direct", "dlq.parked", "dlx"} | RETRY,
    "sink": {"results.topic"},
    "sentinel": {"results.topic", "metrics.topic", "system.fanout"},
    "beat": set(),
    "submitter": {"tasks.direct", "system.fanout"} | RETRY,
    "asker": {"tasks.direct", "system.fanout"} | RETRY,
    "worker": {"results.topic", "dlx"} | RETRY,
    "publisher": {"events.topic"},
    "subscriber": {"dlx"} | RETRY,
    "caller": {"rpc.direct"},
    "server": {"rpc.direct"},
    "operator": {"tasks.direct", "system.fanout", "dlq.parked"} | RETRY,
}


@pytest.mark.versions
@pytest.mark.parametrize("job", READS)
async def test_a_user_reads_and_writes_what_its_role_needs_and_nothing_else(walled: Walled, job: str):
    async with client(walled, job) as bus:
        read: set[str] = set()
        for queue in QUEUES:
            offset = "next" if queue == "dlq.parked" else None
            with suppress(AccessRefused):
                consumer = await bus.consume(queue, lambda _: None, prefetch=1, offset=offset)
                read.add(queue)
                await consumer.close()
        written: set[str] = set()
        for exchange in EXCHANGES:
            with suppress(AccessRefused):
                # A key that leads nowhere. What a fanout carries reaches a queue all the same; nobody minds these.
                await bus.publish(exchange, "nowhere", Message(b"{}", expiration=0.001), mandatory=False)
                written.add(exchange)
    assert (read, written) == (READS[job], WRITES[job])


@pytest.mark.versions
@pytest.mark.parametrize(
    "job", [job for job in READS if job not in ("beat", "server", "publisher", "subscriber", "worker")]
)
async def test_a_user_makes_queues_of_its_own_name_only(walled: Walled, job: str):
    me, other = walled.users[job].name, walled.users["light" if job != "light" else "medium"].name
    async with client(walled, job) as bus:
        for name in (f"ctl.{other}.x", f"xctl.{me}.x", f"ctl.{me}", "tasks.mine", "mine"):
            with pytest.raises(AccessRefused):
                await bus.open_exclusive(name, ())
        assert await bus.open_exclusive(f"ctl.{me}.x", ())
    declare = fog_topology()
    async with client(walled, job) as bus:
        with pytest.raises(AccessRefused):
            await bus.declare(replace(declare, exchanges=(), bindings=()))
        with pytest.raises(AccessRefused):
            await bus.declare(replace(declare, queues=(), bindings=()))


@pytest.mark.versions
async def test_a_worker_cannot_read_the_orders_and_answers_of_another(walled: Walled):
    async with client(walled, "medium") as theirs, client(walled, "light") as mine:
        queue = await theirs.open_exclusive(f"ctl.{walled.users['medium'].name}.x", (("system.fanout", ""),))
        for use in (mine.inspect, mine.purge):
            with pytest.raises(AccessRefused):
                await use(queue)
        with pytest.raises(AccessRefused):
            await mine.open_exclusive(f"ctl.{walled.users['light'].name}.x", (("results.topic", "#"),))


@pytest.mark.versions
@pytest.mark.parametrize("job", READS)
async def test_nothing_goes_by_the_default_exchange_to_a_queue_of_any_name(walled: Walled, job: str):
    connection = await aiormq.connect(walled.amqp_url(job))
    try:
        channel = await connection.channel(publisher_confirms=True)
        with pytest.raises(aiormq.exceptions.ChannelAccessRefused):
            await channel.basic_publish(b"{}", exchange="", routing_key="tasks.normal.heavy")
    finally:
        await connection.close()


@pytest.mark.versions
async def test_a_role_gets_nowhere_in_the_management_api(walled: Walled):
    url = f"http://{walled.services.management_url.rpartition('@')[2]}/api"
    async with httpx.AsyncClient(trust_env=False) as http:
        for job, user in walled.users.items():
            answer = await http.get(f"{url}/overview", auth=(user.name, user.password))
            assert answer.status_code == (200 if job in ("operator", "boss") else 401), job
            answer = await http.get(f"{url}/users", auth=(user.name, user.password))
            assert answer.status_code == (200 if job == "boss" else 401), job

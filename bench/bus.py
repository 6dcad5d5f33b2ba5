"""What a message costs on a real RabbitMQ: our bus and our executor beside plain aio-pika, on quorum queues.

Run it, in less than two minutes:

    .venv/bin/python -m tests.services run -- .venv/bin/python bench/bus.py [--json] [--rounds 4] [--messages 6000]

or with `FOGACTORS_TEST_AMQP_URL` and `FOGACTORS_TEST_REDIS_URL` set. The rivals take turns within one run and the
figures are medians of the rounds, because a shared machine's speed drifts by more than they differ. CPU time is this
process's own: on a small machine the broker's share decides the rate, and only the CPU time says what the client costs.

* publish: persistent, mandatory, confirmed one by one; so many at a time.
* drain: the queue is full at the start; the same prefetch, each message acked when it is done. The executor does all
  that a task needs: it chooses, runs an `async` function, records the result, announces it on `results.topic`, acks.
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import json
import os
import secrets
import statistics
import sys
import time
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import aio_pika
import uvloop

from fogactors.bus import Delivery, Message
from fogactors.bus.amqp import AmqpBus
from fogactors.coord import Coord, MemoryCoord, MemoryStore
from fogactors.coord.redis import RedisCoord
from fogactors.core import ActorSystem, ChildSpec
from fogactors.messages import PRIORITIES, Task
from fogactors.tasks.executor import ExecutorConfig, TierExecutor
from fogactors.tasks.isolation import ProcessPool
from fogactors.tasks.registry import Registry
from fogactors.tasks.task import task
from fogactors.tasks.tiers import Tier, Tiers
from fogactors.wire.codec import encode
from fogactors.wire.topology import RESULTS, TASKS, Binding, Exchange, Queue, Topology, task_key, task_queue

CONCURRENCY = (1, 50, 200)
PREFETCH = 100
DEADLINE_S = 60.0
PLAIN = "aio-pika"

# Queues of our own on the system's exchanges: a broker that is in use keeps what is in its own queues.
TIER = f"bench-{secrets.token_hex(3)}"
NOOP = f"{TIER}.noop"
KEY = task_key("normal", TIER)
QUEUE = task_queue("normal", TIER)
FEED = f"results.{TIER}"
TOPOLOGY = Topology(
    exchanges=(Exchange(TASKS, "direct"), Exchange(RESULTS, "topic")),
    queues=(*(Queue(task_queue(priority, TIER)) for priority in PRIORITIES), Queue(FEED)),
    bindings=(Binding(TASKS, KEY, QUEUE), Binding(RESULTS, f"results.success.{NOOP}", FEED)),
)
TIERS = Tiers((Tier("light", 1, 1024, 1), Tier(TIER, 1, 1024, PREFETCH // 2)))

registry = Registry()


@task(name=NOOP, registry=registry)
async def noop() -> None: ...


@dataclass(frozen=True)
class Rivals:
    bus: AmqpBus
    plain: aio_pika.abc.AbstractConnection
    channel: aio_pika.abc.AbstractChannel
    exchange: aio_pika.abc.AbstractExchange
    coords: dict[str, Coord]


@dataclass(frozen=True)
class Figure:
    per_s: float
    cpu_us: float


async def measure(work: Callable[[], Awaitable[object]], count: int) -> Figure:
    gc.collect()
    wall, cpu = time.perf_counter(), time.process_time()
    async with asyncio.timeout(DEADLINE_S):
        await work()
    return Figure(count / (time.perf_counter() - wall), (time.process_time() - cpu) / count * 1e6)


def bodies(count: int) -> list[bytes]:
    submitter, now = secrets.token_hex(8), datetime.now(UTC)
    return [
        encode(Task(id=f"{submitter}-{n:x}", name=NOOP, tier=TIER, created=now, origin=QUEUE)) for n in range(count)
    ]


# -- publish


async def publish_round(rivals: Rivals, who: str, count: int, at_a_time: int) -> Figure:
    left = iter(bodies(count))

    async def ours() -> None:
        for body in left:
            await rivals.bus.publish(TASKS, KEY, Message(body, type="task"), mandatory=True)

    async def plain() -> None:
        persistent = aio_pika.DeliveryMode.PERSISTENT
        for body in left:
            message = aio_pika.Message(body, content_type="application/json", type="task", delivery_mode=persistent)
            await rivals.exchange.publish(message, KEY, mandatory=True)

    async def work() -> None:
        async with asyncio.TaskGroup() as group:
            for _ in range(at_a_time):
                group.create_task(plain() if who == PLAIN else ours())

    figure = await measure(work, count)
    assert await rivals.bus.purge(QUEUE) == count
    return figure


# -- drain


async def drain_round(rivals: Rivals, who: str, count: int) -> Figure:
    await fill(rivals, count)
    if who == PLAIN:
        figure = await drain_plain(rivals, count)
    elif who == "bus":
        figure = await drain_bus(rivals.bus, count)
    else:
        figure = await drain_executor(rivals.bus, rivals.coords[who], count)
        assert await rivals.bus.purge(FEED) == count
    # Not 0: on a busy machine the last acks before a channel closes were seen to be lost, with plain aio-pika too.
    back = await rivals.bus.purge(QUEUE)
    assert back < PREFETCH, f"{who}: {back} of {count} were not acked"
    return figure


async def fill(rivals: Rivals, count: int) -> None:
    async with rivals.plain.channel(publisher_confirms=False) as channel:
        exchange = await channel.get_exchange(TASKS, ensure=False)
        for body in bodies(count):
            await exchange.publish(aio_pika.Message(body, content_type="application/json", delivery_mode=2), KEY)
    async with asyncio.timeout(DEADLINE_S):
        while (await rivals.bus.inspect(QUEUE)).ready < count:  # noqa: ASYNC110
            await asyncio.sleep(0.02)


async def drain_plain(rivals: Rivals, count: int) -> Figure:
    channel = await rivals.plain.channel()
    await channel.set_qos(prefetch_count=PREFETCH)
    queue = await channel.get_queue(QUEUE, ensure=False)
    drained = asyncio.Event()
    seen = 0

    async def on_message(message: aio_pika.abc.AbstractIncomingMessage) -> None:
        nonlocal seen
        await message.ack()
        seen += 1
        if seen == count:
            drained.set()

    async def work() -> None:
        await queue.consume(on_message)
        await drained.wait()

    figure = await measure(work, count)
    await channel.close()
    return figure


async def drain_bus(bus: AmqpBus, count: int) -> Figure:
    mailbox: asyncio.Queue[Delivery] = asyncio.Queue()

    async def work() -> None:
        nonlocal consumer
        consumer = await bus.consume(QUEUE, mailbox.put_nowait, prefetch=PREFETCH)
        for _ in range(count):
            delivery = await mailbox.get()
            await delivery.ack()

    consumer: Any = None
    figure = await measure(work, count)
    await consumer.close()
    return figure


async def drain_executor(bus: AmqpBus, coord: Coord, count: int) -> Figure:
    config = ExecutorConfig(
        node="bench", tier=TIER, look_ahead=PREFETCH - PREFETCH // 2, help_after_s=3600, result_ttl_s=60
    )
    async with ActorSystem() as system:

        async def work() -> None:
            settled = bus.stats.settled + count
            await system.start(
                ChildSpec(
                    id="executor",
                    factory=lambda: TierExecutor(config, bus, coord, registry, TIERS, lambda: ProcessPool(1)),
                    mailbox=6 * PREFETCH,
                    shutdown_s=10,
                )
            )
            while bus.stats.settled < settled:  # noqa: ASYNC110
                await asyncio.sleep(0.005)

        return await measure(work, count)


# -- the run


async def bench(amqp_url: str, redis_url: str, rounds: int, count: int) -> dict[str, dict[str, Any]]:
    async with rivals_at(amqp_url, redis_url) as rivals:
        runs: dict[tuple[str, str], Callable[[], Awaitable[Figure]]] = {}
        for at_a_time in CONCURRENCY:
            few = max(at_a_time, count // 8 if at_a_time == 1 else count // 2)
            for who in (PLAIN, "bus"):
                name = (f"publish, {at_a_time} at a time", who)
                runs[name] = lambda who=who, few=few, n=at_a_time: publish_round(rivals, who, few, n)
        for who in (PLAIN, "bus", *rivals.coords):
            runs["drain", who] = lambda who=who: drain_round(rivals, who, count)
        figures: dict[tuple[str, str], list[Figure]] = {name: [] for name in runs}
        for _ in range(rounds):
            for name, run in runs.items():
                figures[name].append(await run())
    return report(figures)


def report(figures: dict[tuple[str, str], list[Figure]]) -> dict[str, dict[str, Any]]:
    """Medians; `ratio` of rates and `cpu_ratio` of CPU times to plain aio-pika in the same round: above 1 is better."""
    rows: dict[str, dict[str, Any]] = {}
    for (what, who), each in figures.items():
        pairs = list(zip(each, figures[what, PLAIN], strict=True))
        rows.setdefault(what, {})[who] = {
            "per_s": round(statistics.median(figure.per_s for figure in each)),
            "cpu_us": round(statistics.median(figure.cpu_us for figure in each), 1),
            "ratio": round(statistics.median(ours.per_s / plain.per_s for ours, plain in pairs), 2),
            "cpu_ratio": round(statistics.median(plain.cpu_us / ours.cpu_us for ours, plain in pairs), 2),
        }
    return rows


@asynccontextmanager
async def rivals_at(amqp_url: str, redis_url: str) -> AsyncGenerator[Rivals]:
    bus, redis, memory = AmqpBus(amqp_url, name="bench"), RedisCoord(redis_url), MemoryCoord(MemoryStore())
    await bus.open()
    await redis.open()
    plain = await aio_pika.connect(amqp_url)
    channel = await plain.channel()
    try:
        await bus.declare(TOPOLOGY)
        coords = {"executor, memory store": memory, "executor, Redis": redis}
        yield Rivals(bus, plain, channel, await channel.get_exchange(TASKS, ensure=False), coords)
    finally:
        for queue in TOPOLOGY.queues:
            await channel.queue_delete(queue.name)
        await plain.close()
        await redis.close()
        await bus.close()


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--json", action="store_true", help="machine-readable output")
    parser.add_argument("--rounds", type=int, default=4, help="rounds of which the median is taken")
    parser.add_argument("--messages", type=int, default=6000, help="messages of one drain")
    options = parser.parse_args()
    amqp_url, redis_url = os.environ.get("FOGACTORS_TEST_AMQP_URL"), os.environ.get("FOGACTORS_TEST_REDIS_URL")
    if not amqp_url or not redis_url:
        print("no broker or no Redis: python -m tests.services run -- python bench/bus.py", file=sys.stderr)
        return 0
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        rows = runner.run(bench(amqp_url, redis_url, options.rounds, options.messages))
    if options.json:
        print(json.dumps(rows, indent=2))
        return 0
    print(f"{'':24}  messages/s  CPU us/message  rate and CPU, of {PLAIN}'s")
    for what, row in rows.items():
        print(what)
        for who, figure in row.items():
            ratios = "" if who == PLAIN else f"{figure['ratio']:>10.2f}  {figure['cpu_ratio']:.2f}"
            print(f"  {who:22}  {figure['per_s']:>10,}  {figure['cpu_us']:>14.1f}  {ratios}".rstrip())
    return 0


if __name__ == "__main__":
    sys.exit(main())

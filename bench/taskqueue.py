"""What a task costs on a real RabbitMQ: TaskQueue beside the same pattern in plain aio-pika.

Run it, in less than a minute:

    .venv/bin/python -m tests.services run -- .venv/bin/python bench/taskqueue.py [--json] [--rounds 5] [--tasks 2000]

or with `FOGACTORS_TEST_AMQP_URL` set (and `FOGACTORS_TEST_REDIS_URL` for the row with a store). All do the same: tasks
persistent, mandatory and confirmed, in a quorum queue behind a direct exchange; a handler that returns at once, and an
ack after it; a prefetch of 100; JSON; submitter and worker in one process with connections of their own. Plain aio-pika
does no more than that: one queue, no priorities, no retries, no dead letters, no limits. `with store` also records each
result in Redis, and is there to show what that costs. The rivals take turns within one run and the figures are medians
of the rounds, because a shared machine's speed drifts by more than they differ.
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
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from functools import partial

import aio_pika
import uvloop

from fogactors import QueueTask, TaskQueue
from fogactors.bus.amqp import AmqpBus
from fogactors.wire import fog_topology
from fogactors.wire.work import work_topology

CONCURRENCY = 100
PREFETCH = 100
DEADLINE_S = 60.0
PLAIN, OURS, STORED = "aio-pika", "fogactors", "with store"

Run = Callable[[int], Awaitable[None]]
"""Submits one task, and returns when the broker has it."""


class Done:
    """Counts handled tasks. A task may be handled before its submit returns."""

    def __init__(self) -> None:
        self.count = 0
        self._wanted = 0
        self._reached = asyncio.Event()

    def add(self) -> None:
        self.count += 1
        if self.count >= self._wanted:
            self._reached.set()

    async def reach(self, count: int) -> None:
        self._wanted, self._reached = count, asyncio.Event()
        if self.count < count:
            await self._reached.wait()


@dataclass(frozen=True)
class Rival:
    submit: Run
    done: Done


@dataclass(frozen=True)
class Figure:
    """`per_s`: tasks a second, submitted `CONCURRENCY` at a time and handled; `cpu_us`: of this process for one."""

    per_s: float
    cpu_us: float


# -- the rivals


@asynccontextmanager
async def ours(url: str, store: str | None) -> AsyncGenerator[Rival]:
    name, done = f"bench-{secrets.token_hex(3)}", Done()
    async with TaskQueue(url, name, store=store) as worker, TaskQueue(url, name, store=store) as queue:

        @worker.handler("t")
        async def handle(task: QueueTask[int]) -> int:
            done.add()
            return task.data

        await worker.start(concurrency=PREFETCH)

        async def submit(number: int) -> None:
            await queue.submit("t", number)

        yield Rival(submit, done)
        await worker.stop()
        for each in work_topology(name).queues:
            await queue.session.bus.delete(each.name)


@asynccontextmanager
async def plain(url: str) -> AsyncGenerator[Rival]:
    name, done = f"work.bench-{secrets.token_hex(3)}", Done()
    async with await aio_pika.connect(url) as working, await aio_pika.connect(url) as submitting:
        channel = await working.channel()
        await channel.set_qos(prefetch_count=PREFETCH)
        exchange = await channel.declare_exchange("tasks.direct", durable=True)
        queue = await channel.declare_queue(name, durable=True, arguments={"x-queue-type": "quorum"})
        await queue.bind(exchange, name)

        async def handle(message: aio_pika.abc.AbstractIncomingMessage) -> None:
            assert json.loads(message.body)["data"] >= 0
            done.add()
            await message.ack()

        await queue.consume(handle)
        ways = await (await submitting.channel()).get_exchange("tasks.direct", ensure=False)

        async def submit(number: int) -> None:
            task = aio_pika.Message(
                json.dumps({"id": secrets.token_hex(8), "type": "t", "data": number}).encode(),
                content_type="application/json",
                type="task",
                delivery_mode=aio_pika.DeliveryMode.PERSISTENT,
            )
            await ways.publish(task, name, mandatory=True)

        yield Rival(submit, done)
        await queue.delete(if_unused=False, if_empty=False)


# -- the run


async def one_by_one(rivals: dict[str, Rival], tasks: int) -> dict[str, float]:
    """The median from submit to handled and confirmed, one after the other, in ms. They take turns task by task."""
    took: dict[str, list[float]] = {who: [] for who in rivals}
    gc.collect()
    for number in range(tasks):
        for who, rival in rivals.items():
            began, wanted = time.perf_counter(), rival.done.count + 1
            await rival.submit(number)
            await rival.done.reach(wanted)
            took[who].append(time.perf_counter() - began)
    return {who: statistics.median(each) * 1000 for who, each in took.items()}


async def at_once(rival: Rival, tasks: int) -> Figure:
    gc.collect()
    left, wanted = iter(range(tasks)), rival.done.count + tasks

    async def submitter() -> None:
        for number in left:
            await rival.submit(number)

    wall, cpu = time.perf_counter(), time.process_time()
    async with asyncio.timeout(DEADLINE_S), asyncio.TaskGroup() as group:
        for _ in range(CONCURRENCY):
            group.create_task(submitter())
        group.create_task(rival.done.reach(wanted))
    wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
    return Figure(tasks / wall, cpu / tasks * 1e6)


async def bench(url: str, store: str | None, rounds: int, tasks: int) -> dict[str, dict[str, float]]:
    bus = AmqpBus(url, name="bench")
    await bus.open()
    await bus.declare(fog_topology())
    await bus.close()
    makers = {PLAIN: partial(plain, url), OURS: partial(ours, url, None)}
    if store:
        makers[STORED] = partial(ours, url, store)
    figures: dict[str, list[Figure]] = {who: [] for who in makers}
    async with AsyncExitStack() as stack:
        rivals = {who: await stack.enter_async_context(make()) for who, make in makers.items()}
        await one_by_one(rivals, 20)
        p50 = await one_by_one(rivals, tasks // 4)
        for turn in range(rounds):
            for who in rivals if turn % 2 else reversed(rivals):
                figures[who].append(await at_once(rivals[who], tasks))
    rows: dict[str, dict[str, float]] = {
        who: {
            "p50_ms": round(p50[who], 2),
            "per_s": round(statistics.median(each.per_s for each in figures[who])),
            "cpu_us": round(statistics.median(each.cpu_us for each in figures[who])),
        }
        for who in rivals
    }
    pairs = list(zip(figures[OURS], figures[PLAIN], strict=True))
    rows["ratio"] = {
        "p50": round(p50[PLAIN] / p50[OURS], 2),
        "per_s": round(statistics.median(our.per_s / theirs.per_s for our, theirs in pairs), 2),
        "cpu": round(statistics.median(theirs.cpu_us / our.cpu_us for our, theirs in pairs), 2),
    }
    return rows


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--json", action="store_true", help="machine-readable output")
    parser.add_argument("--rounds", type=int, default=5, help="rounds of which the median is taken")
    parser.add_argument("--tasks", type=int, default=2000, help="tasks of one round")
    options = parser.parse_args()
    url = os.environ.get("FOGACTORS_TEST_AMQP_URL")
    if not url:
        print("no broker: python -m tests.services run -- python bench/taskqueue.py", file=sys.stderr)
        return 0
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        rows = runner.run(bench(url, os.environ.get("FOGACTORS_TEST_REDIS_URL"), options.rounds, options.tasks))
    if options.json:
        print(json.dumps(rows, indent=2))
        return 0
    print(f"{'':10}  p50 ms  tasks/s at {CONCURRENCY}  CPU us/task")
    for who, row in rows.items():
        if who != "ratio":
            print(f"{who:10}  {row['p50_ms']:>6.2f}  {row['per_s']:>14,}  {row['cpu_us']:>11,}")
    ratio = rows["ratio"]
    print(
        f"{OURS} does {ratio['per_s']:.2f} times the tasks of {PLAIN}, its p50 is {1 / ratio['p50']:.2f} times as long"
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())

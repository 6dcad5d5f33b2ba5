"""What a call costs on a real RabbitMQ: RPCClient and RPCServer beside the same pattern in plain aio-pika.

Run it, in less than a minute:

    .venv/bin/python -m tests.services run -- .venv/bin/python bench/rpc.py [--json] [--rounds 5] [--calls 2000]

or with `FOGACTORS_TEST_AMQP_URL` set. Both do the same: requests persistent, mandatory and confirmed, in a quorum queue
behind `rpc.direct`; answers confirmed, in an exclusive queue behind it; the request acked after its answer was sent; a
prefetch of 100; JSON; client and server in one process with connections of their own. Plain aio-pika does no more than
that: no types, no timeouts, no deadline, no check that somebody serves. The rivals take turns within one run and the
figures are medians of the rounds, because a shared machine's speed drifts by more than they differ.
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

import aio_pika
import uvloop

from fogactors.messaging import RPCClient, RPCServer
from fogactors.messaging.rpc_serving import service_queue
from fogactors.wire.topology import RPC, Exchange, Topology

CONCURRENCY = 100
PREFETCH = 100
DEADLINE_S = 60.0
PLAIN, OURS = "aio-pika", "fogactors"

Call = Callable[[int, int], Awaitable[int]]


@dataclass(frozen=True)
class Figure:
    """`per_s`: calls a second, `CONCURRENCY` at a time; `cpu_us`: of this process, client and server, for one."""

    per_s: float
    cpu_us: float


# -- the rivals


@asynccontextmanager
async def ours(url: str) -> AsyncGenerator[Call]:
    service = f"bench-{secrets.token_hex(3)}.rpc"
    async with RPCServer(url, service, concurrency=PREFETCH) as server, AsyncExitStack() as stack:

        @server.handler
        async def add(a: int, b: int) -> int:
            return a + b

        await server.session.bus.declare(Topology(exchanges=(Exchange(RPC, "direct"),)))
        await server.start()
        client = await stack.enter_async_context(RPCClient(url))

        async def call(a: int, b: int) -> int:
            return await client.call(service, {"a": a, "b": b}, returns=int, timeout=DEADLINE_S)

        yield call
        await server.stop()
        await server.session.bus.delete(service_queue(service))


@asynccontextmanager
async def plain(url: str) -> AsyncGenerator[Call]:
    service = f"bench-{secrets.token_hex(3)}.rpc"
    async with await aio_pika.connect(url) as serving, await aio_pika.connect(url) as calling:
        channel = await serving.channel()
        await channel.set_qos(prefetch_count=PREFETCH)
        exchange = await channel.declare_exchange(RPC, durable=True)
        queue = await channel.declare_queue(f"rpc.{service}", durable=True, arguments={"x-queue-type": "quorum"})
        await queue.bind(exchange, service)

        async def serve(message: aio_pika.abc.AbstractIncomingMessage) -> None:
            request = json.loads(message.body)
            body = json.dumps({"value": request["a"] + request["b"]}).encode()
            answer = aio_pika.Message(
                body, correlation_id=message.correlation_id, content_type="application/json", type="rpc_reply"
            )
            await exchange.publish(answer, message.reply_to or "", mandatory=False)
            await message.ack()

        await queue.consume(serve)
        own = await calling.channel()
        ways = await own.get_exchange(RPC, ensure=False)
        replies = await own.declare_queue(f"reply.{secrets.token_hex(8)}", exclusive=True)
        await replies.bind(ways, replies.name)
        waiting: dict[str, asyncio.Future[int]] = {}

        async def take(message: aio_pika.abc.AbstractIncomingMessage) -> None:
            waiting[message.correlation_id or ""].set_result(json.loads(message.body)["value"])
            await message.ack()

        await replies.consume(take)
        loop = asyncio.get_running_loop()

        async def call(a: int, b: int) -> int:
            number = secrets.token_hex(8)
            waiting[number] = loop.create_future()
            request = aio_pika.Message(
                json.dumps({"a": a, "b": b}).encode(),
                correlation_id=number,
                reply_to=replies.name,
                content_type="application/json",
                type="rpc_request",
                delivery_mode=aio_pika.DeliveryMode.PERSISTENT,
            )
            try:
                await ways.publish(request, service, mandatory=True)
                return await waiting[number]
            finally:
                del waiting[number]

        yield call
        await queue.delete(if_unused=False, if_empty=False)


RIVALS = (PLAIN, OURS)


# -- the run


async def one_by_one(rivals: dict[str, Call], calls: int) -> dict[str, float]:
    """The median of calls one after the other, in ms. The rivals take turns call by call."""
    took: dict[str, list[float]] = {who: [] for who in rivals}
    gc.collect()
    for number in range(calls):
        for who, call in rivals.items():
            began = time.perf_counter()
            assert await call(number, 1) == number + 1
            took[who].append(time.perf_counter() - began)
    return {who: statistics.median(each) * 1000 for who, each in took.items()}


async def at_once(call: Call, calls: int) -> Figure:
    gc.collect()
    left = iter(range(calls))

    async def caller() -> None:
        for number in left:
            assert await call(number, 1) == number + 1

    wall, cpu = time.perf_counter(), time.process_time()
    async with asyncio.timeout(DEADLINE_S), asyncio.TaskGroup() as group:
        for _ in range(CONCURRENCY):
            group.create_task(caller())
    wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
    return Figure(calls / wall, cpu / calls * 1e6)


async def bench(url: str, rounds: int, calls: int) -> dict[str, dict[str, float]]:
    figures: dict[str, list[Figure]] = {who: [] for who in RIVALS}
    async with ours(url) as our_call, plain(url) as plain_call:  # ours first: it makes the exchange
        rivals = {PLAIN: plain_call, OURS: our_call}
        await one_by_one(rivals, 20)
        p50 = await one_by_one(rivals, calls // 2)
        for turn in range(rounds):
            for who in rivals if turn % 2 else reversed(rivals):
                figures[who].append(await at_once(rivals[who], calls))
    pairs = list(zip(figures[OURS], figures[PLAIN], strict=True))
    rows: dict[str, dict[str, float]] = {
        who: {
            "p50_ms": round(p50[who], 2),
            "per_s": round(statistics.median(each.per_s for each in figures[who])),
            "cpu_us": round(statistics.median(each.cpu_us for each in figures[who])),
        }
        for who in RIVALS
    }
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
    parser.add_argument("--calls", type=int, default=2000, help="calls of one round")
    options = parser.parse_args()
    url = os.environ.get("FOGACTORS_TEST_AMQP_URL")
    if not url:
        print("no broker: python -m tests.services run -- python bench/rpc.py", file=sys.stderr)
        return 0
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        rows = runner.run(bench(url, options.rounds, options.calls))
    if options.json:
        print(json.dumps(rows, indent=2))
        return 0
    print(f"{'':10}  p50 ms  calls/s at {CONCURRENCY}  CPU us/call")
    for who in RIVALS:
        row = rows[who]
        print(f"{who:10}  {row['p50_ms']:>6.2f}  {row['per_s']:>14,}  {row['cpu_us']:>11,}")
    ratio = rows["ratio"]
    print(
        f"{OURS} does {ratio['per_s']:.2f} times the calls of {PLAIN}, its p50 is {1 / ratio['p50']:.2f} times as long"
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())

"""How fast actors are in one process: tell and ask beside asyncio.Queue, and how long a restart takes.

Run it: `.venv/bin/python bench/core.py [--json] [--rounds 7]`, less than 30 s. The rivals take turns within one run,
because a shared machine's speed drifts by more than they differ; the figures are medians of the rounds. Both consumers
get the same: one message at a time, and the loop goes on as soon as there is another. CPU time is the process's own, so
that a busy neighbour does not count.
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import json
import statistics
import time
from collections.abc import Awaitable, Callable
from typing import Any

import uvloop

from fogactors.core import Actor, ActorStarted, ActorSystem, ChildSpec, Intensity, SupervisorSpec

MESSAGES = 100_000
ASKS = 40_000
ASKERS = 100
RESTARTS = 500
CAPACITY = 1000


class Counting(Actor[int]):
    """Counts, sets an event at the last message, answers asks, and crashes on None."""

    def __init__(self) -> None:
        self.seen = 0
        self.last = 0
        self.finished = asyncio.Event()

    async def handle(self, message: int) -> int:
        if message is None:
            raise RuntimeError("crash")
        self.seen += 1
        if self.seen == self.last:
            self.finished.set()
        return message


async def measure(work: Callable[[], Awaitable[None]], count: int) -> tuple[float, float]:
    """Messages per second by the wall, and CPU microseconds per message."""
    gc.collect()
    wall, cpu = time.perf_counter(), time.process_time()
    await work()
    return count / (time.perf_counter() - wall), (time.process_time() - cpu) / count * 1e6


async def queue_round() -> tuple[float, float]:
    queue: asyncio.Queue[int] = asyncio.Queue(CAPACITY)
    seen = 0

    async def handle(message: int) -> int:
        nonlocal seen
        seen += 1
        return message

    async def consume() -> None:
        while seen < MESSAGES:
            await handle(await queue.get())

    async def work() -> None:
        consumer = asyncio.create_task(consume())
        for number in range(MESSAGES):
            await queue.put(number)
        await consumer

    return await measure(work, MESSAGES)


async def tell_round(system: ActorSystem, tell_nowait: bool) -> tuple[float, float]:
    actor = Counting()
    actor.last = MESSAGES
    capacity = MESSAGES if tell_nowait else CAPACITY
    ref = await system.start(ChildSpec(id="counting", factory=lambda: actor, mailbox=capacity))

    async def work() -> None:
        if tell_nowait:
            for number in range(MESSAGES):
                ref.tell_nowait(number)
        else:
            for number in range(MESSAGES):
                await ref.tell(number)
        await actor.finished.wait()

    try:
        return await measure(work, MESSAGES)
    finally:
        await system.stop(ref)


async def nowait_queue_round() -> tuple[float, float]:
    queue: asyncio.Queue[int] = asyncio.Queue(MESSAGES)
    seen = 0

    async def handle(message: int) -> int:
        nonlocal seen
        seen += 1
        return message

    async def consume() -> None:
        while seen < MESSAGES:
            await handle(await queue.get())

    async def work() -> None:
        consumer = asyncio.create_task(consume())
        for number in range(MESSAGES):
            queue.put_nowait(number)
        await consumer

    return await measure(work, MESSAGES)


async def ask_round(system: ActorSystem) -> tuple[float, float]:
    ref = await system.start(ChildSpec(id="asked", factory=Counting))

    async def asker() -> None:
        for number in range(ASKS // ASKERS):
            await ref.ask(number)

    async def work() -> None:
        await asyncio.gather(*(asker() for _ in range(ASKERS)))

    try:
        return await measure(work, ASKS)
    finally:
        await system.stop(ref)


async def restart_round(system: ActorSystem) -> list[float]:
    """Milliseconds from the message that makes it crash to the next incarnation being up, one after another."""
    started = asyncio.Event()
    unsubscribe = system.events.subscribe(
        lambda event: started.set() if isinstance(event, ActorStarted) and event.incarnation > 1 else None
    )
    child = ChildSpec(id="crashing", factory=Counting)
    root = await system.start(
        SupervisorSpec(id="root", children=(child,), intensity=Intensity(max_restarts=10**6, period_s=1))
    )
    ref = system.ref("root/crashing")
    took: list[float] = []
    for _ in range(RESTARTS):
        began = time.perf_counter()
        ref.tell_nowait(None)
        await started.wait()
        took.append((time.perf_counter() - began) * 1e3)
        started.clear()
    unsubscribe()
    await system.stop(root)
    return took


async def bench(rounds: int) -> dict[str, Any]:
    rivals: dict[str, Callable[[ActorSystem], Awaitable[tuple[float, float]]]] = {
        "asyncio.Queue put": lambda system: queue_round(),
        "tell": lambda system: tell_round(system, tell_nowait=False),
        "asyncio.Queue put_nowait": lambda system: nowait_queue_round(),
        "tell_nowait": lambda system: tell_round(system, tell_nowait=True),
        f"ask, {ASKERS} at a time": ask_round,
    }
    results: dict[str, list[tuple[float, float]]] = {name: [] for name in rivals}
    async with ActorSystem() as system:
        for _ in range(rounds):
            for name, run in rivals.items():
                results[name].append(await run(system))
        took = sorted(await restart_round(system))
    figures: dict[str, Any] = {
        name: {
            "per_s": round(statistics.median(rate for rate, _ in each)),
            "cpu_us": round(statistics.median(cpu for _, cpu in each), 3),
        }
        for name, each in results.items()
    }
    for ours, theirs in (("tell", "asyncio.Queue put"), ("tell_nowait", "asyncio.Queue put_nowait")):
        pairs = zip(results[ours], results[theirs], strict=True)
        figures[ours]["ratio"] = round(statistics.median(other / own for (_, own), (_, other) in pairs), 2)
    figures["restart"] = {
        "median_ms": round(statistics.median(took), 3),
        "p99_ms": round(took[len(took) * 99 // 100], 3),
    }
    return figures


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--json", action="store_true", help="machine-readable output")
    parser.add_argument("--rounds", type=int, default=7, help="rounds of which the median is taken")
    options = parser.parse_args()
    results: dict[str, Any] = {}
    for name, factory in (("asyncio", asyncio.new_event_loop), ("uvloop", uvloop.new_event_loop)):
        with asyncio.Runner(loop_factory=factory) as runner:
            results[name] = runner.run(bench(options.rounds))
    if options.json:
        print(json.dumps(results, indent=2))
        return
    for loop, figures in results.items():
        print(f"{loop:24}  messages/s  CPU us/message  of asyncio.Queue, by CPU")
        for name, row in figures.items():
            if name != "restart":
                print(f"  {name:22}  {row['per_s']:>10,}  {row['cpu_us']:>14.3f}  {row.get('ratio', '')!s:>8}".rstrip())
        restart = figures["restart"]
        print(f"  {'crash to running':22}  median {restart['median_ms']:.3f} ms, p99 {restart['p99_ms']:.3f} ms\n")


if __name__ == "__main__":
    main()

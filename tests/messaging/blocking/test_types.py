"""A strictly typed program of a user, checked by the type checker that this project uses."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from .programs import ROOT

pytest.importorskip("basedpyright")

PROGRAM = """
from dataclasses import dataclass
from typing import Any, assert_type

from fogactors import EventBus as AsyncEventBus
from fogactors import RPCClient as AsyncRPCClient
from fogactors import TaskQueue as AsyncTaskQueue
from fogactors.errors import BusUnavailable, RemoteError
from fogactors.messaging.blocking import (
    Event,
    EventBus,
    PermanentError,
    QueueTask,
    RPCClient,
    RPCServer,
    RetryableError,
    RetryPolicy,
    TaskQueue,
    correlated,
    run,
)


@dataclass
class Print:
    job_id: str


@dataclass
class Cost:
    usd: float


def started(event: Event[Print]) -> None:
    print(event.event_type, event.timestamp.isoformat(), event.data.job_id)


def anything(event: Event[dict[str, Any]]) -> None:
    print(event.data["job_id"])


def research(task: QueueTask[dict[str, str]]) -> dict[str, list[str]]:
    if task.retry_count < task.max_retries:
        raise RetryableError("later", delay=1)
    if not task.data["query"]:
        raise PermanentError("nothing to look for")
    return {"papers": [task.task_id]}


def estimate(volume_cm3: float, material: str = "pla") -> Cost:
    return Cost(volume_cm3)


def main() -> None:
    with EventBus("memory://", source="shop") as bus:
        subscription = bus.subscribe("shop.print.#", started, group="audit", retry=RetryPolicy(attempts=2))
        bus.subscribe("#", anything)
        bus.subscribe("#", lambda event: print(event.data.job_id), data_type=Print)
        with correlated("request-7"):
            told = bus.publish("shop.print.started", Print("7"))
        print(told.event_id, subscription.stats.handled)
        subscription.unsubscribe(forget=True)
        bus.start_consuming()
    queue = TaskQueue("memory://", "research.tasks")
    queue.connect()
    task_id: str = queue.submit("research", {"query": "x"}, priority=7, max_retries=3)
    print(task_id)
    assert_type(queue.submit("research", {}).result(30, returns=Cost), Cost)
    queue.register_handler("research", research)
    queue.start_worker(prefetch_count=2)
    server = RPCServer("memory://", "math.rpc")
    server.register_handler(estimate)

    @server.handler
    def answer(request: dict[str, int]) -> int:
        return request["a"]

    assert_type(answer({"a": 1}), int)
    server.start()
    try:
        with RPCClient("memory://") as client:
            assert_type(client.call("math.rpc", {"a": 5}, timeout=30, returns=Cost), Cost)
            print(client.call("math.rpc", {"a": 5}))
    except (BusUnavailable, RemoteError) as error:
        print(error)


async def same_without_blocking() -> None:
    async with (
        AsyncEventBus("memory://", source="shop") as bus,
        AsyncTaskQueue("memory://", "research.tasks") as queue,
        AsyncRPCClient("memory://") as client,
    ):
        await bus.subscribe("shop.print.#", started, group="audit")
        handle = await queue.submit("research", {"query": "x"})
        assert_type(await handle.result(30, returns=Cost), Cost)
        assert_type(await client.call("math.rpc", None, returns=Cost), Cost)


if __name__ == "__main__":
    run(main)
"""


def check(folder: Path, text: str) -> list[str]:
    """What the checker says in its strictest mode, other than that the program is not in a package."""
    (folder / "program.py").write_text(text)
    settings = {
        "include": ["program.py"],
        "typeCheckingMode": "strict",
        "pythonVersion": "3.11",
        "extraPaths": [str(ROOT)],
    }
    (folder / "pyrightconfig.json").write_text(json.dumps(settings))
    command = [sys.executable, "-m", "basedpyright", "--outputjson", "-p", str(folder), "--pythonpath", sys.executable]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=120, check=False)
    found = json.loads(done.stdout)["generalDiagnostics"]
    return [f"{each['range']['start']['line'] + 1}: {each['message']} ({each.get('rule')})" for each in found]


def test_a_typed_program_passes_the_strict_checker(tmp_path: Path):
    assert check(tmp_path, PROGRAM) == []


def test_and_a_wrong_one_does_not(tmp_path: Path):
    wrong = PROGRAM.replace("priority=7", "priority='high'").replace("returns=Cost), Cost)", "returns=Cost), int)")
    assert len(check(tmp_path, wrong)) >= 5

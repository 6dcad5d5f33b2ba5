"""Orders over `system.fanout`: who hears them, who obeys, what they answer."""

from __future__ import annotations

import threading
from contextlib import asynccontextmanager
from datetime import UTC, datetime

import anyio
import msgspec
import pytest

from fogactors.app.program import Program
from fogactors.app.settings import Settings
from fogactors.bus import MemoryBus, Message
from fogactors.core import ActorExited, ActorStarted, Events
from fogactors.errors import TaskCancelled
from fogactors.messages import Control, ControlReply
from fogactors.tasks.client import Submitter
from fogactors.tasks.events import TaskEnded, TaskHandedBack, TaskStarted
from fogactors.tasks.registry import Registry
from fogactors.tasks.task import task
from fogactors.testing import EventRecorder, eventually, fog
from fogactors.wire import decode, encode
from fogactors.wire.topology import CONTROL, RESULTS

pytestmark = pytest.mark.asyncio

registry = Registry()
gates: dict[str, anyio.Event] = {}
threads: dict[str, threading.Event] = {}


@task(registry=registry)
async def wait_for(gate: str) -> str:
    await gates[gate].wait()
    return gate


@task(registry=registry)
async def echo(text: str) -> str:
    return text


@asynccontextmanager
async def operator(**config):
    """A system, and an operator who gives orders and collects answers."""
    async with fog(registry=registry, **config) as system:
        replies: list[ControlReply] = []
        queue = await system.bus.open_exclusive("operator", ((RESULTS, "reply.operator"),))
        await system.bus.consume(queue, lambda d: replies.append(decode(d.body, ControlReply)), prefetch=100)

        async def give(command: str, answers: int = 1, **fields) -> list[ControlReply]:
            replies.clear()
            control = Control(id=command, command=command, at=datetime.now(UTC), reply_to="reply.operator", **fields)
            await system.bus.publish(CONTROL, "", Message(encode(control)), mandatory=False)
            await eventually(lambda: len(replies) >= answers, f"{answers} answers to {command}")
            return sorted(replies, key=lambda reply: reply.role)

        names = ("dlq-reaper", *(f"tier-executor-{tier}" for tier in config.get("serve", ("light",))))
        for name in names:  # an order reaches who listens already
            await system.recorder.wait_for(ActorStarted, path=f"fogactors/{name}/control")
        await eventually(lambda: sum(n.startswith("ctl.") for n in system.broker.depths()) == len(names), "all listen")
        yield system, give, replies


async def test_every_role_answers_a_ping():
    async with operator(serve=("light", "heavy")) as (_, give, _replies):
        answers = await give("ping", 3)
        assert [(each.node, each.role, each.error) for each in answers] == [
            ("node", "dlq-reaper", None),
            ("node", "tier-executor-heavy", None),
            ("node", "tier-executor-light", None),
        ]


@pytest.mark.parametrize(
    ("role", "who"),
    [
        ("tier-executor", ["tier-executor-heavy", "tier-executor-light"]),
        ("tier-executor-light", ["tier-executor-light"]),
        ("dlq-reaper", ["dlq-reaper"]),
    ],
)
async def test_an_order_to_some_is_heard_by_them_alone(role, who):
    async with operator(serve=("light", "heavy")) as (_, give, replies):
        await give("ping", len(who), role=role)
        await give("ping", 3, node="node")  # whoever answered too much before has done so by now
        assert sorted(each.role for each in replies) == ["dlq-reaper", "tier-executor-heavy", "tier-executor-light"]


async def test_an_order_to_another_node_is_nobodys():
    async with operator() as (system, give, replies):
        order = Control(id="x", command="ping", at=datetime.now(UTC), node="elsewhere", reply_to="reply.operator")
        await system.bus.publish(CONTROL, "", Message(encode(order)), mandatory=False)
        await give("ping", 2)
        assert {each.id for each in replies} == {"ping"}


async def test_tree_is_the_live_one():
    async with operator() as (system, give, _):
        [reply] = await give("tree", role="dlq-reaper")
        assert msgspec.json.decode(reply.data)[0]["id"] == system.actors.tree()[0].id == "fogactors"


async def test_a_paused_executor_takes_nothing_hands_back_and_goes_on_after_resume():
    gates["p"] = anyio.Event()
    async with operator() as (system, give, _):
        running = [await system.submit(wait_for, "p") for _ in range(4)]
        waiting = await system.submit(echo, "waits")
        await give("pause", role="tier-executor")
        await system.recorder.wait_for(TaskHandedBack, task_id=waiting.id, why="paused")
        gates["p"].set()
        for handle in running:  # what ran may finish
            assert await handle.result(5) == "p"
        later = await system.submit(echo, "later")
        await eventually(lambda: system.ready("tasks.normal") == 2, "both wait in the queue", timeout=5)
        assert (await system.load()).waiting == 0
        await give("resume", role="tier-executor")
        assert [await waiting.result(5), await later.result(5)] == ["waits", "later"]
        assert [(await each.outcome(1)).attempts for each in (waiting, later)] == [1, 1]


async def test_a_pause_survives_a_lost_connection():
    async with operator() as (system, give, _):
        await give("pause", role="tier-executor")
        system.kill("tier-executor-light")
        await system.recorder.wait_for(ActorStarted, path="fogactors/tier-executor-light/control", incarnation=2)
        handle = await system.submit(echo, "x")
        await eventually(lambda: sum(n.startswith("ctl.") for n in system.broker.depths()) == 2, "it listens again")
        assert (await system.load()).running == 0
        assert system.ready("tasks.normal") == 1
        await give("resume", role="tier-executor")
        assert await handle.result(5) == "x"


async def test_where_says_who_has_it():
    gates["w"] = anyio.Event()
    async with operator() as (system, give, _):
        handle = await system.submit(wait_for, "w")
        [here] = await give("where", task_id=handle.id)
        [nowhere] = await give("where", task_id="unknown")
        gates["w"].set()
        await handle.result(5)
        found = msgspec.json.decode(here.data)
        assert (found["state"], found["mode"], found["worker"], bytes(nowhere.data)) == (
            "running",
            "async",
            "node/light",
            b"null",
        )


@task(registry=registry)
def in_a_thread(gate: str) -> None:
    threads[gate].wait(10)


@pytest.mark.parametrize("kind", [wait_for, in_a_thread], ids=["loop", "thread"])
async def test_what_runs_is_cancelled(kind):
    gates["c"], threads["c"] = anyio.Event(), threading.Event()
    async with operator() as (system, give, _):
        handle = await system.submit(kind, "c")
        await system.recorder.wait_for(TaskStarted, task_id=handle.id)
        [here] = await give("cancel", task_id=handle.id)
        assert msgspec.json.decode(here.data)["state"] == "running"
        with pytest.raises(TaskCancelled):
            await handle.result(5)
        threads["c"].set()
        await system.wait_idle()
        assert (await (await system.submit(echo, "next")).result(5)) == "next"
        assert system.ready("tasks.normal") == system.ready("dlq") == 0


def state_of(nodes, id_):
    """Of the first that has this id."""
    for node in nodes:
        if (found := node.state if node.id == id_ else state_of(node.children, id_)) is not None:
            return found
    return None


async def test_a_program_that_drains_is_asked_and_told_to_cancel_as_ever():
    """The ear of a role stops before its executor; but a program drains its executors before it stops anything."""
    gates["d"], events, found = anyio.Event(), Events(), []

    async def operate(program):
        bus = MemoryBus(program.services.broker, name="operator")
        await bus.open()
        async with Submitter(bus, program.context.coord, program.context.tiers) as submitter:
            handle = await submitter.submit(wait_for, "d")
            await recorder.wait_for(TaskStarted, task_id=handle.id)
            leaving.set()
            await eventually(lambda: state_of(program.system.tree(), "executor") == "stopping", "it drains")
            found.append((await handle.where()).state)
            found.append((await handle.cancel()).found)

    recorder, leaving = EventRecorder(events), anyio.Event()
    async with anyio.create_task_group() as tasks:
        start = Program.start(Settings(), ("tier-executor",), tiers=("light",), registry=registry, events=events)
        async with start as program:
            tasks.start_soon(operate, program)
            await leaving.wait()
    assert found == ["running", "running"]
    assert recorder.of(TaskEnded)[0].state == "cancelled"


async def test_what_waits_is_cancelled_and_never_runs():
    gates["c"] = anyio.Event()
    async with operator() as (system, give, _):
        running = [await system.submit(wait_for, "c") for _ in range(4)]
        waiting = await system.submit(echo, "waits")
        await eventually(lambda: sum(d.unsettled for d in system.broker.depths().values()) >= 5, "it is in hand")
        [here] = await give("cancel", task_id=waiting.id)
        [nowhere] = await give("cancel", task_id="unknown")
        assert (msgspec.json.decode(here.data)["state"], bytes(nowhere.data)) == ("waiting", b"null")
        with pytest.raises(TaskCancelled):
            await waiting.result(5)
        gates["c"].set()
        assert [await handle.result(5) for handle in running] == ["c"] * 4
        assert not [each for each in system.recorder.of(TaskStarted) if each.task_id == waiting.id]


async def test_garbage_and_unknown_orders_are_left_alone():
    async with operator() as (system, give, _):
        for body in (b"\x00garbage", b'{"schema":"event/1"}', b"{}"):
            await system.bus.publish(CONTROL, "", Message(body), mandatory=False)
        await give("ping", 2)
        assert not [each for each in system.recorder.of(ActorExited) if each.path.endswith("control")]


async def test_a_reply_may_not_lead_into_the_feed():
    async with operator() as (system, give, _):
        order = Control(id="y", command="ping", at=datetime.now(UTC), reply_to="results.success.x")
        await system.bus.publish(CONTROL, "", Message(encode(order)), mandatory=False)
        await give("ping", 2)
        assert system.ready("results.success") == 0

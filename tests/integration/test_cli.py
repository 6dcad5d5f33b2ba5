"""The commands against a real RabbitMQ and a real Redis: processes that find each other, one line and an exit code."""

from __future__ import annotations

import json
import re
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace

import psutil
import pytest

from tests.integration.fog import Services, apply_topology, connected, until

pytestmark = pytest.mark.services


@pytest.mark.asyncio
async def test_the_right_tier_runs_it_and_each_process_drains_on_sigterm(fog):
    # One after the other: a heavy executor that is idle would help with the light ones.
    light = await fog.executor("light")
    heavy = await fog.executor("heavy", EXECUTOR__HELP_AFTER_S="3600")
    for words, worker, value in (
        (("add", "a=1", "b=2"), "light", 3),
        (("heavy", "value=4", "--tier", "heavy"), "heavy", 4),
        (("add", "a=5", "--priority", "high"), "light", 6),
        (("add", "a=6", "--priority", "low", "-i", fog.module), "light", 7),
    ):
        done = await fog.submit(*words, "--json")
        assert (done.code, done.err) == (0, "")
        result = json.loads(done.out)
        assert (result["state"], result["value"], result["attempts"]) == ("succeeded", value, 1)
        assert result["worker"].endswith(f"/{worker}")
    for executor in (light, heavy):
        done = await executor.stop()
        assert (done.code, done.said[-1]) == (0, "fogactors: SIGTERM, draining; again to stop at once")


@pytest.mark.asyncio
async def test_what_runs_finishes_in_the_drain_and_what_waits_goes_back(fog, tmp_path):
    mark, go_on = tmp_path / "mark", tmp_path / "go_on"
    executor = await fog.executor(TIERS__LIGHT__SLOTS="1")
    first = fog.start_submit("hold", f"mark={mark}", f"until={go_on}")
    await until(mark.exists, "the first task runs")
    others = [fog.start_submit("add", f"a={n}") for n in range(3)]
    async with connected(fog.services) as bus:
        # One more of them is held by the executor, which looks ahead.
        await until(lambda: depth(bus, "tasks.normal", 2), "two that wait")
        executor.process.terminate()
        await until(lambda: depth(bus, "tasks.normal", 3), "the third, handed back")
    go_on.touch()
    assert (await executor.wait()).code == 0
    assert (await first.wait()).out == '"done"\n'
    (handed_back,) = executor.logged("TaskHandedBack")
    assert handed_back["why"] == "draining"
    await fog.executor()
    assert [(await other.wait()).out for other in others] == ["1\n", "2\n", "3\n"]


async def depth(bus, queue: str, ready: int) -> bool:
    return (await bus.inspect(queue)).ready == ready


@pytest.mark.asyncio
async def test_a_task_that_fails_exits_1_with_its_type_and_text(fog):
    await fog.executor()
    done = await fog.submit("fails", 'text="broken pump"')
    assert (done.code, done.out) == (1, "")
    assert done.err == f"fogactors: {fog.module}.fails failed after 1 attempt: ValueError: broken pump\n"


@pytest.mark.asyncio
async def test_an_unknown_task_fails_at_once_and_names_it(fog):
    await fog.executor()
    done = await fog.submit("nope")
    assert done.code == 1
    assert f"fogactors: {fog.module}.nope failed after 0 attempts: UnknownTask: no task is named" in done.err
    assert len(done.err.splitlines()) == 1


def test_a_task_that_is_not_imported_needs_its_tier(command, services):
    done = command("submit", "somebody.elses", services=services)
    assert (done.code, len(done.err.splitlines())) == (2, 1)
    assert "somebody.elses is not imported here; name its module with --import, or its tier with --tier" in done.err


@pytest.mark.asyncio
async def test_nobody_who_runs_it_is_a_timeout(fog):
    done = await fog.submit("heavy", "value=1", "--tier", "heavy", "--timeout", "1")
    assert done.code == 1
    assert len(done.said) == 1
    assert "no result of" in done.err
    await fog.executor("heavy")  # it waited in its queue all the while
    async with connected(fog.services) as bus:
        await until(lambda: depth(bus, "tasks.normal.heavy", 0), "somebody who takes it")


@pytest.mark.asyncio
async def test_the_demo_runs_its_executors_in_processes_and_loses_nothing(fog, tmp_path):
    out = tmp_path / "rows.jsonl"
    urls = ("--amqp", fog.services.amqp_url, "--redis", fog.services.redis_url)
    done = await fog.run("demo", "--no-live", "--limit", "60", "--json", "--out", str(out), *urls, timeout=60)
    assert done.code == 0, done.err
    figures = json.loads(done.out)
    rows = [json.loads(line) for line in out.read_text().splitlines()]
    assert (figures["lost"], figures["failed"], figures["recorded"]) == (0, 0, figures["tasks"])
    assert figures["files"] == 60
    assert len({(row["path"], row["kind"]) for row in rows}) == len(rows) == figures["tasks"]


@pytest.mark.asyncio
async def test_the_processes_of_a_demo_that_is_killed_end_as_well(fog, bare):
    await apply_topology(bare)
    demo = fog.start("demo", "--no-live", "--limit", "2000", services=bare)
    await until(lambda: len(demo.children()) >= 4, f"its executors and the reaper: {demo}")
    async with connected(bare) as bus:
        await until(lambda: taken(bus), "work for them")
    left = demo.children()
    demo.kill9()
    await until(lambda: not any(map(alive, left)), f"the end of {left}")


async def taken(bus) -> bool:
    return all([(await bus.inspect(f"tasks.normal{end}")).consumers for end in ("", ".medium", ".heavy")])


def alive(process: psutil.Process) -> bool:
    return process.is_running() and process.status() != psutil.STATUS_ZOMBIE  # nobody may be there to reap it


# -- exit codes


def refused(command, services: Services, *, code: int = 2, **env: str) -> str:
    """The one line that `run` says."""
    done = command("run", "dlq-reaper", services=services, **env)
    assert (done.code, done.out, len(done.err.splitlines())) == (code, "", 1), done.err
    assert done.err.startswith("fogactors: ")
    return done.err


def test_a_wrong_password(command, services):
    line = refused(command, services.as_user("fogadmin", "wrong-secret"))
    assert f"{services.address} refuses user 'fogadmin': wrong name or password" in line
    assert "wrong-secret" not in line


def test_a_wrong_virtual_host(command, services):
    line = refused(command, services.in_vhost("/nope"))
    assert f"{services.address} has no virtual host '/nope'" in line


def test_tls_to_a_plain_port(command, services):
    line = refused(command, replace(services, amqp_url=services.amqp_url.replace("amqp://", "amqps://")))
    assert "does not speak TLS" in line


@contextmanager
def speaker(greeting: bytes) -> Iterator[int]:
    """A port where somebody answers whatever comes with these bytes."""
    with socket.create_server(("127.0.0.1", 0)) as server:

        def serve() -> None:
            while True:
                try:
                    peer, _ = server.accept()
                except OSError:
                    return
                with peer:
                    peer.recv(8)
                    peer.sendall(greeting)

        thread = threading.Thread(target=serve)
        thread.start()
        try:
            yield server.getsockname()[1]
        finally:
            server.shutdown(socket.SHUT_RDWR)
            thread.join()


GREETINGS = {
    "http": b"HTTP/1.1 400 Bad Request\r\n\r\n",
    "redis": b"-ERR unknown command 'AMQP'\r\n",
    "tls": bytes.fromhex("15 03 01 00 02 02 46"),  # an alert: protocol version
    "amqp 1.0": b"AMQP\0\1\0\0",
}


@pytest.mark.parametrize("greeting", GREETINGS.values(), ids=GREETINGS)
def test_a_port_where_nobody_speaks_amqp(command, services, greeting):
    with speaker(greeting) as port:
        line = refused(command, replace(services, amqp_url=f"amqp://a:b@127.0.0.1:{port}/x"))
    assert re.search(rf"127.0.0.1:{port} does not speak (plain )?AMQP 0-9-1", line)


def test_nobody_there_is_waited_for_and_exit_3(command, services):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    nowhere = replace(services, amqp_url=f"amqp://a:b@127.0.0.1:{port}/x")
    line = refused(command, nowhere, code=3, BUS__BOOT_WAIT_S="1")
    assert f"127.0.0.1:{port}" in line
    assert "(waited 1 s: [bus] boot_wait_s)" in line


def test_a_missing_topology_names_what_and_the_command(command, bare):
    line = refused(command, bare)
    assert "exchange tasks.direct is missing (and " in line
    assert "run `fogactors topology apply`" in line


def test_a_wrong_password_for_redis(command, services):
    line = refused(command, replace(services, redis_url=services.redis_url.replace("@", "-wrong@")))
    assert "Redis refuses" in line
    assert "-wrong" not in line

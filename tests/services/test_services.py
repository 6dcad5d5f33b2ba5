"""The services start, die, come back and leave nothing behind."""

import os
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from urllib.parse import urlsplit

import aio_pika
import aiormq
import anyio
import pytest
import redis.asyncio
from redis.exceptions import NoPermissionError

from tests.services import RabbitMQ, RedisServer, ServiceFailed, ServiceUnavailable, routes, skip_or_fail, state
from tests.services.processes import ProcessId, file_lock
from tests.services.releases import FORKY, RABBITMQ, REDIS, Release
from tests.services.roots import cached_root
from tests.services.server import is_open

pytestmark = pytest.mark.services
REPOSITORY = Path(__file__).parents[2]
COMMAND = (sys.executable, "-m", "tests.services")


@pytest.fixture(autouse=True)
def nothing_runs_yet(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever runs these tests may have services already, which `run` would use instead of its own."""
    for name in [name for name in os.environ if name.startswith("FOGACTORS_TEST_")]:
        monkeypatch.delenv(name)


def possible(release: Release) -> None:
    try:
        anyio.run(routes.choose_route, release)
    except ServiceUnavailable as error:
        skip_or_fail(error)


@pytest.fixture(scope="module")
def redis_here() -> None:
    possible(REDIS)


@pytest.fixture(scope="module", params=RABBITMQ)
def version(request: pytest.FixtureRequest) -> str:
    possible(RABBITMQ[request.param])
    return request.param


@pytest.mark.asyncio
async def test_a_confirmed_message_survives_kill9_and_nothing_survives_stop(version: str) -> None:
    async with RabbitMQ(version, consumer_timeout_ms=600_000) as broker:
        assert broker.version.startswith(f"{version}.")
        async with await aio_pika.connect(broker.amqp_url) as connection:
            channel = await connection.channel()
            await channel.declare_queue("kept", durable=True, arguments={"x-queue-type": "quorum"})
            await channel.default_exchange.publish(aio_pika.Message(b"here", delivery_mode=2), "kept")
        reader = await broker.add_user("reader", read="^kept$")
        await broker.flush_declarations()
        first, folder = broker.pid, broker.home.parent
        processes = [ProcessId.of(pid) for pid in (first, *descendants(first))]

        await broker.kill9()
        assert not any(process.alive() for process in processes)
        assert not is_open(broker.port)
        boot = await broker.restart()

        assert boot.port_open_s <= boot.ready_s
        async with await aio_pika.connect(reader) as connection:
            channel = await connection.channel()
            message = await (await channel.get_queue("kept", ensure=False)).get(timeout=10)
            assert message is not None
            assert message.body == b"here"
            with pytest.raises(aiormq.exceptions.ChannelAccessRefused):
                await channel.declare_queue("mine", durable=True)
        # The settings reached the node, also those of advanced.config.
        settings = "[application:get_env(rabbit, K) || K <- [consumer_timeout, dead_letter_worker_consumer_prefetch]]."
        assert "".join((await broker.ctl("eval", settings)).split()) == "[{ok,600000},{ok,1000}]"
        processes = [ProcessId.of(pid) for pid in (broker.pid, *descendants(broker.pid))]
        assert len(processes) > 1  # epmd and the VM's helpers: they must not outlive it either

    assert not any(process.alive() for process in processes)
    assert not folder.exists()
    assert not any(is_open(port) for port in range(broker.port, broker.port + 10))
    assert "fogactors/roots" not in read(Path("/proc/mounts"))


@pytest.mark.asyncio
@pytest.mark.usefixtures("redis_here")
async def test_redis_keeps_its_data_over_kill9_and_knows_our_users_and_limits() -> None:
    users = {"fog": "on >secret ~fog:* &fog:* +@all"}
    async with RedisServer(config={"maxmemory": "8mb"}, users=users) as server:
        assert server.version.startswith("8.")
        async with redis.asyncio.from_url(server.url) as client:
            await client.set("fog:kept", "here")
        await server.kill9()
        await server.restart()
        async with redis.asyncio.from_url(server.url_for("fog", "secret")) as client:
            assert await client.get("fog:kept") == b"here"
            assert (await client.config_get("maxmemory"))["maxmemory"] == str(8 << 20)
            with pytest.raises(NoPermissionError):
                await client.get("other")
    assert not is_open(server.port)


@pytest.mark.asyncio
@pytest.mark.usefixtures("redis_here")
async def test_another_version_than_the_one_asked_for_is_refused() -> None:
    server = RedisServer()
    server.release = replace(REDIS, version="7")
    with pytest.raises(ServiceFailed, match=r"Redis 7 is needed, .* moved on to 8\."):
        await server.start()
    assert not is_open(server.port)


@pytest.mark.asyncio
@pytest.mark.usefixtures("redis_here")
async def test_a_server_that_cannot_start_shows_its_log() -> None:
    with pytest.raises(ServiceFailed, match="nonsense"):
        await RedisServer(config={"nonsense": "yes"}).start()


@pytest.mark.asyncio
@pytest.mark.usefixtures("redis_here")
async def test_what_a_killed_program_left_behind_is_stopped_by_the_next() -> None:
    script = (
        "import anyio, os\nfrom tests.services import RedisServer\nserver = RedisServer()\nanyio.run(server.start)\n"
        "print(server.pid, server.home.parent.name, flush=True)\nos.kill(os.getpid(), 9)"
    )
    done = await anyio.run_process((sys.executable, "-c", script), cwd=REPOSITORY, check=False)
    pid, name = done.stdout.decode().split()
    orphan = ProcessId.of(int(pid))
    assert name in await state.sweep()
    assert not orphan.alive()
    assert name not in [record.folder.name for record in state.records()]


@pytest.mark.asyncio
@pytest.mark.usefixtures("redis_here")
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
async def test_run_stops_its_services_after_a_signal(number: signal.Signals) -> None:
    code = "import os, time; print(os.environ['FOGACTORS_TEST_REDIS_URL'], flush=True); time.sleep(60)"
    command = (*COMMAND, "run", "--redis", "--", sys.executable, "-c", code)
    process = await anyio.open_process(command, cwd=REPOSITORY, stdin=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    async with process:
        with anyio.fail_after(30):
            port = urlsplit((await process.stdout.receive()).decode().strip()).port
            assert is_open(port)
            process.send_signal(number)
            assert await process.wait() == 128 + number
    assert not is_open(port)


@pytest.mark.usefixtures("redis_here")
def test_run_ends_with_the_code_of_its_command_and_keeps_what_already_runs() -> None:
    environment = {**os.environ, "FOGACTORS_TEST_REDIS_URL": "redis://elsewhere"}
    program = ("sh", "-c", 'echo "$FOGACTORS_TEST_REDIS_URL"; exit 7')
    for given in (os.environ, environment):
        done = subprocess.run(
            (*COMMAND, "run", "--redis", "--", *program), cwd=REPOSITORY, env=given, capture_output=True, text=True
        )
        assert done.returncode == 7
        assert (done.stdout.strip() == "redis://elsewhere") == (given is environment)
        assert not is_open(urlsplit(done.stdout.strip()).port or 1)


def test_without_docker_and_root_the_reason_is_one_line_and_ci_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    monkeypatch.setenv("PATH", "/nonexistent")
    with pytest.raises(ServiceUnavailable, match="needs root") as caught:
        anyio.run(routes.choose_route, REDIS)
    assert "\n" not in str(caught.value)
    monkeypatch.setenv("CI", "true")
    with pytest.raises(pytest.fail.Exception):
        skip_or_fail(caught.value)
    monkeypatch.delenv("CI")
    with pytest.raises(pytest.skip.Exception):
        skip_or_fail(caught.value)


def test_a_half_made_root_is_not_taken_for_a_good_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    suite = replace(FORKY, programs=("one", "two"))
    monkeypatch.setattr("tests.services.roots._location", lambda _: tmp_path)
    (tmp_path / ".whole").touch()
    (tmp_path / "one").touch()
    assert cached_root(suite) is None
    (tmp_path / "two").touch()
    assert cached_root(suite) == tmp_path
    (tmp_path / ".whole").unlink()
    assert cached_root(suite) is None


def test_a_pid_that_was_given_to_another_process_is_left_alone() -> None:
    with subprocess.Popen(("sleep", "30")) as process:
        ours = ProcessId.of(process.pid)
        stranger = replace(ours, started="an earlier boot:1")
        stranger.signal(signal.SIGKILL)
        assert not stranger.alive()
        assert ours.alive()
        ours.signal(signal.SIGKILL)
        assert process.wait(timeout=10) == -signal.SIGKILL
        assert not ours.alive()


@pytest.mark.asyncio
async def test_a_second_holder_of_the_lock_waits_for_the_first(tmp_path: Path) -> None:
    async with file_lock(tmp_path / "lock", timeout=1):
        with pytest.raises(TimeoutError):
            async with file_lock(tmp_path / "lock", timeout=0.1):
                pass
    async with file_lock(tmp_path / "lock", timeout=1):
        pass


def descendants(pid: int) -> list[int]:
    """Also the grandchildren: epmd leaves its parent's process group and session."""
    children = [int(child) for task in Path(f"/proc/{pid}/task").iterdir() for child in read(task / "children").split()]
    return children + [below for child in children for below in descendants(child)]


def read(path: Path) -> str:
    return path.read_text(encoding="ascii")

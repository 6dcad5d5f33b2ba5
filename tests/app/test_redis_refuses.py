"""A Redis that answers and refuses: the login that it does not know yet, or no more. A broker's own sentinel starts its
broker all the same; every other role waits as it waits for its user at the broker."""

from __future__ import annotations

from pathlib import Path

import anyio
import pytest

from fogactors.app import services
from fogactors.app.program import Program
from fogactors.app.services import Remote
from fogactors.app.settings import BusSettings, ClusterSettings, CoordSettings, Settings
from fogactors.core import Events
from fogactors.errors import CoordRefused, StoppedAtBoot
from fogactors.roles.heartbeat import HeartbeatLost
from fogactors.roles.sentinel.state import BrokerStarted, ClusterSettled, StopTurn, StoreAway
from fogactors.testing import EventRecorder
from fogactors.wire import Topology
from tests.coord.answering import Answering

pytestmark = pytest.mark.asyncio

NODE = "rabbit@127.0.0.1"
_TOOL = """#!/bin/sh
case "$*" in
*rabbitmq-server*) trap 'exit 0' TERM; while :; do sleep 0.02; done ;;
*cluster_status*) echo '{{"disk_nodes":["{node}"],"running_nodes":["{node}"],"alarms":[],"partitions":{{}}}}' ;;
*) echo '[]' ;;
esac
"""


def refuses(_command: bytes) -> bytes:
    return b"-WRONGPASS invalid username-password pair or user is disabled.\r\n"


def takes(_command: bytes) -> bytes:
    return b""


def settings(redis: Answering, setup_wait_s: float = 0.0, cluster: ClusterSettings | None = None) -> Settings:
    bus = BusSettings(url="amqp://nobody:x@127.0.0.1:1/%2Ffog", boot_wait_s=0.0, setup_wait_s=setup_wait_s)
    coord = CoordSettings(url=f"redis://worker1:old@127.0.0.1:{redis.port}/0")
    return Settings(bus=bus, coord=coord, cluster=cluster or ClusterSettings())


@pytest.fixture
def broker(monkeypatch: pytest.MonkeyPatch) -> None:
    """One that is there and set up."""

    async def there(*_: object) -> None: ...

    monkeypatch.setattr(services, "_await_broker", there)


async def opened(asked: Settings, up: anyio.Event, stop: anyio.Event | None = None) -> None:
    async with Remote.open(asked, Topology((), (), ()), stop):
        up.set()


async def test_a_sentinel_starts_its_broker_tells_of_it_and_tries_on(tmp_path: Path):
    (tmp_path / "data" / NODE).mkdir(parents=True)
    (tmp_path / "data" / NODE / "kept").touch()
    tool = tmp_path / "tool"
    tool.write_text(_TOOL.format(node=NODE))
    tool.chmod(0o755)
    cluster = ClusterSettings(
        nodes=(NODE,), node=NODE, data_dir=str(tmp_path / "data"), command=(str(tool),), lease_s=0.3, stop_s=5.0
    )
    events = Events()
    recorder = EventRecorder(events)
    async with Answering.open(refuses) as redis:
        async with Program.start(settings(redis, cluster=cluster), ("node-sentinel",), events=events):
            await recorder.wait_for(BrokerStarted, broker=NODE)
            await recorder.wait_for(ClusterSettled, members=(NODE,))
            lost = await recorder.wait_for(HeartbeatLost, away=True)
            assert "Redis refuses: invalid username-password pair" in lost.error
            away = await recorder.wait_for(StoreAway, away=True)
            assert "Redis refuses: invalid username-password pair" in away.error
            redis.answer = takes
            await recorder.wait_for(HeartbeatLost, away=False)
        assert recorder.of(StopTurn)[-1].outcome == "in order"


@pytest.mark.usefixtures("broker")
async def test_another_role_waits_for_its_login():
    up = anyio.Event()
    async with Answering.open(refuses) as redis:
        with anyio.fail_after(10):
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(opened, settings(redis, 60.0), up)
                while redis.asked <= 2:  # noqa: ASYNC110 - it counts by itself
                    await anyio.sleep(0.01)
                assert not up.is_set()
                redis.answer = takes
                await up.wait()


@pytest.mark.usefixtures("broker")
@pytest.mark.parametrize("wait_s", [0.0, 0.5])
async def test_another_role_ends_with_the_same_words_when_the_time_is_over(wait_s):
    async with Answering.open(refuses) as redis:
        with anyio.fail_after(10), pytest.raises(CoordRefused) as refused:
            await opened(settings(redis, wait_s), anyio.Event())
    assert str(refused.value) == (
        "connect to Redis: Redis refuses: invalid username-password pair or user is disabled."
    )
    assert (redis.asked > 2) == (wait_s > 0)


@pytest.mark.usefixtures("broker")
async def test_a_stop_while_it_waits_for_its_login_is_heard():
    stop = anyio.Event()
    async with Answering.open(refuses) as redis:
        with anyio.fail_after(10):
            async with anyio.create_task_group() as tasks:

                async def stop_soon() -> None:
                    while not redis.asked:  # noqa: ASYNC110 - it counts by itself
                        await anyio.sleep(0.01)
                    stop.set()

                tasks.start_soon(stop_soon)
                with pytest.raises(StoppedAtBoot):
                    await opened(settings(redis, 60.0), anyio.Event(), stop)

"""Behaviour 14: blocking code stops no heartbeat, a loop that hangs is told of by name, a dead one not covered up."""

import threading
import time
from datetime import UTC, datetime

import anyio
import pytest

from fogactors.core import ActorExited, ActorStarted
from fogactors.errors import CoordUnavailable
from fogactors.roles import HeartbeatConfig
from fogactors.roles.heartbeat import HeartbeatLost, LoopBlocked
from fogactors.tasks.registry import Registry
from fogactors.tasks.task import task
from fogactors.testing.kit import eventually
from fogactors.testing.kit import fog as any_fog

pytestmark = pytest.mark.asyncio

registry = Registry()
spans = []


@task(registry=registry)
async def freeze(seconds: float) -> None:
    began = datetime.now(UTC)
    time.sleep(seconds)  # noqa: ASYNC251 - that is the point
    spans.append((began, datetime.now(UTC)))


@task(registry=registry)
async def hold(seconds: float) -> None:
    await anyio.sleep(seconds)


class Watched:
    """A store whose beats are seen as they are written."""

    def __init__(self, coord, fail=()):
        self._coord = coord
        self.beats = []
        self.fail = list(fail)

    def __getattr__(self, name):
        return getattr(self._coord, name)

    def beat_writer(self):
        writer, watched = self._coord.beat_writer(), self

        class Writer:
            def write(self, beat, ttl_s):
                if watched.fail:
                    raise watched.fail.pop()
                writer.write(beat, ttl_s)
                watched.beats.append(beat)

            def broker_beat(self, node, ttl_s):
                writer.broker_beat(node, ttl_s)

            def close(self):
                writer.close()

        return Writer()


class fog:  # noqa: N801
    def __init__(self, roles=("heartbeat", "tier-executor"), broker_node=lambda: "", fail=(), **config):
        self.watched = None

        def wrap(coord):
            self.watched = Watched(coord, fail)
            return self.watched

        times = {"interval_s": 0.05, "ttl_s": 1.0, "loop_blocked_s": 30, "loop_dead_s": 60} | config
        self.context = any_fog(
            registry=registry, roles=roles, wrap_coord=wrap, heartbeat=HeartbeatConfig(**times), broker_node=broker_node
        )

    async def __aenter__(self):
        spans.clear()
        self.system = await self.context.__aenter__()
        return self.system, self.watched

    async def __aexit__(self, *error):
        return await self.context.__aexit__(*error)


def during(beats):
    began, ended = spans[0]
    return [beat for beat in beats if began < beat.at < ended]


async def test_a_node_says_that_it_is_alive():
    async with fog() as (system, watched):
        await eventually(lambda: len(watched.beats) >= 3, "three beats")
        [beat] = system.store.beats()
        assert (beat.node, beat.role) == ("node", "tier-executor-light")
        assert beat.lag_s < 1


async def test_a_node_that_runs_tasks_says_what_it_may_use_and_what_of_it_is_taken():
    async with fog() as (system, watched):
        handle = await system.submit(hold, 2.0)
        await eventually(lambda: watched.beats and watched.beats[-1].running == 1, "a beat with the task that runs")
        beat, tier = watched.beats[-1], system.tiers.get("light")
        assert (beat.tier, beat.cpu, beat.memory_mb) == ("light", tier.cpu, tier.memory_mb)
        assert 0 < beat.cpu_used <= beat.cpu
        assert 0 < beat.memory_used_mb <= beat.memory_mb
        await handle.result(5)
        await eventually(lambda: watched.beats[-1].running == 0, "a beat without one")
        assert (watched.beats[-1].cpu_used, watched.beats[-1].memory_used_mb) == (0, 0)


@pytest.mark.parametrize(
    ("roles", "name"),
    [
        (("heartbeat",), "heartbeat"),
        (("heartbeat", "dlq-reaper"), "dlq-reaper"),
        (("heartbeat", "dlq-reaper", "tier-executor"), "up"),
    ],
)
async def test_what_a_process_runs_is_in_the_name_of_its_beat(roles, name):
    """Several on one node must not write one another's."""
    async with fog(roles=roles) as (system, watched):
        await eventually(lambda: watched.beats, "a beat")
        assert {beat.role for beat in system.store.beats()} == {name}


async def test_the_first_beat_that_says_what_an_executor_may_use_does_not_wait_for_its_turn():
    async with fog(interval_s=60.0, ttl_s=180.0) as (_, watched):
        await eventually(lambda: any(beat.tier for beat in watched.beats), "a beat with a tier")
        assert len(watched.beats) <= 2


async def test_a_node_that_runs_no_tasks_claims_no_room_for_them():
    async with fog(roles=("heartbeat",)) as (_, watched):
        await eventually(lambda: len(watched.beats) >= 3, "three beats")
        assert {(beat.tier, beat.cpu, beat.running) for beat in watched.beats} == {(None, None, None)}


async def test_a_broker_node_beats_with_its_process_while_it_is_up():
    node = ["rabbit@rabbitmq1"]
    async with fog(roles=("heartbeat",), broker_node=lambda: node[0], ttl_s=0.5) as (system, watched):
        await eventually(lambda: system.store.broker_beats() == {"rabbit@rabbitmq1"}, "the broker's beat")
        node[0] = ""
        await eventually(lambda: not system.store.broker_beats(), "the broker's beat runs out")
        count = len(watched.beats)
        await eventually(lambda: len(watched.beats) > count, "the process beats on")


async def test_a_node_without_a_broker_writes_no_brokers_beat():
    async with fog(roles=("heartbeat",)) as (system, watched):
        await eventually(lambda: len(watched.beats) >= 3, "three beats")
        assert system.store.broker_beats() == frozenset()


async def test_a_second_of_blocking_code_stops_no_heartbeat_and_breaks_no_connection():
    async with fog() as (system, watched):
        await (await system.submit(freeze, 1.0)).result(5)
        assert len(during(watched.beats)) >= 10
        assert max(beat.lag_s for beat in during(watched.beats)) > 0.5
        assert not system.urgent
        assert not system.recorder.of(ActorExited)
        await (await system.submit(freeze, 0)).result(5)


async def test_a_loop_that_is_blocked_too_long_is_told_of_while_it_is_and_by_name():
    async with fog(loop_blocked_s=0.25) as (system, _):
        handle = await system.submit(freeze, 0.8)
        await handle.result(5)
        [alarm] = system.urgent
        assert isinstance(alarm, LoopBlocked)
        assert spans[0][0] < alarm.at < spans[0][1]
        assert alarm.what == f"task {freeze.name} {handle.id}"
        assert "test_heartbeat.py" in alarm.where
        assert "in freeze" in alarm.where
        assert 0.25 <= alarm.blocked_s < 0.8
        assert await system.recorder.wait_for(LoopBlocked) == alarm
        assert not system.recorder.of(ActorExited)


async def test_each_time_it_is_blocked_is_told_once():
    async with fog(loop_blocked_s=0.25) as (system, watched):
        for n in (1, 2):
            await (await system.submit(freeze, 0.5)).result(5)
            assert len(system.urgent) == n
            count = len(watched.beats)
            await eventually(lambda count=count: len(watched.beats) > count + 3, "the thread has seen the loop turn")


async def test_beats_end_when_the_loop_is_dead_and_begin_again_when_it_lives():
    async with fog(loop_dead_s=0.3) as (system, watched):
        await (await system.submit(freeze, 0.8)).result(5)
        [last] = during(watched.beats)[-1:]
        assert (last.at - spans[0][0]).total_seconds() < 0.5
        count = len(watched.beats)
        await eventually(lambda: len(watched.beats) > count, "it beats again")


async def test_a_store_that_is_away_is_told_of_once_and_its_return_once():
    async with fog(roles=("heartbeat",)) as (system, watched):
        await eventually(lambda: watched.beats, "a beat")
        system.store.away = True
        event = await system.recorder.wait_for(HeartbeatLost, away=True)
        assert "cannot be reached" in event.error
        count = len(watched.beats)
        system.store.away = False
        await system.recorder.wait_for(HeartbeatLost, away=False)
        await eventually(lambda: len(watched.beats) > count + 2, "it beats again")
        assert [event.away for event in system.recorder.of(HeartbeatLost)] == [True, False]


async def test_a_beat_that_could_not_be_written_does_not_wait_for_the_next_interval():
    async with fog(fail=[CoordUnavailable("restarting")], interval_s=60, ttl_s=180) as (_, watched):
        await eventually(lambda: watched.beats, "a beat", timeout=10)


async def test_several_failed_writes_are_one_loss():
    async with fog(roles=("heartbeat",)) as (system, watched):
        watched.fail = [CoordUnavailable(f"{n}") for n in range(4)]
        await system.recorder.wait_for(HeartbeatLost, away=False)
        assert [event.away for event in system.recorder.of(HeartbeatLost)] == [True, False]


async def test_a_thread_that_ends_takes_its_actor_with_it_and_a_new_one_beats():
    async with fog(roles=("heartbeat",)) as (system, watched):
        await eventually(lambda: watched.beats, "a beat")
        watched.fail = [ValueError("a bug in the client library")]
        event = await system.recorder.wait_for(ActorExited, path="fogactors/heartbeat/beat")
        assert "a bug in the client library" in str(event.exit)
        await system.recorder.wait_for(ActorStarted, path="fogactors/heartbeat/beat", incarnation=2)
        count = len(watched.beats)
        await eventually(lambda: len(watched.beats) > count, "it beats again")


async def test_no_thread_stays_behind():
    async with fog(roles=("heartbeat",)) as (_, watched):
        await eventually(lambda: watched.beats, "a beat")
    await eventually(
        lambda: not any(thread.name == "fogactors heartbeat" for thread in threading.enumerate()), "the thread ends"
    )

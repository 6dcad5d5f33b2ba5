"""How a node stops: in its turn, drained, in bounded time."""

from __future__ import annotations

from typing import Any

import pytest

from fogactors.coord.cluster import CLUSTER_STOPPING
from fogactors.roles.sentinel import stopping
from fogactors.roles.sentinel.state import (
    ClusterSettled,
    SetupDone,
    StopTurn,
)
from tests.roles.sentinel_stage import A, B, running, stage

pytestmark = pytest.mark.asyncio


async def test_a_stop_waits_its_turn_drains_and_ends_the_server(tmp_path):
    async with stage(tmp_path, A) as here:
        here.says(A, A, A)
        other = await here.sentinel.coord.acquire("fog:cluster:stopping", B, 60)
        async with running(here) as recorder:
            await recorder.wait_for(ClusterSettled)
            await recorder.wait_for(SetupDone, count=2)
        turns = [(each.step, each.outcome) for each in here.recorder.of(StopTurn)]
        assert turns == [
            ("turn", f"not within 2 s, {B} has it; it goes all the same"),
            ("quorum without us", "no time left for it"),
            ("drain", "done"),
            ("server stopped", "in order"),
        ]
        await here.sentinel.coord.release(other)
        assert not here.sentinel.server.running


async def test_a_stop_waits_for_a_redis_that_is_about_to_be_back(tmp_path):
    """A deploy that changes everything restarts Redis in the same seconds, and three brokers must not stop at once."""
    async with stage(tmp_path, A, stop_wait_s=20.0) as here:
        here.says(A, A, A)
        acquire = here.sentinel.coord.acquire

        async def back_after_it_was_asked(name: str, *more: Any) -> Any:
            try:
                return await acquire(name, *more)
            finally:
                here.store.away = here.store.away and name != CLUSTER_STOPPING

        here.sentinel.coord.acquire = back_after_it_was_asked
        async with running(here) as recorder:
            await recorder.wait_for(ClusterSettled)
            await recorder.wait_for(SetupDone, count=2)
            here.store.away = True
        assert not here.store.away
        assert here.recorder.of(StopTurn)[0].outcome == "ours"


async def test_a_stop_does_not_wait_for_a_redis_that_stays_away(tmp_path, monkeypatch):
    monkeypatch.setattr(stopping, "AWAY_S", 0.5)
    async with stage(tmp_path, A, stop_wait_s=20.0) as here:
        here.says(A, A, A)
        async with running(here) as recorder:
            await recorder.wait_for(ClusterSettled)
            await recorder.wait_for(SetupDone, count=2)
            here.store.away = True
        turns = [(each.step, each.outcome) for each in here.recorder.of(StopTurn)]
        assert "Redis could not be asked for 0.5 s, so it goes without" in turns[0][1]
        assert turns[1:] == [("quorum without us", "done"), ("drain", "done"), ("server stopped", "in order")]


async def test_a_stop_asks_again_while_a_queue_does_not_answer(tmp_path):
    async with stage(tmp_path, A, stop_wait_s=20.0) as here:
        here.says(A, A, A)
        async with running(here) as recorder:
            await recorder.wait_for(ClusterSettled)
            await recorder.wait_for(SetupDone, count=2)
            (tmp_path / "elects").touch()
        assert ("quorum without us", "done") in [(each.step, each.outcome) for each in here.recorder.of(StopTurn)]
        assert sum("await_online_quorum_plus_one" in call for call in here.calls) == 2


async def test_a_broker_that_is_up_is_drained_also_when_its_status_is_not_to_be_had(tmp_path):
    async with stage(tmp_path, A, stop_wait_s=20.0) as here:
        here.says(A, A, A)
        async with running(here) as recorder:
            await recorder.wait_for(ClusterSettled)
            await recorder.wait_for(SetupDone, count=2)
            here.sentinel.unsettle("no answer")
        steps = [(each.step, each.outcome) for each in here.recorder.of(StopTurn)]
        assert ("drain", "done") in steps

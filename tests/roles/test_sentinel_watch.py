"""What a sentinel notices of a cluster that runs, and what it tells."""

from __future__ import annotations

import anyio
import pytest

from fogactors.cluster import ctl
from fogactors.roles.sentinel import former, watcher
from fogactors.roles.sentinel.state import (
    ClusterChanged,
    ClusterSettled,
    SetupDone,
    StoreAway,
)
from fogactors.testing.kit import eventually
from tests.roles.sentinel_stage import A, B, C, running, stage

pytestmark = pytest.mark.asyncio


async def test_one_that_boots_and_finds_nobody_says_that_there_is_no_majority(tmp_path):
    """As after a power cut, when the other hosts stay dark: its server waits for them."""
    async with stage(tmp_path, A, B, C, forgotten_s=0.5) as here:
        here.data.mkdir(parents=True)
        (here.data / "kept").touch()
        async with running(here) as recorder:
            lost = await recorder.wait_for(ClusterChanged, what="quorum_lost", on=True, timeout=20)
            assert {B, C} <= set(lost.detail.split(", "))
            for node in (A, B, C):
                here.says(node, f"{A} {B} {C}", f"{A} {B} {C}")
            here.registered = {"other", "third"}
            await recorder.wait_for(ClusterChanged, what="quorum_lost", on=False, timeout=20)


async def test_of_a_fact_whose_detail_changes_the_last_word_is_that_it_holds(tmp_path):
    async with stage(tmp_path, A, B, C, watch_s=0.1) as here:
        here.data.mkdir(parents=True)
        (here.data / "kept").touch()
        here.registered = {"other", "third"}
        for node in (A, B, C):
            here.says(node, f"{A} {B} {C}", f"{A} {B} {C}")
        async with running(here) as recorder:
            await recorder.wait_for(ClusterSettled, missing=())
            here.says(A, f"{A} {B} {C}", A)
            await recorder.wait_for(ClusterChanged, what="quorum_lost", on=True, timeout=20)
            here.says(A, f"{A} {B} {C}", "")
            await recorder.wait_for(ClusterChanged, what="quorum_lost", on=True, count=2, timeout=20)
            lost = [(each.on, each.detail) for each in recorder.of(ClusterChanged) if each.what == "quorum_lost"]
        assert lost == [(True, f"{B}, {C}"), (False, f"{B}, {C}"), (True, f"{B}, {A}, {C}")]


async def test_a_queue_that_is_short_of_a_node_is_told_of_when_the_tool_fails_at_first(tmp_path, monkeypatch):
    monkeypatch.setattr(watcher, "CRITICAL_S", 0.2)
    async with stage(tmp_path, A, B, C, watch_s=0.1) as here:
        here.data.mkdir(parents=True)
        (here.data / "kept").touch()
        (tmp_path / "busy").touch()
        here.registered = {"other"}
        for node in (A, B):
            here.says(node, f"{A} {B} {C}", f"{A} {B}")
        async with running(here) as recorder:
            await recorder.wait_for(ClusterChanged, what="node_down", on=True, timeout=20)
            critical = await recorder.wait_for(ClusterChanged, what="quorum_critical", on=True, timeout=20)
            assert critical.detail == "tasks.normal"
        assert not (tmp_path / "busy").exists()
        assert sum("check_if_node_is_quorum_critical" in call for call in here.calls) == 2


async def test_a_broker_that_answers_no_more_is_not_taken_to_be_up_for_ever_and_left_running(tmp_path, monkeypatch):
    monkeypatch.setattr(ctl, "STATUS_S", 0.5)
    monkeypatch.setattr(former, "COMES_S", 0.1)
    async with stage(tmp_path, A, watch_s=0.1) as here:
        here.says(A, A, A)
        async with running(here) as recorder:
            await recorder.wait_for(SetupDone, what="topology, feature flags; leaders are balanced")
            recorder.clear()
            (tmp_path / "hangs").touch()
            await eventually(lambda: not here.sentinel.settled, "it is not taken to be up", timeout=20)
            assert "no answer within 0.5 s" in here.sentinel.why  # what a probe is told
            assert sum("cluster_status" in call for call in here.calls) >= former.SILENT
            assert sum("list_vhosts" in call for call in here.calls) == 1
            assert here.sentinel.server.running
            (tmp_path / "hangs").unlink()
            await recorder.wait_for(ClusterSettled, timeout=20)
            assert here.sentinel.server.starts == 1


async def test_a_peer_that_does_not_answer_makes_no_other_broker_doubtful(tmp_path, monkeypatch):
    """A status asks every node that runs, so one that hangs keeps it from all of them."""
    monkeypatch.setattr(ctl, "STATUS_S", 0.5)
    monkeypatch.setattr(former, "COMES_S", 0.1)
    async with stage(tmp_path, A, watch_s=0.1) as here:
        here.says(A, A, A)
        async with running(here) as recorder:
            await recorder.wait_for(SetupDone, what="topology, feature flags; leaders are balanced")
            (tmp_path / "peer-hangs").touch()
            await eventually(
                lambda: sum("list_vhosts" in call for call in here.calls) == 2, "it answers for itself", timeout=30
            )
            assert here.sentinel.settled


@pytest.mark.parametrize("says", ["that it is alone", "nothing, because it pauses"])
async def test_who_is_cut_off_leaves_the_master_lease_to_one_that_is_not(tmp_path, says):
    async with stage(tmp_path, A, B, C, watch_s=0.1) as here:
        here.data.mkdir(parents=True)
        (here.data / "kept").touch()
        here.registered = {"other", "third"}
        for node in (A, B, C):
            here.says(node, f"{A} {B} {C}", f"{A} {B} {C}")
        master = here.sentinel.coord.holder

        async def held_by(node: str | None) -> None:
            with anyio.fail_after(10):
                while await master("rabbitmq:cluster:master") != node:  # noqa: ASYNC110 - nobody tells of it
                    await anyio.sleep(0.02)

        async with running(here):
            await held_by(A)
            if says == "that it is alone":
                here.says(A, f"{A} {B} {C}", A)
            else:
                (tmp_path / "up").unlink()
            await held_by(None)
            assert here.sentinel.server.running
            here.says(A, f"{A} {B} {C}", f"{A} {B} {C}")
            (tmp_path / "up").touch()
            await held_by(A)


async def test_a_store_that_is_back_has_a_master_before_the_next_turn_is_due(tmp_path):
    async with stage(tmp_path, A, lease_s=60.0) as here:  # a turn takes 20 s
        here.says(A, A, A)
        async with running(here) as recorder:
            await recorder.wait_for(SetupDone, what="topology, feature flags; leaders are balanced")
            here.store.away = True
            here.sentinel.tell_changed()  # or it would notice 20 s later
            await recorder.wait_for(StoreAway, away=True)
            here.store.expire_now("leases")
            here.store.away = False
            await recorder.wait_for(StoreAway, away=False, timeout=8)
            assert await here.sentinel.coord.holder("rabbitmq:cluster:master") == A


async def test_on_a_busy_machine_who_asks_rests_for_longer_than_asking_took(tmp_path):
    async with stage(tmp_path, A) as here:
        here.says(A, A, A)
        slow = (tmp_path / "tool").read_text().replace("*cluster_status*)", "*cluster_status*) sleep 0.3")
        (tmp_path / "tool").write_text(slow)
        who_looks = former.Former(here.sentinel)
        assert who_looks._pace(0.1) == 0.1
        await here.sentinel.server.start()
        await eventually((tmp_path / "up").exists, "the server is up")
        await who_looks._own()
        assert 0.6 <= who_looks._pace(0.1) <= former.LONGEST_REST_S
        assert who_looks._pace(20.0) == 20.0

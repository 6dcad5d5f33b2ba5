"""The sentinel beside tools and a server that are scripts.

What RabbitMQ itself does is tested on three real nodes, in tests/integration/test_cluster.py.
"""

from __future__ import annotations

import json
import signal
from dataclasses import replace

import pytest

from fogactors.app.program import role_context
from fogactors.app.services import Embedded
from fogactors.app.settings import ClusterSettings, Settings
from fogactors.app.settings_users import DEFAULT_USERS
from fogactors.bus import MemoryBroker
from fogactors.core import ActorExited, SupervisorSpec, walk
from fogactors.roles import node_sentinel
from fogactors.roles.sentinel.former import NotFormed, blank_lease
from fogactors.roles.sentinel.state import (
    BrokerExited,
    BrokerStarted,
    ClusterPlanned,
    ClusterRefused,
    ClusterSettled,
    SetupDone,
)
from fogactors.testing.kit import eventually
from fogactors.wire.access import TAG
from tests.roles.sentinel_stage import A, B, C, running, stage

pytestmark = pytest.mark.asyncio


async def test_a_blank_node_begins_and_sets_up(tmp_path):
    async with stage(tmp_path, A) as here:
        here.says(A, A, A)
        async with running(here) as recorder:
            planned = await recorder.wait_for(ClusterPlanned, action="Bootstrap")
            assert "holds the lease" in planned.why
            await recorder.wait_for(ClusterSettled, members=(A,), missing=())
            await recorder.wait_for(SetupDone, what="topology, feature flags; leaders are balanced")
        steps = ("import_definitions", "delete_user", "enable_feature_flag")
        order = [step for call in here.calls for step in steps if step in call]
        assert order == ["import_definitions", "delete_user", "import_definitions", "enable_feature_flag"]
        assert not (tmp_path / "data/.fog-definitions.json").exists()  # hashes of passwords do not lie around


async def test_users_of_ours_that_are_in_no_settings_any_more_are_removed_and_nobody_elses(tmp_path):
    users = {
        "guest": ["administrator"],
        "worker1": [TAG],
        "gone": [TAG],
        "was-admin": [TAG, "administrator"],
        "somebody's": [],
        "boss": ["administrator"],
    }
    (tmp_path / "users").write_text(json.dumps([{"user": name, "tags": tags} for name, tags in users.items()]))
    known = replace(DEFAULT_USERS[3], password="secret")
    async with stage(tmp_path, A, users=(known,)) as here:
        here.says(A, A, A)
        async with running(here) as recorder:
            await recorder.wait_for(SetupDone, what="users removed that are not in [users]: gone, was-admin")
            await recorder.wait_for(SetupDone, what="topology, feature flags; leaders are balanced")
        removed = [call.rpartition(" ")[2] for call in here.calls if "delete_user" in call]
        assert removed == ["gone", "guest", "was-admin"]
        first = next(step for call in here.calls for step in ("import_definitions", "delete_user") if step in call)
        assert first == "import_definitions"  # a login that was renamed has its new name before the old one is gone


async def test_settings_without_a_single_user_remove_none(tmp_path):
    (tmp_path / "users").write_text(json.dumps([{"user": "worker1", "tags": [TAG]}]))
    async with stage(tmp_path, A, users=DEFAULT_USERS) as here:
        here.says(A, A, A)
        async with running(here) as recorder:
            await recorder.wait_for(SetupDone, what="topology, feature flags; leaders are balanced")
        assert any("list_users" in call for call in here.calls)
        assert not any("delete_user" in call for call in here.calls)


async def test_a_server_that_ends_by_itself_is_told_of_and_started_again(tmp_path):
    async with stage(tmp_path, A) as here:
        here.says(A, A, A)
        async with running(here) as recorder:
            await recorder.wait_for(ClusterSettled)
            recorder.clear()
            (tmp_path / "up").unlink()
            here.sentinel.server._process.send_signal(signal.SIGKILL)
            await recorder.wait_for(BrokerExited, code=-signal.SIGKILL)
            await recorder.wait_for(ClusterPlanned, action="Start")
            await recorder.wait_for(BrokerStarted, start=2)
            await recorder.wait_for(ClusterSettled)


async def test_a_lost_volume_is_forgotten_by_a_peer_and_then_joins(tmp_path):
    async with stage(tmp_path, A, B, C) as here:
        here.registered = {"other", "third"}
        for peer in (B, C):
            here.says(peer, f"{A} {B} {C}", f"{B} {C}")
        async with running(here) as recorder:
            forget = await recorder.wait_for(ClusterPlanned, action="ForgetThenJoin")
            for peer in (B, C):
                here.says(peer, f"{B} {C}", f"{B} {C}")
            await recorder.wait_for(ClusterPlanned, action="Join")
            await recorder.wait_for(BrokerStarted)
            for node in (A, B, C):
                here.says(node, f"{A} {B} {C}", f"{A} {B} {C}")
            await recorder.wait_for(ClusterSettled, missing=())
            # Without it, its queues would have no replica here.
            await eventually(lambda: any(f"grow {A} all" in call for call in here.calls), "its queues grow")
            await eventually(lambda: not list((tmp_path / "data").glob("fog-*")), "no mark is left")
        assert f"rabbitmqctl -n {forget.peer} -q forget_cluster_node {A}" in here.calls
        assert f"-rabbit cluster_nodes {{['{B}','{A}'],disc}}" in (tmp_path / "arguments").read_text()


async def test_one_that_was_to_join_and_became_a_cluster_of_its_own_is_ended_and_begins_again(tmp_path):
    async with stage(tmp_path, A, B, C) as here:
        here.registered = {"other"}
        here.says(B, B, B)
        here.says(A, A, A)
        async with running(here) as recorder:
            await recorder.wait_for(ClusterPlanned, action="Join")
            await recorder.wait_for(BrokerStarted, start=2, timeout=10)
            failed = [each.exit.error for each in recorder.of(ActorExited, "node-sentinel/former")]
            assert any(isinstance(each, NotFormed) and "did not find the cluster" in str(each) for each in failed)
            assert not recorder.of(ClusterSettled)


async def test_what_a_join_left_that_did_not_end_keeps_no_cluster_from_beginning(tmp_path):
    """The first boot of all, and the node that had begun loses its volume while this one was about to join it."""
    async with stage(tmp_path, A, B, C) as here:
        here.data.mkdir(parents=True)
        (here.data / "half-joined").touch()
        for mark in ("joining", "growing"):
            here.sentinel.data.mark(mark)
        for peer in (B, C):
            await here.sentinel.coord.acquire(blank_lease(peer), peer, 60)
        here.says(A, A, A)
        async with running(here) as recorder:
            await recorder.wait_for(ClusterPlanned, action="Bootstrap")
            await recorder.wait_for(ClusterSettled, members=(A,), timeout=10)
            assert [each.start for each in recorder.of(BrokerStarted)] == [1]
            assert not recorder.of(ActorExited, "node-sentinel/former")
        assert [each.name for each in here.data.iterdir()] == ["something"]
        assert not list((tmp_path / "data").glob("fog-*"))


async def test_a_peer_must_say_so_too(tmp_path):
    """A blank node with a known name is listed as running by the others, whatever it is itself; and the reverse."""
    async with stage(tmp_path, A, B) as here:
        here.data.mkdir(parents=True)
        (here.data / "kept").touch()
        here.registered = {"other"}
        here.says(A, f"{A} {B}", f"{A} {B}")
        here.says(B, B, B)
        async with running(here) as recorder:
            await recorder.wait_for(BrokerStarted)
            ended = await recorder.wait_for(ActorExited, path="node-sentinel/former", timeout=30)
            assert f"{A} says that it runs in the cluster of {B}, which does not say so" in str(ended.exit.error)
            assert not recorder.of(ClusterSettled)
            here.says(B, f"{A} {B}", f"{A} {B}")
            await recorder.wait_for(ClusterSettled, timeout=10)


async def test_a_wait_is_bounded_and_says_for_what(tmp_path):
    async with stage(tmp_path, A, B, C, reach_tries=3) as here, running(here) as recorder:
        ended = await recorder.wait_for(ActorExited, path="node-sentinel/former")
        assert f"{A} waited 0.3 s: it is blank, and does not know what data these have: {B} (not running)" in str(
            ended.exit.error
        )
        assert not any("rabbitmq-server" in call for call in here.calls)


async def test_another_cookie_is_refused_and_said_once(tmp_path):
    async with stage(tmp_path, A, B) as here:
        here.registered = {"other"}
        refusing = tmp_path / "tool"
        refusing.write_text(
            '#!/bin/sh\necho "Error: unable to perform an operation on node; Erlang distribution failed"\nexit 69\n'
        )
        async with running(here) as recorder:
            refused = await recorder.wait_for(ClusterRefused)
            assert f"{B} refuses our Erlang cookie" in refused.why
            assert here.sentinel.why == refused.why  # what a probe is told


async def test_a_node_says_that_it_is_blank_for_as_long_as_it_waits(tmp_path):
    async with stage(tmp_path, A, B) as here, running(here) as recorder:
        await recorder.wait_for(ClusterPlanned, action="Wait")
        assert await here.sentinel.coord.holder(blank_lease(A)) == A


async def test_no_branch_escalates(tmp_path):
    settings = Settings(cluster=ClusterSettings(nodes=("a",), node="a", data_dir=str(tmp_path)))
    tree = node_sentinel.tree(role_context(settings, Embedded(MemoryBroker())))

    assert all(spec.exceeded == "pause" for _, spec in walk(tree) if isinstance(spec, SupervisorSpec))
    assert tree.children[0].id == "server"  # stops last
    assert tree.children[-1].id == "stopper"

"""The sentinel beside tools and a server that are scripts: real processes, which answer what the test has written.

What RabbitMQ itself does is tested on three real nodes, in tests/integration/test_cluster.py.
"""

from __future__ import annotations

import json
import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import anyio
import pytest
from anyio.abc import SocketAttribute, SocketStream

from fogactors.app.program import role_context
from fogactors.app.services import Embedded
from fogactors.app.settings import ClusterSettings, Settings
from fogactors.app.settings_users import DEFAULT_USERS, UserSettings
from fogactors.bus import MemoryBroker
from fogactors.cluster import ctl
from fogactors.coord.cluster import CLUSTER_STOPPING
from fogactors.core import ActorExited, ActorSystem, Backoff, SupervisorSpec, walk
from fogactors.errors import CoordRefused, CoordUnavailable
from fogactors.roles import node_sentinel
from fogactors.roles.sentinel import former, stopping
from fogactors.roles.sentinel.former import NotFormed, blank_lease
from fogactors.roles.sentinel.incarnation import incarnation_key
from fogactors.roles.sentinel.state import (
    BrokerExited,
    BrokerStarted,
    ClusterChanged,
    ClusterPlanned,
    ClusterRefused,
    ClusterSettled,
    SetupDone,
    StaleData,
    StopTurn,
    StoreAway,
)
from fogactors.testing import EventRecorder
from fogactors.testing.kit import eventually
from fogactors.wire import fog_topology
from fogactors.wire.access import TAG

pytestmark = pytest.mark.asyncio

A, B, C = "rabbit@127.0.0.1", "other@127.0.0.1", "third@127.0.0.1"
_TOOL = """#!/bin/sh
# $1: the program. Answers are files; the server runs until it is told to end.
here="{folder}"
echo "$@" >> "$here/calls"
case "$1" in
rabbitmq-server)
    [ -e "$here/breaks" ] && exit 1
    mkdir -p "$here/data/{node}" && touch "$here/data/{node}/something"
    echo "$RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS" > "$here/arguments"
    trap 'rm -f "$here/up"; exit 0' TERM
    touch "$here/up"
    while :; do sleep 0.02; done ;;
esac
case "$*" in
*cluster_status*)
    [ -e "$here/hangs" ] && exec sleep 60
    name={node}
    [ "$2" = -n ] && name="$3"
    [ "$name" != {node} ] || [ -e "$here/up" ] || {{ echo "Error: unable to perform an operation on node"; exit 69; }}
    cat "$here/status-$name" ;;
*await_online_quorum_plus_one*)
    rm "$here/elects" 2>/dev/null || exit 0
    echo "Error:"; echo "a queue does not answer"; exit 69 ;;
*check_if_node_is_quorum_critical*)
    rm "$here/busy" 2>/dev/null && {{ echo "Error: unable to perform an operation on node"; exit 69; }}
    echo "Error:"; echo "quorum queue 'tasks.normal' in vhost '/fog'"; exit 69 ;;
*list_queues*) echo '[]' ;;
*list_users*) cat "$here/users" 2>/dev/null || echo '[{{"user":"guest","tags":["administrator"]}}]' ;;
esac
"""


@dataclass
class Stage:
    """A sentinel of `A`, with what its tools say. `registered`: the nodes that the port mapper knows."""

    folder: Path
    store: Any = None
    sentinel: Any = None
    recorder: Any = None
    tree: Any = None
    registered: set[str] = field(default_factory=set)

    def says(self, node: str, members: str, running: str) -> None:
        answer = {"disk_nodes": members.split(), "running_nodes": running.split(), "alarms": [], "partitions": {}}
        fresh = self.folder / "fresh"
        fresh.write_text(json.dumps(answer))
        fresh.rename(self.folder / f"status-{node}")

    @property
    def calls(self) -> list[str]:
        path = self.folder / "calls"
        return path.read_text().splitlines() if path.exists() else []

    @property
    def data(self) -> Path:
        return self.folder / "data" / A


@asynccontextmanager
async def stage(
    folder: Path, *nodes: str, users: tuple[UserSettings, ...] = DEFAULT_USERS, **settings: Any
) -> AsyncIterator[Stage]:
    """Nothing runs before `running`."""
    here = Stage(folder)
    tool = folder / "tool"
    tool.write_text(_TOOL.format(folder=folder, node=A))
    tool.chmod(0o755)

    async def answer(stream: SocketStream) -> None:
        async with stream:
            await stream.receive()
            lines = "".join(f"name {name} at port 1\n" for name in here.registered)
            await stream.send(b"\x00\x00\x11\x11" + lines.encode())

    listener = await anyio.create_tcp_listener(local_host="127.0.0.1")
    async with anyio.create_task_group() as tasks, MemoryBroker() as broker:
        tasks.start_soon(listener.serve, answer)
        broker.declare(fog_topology())
        services = Embedded(broker)
        here.store = services.store
        cluster = ClusterSettings(
            nodes=nodes,
            node=A,
            data_dir=str(folder / "data"),
            command=(str(tool),),
            epmd_port=listener.extra(SocketAttribute.local_port),
            **{"reach_every_s": 0.1, "lease_s": 1.0, "stop_wait_s": 2.0, **settings},
        )
        context = role_context(Settings(cluster=cluster, users=users), services)
        here.sentinel = node_sentinel.sentinel_of(context, {"PATH": "/usr/bin:/bin"})
        tree = node_sentinel.tree(context, here.sentinel)
        here.tree = replace(tree, backoff=Backoff(first_s=0.05, max_s=0.1))
        try:
            yield here
        finally:
            with anyio.CancelScope(shield=True):
                await here.sentinel.server.kill()
                await context.coord.close()
            tasks.cancel_scope.cancel()
    await listener.aclose()


@asynccontextmanager
async def running(here: Stage) -> AsyncIterator[EventRecorder]:
    async with ActorSystem() as system:
        recorder = EventRecorder(system)
        await system.start(here.tree)
        yield recorder
    here.recorder = recorder


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


async def known(here: Stage) -> frozenset[str]:
    return await here.sentinel.coord.members(incarnation_key(A))


async def until_known(here: Stage, *numbers: int) -> None:
    with anyio.fail_after(10):
        while await known(here) != {str(number) for number in numbers}:  # noqa: ASYNC110 - nobody tells of it
            await anyio.sleep(0.02)


async def test_a_cluster_that_begins_is_a_new_incarnation_of_its_node(tmp_path):
    async with stage(tmp_path, A, watch_s=0.1) as here:
        here.says(A, A, A)
        late = 4_102_444_800_000  # of a host whose clock was wrong: ours must be later all the same
        await here.sentinel.coord.join(incarnation_key(A), str(late))
        async with running(here) as recorder:
            await recorder.wait_for(ClusterSettled)
            await until_known(here, late + 1)
        assert here.sentinel.data.incarnation() == late + 1
        assert not here.recorder.of(StaleData)


async def test_one_that_joins_is_a_new_incarnation_once_it_is_a_member(tmp_path):
    async with stage(tmp_path, A, B, C, watch_s=0.1) as here:
        here.registered = {"other", "third"}
        for peer in (B, C):
            here.says(peer, f"{B} {C}", f"{B} {C}")
        await here.sentinel.coord.join(incarnation_key(A), "5")
        async with running(here) as recorder:
            await recorder.wait_for(BrokerStarted)
            mine = here.sentinel.data.incarnation()
            assert mine > 5
            assert await known(here) == {"5"}  # until then the older may still come back
            for node in (A, B, C):
                here.says(node, f"{A} {B} {C}", f"{A} {B} {C}")
            await recorder.wait_for(ClusterSettled)
            await until_known(here, mine)


async def test_a_redis_that_does_not_know_the_key_yet_keeps_nobody_from_beginning(tmp_path):
    """Brokers are updated before Redis, whose rules are of the version before."""
    async with stage(tmp_path, A) as here:
        here.says(A, A, A)
        refused = here.sentinel.coord.members

        async def members(group: str) -> frozenset[str]:
            if group == incarnation_key(A):
                raise CoordRefused("no permission")
            return await refused(group)

        here.sentinel.coord.members = members
        async with running(here) as recorder:
            await recorder.wait_for(ClusterSettled)
        assert here.sentinel.data.incarnation() > 0


async def test_the_volume_of_an_earlier_incarnation_is_refused_and_left_alone(tmp_path):
    async with stage(tmp_path, A, B, C) as here:
        here.data.mkdir(parents=True)
        (here.data / "kept").touch()
        here.sentinel.data.begin(4)
        here.registered = {"other", "third"}
        for peer in (B, C):
            here.says(peer, f"{A} {B} {C}", f"{B} {C}")
        await here.sentinel.coord.join(incarnation_key(A), "5")
        async with running(here) as recorder:
            refused = await recorder.wait_for(ClusterRefused)
            assert f"older than what {A} ran with last" in refused.why
            assert here.sentinel.why == refused.why  # what a probe is told
            assert not any("rabbitmq-server" in call for call in here.calls)
            assert (here.data / "kept").exists()
            await here.sentinel.coord.leave(incarnation_key(A), "5")  # people know better
            await recorder.wait_for(BrokerStarted)


async def test_data_of_a_version_that_wrote_no_incarnation_gets_one_when_it_has_settled(tmp_path):
    async with stage(tmp_path, A, watch_s=0.1) as here:
        here.data.mkdir(parents=True)
        (here.data / "kept").touch()
        here.says(A, A, A)
        async with running(here) as recorder:
            await recorder.wait_for(ClusterSettled)
            await eventually(lambda: here.sentinel.data.incarnation() > 0, "it has an incarnation")
            await until_known(here, here.sentinel.data.incarnation())
            await here.sentinel.coord.leave(incarnation_key(A), str(here.sentinel.data.incarnation()))
            await until_known(here, here.sentinel.data.incarnation())  # a Redis that lost it is told again


@pytest.mark.parametrize("fault", [CoordUnavailable("away"), CoordRefused("another password")])
async def test_a_redis_that_does_not_say_keeps_nobody_from_starting(tmp_path, fault):
    async with stage(tmp_path, A, watch_s=0.1) as here:
        here.data.mkdir(parents=True)
        (here.data / "kept").touch()
        here.sentinel.data.begin(4)
        here.says(A, A, A)
        await here.sentinel.coord.join(incarnation_key(A), "5")
        silent = here.sentinel.coord.members

        async def members(group: str) -> frozenset[str]:
            if fault is not None and group == incarnation_key(A):
                raise fault
            return await silent(group)

        here.sentinel.coord.members = members
        async with running(here) as recorder:
            await recorder.wait_for(ClusterSettled)
            assert here.sentinel.data.incarnation() == 4
            fault = None
            # It runs in its cluster now, so whatever else there is of it is older from here on.
            stale = await recorder.wait_for(StaleData, own=4, known=5)
            assert stale.broker == A
            await until_known(here, here.sentinel.data.incarnation())
            assert here.sentinel.data.incarnation() > 5


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


async def test_a_queue_that_is_short_of_a_node_is_told_of_when_the_tool_fails_at_first(tmp_path):
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
    async with stage(tmp_path, A, watch_s=0.1) as here:
        here.says(A, A, A)
        async with running(here) as recorder:
            await recorder.wait_for(SetupDone, what="topology, feature flags; leaders are balanced")
            recorder.clear()
            (tmp_path / "hangs").touch()
            await eventually(lambda: not here.sentinel.settled, "it is not taken to be up", timeout=20)
            assert "no answer within 0.5 s" in here.sentinel.why  # what a probe is told
            assert sum("cluster_status" in call for call in here.calls) >= former.SILENT
            assert here.sentinel.server.running
            (tmp_path / "hangs").unlink()
            await recorder.wait_for(ClusterSettled, timeout=20)
            assert here.sentinel.server.starts == 1


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


async def test_no_branch_escalates(tmp_path):
    settings = Settings(cluster=ClusterSettings(nodes=("a",), node="a", data_dir=str(tmp_path)))
    tree = node_sentinel.tree(role_context(settings, Embedded(MemoryBroker())))

    assert all(spec.exceeded == "pause" for _, spec in walk(tree) if isinstance(spec, SupervisorSpec))
    assert tree.children[0].id == "server"  # stops last
    assert tree.children[-1].id == "stopper"

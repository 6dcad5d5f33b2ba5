"""RabbitMQ's tools as processes: what their answers mean, and that each of them ends."""

from __future__ import annotations

import json
import time
from pathlib import Path

import anyio
import pytest

from fogactors.cluster.ctl import Ctl, CtlFailed, Status
from fogactors.testing.kit import eventually

pytestmark = pytest.mark.asyncio

STATUS_4_3 = """Some warning of the runtime's
{"alarms":[{"node":"rabbit@a","resource":"memory"}],"disk_nodes":["rabbit@a","rabbit@b"],
"running_nodes":["rabbit@a"],"partitions":{"rabbit@a":["rabbit@b"],"rabbit@b":[]}}"""
REFUSED = """Error: unable to perform an operation on node 'rabbit@a'. Please see diagnostics information below.
  * TCP connection succeeded but Erlang distribution failed"""
DOWN = "Error: unable to perform an operation on node 'rabbit@a'. Please see diagnostics information below."
BOOTS = "Error: this command requires the 'rabbit' app to be running on the target node."


def ctl(folder: Path, script: str) -> Ctl:
    """A tool that does what `script` says, whatever its name and its words are."""
    tool = folder / "tool"
    tool.write_text(f"#!/bin/sh\n{script}\n")
    tool.chmod(0o755)
    return Ctl("rabbit@a", (str(tool),), {"PATH": "/usr/bin:/bin"})


async def test_what_a_node_says_of_its_cluster(tmp_path):
    (tmp_path / "answer").write_text(STATUS_4_3)

    status = await ctl(tmp_path, f"cat {tmp_path}/answer").status()

    assert status == Status(
        members=frozenset(("rabbit@a", "rabbit@b")),
        running=frozenset(("rabbit@a",)),
        partitions={"rabbit@a": ("rabbit@b",)},
        alarms=frozenset((("rabbit@a", "memory"),)),
    )


@pytest.mark.parametrize(
    ("output", "kind"), [(REFUSED, "refused"), (DOWN, "away"), (BOOTS, "away"), ("Error: no such queue", "failed")]
)
async def test_why_it_failed(tmp_path, output, kind):
    (tmp_path / "answer").write_text(output)

    with pytest.raises(CtlFailed, match="ended with 69: Error") as caught:
        await ctl(tmp_path, f"cat {tmp_path}/answer; exit 69").status()

    assert caught.value.kind == kind


@pytest.mark.parametrize(
    ("output", "reason"),
    [
        ("Asked.\nError: no such queue\nmore", "Error: no such queue"),
        ("Error:\n{:timeout, :leader}\n", "Error: {:timeout, :leader}"),
        ("a\nb\nc\nd", "a b c"),
    ],
)
async def test_the_reason_is_in_the_message(tmp_path, output, reason):
    (tmp_path / "answer").write_text(output)
    with pytest.raises(CtlFailed) as caught:
        await ctl(tmp_path, f"cat {tmp_path}/answer; exit 69").drain(5)
    assert str(caught.value) == f"rabbitmq-upgrade drain ended with 69: {reason}"


async def test_who_the_users_are(tmp_path):
    (tmp_path / "answer").write_text('[{"user":"guest","tags":["administrator"]},{"user":"w","tags":[]},{"user":"x"}]')

    users = await ctl(tmp_path, f"cat {tmp_path}/answer").users()

    assert users == {"guest": frozenset({"administrator"}), "w": frozenset(), "x": frozenset()}


async def test_which_queues_need_this_node(tmp_path):
    lines = "".join(f"queue 'q{n}' in vhost '/fog' will become unavailable if node a stops\n" for n in range(7))
    (tmp_path / "answer").write_text(lines)

    assert await ctl(tmp_path, f"cat {tmp_path}/answer; exit 69").critical() == "q0, q1, q2, q3, q4 and 2 more"
    assert await ctl(tmp_path, "exit 0").critical() == ""
    with pytest.raises(CtlFailed):
        await ctl(tmp_path, f'echo "{DOWN}"; exit 69').critical()


async def test_it_grows_until_each_queue_and_stream_has_a_replica(tmp_path):
    """`grow` ends well although a queue was refused, and knows no streams."""
    old = [
        {"name": "tasks.normal", "type": "quorum", "members": ["rabbit@b"]},
        {"name": "dlq.parked", "type": "stream", "members": ["rabbit@b", "rabbit@c"]},
        {"name": "ctl.mine", "type": "classic", "members": ["rabbit@b"]},
    ]
    (tmp_path / "answer").write_text(json.dumps(old))
    (tmp_path / "better").write_text(json.dumps([each | {"members": ["rabbit@a", "rabbit@b"]} for each in old]))
    calls = tmp_path / "calls"
    answer, better = tmp_path / "answer", tmp_path / "better"
    listing = f"cat {answer}; mv {better} {answer} 2> /dev/null; exit 0"
    tool = ctl(tmp_path, f'echo "$@" >> {calls}; case "$*" in *list_queues*) {listing};; esac')

    await tool.grow("/fog")

    assert [line for line in calls.read_text().splitlines() if "list_queues" not in line] == [
        "rabbitmq-queues -q grow rabbit@a all",
        "rabbitmq-streams -q add_replica dlq.parked rabbit@a --vhost /fog",
        "rabbitmq-queues -q grow rabbit@a all",
    ]


async def test_a_queue_that_does_not_grow_is_an_error(tmp_path):
    (tmp_path / "answer").write_text('[{"name": "tasks.normal", "type": "quorum", "members": ["rabbit@b"]}]')

    with pytest.raises(CtlFailed, match=r"tasks\.normal: no replica on rabbit@a yet"):
        await ctl(tmp_path, f'case "$*" in *list_queues*) cat {tmp_path}/answer;; esac').grow("/fog")


async def test_what_is_no_json_is_an_error_that_shows_it(tmp_path):
    with pytest.raises(CtlFailed, match="expected JSON, got 'hello'"):
        await ctl(tmp_path, "echo hello").status()


async def test_one_that_hangs_is_ended_with_all_that_it_started(tmp_path):
    pid = tmp_path / "pid"
    hung = ctl(tmp_path, f"sleep 1000 & echo $! > {pid}.new; mv {pid}.new {pid}; wait")

    with pytest.raises(CtlFailed, match=r"no answer within 1 s") as caught:
        await hung.run("rabbitmqctl", "status", timeout=1.0)

    assert caught.value.kind == "timeout"
    await eventually(lambda: not _lives(int(pid.read_text())), "the end of what it had started")


async def test_never_two_at_once(tmp_path):
    """Each is a whole Erlang machine, on a host that has a broker to run."""
    mark = tmp_path / "running"
    one = ctl(tmp_path, f"[ -e {mark} ] && exit 1; touch {mark}; sleep 0.1; rm {mark}")
    began = time.monotonic()

    async with anyio.create_task_group() as tasks:
        for _ in range(3):
            tasks.start_soon(one.run, "rabbitmqctl")

    assert time.monotonic() - began >= 0.3


def _lives(pid: int) -> bool:
    stat = Path(f"/proc/{pid}/stat")
    return stat.exists() and stat.read_text().rpartition(")")[2].split()[0] not in "ZX"


async def test_the_cluster_is_looked_at_while_a_tool_goes_through_all_queues(tmp_path):
    (tmp_path / "answer").write_text(STATUS_4_3)
    wait = f"touch {tmp_path}/begun; while [ ! -e {tmp_path}/seen ]; do sleep 0.02; done"
    tool = ctl(tmp_path, f'case "$*" in *rebalance*) {wait} ;; *) cat {tmp_path}/answer ;; esac')

    with anyio.fail_after(20):
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(tool.rebalance)
            await eventually((tmp_path / "begun").exists, "the long one has begun")
            assert (await tool.status()).running == {"rabbit@a"}
            (tmp_path / "seen").touch()

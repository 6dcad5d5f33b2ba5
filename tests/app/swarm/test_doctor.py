"""What the doctor finds: the figures as a table, the job on the hosts, and the command on the stack's own file."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from fogactors.app.swarm.docker import Docker, DockerFailed
from fogactors.app.swarm.doctor import Finding, Need, examine, places_of
from fogactors.app.swarm.env import PASSWORDS, generated
from fogactors.app.swarm.hosts import HostFacts, ask_hosts
from fogactors.app.swarm.nodes import SwarmNode
from tests.app.swarm.client import node, on_nodes

ROOT = Path(__file__).parents[3]
PLACES = {
    "m1": {"manager-master": "true"},
    "m2": {"manager-rep1": "true"},
    "m3": {"manager-rep2": "true"},
    "w1": {"worker1": "true", "fog": "1"},
    "w2": {"worker2": "true", "fog": "3"},
}


def host(name: str, **changed) -> SwarmNode:
    good = SwarmNode(
        id=f"id-{name}",
        name=name,
        manager=name.startswith("m"),
        engine="27.3.1",
        cpus=2,
        memory_mb=3900,  # sold as 4 GB
        labels=PLACES[name],
    )
    return replace(good, **changed)


FIVE = [host(name) for name in PLACES]
NEEDS = [
    *(
        Need(
            service=f"rabbitmq{n}",
            constraints=(f"node.labels.{place} == true",),
            memory_mb=1536,
            ports=(15671 + n,),
            pinned=True,
            broker=True,
        )
        for n, place in ((1, "manager-master"), (2, "manager-rep1"), (3, "manager-rep2"))
    ),
    Need(service="redis", constraints=("node.labels.manager-master == true",), memory_mb=768, pinned=True),
    Need(service="fog-node-1", constraints=("node.labels.fog == 1",), memory_mb=512),
    Need(service="fog-node-3", constraints=("node.labels.fog == 3",), memory_mb=1024),
    Need(service="metrics-sink", constraints=("node.role == manager",), ports=(9464,)),
]
HEALTHY = {each.name: HostFacts(50_000) for each in FIVE}


def changed(name: str, **how) -> list[SwarmNode]:
    return [host(each, **how) if each == name else host(each) for each in PLACES]


def test_a_good_swarm_has_nothing_wrong():
    assert examine(FIVE, NEEDS, HEALTHY) == []


@pytest.mark.parametrize(
    ("nodes", "level", "about", "text"),
    [
        (changed("m2", ready=False), "error", "m2", "takes no tasks"),
        (changed("m2", reachable=False), "error", "m2", "do not reach"),
        (changed("w1", engine="19.03.15"), "error", "w1", "20.10 or newer"),
        (changed("w1", engine="20.09"), "error", "w1", "20.10 or newer"),
        (changed("w1", engine="dev"), "warning", "w1", "no version"),
        (changed("m1", labels={}), "error", "rabbitmq1", "node.labels.manager-master == true; `make label`"),
        (changed("m1", labels={"manager-master": ""}), "error", "redis", "has no host"),
        (changed("w2", labels={}), "error", "fog-node-3", "node.labels.fog == 3"),
        (changed("m2", labels={**PLACES["m2"], "manager-master": "true"}), "error", "rabbitmq1", "may run on m1, m2"),
        (changed("m3", cpus=1), "error", "m3", "2 are needed"),
        (changed("w2", cpus=0.5), "error", "w2", "1 are needed"),
        (changed("m3", memory_mb=3000), "error", "m3", "4096 are needed"),
        (changed("w1", memory_mb=1500), "error", "w1", "2048 are needed"),
        ([each for each in FIVE if each.name != "m3"], "warning", "swarm", "2 managers"),
        ([*FIVE, replace(host("m1", labels={}), id="m4", name="m4")], "warning", "swarm", "4 managers"),
    ],
)
def test_what_is_wrong_is_named(nodes, level, about, text):
    found = [each for each in examine(nodes, NEEDS) if each.about == about and text in each.text]
    assert [each.level for each in found] == [level], examine(nodes, NEEDS)


@pytest.mark.parametrize("name", ["w1", "m3"])
def test_what_a_host_has_just_enough_of_is_enough(name):
    cores, memory_mb = (1, 1850) if name == "w1" else (2, 3700)
    assert examine(changed(name, cpus=cores, memory_mb=memory_mb, engine="20.10.24+dfsg1"), NEEDS) == []


def test_two_brokers_on_one_host_are_a_risk_and_their_limits_add_up():
    both = {**PLACES["m1"], **PLACES["m2"]}
    found = examine([host("m1", labels=both), host("m2", labels={}), *FIVE[2:]], NEEDS)
    assert (
        Finding("warning", "m1", "has rabbitmq1, rabbitmq2: with this host the majority is lost, or half of it")
        in found
    )
    limit = replace(NEEDS[0], memory_mb=4000)
    assert any("4768 are needed" in each.text for each in examine(FIVE, [limit, *NEEDS[1:]]))


def test_disks_and_ports_are_what_the_hosts_say():
    hosts = HEALTHY | {
        "w1": HostFacts(10_239),
        "m1": HostFacts(50_000, (15672, 15673)),
        "m2": HostFacts(50_000, (9464,)),
    }
    del hosts["w2"]
    assert examine(FIVE, NEEDS, hosts) == [
        Finding("error", "w1", "has 10239 MiB of disk free; 10240 are needed"),
        Finding("error", "m1", "port 15672, which rabbitmq1 publishes, is taken by something else"),
        Finding("warning", "w2", "did not say how much disk it has and which ports are free"),
        Finding("warning", "m2", "port 9464, which metrics-sink publishes, is taken by something else"),
    ]


def test_hosts_that_hold_on_to_dead_connections_are_named_together():
    hosts = HEALTHY | {name: HostFacts(50_000, (), 15) for name in ("m1", "w2")} | {"m2": HostFacts(50_000, (), 8)}
    [found] = examine(FIVE, NEEDS, hosts)
    assert (found.level, found.about) == ("warning", "m1, w2")
    assert "net.ipv4.tcp_retries2=5" in found.text


def test_the_ports_of_a_stack_that_runs_are_its_own():
    hosts = HEALTHY | {"m1": HostFacts(50_000, (15672,))}
    assert examine(FIVE, NEEDS, hosts, running=["rabbitmq1"]) == []


def test_a_constraint_that_only_docker_knows_excludes_nobody():
    assert places_of(Need(service="x", constraints=("node.platform.arch == x86_64",)), FIVE) == FIVE


# -- on the hosts


def test_a_host_says_what_listens_and_how_much_disk_it_has():
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        listening.listen()
        port = listening.getsockname()[1]
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            other = free.getsockname()[1]
        command = [sys.executable, "-m", "fogactors.app.swarm.host", str(port), str(other)]
        environment = {**os.environ, "FOG_HOST": "here"}
        done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=True)
    said = json.loads(done.stdout)
    assert (said["host"], said["taken"]) == ("here", [port])
    assert said["disk_free_mb"] > 0
    if sys.platform == "linux":
        assert said["tcp_retries2"] == int(Path("/proc/sys/net/ipv4/tcp_retries2").read_text())


def answer(host: str, **facts) -> str:
    return json.dumps({"host": host, "disk_free_mb": 20_000, "taken": [], **facts}) + "\n"


def test_hosts_are_asked_until_all_have_answered_and_the_job_goes(client):
    client.on("service logs", answer("m1"), "noise\n" + answer("m1") + answer("w1", taken=[15672], tcp_retries2=15))
    client.on("service ps", "Running 1 second ago\n")
    client.on("service create")
    client.on("service rm")
    found = ask_hosts(Docker(), "fogactors:latest", ["m1", "w1"], [15672, 9464], timeout=30)
    assert found == {"m1": HostFacts(20_000), "w1": HostFacts(20_000, (15672,), 15)}
    [made] = client.calls("service create")
    assert made.words[-3:] == ["fogactors:latest", "15672", "9464"]
    [gone] = client.calls("service rm")
    assert gone.words[-1] == made.words[made.words.index("--name") + 1]


def test_a_job_that_fails_everywhere_is_not_waited_for_and_goes(client):
    client.on("service logs", err="no such image", code=1)
    client.on("service ps", "Rejected 1 second ago\nFailed 2 seconds ago\n")
    client.on("service create")
    client.on("service rm")
    assert ask_hosts(Docker(), "fogactors:latest", ["m1"], [], timeout=600) == {}
    assert client.calls("service rm")


def test_a_job_that_cannot_be_made_says_why(client):
    client.on("service create", err="this is no manager", code=1)
    with pytest.raises(DockerFailed, match="this is no manager"):
        ask_hosts(Docker(), "fogactors:latest", ["m1"], [], timeout=30)


# -- the command


@pytest.fixture
def swarm(client, fog):
    nodes = [node(name, manager=name.startswith("m"), labels=labels) for name, labels in PLACES.items()]
    on_nodes(client, *nodes)
    client.on("service ls")
    client.on("service create")
    client.on("service rm")
    client.on("service ps", "Running\n")
    client.on("service logs", "".join(answer(name) for name in PLACES))
    Path(".env").write_text("".join(f"{name}={value}\n" for name, value in generated(PASSWORDS).items()))
    return client


STACK = ("--file", str(ROOT / "swarm/stack.yml"))


def test_the_command_finds_nothing_wrong(fog, swarm):
    code, out, _ = fog("swarm", "doctor", *STACK)
    assert (code, out) == (0, "5 nodes, 9 services: no errors, no warnings\n")
    [made] = swarm.calls("service create")
    assert set(made.words[-4:]) == {"9464", "15672", "15673", "15674"}


def test_the_command_names_each_error_and_exits_1(fog, swarm):
    Path(".env").write_text("MQ_ADMIN_PASS=guest\n")
    swarm.on("service logs", "".join(answer(name, taken=[15673]) for name in PLACES if name != "w1"))
    swarm.on("service ps", "Failed\n")
    code, out, _ = fog("swarm", "doctor", *STACK)
    assert code == 1
    assert "error: m2: port 15673, which rabbitmq2 publishes, is taken by something else" in out
    assert "warning: w1: did not say" in out
    assert "REDIS_PASS" in out
    assert "warning: .env: MQ_ADMIN_PASS is a placeholder" in out
    assert "guest" not in out


def test_what_is_there_already_has_its_ports(fog, swarm):
    swarm.on("service ls", "fog_rabbitmq2\n")
    swarm.on("service logs", "".join(answer(name, taken=[15673]) for name in PLACES))
    code, out, _ = fog("swarm", "doctor", *STACK)
    assert code == 0, out


def test_without_hosts_nobody_is_asked(fog, swarm):
    code, out, _ = fog("swarm", "doctor", *STACK, "--no-hosts", "--json")
    said = json.loads(out)
    assert (code, said["ok"], said["findings"], said["hosts"]) == (0, True, [], None)
    assert not swarm.calls("service create")


def test_hosts_that_cannot_be_asked_are_warnings(fog, swarm):
    swarm.on("service create", err="No such image: fogactors", code=1)
    code, out, err = fog("swarm", "doctor", *STACK)
    assert code == 0
    assert "No such image" in err
    assert out.count("did not say") == 5

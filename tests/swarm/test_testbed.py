"""The hosts are hosts: a Swarm spans them, they pull, they can be cut off and lose power, and nothing stays behind."""

from pathlib import Path

import pytest

from tests.swarm.bases import ensure_base
from tests.swarm.faults import link_down, overlay_cut, powered_off
from tests.swarm.hosts import Engine
from tests.swarm.shell import SwarmFailed, wait_for
from tests.swarm.testbed import Testbed

pytestmark = [pytest.mark.swarm, pytest.mark.slow]


@pytest.fixture(scope="module")
def store(bed: Testbed) -> str:
    """A Redis on worker1, in an overlay network of the Swarm; the name of its image."""
    image = bed.push(ensure_base(bed.builder, "redis"), "stand-in/redis:test")
    manager = bed.hosts["manager1"]
    manager.docker("network", "create", "--driver", "overlay", "--attachable", "lab")
    place = ("--constraint", "node.hostname == worker1", "--endpoint-mode", "dnsrr", "--network", "lab")
    server = ("redis-server", "--protected-mode", "no")
    manager.docker("service", "create", "--detach", "--name", "store", *place, image, *server, timeout=120)
    wait_for("the store", lambda: "1/1" in manager.docker("service", "ls"), timeout=60)
    return image


def ping(engine: Engine, image: str) -> bool:
    """Whether a container on the host reaches the store by its name."""
    command = ("sh", "-c", "timeout 4 redis-cli -h store ping")
    try:
        return "PONG" in engine.docker("run", "--rm", "--network", "lab", image, *command, timeout=90)
    except SwarmFailed:
        return False


def state(bed: Testbed, name: str) -> str:
    return bed.hosts["manager2"].docker("node", "inspect", "--format", "{{.Status.State}}", name).strip()


def test_the_five_are_one_swarm_of_three_managers(bed: Testbed) -> None:
    nodes = bed.hosts["manager3"].docker("node", "ls", "--format", "{{.Hostname}} {{.ManagerStatus}}").splitlines()
    assert sorted(line.split()[0] for line in nodes) == ["manager1", "manager2", "manager3", "worker1", "worker2"]
    assert sum("Leader" in line or "Reachable" in line for line in nodes) == 3


def test_a_service_is_reached_by_name_across_hosts_until_the_overlay_is_cut(bed: Testbed, store: str) -> None:
    # A name that is new takes a moment to be known on every host.
    wait_for("the store's name", lambda: ping(bed.hosts["manager2"], store), timeout=30)
    with overlay_cut(bed.hosts, "manager2"):
        assert not ping(bed.hosts["manager2"], store)
        assert ping(bed.hosts["worker2"], store)
        assert state(bed, "manager1") == "ready"
    wait_for("the healed overlay", lambda: ping(bed.hosts["manager2"], store), timeout=30)


def test_a_host_without_its_link_is_down_and_comes_back(bed: Testbed) -> None:
    with link_down(bed.hosts, "worker2"):
        wait_for("Swarm's notice", lambda: state(bed, "worker2") == "down", timeout=60)
    wait_for("worker2", lambda: state(bed, "worker2") == "ready", timeout=60)


def test_a_power_cut_ends_all_that_ran_and_keeps_the_disk(bed: Testbed, store: str) -> None:
    engine = bed.hosts["worker1"]
    before = engine.docker("image", "ls", "--quiet")
    pids = container_pids(engine)
    with powered_off(bed.hosts, "worker1"):
        assert not any(Path(f"/proc/{pid}").exists() for pid in pids)
    assert engine.docker("image", "ls", "--quiet") == before
    wait_for("the store after the power cut", lambda: ping(bed.hosts["manager3"], store), timeout=90)


def container_pids(engine: Engine) -> list[int]:
    """What runs in the host's containers, as this machine numbers it."""
    groups = Path("/sys/fs/cgroup/pids/fogswarm", engine.name)
    pids = [int(pid) for file in groups.glob("*/cgroup.procs") for pid in file.read_text().split()]
    assert pids
    return pids

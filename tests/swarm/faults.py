"""Bad days for hosts and containers, each undone at the end of its `with`, whatever happens inside."""

from collections.abc import Iterator
from contextlib import contextmanager

from tests.swarm.hosts import Engine, Hosts

_VXLAN = ("-p", "udp", "--dport", "4789", "-j", "DROP")


@contextmanager
def link_down(hosts: Hosts, name: str) -> Iterator[None]:
    """The host's cable is pulled: Swarm notices, and replaces what ran there."""
    hosts.link(name, up=False)
    try:
        yield
    finally:
        hosts.link(name, up=True)


@contextmanager
def overlay_cut(hosts: Hosts, name: str) -> Iterator[None]:
    """What containers of the host say to those of others is dropped, both ways; Swarm's own traffic passes.

    So the broker there, and whatever else runs there, is cut off, and Swarm has no reason to replace it.
    """
    engine = hosts[name]
    chains = ("INPUT", "OUTPUT")
    for chain in chains:
        engine.inside("iptables", "--wait", "-I", chain, *_VXLAN)
    try:
        yield
    finally:
        for chain in chains:
            engine.inside("iptables", "--wait", "-D", chain, *_VXLAN)


@contextmanager
def powered_off(hosts: Hosts, name: str) -> Iterator[None]:
    """The host loses power: all that runs on it is gone at once, and its disk stays."""
    hosts.power_cut(name)
    try:
        yield
    finally:
        hosts.power_on(name)


def kill_container(engine: Engine, container: str) -> None:
    """SIGKILL to the container's init, and so to all that runs in it, at once."""
    engine.docker("kill", "--signal", "KILL", container)

"""What one sentinel does next, as a pure function of what it sees.

A node that has data starts, whatever else is away: after a power cut in which the store stays dead the brokers must
come up all the same. Only a blank node waits, because only it may do harm: as a cluster of its own, or as a voter that
has forgotten what it had confirmed. So may one with data that is not its last, which is refused where the store knows
of later data. The nodes are asked for the truth; the store tells of nothing else but who is blank, and who of several
blank nodes may begin.

Three actions cannot be taken back: `Bootstrap` makes a cluster, `ForgetThenJoin` takes a member out of one, and
`WipeThenJoin` puts a node's data aside. Each has a function here that says what must be true (`_why_not_...`), and each
is planned once more, on a fresh look, right before it is done.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Literal

__all__ = [
    "Action",
    "Bootstrap",
    "ForgetThenJoin",
    "Join",
    "On",
    "Peer",
    "Reach",
    "Ready",
    "Refuse",
    "Start",
    "Store",
    "View",
    "Wait",
    "WipeThenJoin",
    "majority",
    "plan",
]

Reach = Literal["unresolved", "silent", "down", "refused", "up"]
"""What a look at a peer finds. `unresolved`: its name resolves to nobody. `silent`: its host does not answer. `down`:
it does, and no broker runs there, or not yet. `refused`: its node refuses our cookie. `up`: it says in which cluster it
is."""

_HOW = {
    "unresolved": "its name resolves to nobody",
    "silent": "its host does not answer",
    "down": "not running",
    "refused": "refuses our cookie",
    "up": "running",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Peer:
    """Another of the configured nodes. `members`, `running`: in its own words, where it is up. `blank`: its sentinel
    says, now and through the store, that it has no data."""

    name: str
    reach: Reach
    members: frozenset[str] = frozenset()
    running: frozenset[str] = frozenset()
    blank: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Store:
    """`master`: who holds the lease. `members` are what the store was told, and no reason to do anything: it may be
    empty while the cluster lives, and name nodes that are no more. `incarnation`: of the data with which our node was
    in the cluster last; 0: it knows of none."""

    master: str | None = None
    members: frozenset[str] = frozenset()
    incarnation: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class View:
    """All that a decision may depend on. `nodes` are the configured ones, `node` among them.

    `failed`: with the data that it has the server ended by itself, or was not up in time. `members`, `running`: in the
    words of our own node, where it is up. `peers`: one for each other node; empty when nobody has looked, which a node
    with data need not do before it starts. `store`: None while it is away. `incarnation`: of our own data; 0: a version
    that wrote none made it. Later ones are larger.
    """

    node: str
    nodes: tuple[str, ...]
    data: Literal["blank", "kept"]
    server: Literal["stopped", "starting", "up"] = "stopped"
    failed: bool = False
    members: frozenset[str] = frozenset()
    running: frozenset[str] = frozenset()
    peers: tuple[Peer, ...] = ()
    store: Store | None = field(default_factory=Store)
    incarnation: int = 0

    @property
    def up(self) -> tuple[Peer, ...]:
        return tuple(peer for peer in self.peers if peer.reach == "up")


@dataclass(frozen=True, slots=True)
class Bootstrap:
    """Start the blank node as a new cluster."""

    why: str


@dataclass(frozen=True, slots=True)
class Start:
    """Start the node with the data that it has."""

    why: str


@dataclass(frozen=True, slots=True)
class Join:
    """Start the blank node as a new member of the cluster of `peer`."""

    peer: str
    why: str


@dataclass(frozen=True, slots=True)
class ForgetThenJoin:
    """Let `peer` forget the member that this node was before it lost its data; then look again, and join."""

    peer: str
    why: str


@dataclass(frozen=True, slots=True)
class WipeThenJoin:
    """Put the data aside, which the cluster of `peer` has no use for; then look again, and join."""

    peer: str
    why: str


On = Literal["store", "lease", "peers", "node"]


@dataclass(frozen=True, slots=True)
class Wait:
    """Nothing can be done now that would be right whatever turns out; look again. `on`: on whom, which says how long
    at most: the store, who holds the lease to begin, other nodes, or our own."""

    why: str
    on: On = "peers"


@dataclass(frozen=True, slots=True)
class Refuse:
    """Nothing will be right until somebody changes something."""

    why: str


@dataclass(frozen=True, slots=True)
class Ready:
    """The node is up and in the cluster. `missing`: the configured nodes that are not running in it."""

    missing: tuple[str, ...] = ()


Action = Bootstrap | Start | Join | ForgetThenJoin | WipeThenJoin | Wait | Refuse | Ready


def majority(count: int) -> int:
    """How many of `count` are more than half."""
    return count // 2 + 1


def plan(view: View) -> Action:
    """The one thing to do. Raises nothing and asks nobody."""
    if view.server == "up":
        return _when_up(view)
    if view.data == "kept":
        return _with_data(view)
    if view.server == "starting":
        return Wait("the node boots", "node")
    return _when_blank(view)


def _when_up(view: View) -> Action:
    if why := _lives_elsewhere(view):
        return Refuse(why)
    if _why_not_wipe(view) is None:
        return _wipe(view)
    missing = tuple(name for name in view.nodes if name not in view.running)
    if len(view.running) < majority(len(view.members)):
        lost = _names(view.members - view.running)
        return Wait(f"quorum lost: of {_names(view.members)} these do not run: {lost}", "node")
    return Ready(missing)


def _with_data(view: View) -> Action:
    if _why_not_wipe(view) is None:
        return _wipe(view)
    if view.server == "starting":
        return Wait("the node boots with the data that it has", "node")
    if view.store is not None and view.store.incarnation > view.incarnation:
        return Refuse(_stale(view))
    return Start("it has its data")


def _when_blank(view: View) -> Action:
    if view.store is None:
        return Wait("it is blank, and Redis is away, which says who may begin and who is blank as well", "store")
    refusing = [peer.name for peer in view.peers if peer.reach == "refused"]
    if refusing:
        return Refuse(f"{_names(refusing)} refuses our Erlang cookie; give all nodes the same [cluster] cookie_file")
    if not view.up:
        if why := _why_not_bootstrap(view):
            return Wait(why, "lease" if all(peer.blank for peer in view.peers) else "peers")
        return Bootstrap("every node is here and blank, and this one holds the lease")
    if why := _split(view.up):
        return Refuse(why)
    peer = view.up[0]
    if any(each.members != peer.members for each in view.up):
        return Wait(f"{_names(each.name for each in view.up)} do not yet agree on who their members are")
    if view.node in peer.members:
        if why := _why_not_forget(view):
            return Wait(why)
        return ForgetThenJoin(peer.name, f"it has lost its data, and is still a member of {_names(peer.members)}")
    if len(peer.running & peer.members) < majority(len(peer.members)):
        return Wait(f"it is blank, and of {_names(peer.members)} only {_names(peer.running)} run: no majority")
    return Join(peer.name, f"it is blank, and no member of {_names(peer.members)}")


# -- what must be true before what cannot be taken back


def _why_not_bootstrap(view: View) -> str | None:
    """Every node is here and has no data: nobody's can be newer. And one only holds the lease, so one only begins."""
    if view.data != "blank" or view.store is None or {peer.name for peer in view.peers} | {view.node} != {*view.nodes}:
        return "it has not seen all nodes"
    unknown = [f"{peer.name} ({_HOW[peer.reach]})" for peer in view.peers if not peer.blank]
    if unknown:
        return f"it is blank, and does not know what data these have: {', '.join(unknown)}"
    if view.store.master != view.node:
        return f"all nodes are blank, and {view.store.master or 'nobody yet'} holds the lease to begin"
    return None


def _why_not_forget(view: View) -> str | None:
    """All others run, and say so of each other: what this node had confirmed is on a majority without it, also where
    one of two others lags. It would come back as a voter that knows nothing."""
    others = view.up[0].members - {view.node}
    away = others - {peer.name for peer in view.up}
    for peer in view.up:
        away |= others - peer.running
    if away:
        return f"it has lost its data, and may come back only when all others run; {_names(away)} does not, or not yet"
    if any(view.node in peer.running for peer in view.up):
        return f"it has lost its data, and {_names(others)} still take it for running"
    return None


def _why_not_wipe(view: View) -> str | None:
    """A majority of all nodes runs as one cluster that this node is no member of, and with its data it does not come
    up, or comes up and believes that it is one. Data that no cluster can use again is put aside."""
    inside = [peer for peer in view.up if view.node not in peer.members]
    if len(inside) < majority(len(view.nodes)) or len(inside) < len(view.up):
        return "no majority in view that has forgotten it"
    members = inside[0].members
    if any(peer.members != members for peer in inside) or not {peer.name for peer in inside} <= members:
        return "those in view are not one cluster"
    if len(inside[0].running & members) < majority(len(members)):
        return "they have no majority"
    believes = view.server == "up" and members <= view.members
    if not believes and not view.failed:
        return "it may come up with its data"
    return None


def _wipe(view: View) -> WipeThenJoin:
    peer = view.up[0]
    return WipeThenJoin(peer.name, f"it was forgotten by {_names(peer.members)} while it kept its data")


# -- what is wrong in a way that nothing here can mend


def _stale(view: View) -> str:
    """Its place was elsewhere meanwhile. As a voter it would have forgotten what the node confirmed there. Not put
    aside: that the store says so is reason enough to start nothing, and none to take a volume away."""
    host = view.node.rpartition("@")[2]
    return (
        f"its data is older than what {view.node} ran with last, on another host or volume, and has forgotten what was "
        f"confirmed there; stop it, and remove this host's volume: `docker volume rm <stack>_{host}-data`"
    )


def _lives_elsewhere(view: View) -> str | None:
    """Two clusters that both have data: which of them is the right one, only people know."""
    foreign = [peer for peer in view.up if not peer.members & view.members]
    if not view.members or not foreign:
        return _split(view.up)
    return _two(view.members, foreign[0].members)


def _split(peers: Iterable[Peer]) -> str | None:
    seen = list(peers)
    for peer in seen[1:]:
        if not peer.members & seen[0].members:
            return _two(seen[0].members, peer.members)
    return None


def _two(one: frozenset[str], other: frozenset[str]) -> str:
    return (
        f"there are two clusters, {_names(one)} and {_names(other)}; stop the nodes of the one whose data is worth "
        "less, and remove their data"
    )


def _names(names: Iterable[str]) -> str:
    return ", ".join(sorted(names)) or "nobody"

"""The plan as a table, case by case; and over all views that there can be, what it never does."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Iterator
from typing import Any

import pytest

from fogactors.cluster.plan import (
    Bootstrap,
    ForgetThenJoin,
    Join,
    Peer,
    Ready,
    Refuse,
    Start,
    Store,
    View,
    Wait,
    WipeThenJoin,
    majority,
    plan,
)

A, B, C = NODES = ("rabbit@a", "rabbit@b", "rabbit@c")
ALL = frozenset(NODES)


def names(letters: str) -> frozenset[str]:
    return frozenset(f"rabbit@{letter}" for letter in letters)


def up(name: str, members: str, running: str | None = None) -> Peer:
    return Peer(name=name, reach="up", members=names(members), running=names(members if running is None else running))


def down(name: str, reach: Any = "down") -> Peer:
    return Peer(name=name, reach=reach)


def blank(name: str) -> Peer:
    return Peer(name=name, reach="down", blank=True)


def view(node: str, data: Any, *peers: Peer, **more: Any) -> View:
    return View(node=node, nodes=NODES, data=data, peers=peers, **more)


def held_by(node: str | None, members: str = "") -> Store:
    return Store(master=node, members=names(members))


TABLE: dict[str, tuple[View, type, str]] = {
    # first boot of all
    "first boot, the lease is ours": (
        view(A, "blank", blank(B), blank(C), store=held_by(A)),
        Bootstrap,
        "every node is here",
    ),
    "first boot, another holds the lease": (
        view(B, "blank", blank(A), blank(C), store=held_by(A)),
        Wait,
        "rabbit@a holds the lease",
    ),
    "first boot, nobody has the lease yet": (
        view(A, "blank", blank(B), blank(C)),
        Wait,
        "nobody yet holds the lease",
    ),
    "first boot, one is up": (view(B, "blank", up(A, "a"), blank(C), store=held_by(A)), Join, "no member"),
    "first boot, two are up": (view(C, "blank", up(A, "ab"), up(B, "ab"), store=held_by(A)), Join, "no member"),
    "first boot, two are up, and differ for a moment": (
        view(C, "blank", up(A, "ab"), up(B, "b"), store=held_by(A)),
        Wait,
        "do not yet agree",
    ),
    # first boot while the first node is late
    "the first node is late": (
        view(B, "blank", down(A), blank(C), store=held_by(B)),
        Wait,
        "rabbit@a (not running)",
    ),
    "the first node is late and has no name yet": (
        view(C, "blank", down(A, "unresolved"), blank(B), store=held_by(C)),
        Wait,
        "rabbit@a (its name resolves to nobody)",
    ),
    "nobody has looked at the peers": (view(A, "blank", store=held_by(A)), Wait, "not seen all nodes"),
    # crash with data kept
    "crash, data kept": (view(B, "kept", up(A, "abc", "ac"), up(C, "abc", "ac")), Start, "has its data"),
    "crash, data kept, nobody has looked": (view(B, "kept"), Start, "has its data"),
    "crash, data kept, it boots": (view(B, "kept", server="starting"), Wait, "boots with the data"),
    "crash, data kept, the first start failed": (
        view(B, "kept", up(A, "abc", "ac"), up(C, "abc", "ac"), failed=True),
        Start,
        "has its data",
    ),
    # a place that moved to another host and came back to the volume that it had left
    "stale, the others run with a later one": (
        view(C, "kept", up(A, "abc", "ab"), up(B, "abc", "ab"), incarnation=1, store=Store(incarnation=2)),
        Refuse,
        "`docker volume rm <stack>_c-data`",
    ),
    "stale, nobody else runs": (
        view(C, "kept", down(A), down(B), incarnation=1, store=Store(incarnation=2)),
        Refuse,
        "older than what rabbit@c ran with last",
    ),
    "stale, nobody has looked": (view(C, "kept", incarnation=1, store=Store(incarnation=2)), Refuse, "older"),
    "stale, of a version that wrote none": (view(C, "kept", store=Store(incarnation=2)), Refuse, "older"),
    "stale, Redis gone": (view(C, "kept", incarnation=1, store=None), Start, "has its data"),
    "stale, Redis empty": (view(C, "kept", incarnation=1), Start, "has its data"),
    "data of the last incarnation": (
        view(C, "kept", incarnation=2, store=Store(incarnation=2)),
        Start,
        "has its data",
    ),
    "data later than Redis knows of, which was put back from a copy": (
        view(C, "kept", incarnation=3, store=Store(incarnation=2)),
        Start,
        "has its data",
    ),
    "neither the data nor Redis has one": (view(C, "kept"), Start, "has its data"),
    "stale, and it boots already": (
        view(C, "kept", incarnation=1, store=Store(incarnation=2), server="starting"),
        Wait,
        "boots with the data",
    ),
    "stale, forgotten, and its start failed": (
        view(C, "kept", up(A, "ab"), up(B, "ab"), incarnation=1, store=Store(incarnation=2), failed=True),
        WipeThenJoin,
        "forgotten",
    ),
    "stale no more, its volume was removed": (
        view(C, "blank", up(A, "abc", "ab"), up(B, "abc", "ab"), store=Store(incarnation=2)),
        ForgetThenJoin,
        "lost its data",
    ),
    # power cut of all three, started in any order
    "power cut, the first to come": (view(C, "kept", down(A), down(B)), Start, "has its data"),
    "power cut, one boots, the others are blank to the eye": (
        view(A, "kept", down(B, "unresolved"), down(C, "silent")),
        Start,
        "has its data",
    ),
    # volume lost
    "volume of a later node lost": (view(C, "blank", up(A, "abc", "ab"), up(B, "abc", "ab")), ForgetThenJoin, "lost"),
    "volume of the first node lost": (
        view(A, "blank", up(B, "abc", "bc"), up(C, "abc", "bc"), store=held_by(A)),
        ForgetThenJoin,
        "lost its data",
    ),
    "volume lost, one of the others already took it out": (
        view(C, "blank", up(A, "ab"), up(B, "ab")),
        Join,
        "no member",
    ),
    "volume lost, and they do not yet see that it is gone": (
        view(C, "blank", up(A, "abc"), up(B, "abc")),
        Wait,
        "still take it for running",
    ),
    "taken out, and another went down since": (
        view(C, "blank", up(A, "ab", "a"), down(B)),
        Wait,
        "no majority",
    ),
    # forgotten while it kept data
    "forgotten, and its start failed": (view(C, "kept", up(A, "ab"), up(B, "ab"), failed=True), WipeThenJoin, "forgot"),
    "forgotten, and it boots for too long": (
        view(C, "kept", up(A, "ab"), up(B, "ab"), failed=True, server="starting"),
        WipeThenJoin,
        "forgotten",
    ),
    "forgotten, and it comes up and believes to be a member": (
        view(C, "kept", up(A, "ab"), up(B, "ab"), server="up", members=ALL, running=names("c")),
        WipeThenJoin,
        "forgotten",
    ),
    "forgotten, not started yet": (view(C, "kept", up(A, "ab"), up(B, "ab")), Start, "has its data"),
    "forgotten by one, the other is not in view": (
        view(C, "kept", up(A, "ab"), down(B), failed=True),
        Start,
        "has its data",
    ),
    "forgotten by one, still a member for the other": (
        view(C, "kept", up(A, "ab"), up(B, "abc"), failed=True),
        Start,
        "has its data",
    ),
    "forgotten by two that are no cluster": (
        view(C, "kept", up(A, "a"), up(B, "b"), failed=True),
        Start,
        "has its data",
    ),
    "forgotten by two of whom one does not run": (
        view(C, "kept", up(A, "ab", "a"), up(B, "ab", "a"), failed=True),
        Start,
        "has its data",
    ),
    # volume of one lost while another is down
    "volume lost while another is down": (
        view(C, "blank", up(A, "abc", "a"), down(B)),
        Wait,
        "only when all others run; rabbit@b does not",
    ),
    "volume lost while another boots": (
        view(C, "blank", up(A, "abc", "a"), up(B, "abc", "ab")),
        Wait,
        "rabbit@b does not, or not yet",
    ),
    "volumes of two lost": (view(C, "blank", down(A), blank(B), store=held_by(C)), Wait, "rabbit@a (not running)"),
    # power cut with Redis gone
    "power cut, Redis gone": (view(A, "kept", down(B), down(C), store=None), Start, "has its data"),
    "blank, Redis gone": (view(A, "blank", blank(B), blank(C), store=None), Wait, "Redis is away"),
    "blank beside a cluster, Redis gone": (view(C, "blank", up(A, "ab"), up(B, "ab"), store=None), Wait, "Redis is"),
    "up, Redis gone": (
        view(A, "kept", up(B, "abc"), up(C, "abc"), server="up", members=ALL, running=ALL, store=None),
        Ready,
        "",
    ),
    # majority lost
    "up, majority lost": (
        view(A, "kept", down(B), down(C), server="up", members=ALL, running=names("a")),
        Wait,
        "quorum lost: of rabbit@a, rabbit@b, rabbit@c these do not run: rabbit@b, rabbit@c",
    ),
    "blank, majority lost": (view(C, "blank", down(A, "silent"), down(B, "silent")), Wait, "its host does not answer"),
    # Redis and the nodes differ: the nodes are right
    "Redis empty, the cluster lives, data kept": (view(C, "kept", up(A, "abc"), up(B, "abc")), Start, "has its data"),
    "Redis empty, the cluster lives, blank": (
        view(C, "blank", up(A, "abc", "ab"), up(B, "abc", "ab")),
        ForgetThenJoin,
        "lost its data",
    ),
    "Redis says members that do not exist": (
        view(A, "blank", blank(B), blank(C), store=held_by(A, "abcxyz")),
        Bootstrap,
        "every node is here",
    ),
    "Redis names a master that does not exist": (
        view(A, "blank", blank(B), blank(C), store=held_by("rabbit@x", "x")),
        Wait,
        "rabbit@x holds the lease",
    ),
    # two nodes claim to be first
    "two are clusters of their own, a third is blank": (
        view(C, "blank", up(A, "a"), up(B, "b"), store=held_by(C)),
        Refuse,
        "two clusters, rabbit@a and rabbit@b",
    ),
    "two are clusters of their own, one is ours": (
        view(A, "kept", up(B, "b"), down(C), server="up", members=names("a"), running=names("a")),
        Refuse,
        "two clusters",
    ),
    "ours is alone, and the majority is another cluster": (
        view(A, "kept", up(B, "bc"), up(C, "bc"), server="up", members=names("a"), running=names("a")),
        Refuse,
        "two clusters",
    ),
    # wrong cookie; a name that resolves to nobody
    "wrong cookie, blank": (
        view(B, "blank", down(A, "refused"), blank(C), store=held_by(B)),
        Refuse,
        "rabbit@a refuses our Erlang cookie",
    ),
    "wrong cookie, data kept": (view(B, "kept", down(A, "refused"), down(C, "refused")), Start, "has its data"),
    "no name resolves": (
        view(A, "blank", down(B, "unresolved"), down(C, "unresolved"), store=held_by(A)),
        Wait,
        "resolves to nobody",
    ),
    # up
    "all is well": (
        view(A, "kept", up(B, "abc"), up(C, "abc"), server="up", members=ALL, running=ALL),
        Ready,
        "",
    ),
    "it boots for the first time": (view(A, "blank", blank(B), blank(C), server="starting"), Wait, "boots"),
}


@pytest.mark.parametrize("case", TABLE)
def test_the_plan(case):
    seen, kind, why = TABLE[case]

    action = plan(seen)

    assert type(action) is kind, action
    assert why in getattr(action, "why", "")
    assert isinstance(action, Ready) or action.why


def test_whom_to_ask():
    assert plan(TABLE["first boot, one is up"][0]) == Join(A, "it is blank, and no member of rabbit@a")
    forget = plan(TABLE["volume of the first node lost"][0])
    assert isinstance(forget, ForgetThenJoin)
    assert forget.peer in (B, C)
    wipe = plan(TABLE["forgotten, and its start failed"][0])
    assert isinstance(wipe, WipeThenJoin)
    assert wipe.peer in (A, B)


def test_ready_names_who_is_missing():
    seen = view(A, "kept", up(B, "ab"), down(C), server="up", members=names("ab"), running=names("ab"))

    assert plan(seen) == Ready((C,))


# -- over everything that one node of three can see


def peers_of(name: str) -> Iterator[Peer]:
    for reach in ("unresolved", "silent", "down", "refused"):
        yield Peer(name=name, reach=reach)
        yield Peer(name=name, reach=reach, blank=True)
    letters = ("a", "b", "c", "ab", "ac", "bc", "abc")
    for members in letters:
        for running in (each for each in letters if set(each) <= set(members)):
            if name in names(members) and name in names(running):
                yield up(name, members, running)


def all_views() -> Iterator[View]:
    own: list[tuple[Any, Any, frozenset[str], frozenset[str]]]
    own = [("blank", "stopped", names(""), names("")), ("kept", "stopped", names(""), names(""))]
    own += [("kept", "up", names(members), names(running)) for members, running in (("a", "a"), ("abc", "a"))]
    own += [("kept", "up", names("abc"), names("abc")), ("kept", "starting", names(""), names(""))]
    stores = (None, held_by(None), held_by(A), held_by(B), held_by(A, "abc"), Store(master=A, incarnation=2))
    for state, failed, store, b, c in itertools.product(own, (False, True), stores, peers_of(B), peers_of(C)):
        data, server, members, running = state
        yield View(
            node=A,
            nodes=NODES,
            data=data,
            server=server,
            failed=failed,
            members=members,
            running=running,
            peers=(b, c),
            store=store,
        )


def test_what_is_never_done_whatever_it_sees():
    kinds: set[type] = set()
    for seen in all_views():
        action = plan(seen)
        kinds.add(type(action))
        b, c = seen.peers
        match action:
            case Bootstrap():
                assert seen.data == "blank"
                assert b.blank
                assert c.blank
                assert not seen.up
                assert seen.store is not None
                assert seen.store.master == A
            case ForgetThenJoin():
                assert seen.data == "blank"
                assert b.reach == c.reach == "up" or {b.members, c.members} <= {names("ab"), names("ac"), frozenset()}
                assert not any(A in peer.running for peer in seen.up)
                assert all(A in peer.members for peer in seen.up)
            case WipeThenJoin():
                assert seen.data == "kept"
                assert seen.failed or seen.server == "up"
                assert b.members == c.members == names("bc")  # the majority of three, without us, and one cluster
                assert names("bc") <= b.running
            case Join(peer):
                via = b if b.name == peer else c
                assert seen.data == "blank"
                assert via.reach == "up"
                assert A not in via.members
                assert len(via.running) >= majority(len(via.members))
            case Start():
                assert seen.data == "kept"
                assert seen.store is None or seen.store.incarnation <= seen.incarnation
            case _:
                pass
    assert kinds == {Bootstrap, ForgetThenJoin, WipeThenJoin, Join, Start, Wait, Refuse, Ready}


def test_nothing_destructive_without_a_majority_in_view():
    for seen in all_views():
        alone = dataclasses.replace(
            seen, peers=tuple(Peer(name=peer.name, reach="silent") for peer in seen.peers), store=held_by(A)
        )
        assert isinstance(plan(alone), Start | Wait | Ready | Refuse)

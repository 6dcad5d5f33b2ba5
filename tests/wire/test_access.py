"""Who may do what, as data: that a real broker and a real Redis enforce it is in tests/integration/test_access.py."""

import base64
import hashlib
import re

import pytest

from fogactors.errors import SpecError
from fogactors.wire import fog_topology
from fogactors.wire.access import (
    ACCESS_ROLES,
    GRANTS,
    TAG,
    Permissions,
    User,
    control_queue,
    part_of,
    permissions,
    redis_acl,
    redis_rules,
    tags,
    user_definitions,
)

TIERS = ("light", "medium", "heavy")
TOPOLOGY = fog_topology()
NAMES = [each.name for each in (*TOPOLOGY.exchanges, *TOPOLOGY.queues)]


def user(*roles, tiers=(), name="worker-1", password="secret"):
    return User(name, roles, tiers, password)


def matched(pattern: str, names: list[str] = NAMES) -> set[str]:
    """What RabbitMQ would let through: it searches, and anchors nothing."""
    return {name for name in names if re.search(pattern, name)}


@pytest.mark.parametrize(
    ("tiers", "ends"),
    [
        (("light",), {""}),
        (("medium",), {"", ".medium"}),
        (("heavy",), {"", ".medium", ".heavy"}),
        (("light", "medium"), {"", ".medium"}),
        ((), {"", ".medium", ".heavy"}),
    ],
)
def test_an_executor_reads_the_queues_of_its_own_tier_and_of_smaller_ones(tiers, ends):
    read = permissions(user("tier-executor", tiers=tiers), TIERS).read
    levels = ("tasks.high_priority", "tasks.normal", "tasks.low_priority")
    assert matched(read) == {level + end for level in levels for end in ends} | {"system.fanout"}


def test_an_executor_writes_results_metrics_delays_and_dead_letters_and_configures_its_own_queues():
    may = permissions(user("tier-executor", tiers=("light",)), TIERS)
    delays = {f"retry.{4**n}" for n in range(9)}
    assert matched(may.write) == {"results.topic", "metrics.topic", "dlx"} | delays
    assert matched(may.configure) == set()
    mine, foreign = (
        control_queue("worker-1", "node", "role", "ab12"),
        control_queue("worker-11", "node", "role", "ab12"),
    )
    for pattern in (may.configure, may.write, may.read):
        assert matched(pattern, [mine, foreign, "ctl.worker-1", f"x{mine}"]) == {mine}


@pytest.mark.parametrize("role", ACCESS_ROLES)
def test_patterns_are_anchored_and_a_dot_is_a_dot(role):
    may = permissions(user(role), TIERS)
    if may.write != "^.*$":
        for pattern in (may.configure, may.write, may.read):
            assert pattern == "^$" or (pattern.startswith("^(") and pattern.endswith(")$"))
            near = [changed for name in NAMES for changed in (f"x{name}", f"{name}x", name.replace(".", "x"))]
            own = (*GRANTS[role].makes, *GRANTS[role].sees)
            others = [name for name in near if name not in NAMES and not name.startswith(own)]
            assert role == "operator" or matched(pattern, others) == set()


def test_nobody_writes_to_the_default_exchange_or_makes_a_queue_of_the_system_but_the_admin():
    for role in ACCESS_ROLES:
        may = permissions(user(role), TIERS)
        if role == "admin":
            assert matched(may.configure) == set(NAMES)
        else:
            assert matched(may.write, ["amq.default"]) == set()  # as RabbitMQ calls it when it looks
            assert matched(may.configure) == set()


def test_a_subscriber_makes_queues_of_groups_and_not_the_exchange_of_events():
    may = permissions(user("event-subscriber"), TIERS)
    queues = {"events.audit.shop.#", "live.events.12ab"}
    names = [*queues, "events.topic", "events.", "xevents.a", "live.x"]
    assert matched(may.configure, names) == queues
    assert matched(may.write, names) == queues
    assert matched(may.read, names) == queues | {"events.topic"}


def test_a_worker_makes_task_queues_and_their_rooms_and_who_submits_only_looks_at_them():
    queues = ["work.research.tasks", "due.work.research.tasks", "work.", "xwork.a", "due.tasks.normal", "workxa"]
    worker, asker = permissions(user("task-worker"), TIERS), permissions(user("task-submitter"), TIERS)
    for kind in (worker.configure, worker.write, worker.read):
        assert matched(kind, queues) == set(queues[:2])
    assert "tasks.direct" in matched(worker.read, ["tasks.direct"])  # to bind them
    assert matched(worker.write, ["tasks.direct"]) == set()
    assert matched(asker.configure, queues) == matched(asker.read, queues) == set()
    assert asker.may_see("work.research.tasks")


def test_a_service_makes_queues_of_services_and_a_caller_only_looks_at_them():
    queues = ["rpc.math", "rpc.direct.x", "rpc.", "xrpc.math", "rpcxmath", "rpc.direct"]
    server, caller = permissions(user("rpc-server"), TIERS), permissions(user("rpc-caller"), TIERS)
    assert matched(server.configure, queues) == {"rpc.math", "rpc.direct.x"}
    assert matched(server.read, queues) == {"rpc.math", "rpc.direct.x", "rpc.direct"}
    assert matched(caller.configure, queues) == set()
    assert matched(caller.read, queues) == {"rpc.direct"}
    assert caller.may_see("rpc.math")


def test_several_roles_of_a_user_are_all_that_each_may():
    one, other = permissions(user("dlq-reaper"), TIERS), permissions(user("metrics-sink"), TIERS)
    both = permissions(user("dlq-reaper", "metrics-sink"), TIERS)
    for kind in ("configure", "write", "read"):
        assert matched(getattr(both, kind)) == matched(getattr(one, kind)) | matched(getattr(other, kind))
    assert permissions(user("dlq-reaper", "admin"), TIERS) == Permissions("^.*$", "^.*$", "^.*$")


def test_a_role_that_there_is_not_is_named():
    with pytest.raises(SpecError, match="'worker-1': there is no role 'boss'; there are tier-executor, "):
        user("boss")


def test_only_who_looks_after_it_gets_into_the_management_api():
    assert {role: tags(user(role)) for role in ACCESS_ROLES if tags(user(role))} == {
        "operator": ("monitoring",),
        "admin": ("administrator",),
    }


@pytest.mark.parametrize("role", ACCESS_ROLES)
def test_what_a_role_looks_at_when_it_starts_is_what_it_may_see(role):
    part = part_of(TOPOLOGY, (role,), TIERS, ("light",))
    may = permissions(user(role, tiers=("light",)), TIERS)
    assert {each.name for each in (*part.exchanges, *part.queues)} == {name for name in NAMES if may.may_see(name)}
    part.validate()


def test_an_executor_looks_at_its_own_queues_and_not_at_those_of_larger_tiers():
    part = part_of(TOPOLOGY, ("tier-executor",), TIERS, ("light",))
    names = {queue.name for queue in part.queues}
    assert "tasks.normal" in names
    assert names.isdisjoint({"tasks.normal.heavy", "dlq", "results.pending", "metrics.node"})


# -- the broker's users


def test_definitions_hold_who_has_a_password_hashed_as_rabbitmq_does_it():
    users = [
        user("tier-executor", tiers=("light",), name="w"),
        user("admin", name="boss"),
        user("redis-admin", name="redis"),
        user("operator", name="nobody", password=""),
    ]
    made = user_definitions(users, TIERS, "/fog")
    assert [(each["name"], each["tags"]) for each in made["users"]] == [("w", [TAG]), ("boss", [TAG, "administrator"])]
    assert [each["user"] for each in made["permissions"]] == ["w", "boss"]
    assert {each["vhost"] for each in made["permissions"]} == {"/fog"}
    hashed = base64.b64decode(made["users"][0]["password_hash"])
    assert hashed[4:] == hashlib.sha256(hashed[:4] + b"secret").digest()
    assert made == user_definitions(users, TIERS, "/fog")
    assert made["users"][0]["password_hash"] != made["users"][1]["password_hash"]
    assert "secret" not in repr(made)
    assert "secret" not in repr(users)


# -- Redis


def test_the_acl_file_has_who_has_a_password_and_no_default_user():
    text = redis_acl([user("tier-executor", name="w"), user("operator", name="nobody", password="")])
    off, mine, end = text.split("\n")
    assert off.startswith("user default off ")
    assert "nopass" not in off
    assert off.endswith(" ~* &* +@all")  # Redis reads its own file back as this user
    assert mine.startswith(f"user w on #{hashlib.sha256(b'secret').hexdigest()} resetkeys resetchannels ")
    assert end == ""
    assert "secret" not in text


@pytest.mark.parametrize("role", ACCESS_ROLES)
def test_commands_that_can_ruin_redis_are_on_for_nobody(role):
    words = redis_rules(user(role)).split()
    assert words.index("-@dangerous") > max(words.index(word) for word in words if word.startswith("+@"))
    given = {word for word in words[words.index("-@dangerous") :] if word.startswith("+")}
    assert given.isdisjoint(
        {"+flushall", "+flushdb", "+config", "+debug", "+replicaof", "+shutdown", "+acl", "+module"}
    )
    assert bool(given) == GRANTS[role].redis_admin


def test_several_roles_of_a_user_have_the_keys_of_each():
    words = redis_rules(user("tier-executor", "node-sentinel")).split()
    assert {"~fog:result:*", "~rabbitmq:node:*", "~fog:beats", "&fog:done:*", "&fog:cluster:events"} <= set(words)
    assert words.count("~fog:beats") == 1


def test_only_who_tells_of_the_cluster_and_who_looks_after_it_may_do_so():
    may = {role for role in ACCESS_ROLES if "&fog:cluster:events" in redis_rules(user(role)).split()}
    assert may == {"node-sentinel", "operator"}
    assert "&" not in redis_rules(user("metrics-sink"))  # whose port is open to all

"""Who may do what, at the broker and in Redis: a user for each job, with what its code needs and no more.

Everything is derived from one table, `GRANTS`: the broker's permissions, the ACL file of Redis, and what of the
topology a role looks at when it starts. Asks no server.
"""

from __future__ import annotations

import base64
import hashlib
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, Literal, get_args

from fogactors.errors import SpecError
from fogactors.messages import PRIORITIES
from fogactors.wire.topology import (
    CONTROL,
    DLQ,
    DLX,
    EVENTS,
    EVENTS_PREFIX,
    LIVE_PREFIX,
    METRICS,
    PARKED,
    RESULTS,
    RESULTS_PENDING,
    RETRY_STEPS_S,
    RPC,
    RPC_PREFIX,
    TASKS,
    WORK_PREFIX,
    Topology,
    due_queue,
    retry_exchange,
    task_queue,
)

__all__ = [
    "ACCESS_ROLES",
    "GRANTS",
    "TAG",
    "AccessRole",
    "Grant",
    "Permissions",
    "User",
    "control_queue",
    "is_on_broker",
    "part_of",
    "permissions",
    "redis_acl",
    "redis_rules",
    "tags",
    "user_definitions",
]

AccessRole = Literal[
    "tier-executor",
    "dlq-reaper",
    "metrics-sink",
    "node-sentinel",
    "heartbeat",
    "submitter",
    "task-submitter",
    "task-worker",
    "event-publisher",
    "event-subscriber",
    "rpc-caller",
    "rpc-server",
    "operator",
    "admin",
    "redis-admin",
]
"""What `fogactors run` runs, and who talks to it: `submitter`, `task-submitter`, `task-worker`, `event-publisher`,
`event-subscriber`, `rpc-caller` and `rpc-server` (what applications do, each by itself), `operator` (who looks after
it), `admin` (everything at the broker), `redis-admin` (everything in Redis)."""
ACCESS_ROLES: Final[tuple[AccessRole, ...]] = get_args(AccessRole)

TAG: Final = "fogactors"
"""What the broker's users that come from here carry beside the tags of the management API, to which it means nothing:
so one whose login was renamed can be told from one that people made themselves."""
NOTHING: Final = "^$"
"""As a permission: matches only the empty name, which nothing has."""


@dataclass(frozen=True, slots=True)
class Grant:
    """What one role needs. `write`: exchanges; `read`: queues, and exchanges to which it binds a queue of its own.
    `makes`: how the names of queues begin that it makes, binds and reads; `sees`: of those that it may look at, which
    the broker allows to whom it allows to write. `tasks`: it reads the task queues of its tiers as well. `control`: it
    has queues of its own, `ctl.<user>.*`. `everything`: in the virtual host. `broker_tags`: of the management API.
    `keys`, `channels`: patterns in Redis, a key's with `%R~` before it for reading only. `redis_admin`: it may save,
    see who is connected, and the like."""

    write: tuple[str, ...] = ()
    read: tuple[str, ...] = ()
    makes: tuple[str, ...] = ()
    sees: tuple[str, ...] = ()
    tasks: bool = False
    control: bool = False
    everything: bool = False
    on_broker: bool = True
    broker_tags: tuple[str, ...] = ()
    keys: tuple[str, ...] = ()
    channels: tuple[str, ...] = ()
    redis_admin: bool = False


_RETRY: Final = tuple(retry_exchange(step) for step in RETRY_STEPS_S)
_BEATS: Final = ("fog:beat:*", "fog:beats")
_ENDS: Final = ("fog:result:*", "fog:attempt:*")
_LETTERS: Final = ("fog:dlq:*",)
_DONE: Final = ("fog:done:*",)
_CLUSTER_EVENTS: Final = "fog:cluster:events"
_ALL: Final = ".*"

COMMANDS: Final = (
    # No -@all before: what is not named is off for a new user. SCAN and its like name keys of others, whatever the key
    # patterns say; a script is loaded, never flushed under the feet of others.
    "+@connection +@read +@write +@pubsub +@transaction +eval +evalsha +script|load +time "
    "-@dangerous -scan -randomkey -dbsize -pubsub"
)
ADMIN_COMMANDS: Final = (
    # What the scheduler before us renamed away stays off for everybody: FLUSHDB, FLUSHALL, CONFIG.
    "+@all -@dangerous +info +keys +save +bgsave +bgrewriteaof +lastsave +role +client +slowlog +latency +memory|usage"
)

_SUBMITTER: Final = Grant(
    write=(TASKS, *_RETRY, CONTROL),
    read=(RESULTS,),
    control=True,
    keys=(*_ENDS, "fog:cancelled", "fog:once:*", *_LETTERS),
    channels=_DONE,
)

GRANTS: Final[Mapping[AccessRole, Grant]] = {
    "tier-executor": Grant(
        write=(RESULTS, METRICS, DLX, *_RETRY),
        read=(CONTROL,),
        tasks=True,
        control=True,
        keys=(*_BEATS, *_ENDS, "fog:cancelled"),
        channels=_DONE,
    ),
    "dlq-reaper": Grant(
        write=(RESULTS, METRICS, PARKED, DLX, TASKS, *_RETRY),
        read=(CONTROL, DLQ, PARKED, RESULTS_PENDING),
        control=True,
        keys=(*_BEATS, *_ENDS, *_LETTERS),
        channels=_DONE,
    ),
    "metrics-sink": Grant(
        write=(RESULTS,),
        read=(CONTROL, "metrics.node"),
        control=True,
        keys=_BEATS,
    ),
    "node-sentinel": Grant(
        write=(CONTROL, METRICS, RESULTS),
        read=(CONTROL,),
        control=True,
        keys=(
            *(*_BEATS, "rabbitmq:cluster:*", "rabbitmq:node:*"),
            *("fog:brokers", "fog:cluster:*", "fog:fence:*", "fog:incarnation:*"),
        ),
        channels=(_CLUSTER_EVENTS,),
    ),
    "heartbeat": Grant(keys=_BEATS),
    "submitter": _SUBMITTER,
    # Whoever makes a queue may read it as well, so who only submits makes none.
    "task-submitter": Grant(
        write=_SUBMITTER.write,
        read=_SUBMITTER.read,
        sees=(WORK_PREFIX,),
        control=True,
        keys=_SUBMITTER.keys,
        channels=_SUBMITTER.channels,
    ),
    "task-worker": Grant(
        write=(RESULTS, DLX, *_RETRY),
        read=(CONTROL, TASKS),
        makes=(WORK_PREFIX, due_queue(WORK_PREFIX)),
        control=True,
        keys=(*_ENDS, "fog:cancelled"),
        channels=_DONE,
    ),
    "event-publisher": Grant(write=(EVENTS,)),
    "event-subscriber": Grant(
        write=(DLX, *_RETRY), read=(EVENTS,), makes=(EVENTS_PREFIX, LIVE_PREFIX), keys=("fog:once:*",)
    ),
    "rpc-caller": Grant(write=(RPC,), read=(RPC,), sees=(RPC_PREFIX,), control=True),
    "rpc-server": Grant(write=(RPC,), read=(RPC,), makes=(RPC_PREFIX,)),
    "operator": Grant(
        write=(*_SUBMITTER.write, PARKED),
        read=(_ALL,),
        control=True,
        broker_tags=("monitoring",),
        keys=(*_SUBMITTER.keys, *_BEATS, "%R~rabbitmq:*", "%R~fog:*"),
        channels=(*_DONE, _CLUSTER_EVENTS),
    ),
    "admin": Grant(everything=True, broker_tags=("administrator",), keys=("*",), channels=("*",), redis_admin=True),
    "redis-admin": Grant(on_broker=False, keys=("*",), channels=("*",), redis_admin=True),
}


@dataclass(frozen=True, slots=True)
class User:
    """`name`: the login, the same at the broker and in Redis. `tiers`: those that a tier-executor serves, none: all; it
    may read the queues of the smaller ones as well, because it helps them. `writes`, `reads`: exchanges, and exchanges
    and queues, that applications have declared and let it use. Raises `SpecError` for a role that there is not."""

    name: str
    roles: tuple[AccessRole, ...]
    tiers: tuple[str, ...] = ()
    password: str = field(default="", repr=False)
    writes: tuple[str, ...] = ()
    reads: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        for role in self.roles:
            if role not in GRANTS:
                raise SpecError(f"user {self.name!r}: there is no role {role!r}; there are {', '.join(GRANTS)}")

    @property
    def grants(self) -> tuple[Grant, ...]:
        return tuple(GRANTS[role] for role in self.roles)


@dataclass(frozen=True, slots=True)
class Permissions:
    """Three regular expressions, as RabbitMQ takes them. It does not anchor them: these are."""

    configure: str
    write: str
    read: str

    def may_see(self, name: str) -> bool:
        """Whether a passive declare is allowed: 4.3 refuses one of what may neither be written nor read."""
        return any(re.search(pattern, name) is not None for pattern in (self.write, self.read))


def control_queue(user: str, *parts: str) -> str:
    """A queue of this user's own, `ctl.<user>.<parts>`: the only ones that it may make."""
    return ".".join(("ctl", user, *parts))


def is_on_broker(user: User) -> bool:
    return any(grant.on_broker for grant in user.grants)


def permissions(user: User, tiers: Sequence[str]) -> Permissions:
    """What the user may in the virtual host. `tiers`: all that there are, from the lightest to the heaviest."""
    grants = user.grants
    if any(grant.everything for grant in grants):
        return Permissions("^.*$", "^.*$", "^.*$")
    own = _quoted(control_queue(user.name, "")) + ".*"
    control = [own] if any(grant.control for grant in grants) else []
    reads = [_quoted(name) for grant in grants for name in grant.read]
    if any(grant.tasks for grant in grants):
        reads += [_quoted(name) for name in _task_queues(user.tiers or tuple(tiers), tuple(tiers))]
    reads += [_quoted(name) for name in user.reads]
    writes = [_quoted(name) for names in (*(grant.write for grant in grants), user.writes) for name in names]
    made = control + [_family(prefix) for grant in grants for prefix in grant.makes]
    seen = [_family(prefix) for grant in grants for prefix in grant.sees]
    return Permissions(_anchored(made), _anchored(made + seen + writes), _anchored(made + reads))


def _quoted(name: str) -> str:
    return name if name == _ALL else re.escape(name).replace(r"\-", "-")  # for people, who read them


def _family(prefix: str) -> str:
    """Whatever begins so, but for an exchange of the system: names are all that a permission knows."""
    others = [name[len(prefix) :] for name in (RPC, EVENTS) if name.startswith(prefix)]
    return f"{_quoted(prefix)}{''.join(f'(?!{_quoted(name)}$)' for name in others)}.+"


def _task_queues(served: tuple[str, ...], tiers: tuple[str, ...]) -> list[str]:
    largest = max((tiers.index(tier) for tier in served if tier in tiers), default=-1)
    return [task_queue(priority, tier, tiers[0]) for tier in tiers[: largest + 1] for priority in PRIORITIES]


def _anchored(patterns: Iterable[str]) -> str:
    unique = list(dict.fromkeys(patterns))
    return f"^({'|'.join(unique)})$" if unique else NOTHING


def tags(user: User) -> tuple[str, ...]:
    """Of the management API. A user of a role has none: it does not get in there."""
    return tuple(dict.fromkeys(tag for grant in user.grants for tag in grant.broker_tags))


def part_of(topology: Topology, roles: Sequence[AccessRole], tiers: Sequence[str], served: Sequence[str]) -> Topology:
    """What these roles deal with, and so may look at; `served`: the tiers of this process."""
    may = permissions(User("-", tuple(roles), tuple(served)), tiers)
    exchanges = tuple(each for each in topology.exchanges if may.may_see(each.name))
    queues = tuple(each for each in topology.queues if may.may_see(each.name))
    names = {each.name for each in (*exchanges, *queues)}
    return Topology(
        exchanges,
        queues,
        tuple(each for each in topology.bindings if each.exchange in names and each.queue in names),
    )


def user_definitions(users: Iterable[User], tiers: Sequence[str], vhost: str) -> dict[str, Any]:
    """The users of the broker and their permissions, as definitions.json has them; passwords are hashed. Those without
    a password are left out: nobody could be meant. The salt is made from the password, so that the same users are the
    same definitions."""
    there = [user for user in users if user.password and is_on_broker(user)]
    return {
        "users": [
            {
                "name": user.name,
                "password_hash": _broker_hash(user),
                "hashing_algorithm": "rabbit_password_hashing_sha256",
                "tags": [TAG, *tags(user)],
            }
            for user in there
        ],
        "permissions": [
            {"user": user.name, "vhost": vhost, "configure": may.configure, "write": may.write, "read": may.read}
            for user in there
            for may in [permissions(user, tiers)]
        ],
    }


def _broker_hash(user: User) -> str:
    salt = hashlib.sha256(f"{user.name}:{user.password}".encode()).digest()[:4]
    return base64.b64encode(salt + hashlib.sha256(salt + user.password.encode()).digest()).decode()


def redis_rules(user: User) -> str:
    """What Redis' ACL says of one user, without its name."""
    keys = dict.fromkeys(key for grant in user.grants for key in grant.keys)
    channels = dict.fromkeys(channel for grant in user.grants for channel in grant.channels)
    commands = ADMIN_COMMANDS if any(grant.redis_admin for grant in user.grants) else COMMANDS
    return " ".join(
        (
            f"on #{hashlib.sha256(user.password.encode()).hexdigest()} resetkeys resetchannels",
            *(key if key.startswith("%") else f"~{key}" for key in keys),
            *(f"&{channel}" for channel in channels),
            f"-@all {commands}",
        )
    )


def redis_acl(users: Iterable[User]) -> str:
    """The text of Redis' ACL file: the users that have a password, which is hashed, and no other.

    `default` is off, so nobody can be it. It may do everything all the same: as this user Redis reads its append-only
    file back, and leaves out each transaction, such as what a script has written, that the user may not run.
    """
    lines = [f"user {user.name} {redis_rules(user)}" for user in users if user.password]
    return "\n".join(("user default off resetpass ~* &* +@all", *lines, ""))

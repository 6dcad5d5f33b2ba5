"""`[users]`: who logs in at the broker and in Redis, and as whom this process does.

What a user may do there follows from its roles (`fogactors.wire.access`); passwords come from secret files.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Annotated, Final, cast
from urllib.parse import quote

from msgspec import Meta

from fogactors.app.settings_topology import ExchangeSettings, QueueSettings, task_queues
from fogactors.wire.access import ACCESS_ROLES, AccessRole, User

__all__ = ["DEFAULT_USERS", "UserSettings", "find_user", "user_conflicts", "users_of", "with_login"]

Login = Annotated[
    str,
    Meta(pattern=r"^([A-Za-z0-9][A-Za-z0-9_-]{0,62})?\Z", description="at most 63 letters, digits, - and _"),
]


@dataclass(frozen=True, slots=True, kw_only=True)
class UserSettings:
    """`tiers`: of a tier-executor; empty: all. `login`: its name at the broker and in Redis; empty: that of the table.
    `password`: empty: there is no such user."""

    name: str
    roles: tuple[str, ...]
    tiers: tuple[str, ...] = ()
    login: Login = ""
    password: str = field(default="", repr=False)

    @property
    def login_name(self) -> str:
        return self.login or self.name


DEFAULT_USERS: Final = (
    UserSettings(name="admin", roles=("admin",)),
    UserSettings(name="operator", roles=("operator",)),
    UserSettings(name="sentinel", roles=("node-sentinel",)),
    UserSettings(name="worker1", roles=("tier-executor",), tiers=("light",)),
    UserSettings(name="worker2", roles=("tier-executor",), tiers=("medium",)),
    UserSettings(name="worker3", roles=("tier-executor",), tiers=("heavy",)),
    UserSettings(name="reaper", roles=("dlq-reaper",)),
    UserSettings(name="metrics", roles=("metrics-sink",)),
    UserSettings(name="submitter", roles=("submitter",)),
    UserSettings(name="redis", roles=("redis-admin",)),
)


def users_of(
    users: Sequence[UserSettings],
    exchanges: Sequence[ExchangeSettings] = (),
    queues: Sequence[QueueSettings] = (),
) -> tuple[User, ...]:
    """Those of the settings as `fogactors.wire.access` takes them, also those without a password; and what of the
    applications' exchanges and queues each may use."""
    return tuple(
        User(
            each.login_name,
            cast("tuple[AccessRole, ...]", each.roles),
            each.tiers,
            each.password,
            writes=tuple(_writes(each.name, exchanges, queues)),
            reads=(
                *(exchange.name for exchange in exchanges if each.name in exchange.subscribers),
                *(name for queue in queues if each.name in queue.readers for name in task_queues(queue)),
            ),
        )
        for each in users
    )


def _writes(user: str, exchanges: Sequence[ExchangeSettings], queues: Sequence[QueueSettings]) -> Iterator[str]:
    """Who may submit tasks looks whether their queue is there, which the broker lets those who may write to it."""
    for exchange in exchanges:
        if user in exchange.publishers:
            yield exchange.name
            for queue in queues:
                if queue.priority and any(text.split()[:1] == [exchange.name] for text in queue.bindings):
                    yield from task_queues(queue)


def find_user(users: Sequence[UserSettings], name: str) -> UserSettings | None:
    return next((each for each in users if each.name == name), None)


def with_login(url: str, user: UserSettings) -> str:
    """The URL with this user's name and password in it. One that names a user already keeps it, and so does one that
    needs none."""
    scheme, _, rest = url.partition("://")
    netloc = rest.partition("/")[0]
    if not rest or scheme == "memory" or "@" in netloc:
        return url
    return f"{scheme}://{quote(user.login_name, safe='')}:{quote(user.password, safe='')}@{rest}"


def user_conflicts(
    users: Sequence[UserSettings], tiers: Sequence[str], process_user: str
) -> Iterator[tuple[tuple[str, ...], str]]:
    """As `fogactors.app.settings.conflicts`."""
    logins: dict[str, str] = {}
    for user in users:
        unknown = next((role for role in user.roles if role not in ACCESS_ROLES), None)
        if unknown is not None or not user.roles:
            there = ", ".join(ACCESS_ROLES)
            text = (
                f"there is no role {unknown!r}; there are {there}" if unknown else f"expected at least one of {there}"
            )
            yield (f"users.{user.name}.roles",), text
        if not user.password:
            continue  # there is no such user: the default ones serve tiers that a file may have renamed
        tier = next((tier for tier in user.tiers if tier not in tiers), None)
        if tier is not None:
            yield (f"users.{user.name}.tiers",), f"there is no tier {tier!r}; [tiers] has {', '.join(tiers)}"
        other = logins.setdefault(user.login_name, user.name)
        if other != user.name:
            yield (f"users.{user.name}.login",), f"{user.login_name!r} is that of [users.{other}] as well"
    if process_user:
        found = find_user(users, process_user)
        if found is None:
            yield ("node.user",), f"there is no [users.{process_user}]; there are {', '.join(u.name for u in users)}"
        elif not found.password:
            yield (f"users.{process_user}.password", "node.user"), "missing, and [node] user names it"

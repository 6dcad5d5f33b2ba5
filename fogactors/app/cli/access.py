"""`fogactors access`: who may do what at the broker and in Redis. Asks neither, and prints no password."""

from __future__ import annotations

from typing import Any

import typer

from fogactors.app.cli.common import Json, load_settings, print_json
from fogactors.app.settings_users import users_of
from fogactors.errors import ConfigError
from fogactors.wire.access import User, is_on_broker, permissions, redis_acl, redis_rules, tags

__all__ = ["access"]

access = typer.Typer(help="Users of the broker and of Redis: what each may do, Redis' ACL file.", no_args_is_help=True)


@access.command()
def show(json: Json = False) -> None:
    """What each user of actors.toml (table users) may do, from its roles and tiers: at the broker and in Redis."""
    settings = load_settings()
    tiers = [tier.name for tier in settings.tiers]
    rows = [_row(user, tiers) for user in users_of(settings.users, settings.exchanges, settings.queues)]
    if json:
        print_json(rows)
        return
    for row in rows:
        print(f"{row['user']}: {', '.join(row['roles'])}" + ("" if row["password"] else " (no password: not made)"))
        for key in ("tags", "configure", "write", "read", "redis"):
            if row[key]:
                print(f"  {key:<9}  {', '.join(row[key]) if key == 'tags' else row[key]}")


@access.command("redis-acl")
def acl() -> None:
    """Print Redis' ACL file: the users that have a password, which is hashed. The default user is off."""
    users = users_of(load_settings().users)
    if not any(user.password for user in users):
        text = "no user of [users] has a password, so nobody could log in; set FOGACTORS_USERS__<NAME>__PASSWORD_FILE"
        raise ConfigError(text)
    print(redis_acl(users), end="")


def _row(user: User, tiers: list[str]) -> dict[str, Any]:
    may = permissions(user, tiers) if is_on_broker(user) else None
    return {
        "user": user.name,
        "roles": list(user.roles),
        "tiers": list(user.tiers),
        "password": bool(user.password),
        "tags": list(tags(user)),
        "configure": may and may.configure,
        "write": may and may.write,
        "read": may and may.read,
        "redis": redis_rules(user).partition(" resetchannels ")[2],
    }

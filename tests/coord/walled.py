"""A Redis with our ACL file."""

from __future__ import annotations

from collections.abc import Mapping
from secrets import token_urlsafe

from fogactors.wire.access import User, redis_acl
from tests.services import RedisServer
from tests.services.routes import HOME

_KEEPER = "keeper"


class AclRedis(RedisServer):
    """Without a default user: who wants in is one of `users`, by any key of the caller's. `url` is that of one more,
    who looks after Redis."""

    def __init__(self, users: Mapping[str, User]) -> None:
        super().__init__(config={"aclfile": f"{HOME}/users.acl"})
        self._people = dict(users) | {_KEEPER: User(_KEEPER, ("redis-admin",), (), token_urlsafe(12))}

    @property
    def url(self) -> str:
        return self.url_of(_KEEPER)

    def url_of(self, key: str) -> str:
        return self.url_for(self._people[key].name, self._people[key].password)

    def write_configuration(self) -> None:
        super().write_configuration()
        file = self.home / "users.acl"
        file.write_text(redis_acl(self._people.values()))
        file.chmod(0o600)

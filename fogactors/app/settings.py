"""What can be tuned, as frozen data, and `load`, which reads it from `actors.toml`, the environment and secret files.

Every field says its range in its type. Rules between values that a run cannot survive are in `conflicts`; `load`
refuses them. What is only unwise, or needs a look at the outside, is in `fogactors.app.check`.

The field's name is the key, the class the table; `actors.toml` at the root of the repository says what each is for.
"""

from __future__ import annotations

import json
import socket
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, fields, is_dataclass, replace
from pathlib import Path
from types import MappingProxyType
from typing import Annotated, Any, Final, Literal, cast, get_args

from msgspec import Meta

from fogactors.app.settings_load import YEAR_S, dotted, load_tree, masked, wrong
from fogactors.app.settings_tls import TlsSettings, tls_conflicts, with_tls
from fogactors.app.settings_topology import ExchangeSettings, PolicySettings, QueueSettings, topology_conflicts
from fogactors.app.settings_users import DEFAULT_USERS, UserSettings, find_user, user_conflicts, with_login
from fogactors.messages import Reason
from fogactors.tasks.limits import CONSUMER_TIMEOUT_S, SETTLE_MARGIN_S, longest_s
from fogactors.tasks.once import IDEMPOTENCY_TTL_S
from fogactors.wire.topology import EVENTS_MAX_LENGTH, Topology, fog_topology

__all__ = [
    "DEFAULT_FILE",
    "DEFAULT_TIERS",
    "Settings",
    "TierSettings",
    "UserSettings",
    "load",
    "masked",
    "system_topology",
]

DEFAULT_FILE: Final = "actors.toml"

Seconds = Annotated[float, Meta(gt=0, le=YEAR_S)]
"""Bounded above too, because event loops refuse timers that are centuries away."""
Count = Annotated[int, Meta(ge=1)]
Name = Annotated[
    str,
    Meta(pattern=r"^([A-Za-z0-9][A-Za-z0-9_-]{0,62})?\Z", description="at most 63 letters, digits, - and _"),
]


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeSettings:
    """`name`: this node, in beats, metrics and logs; empty: the host's name up to its first dot, because the name is
    one word of a routing key. `user`: a table of `[users]`, whose name and password go into URLs that have none.
    `memory_mb`: MiB that all tasks of one process share; 0: what its tiers have."""

    name: Name = ""
    user: str = ""
    memory_mb: Annotated[int, Meta(ge=0)] = 0

    def __post_init__(self) -> None:
        if not self.name:
            object.__setattr__(self, "name", socket.gethostname().partition(".")[0] or "localhost")


@dataclass(frozen=True, slots=True, kw_only=True)
class BusSettings:
    """`url`: `memory://` or `amqp://user:password@host1:5672,host2/%2Ffog`. `management_url` is for `fogactors
    topology` alone. `consumer_timeout_s`: what the broker's own `consumer_timeout` is, or less."""

    url: str = "memory://"
    management_url: str = ""
    boot_wait_s: Annotated[float, Meta(ge=0, le=YEAR_S)] = 10.0
    setup_wait_s: Annotated[float, Meta(ge=0, le=YEAR_S)] = 0.0
    reconnect_max_s: Seconds = 0.25
    publish_timeout_s: Seconds = 10.0
    consumer_timeout_s: Annotated[float, Meta(gt=SETTLE_MARGIN_S, le=YEAR_S)] = CONSUMER_TIMEOUT_S
    max_body_bytes: Count = 1_048_576

    @property
    def max_time_limit_s(self) -> float:
        """The largest time limit that a task may have."""
        return longest_s(self.consumer_timeout_s)


@dataclass(frozen=True, slots=True, kw_only=True)
class CoordSettings:
    url: str = "memory://"
    result_ttl_s: Seconds = 900.0
    result_inline_bytes: Count = 65_536
    idempotency_ttl_s: Seconds = IDEMPOTENCY_TTL_S


@dataclass(frozen=True, slots=True, kw_only=True)
class TierSettings:
    """`cpu`: cores, `memory_mb`: MiB, `slots`: how many tasks that state no need of their own share them."""

    name: str
    cpu: Annotated[float, Meta(gt=0, le=65_536)]
    memory_mb: Count
    slots: Annotated[int, Meta(ge=1, le=10_000)]


DEFAULT_TIERS: Final = (
    TierSettings(name="light", cpu=0.5, memory_mb=512, slots=4),
    TierSettings(name="medium", cpu=0.75, memory_mb=768, slots=2),
    TierSettings(name="heavy", cpu=1.0, memory_mb=1024, slots=2),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class ExecutorSettings:
    look_ahead: Annotated[int, Meta(ge=1, le=10_000)] = 1
    guarantee_every: Annotated[int, Meta(ge=2)] = 10
    help_after_s: Annotated[float, Meta(ge=0, le=YEAR_S)] = 0.25
    help_grace_s: Seconds = 1.0
    drain_s: Seconds = 20.0
    watchdog_s: Seconds = 10.0


@dataclass(frozen=True, slots=True, kw_only=True)
class TasksSettings:
    modules: tuple[str, ...] = ()
    time_limit_s: Seconds = 1500.0
    recycle_after: Count = 200
    process_start_s: Seconds = 20.0


@dataclass(frozen=True, slots=True, kw_only=True)
class SupervisionSettings:
    intensity: Annotated[int, Meta(ge=0)] = 3
    period_s: Seconds = 5.0
    backoff_first_s: Seconds = 0.2
    backoff_max_s: Seconds = 30.0
    mailbox: Count = 1000


@dataclass(frozen=True, slots=True, kw_only=True)
class HeartbeatSettings:
    interval_s: Seconds = 30.0
    ttl_s: Seconds = 90.0
    loop_blocked_s: Seconds = 30.0
    loop_dead_s: Seconds = 60.0


@dataclass(frozen=True, slots=True, kw_only=True)
class ProbeSettings:
    """Where a process answers `/livez` and `/readyz`; port 0: nowhere."""

    host: str = "127.0.0.1"
    port: Annotated[int, Meta(ge=0, le=65_535)] = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class MetricsSettings:
    """`host`, `port`: where the role metrics-sink serves `/metrics`; port 0: nowhere. `interval_s`: between two reports
    of a process; 0: none."""

    host: str = "127.0.0.1"
    port: Annotated[int, Meta(ge=0, le=65_535)] = 0
    interval_s: Annotated[float, Meta(ge=0, le=YEAR_S)] = 10.0


@dataclass(frozen=True, slots=True, kw_only=True)
class ClusterSettings:
    """Of node-sentinel; see `ClusterConfig`. A name without @ is a host, whose node is `rabbit@<host>`. `node`: empty:
    this host's."""

    nodes: tuple[str, ...] = ("rabbitmq1", "rabbitmq2", "rabbitmq3")
    node: str = ""
    data_dir: str = "/var/lib/rabbitmq/mnesia"
    cookie_file: str = ""
    server: str = "rabbitmq-server"
    command: tuple[str, ...] = ()
    epmd_port: Annotated[int, Meta(ge=1, le=65_535)] = 4369
    redis_wait_s: Seconds = 120.0
    master_wait_s: Seconds = 180.0
    reach_tries: Count = 30
    reach_every_s: Seconds = 5.0
    boot_s: Seconds = 300.0
    forgotten_s: Seconds = 30.0
    watch_s: Seconds = 30.0
    lease_s: Seconds = 15.0
    stop_wait_s: Seconds = 150.0
    stop_drain_s: Seconds = 30.0
    stop_s: Seconds = 60.0

    def __post_init__(self) -> None:
        if not self.node:
            object.__setattr__(self, "node", socket.gethostname().partition(".")[0] or "localhost")

    @property
    def stop_budget_s(self) -> float:
        """The longest that an orderly stop may take: its turn, the drain, the server's own end, and some for the
        rest."""
        return self.stop_wait_s + self.stop_drain_s + self.stop_s + 30.0


@dataclass(frozen=True, slots=True, kw_only=True)
class LetterSettings:
    """What becomes of the dead letters of one reason; see `DlqPolicy`."""

    replay_after_s: Annotated[float, Meta(ge=0, le=YEAR_S)] = 0.0
    max_replays: Annotated[int, Meta(ge=0, le=1000)] = 1
    retention_s: Annotated[float, Meta(ge=0, le=YEAR_S)] = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class DlqSettings:
    """`retention_s`: the stream's age limit, which the broker takes in whole seconds. And a table for each reason."""

    retention_s: Annotated[int, Meta(ge=1, le=int(YEAR_S))] = 604_800
    failed: LetterSettings = LetterSettings()
    time_limit: LetterSettings = LetterSettings()
    memory_limit: LetterSettings = LetterSettings()
    expired: LetterSettings = LetterSettings()
    worker_lost: LetterSettings = LetterSettings()
    unknown_task: LetterSettings = LetterSettings()
    bad_arguments: LetterSettings = LetterSettings()
    malformed: LetterSettings = LetterSettings()
    rejected: LetterSettings = LetterSettings()
    unrecorded: LetterSettings = LetterSettings()

    def by_reason(self) -> dict[Reason, LetterSettings]:
        return {reason: getattr(self, reason) for reason in get_args(Reason)}


@dataclass(frozen=True, slots=True, kw_only=True)
class EventsSettings:
    max_length: Count = EVENTS_MAX_LENGTH


@dataclass(frozen=True, slots=True, kw_only=True)
class ShutdownSettings:
    budget_s: Seconds = 30.0


@dataclass(frozen=True, slots=True, kw_only=True)
class LogSettings:
    level: Literal["debug", "info", "warning", "error"] = "info"
    format: Literal["auto", "text", "json"] = "auto"


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """All of it. `Settings()` is the defaults.

    `provenance`: dotted key to `default`, the file's path, or the variable's name. It takes no part in comparisons: two
    settings are equal when their values are.
    """

    node: NodeSettings = field(default_factory=NodeSettings)
    bus: BusSettings = BusSettings()
    coord: CoordSettings = CoordSettings()
    tls: TlsSettings = field(default_factory=TlsSettings)
    tiers: tuple[TierSettings, ...] = DEFAULT_TIERS
    executor: ExecutorSettings = ExecutorSettings()
    tasks: TasksSettings = TasksSettings()
    supervision: SupervisionSettings = SupervisionSettings()
    heartbeat: HeartbeatSettings = HeartbeatSettings()
    probe: ProbeSettings = ProbeSettings()
    metrics: MetricsSettings = MetricsSettings()
    cluster: ClusterSettings = field(default_factory=ClusterSettings)
    dlq: DlqSettings = DlqSettings()
    events: EventsSettings = EventsSettings()
    exchanges: tuple[ExchangeSettings, ...] = ()
    queues: tuple[QueueSettings, ...] = ()
    policies: tuple[PolicySettings, ...] = ()
    users: tuple[UserSettings, ...] = DEFAULT_USERS
    shutdown: ShutdownSettings = ShutdownSettings()
    log: LogSettings = LogSettings()
    provenance: Mapping[str, str] = field(default_factory=dict[str, str], compare=False, repr=False)

    def items(self) -> Iterator[tuple[str, object]]:
        """Every dotted key with its value, e.g. `executor.drain_s`, `tiers.light.cpu` and `dlq.failed.max_replays`, in
        the order of the file."""
        for table in fields(self):
            if isinstance(rows := getattr(self, table.name), tuple):
                for row in cast("tuple[Any, ...]", rows):
                    yield from _items(dotted(table.name, row.name, ""), row, without="name")
            elif table.name != "provenance":
                yield from _items(table.name, getattr(self, table.name))

    def source(self, key: str) -> str:
        """Where the value of a dotted key comes from."""
        return self.provenance.get(key, "default")


def _items(prefix: str, table: Any, without: str = "") -> Iterator[tuple[str, object]]:
    for key in fields(table):
        value = getattr(table, key.name)
        if is_dataclass(value):
            yield from _items(f"{prefix}.{key.name}", value)
        elif key.name != without:
            yield f"{prefix}.{key.name}", value


def load(path: Path | None, env: Mapping[str, str], *, default_ok: bool) -> Settings:
    """Read the settings: defaults, then the file, then the environment (`FOGACTORS_<TABLE>__<KEY>`, or the same with
    `_FILE` for a file that holds the value).

    Without a path, `actors.toml` in the working directory is read if it is there; if not, the defaults will do where
    `default_ok`. Raises `ConfigError`, one line: source, table, key, what is wrong and the nearest valid name.
    """
    if path is None and (Path(DEFAULT_FILE).exists() or not default_ok):
        path = Path(DEFAULT_FILE)
    values, provenance = load_tree(Settings, path, env)
    settings = replace(Settings(**values), provenance=MappingProxyType(provenance))
    for keys, text in conflicts(settings):
        # The first of the keys that somebody has set: a default is never the one to change. A table may have no keys.
        source = next(
            (settings.source(key) for key in keys if settings.source(key) != "default"), str(path or "default")
        )
        raise wrong(source, keys[0], text)
    return _with_whole_urls(settings)


def _with_whole_urls(settings: Settings) -> Settings:
    """With the name and the password of `[node] user` in the URLs, and over TLS where `[tls]` says so."""
    user = find_user(settings.users, settings.node.user)

    def whole(url: str) -> str:
        return with_tls(url if user is None else with_login(url, user), settings.tls)

    bus, coord = settings.bus, settings.coord
    return replace(
        settings,
        bus=replace(bus, url=whole(bus.url), management_url=whole(bus.management_url)),
        coord=replace(coord, url=whole(coord.url)),
    )


def system_topology(settings: Settings) -> Topology:
    """Without what the applications declare."""
    return fog_topology(
        tuple(tier.name for tier in settings.tiers),
        retention_s=settings.dlq.retention_s,
        events_max_length=settings.events.max_length,
    )


def conflicts(settings: Settings) -> Iterator[tuple[tuple[str, ...], str]]:
    """What no run survives and no type can say: the keys that are involved, the one to name first, and the text."""
    for table, schemes in (("bus", ("memory", "amqp", "amqps")), ("coord", ("memory", "redis", "rediss"))):
        url: str = getattr(settings, table).url
        scheme, separator, _ = url.partition("://")
        if not separator:
            yield (f"{table}.url",), f"expected a URL such as memory://, got {json.dumps(masked(url))}"
        elif scheme not in schemes:
            yield (f"{table}.url",), f'scheme "{scheme}" is not supported; supported: {", ".join(schemes)}'
    if settings.bus.url.startswith("memory:") != settings.coord.url.startswith("memory:"):
        text = "[bus] url and [coord] url must both be memory:// or neither; one would end with its process"
        yield ("coord.url", "bus.url"), text
    for smaller, larger in zip(settings.tiers, settings.tiers[1:], strict=False):
        for key in ("cpu", "memory_mb"):
            low, high = getattr(smaller, key), getattr(larger, key)
            if high < low:
                text = f"{high} is less than the {low} of [tiers.{smaller.name}]; list tiers from small to large"
                yield (f"tiers.{larger.name}.{key}", f"tiers.{smaller.name}.{key}"), text
    budget_mb, smallest = settings.node.memory_mb, settings.tiers[0]
    if 0 < budget_mb < smallest.memory_mb:
        text = f"{budget_mb} is less than the {smallest.memory_mb} of [tiers.{smallest.name}]; no tier could be served"
        yield ("node.memory_mb", f"tiers.{smallest.name}.memory_mb"), text
    limit_s, longest = settings.tasks.time_limit_s, settings.bus.max_time_limit_s
    if limit_s > longest:
        timeout_s = settings.bus.consumer_timeout_s
        text = f"{limit_s} is more than {longest:g}, which [bus] consumer_timeout_s = {timeout_s} leaves a task"
        yield ("tasks.time_limit_s", "bus.consumer_timeout_s"), text
    for reason, policy in settings.dlq.by_reason().items():
        if policy.retention_s > settings.dlq.retention_s:
            text = (
                f"{policy.retention_s} is more than [dlq] retention_s = {settings.dlq.retention_s}; that ends it sooner"
            )
            yield (f"dlq.{reason}.retention_s", "dlq.retention_s"), text
    yield from tls_conflicts(settings.tls)
    yield from topology_conflicts(
        settings.exchanges,
        settings.queues,
        settings.policies,
        [user.name for user in settings.users],
        system_topology(settings),
    )
    yield from user_conflicts(settings.users, [tier.name for tier in settings.tiers], settings.node.user)
    budget_s, drain_s = settings.shutdown.budget_s, settings.executor.drain_s
    if budget_s <= drain_s:
        text = f"{budget_s} is not more than [executor] drain_s = {drain_s}; a drain could not end in time"
        yield ("shutdown.budget_s", "executor.drain_s"), text

"""`[exchanges]`, `[queues]` and `[policies]`: what becomes of them, and what is refused."""

import re
import tomllib
from dataclasses import MISSING, fields
from pathlib import Path

import pytest

from fogactors.app.services import topology_of
from fogactors.app.settings import DEFAULT_FILE, Settings, load
from fogactors.app.settings_topology import ExchangeSettings, PolicySettings, QueueSettings
from fogactors.app.settings_users import users_of
from fogactors.bus.management import definitions
from fogactors.errors import ConfigError
from fogactors.wire import Binding, Exchange, Policy, Queue, Topology, fog_topology
from fogactors.wire.access import permissions
from fogactors.wire.topology import Family
from fogactors.wire.work import declared_work

SAMPLE = Path(__file__).parents[2] / "actors.toml"
SHOP = (
    '[exchanges."shop.events"]\ntype = "topic"\n'
    '[exchanges."shop.tasks"]\ntype = "direct"\n'
    '[exchanges.all]\ntype = "fanout"\n'
)


@pytest.fixture(autouse=True)
def empty_directory(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def read(text: str = "", **env: str) -> Settings:
    Path(DEFAULT_FILE).write_text(text)
    return load(None, {f"FOGACTORS_{key}": value for key, value in env.items()}, default_ok=False)


def own(text: str, **env: str) -> Topology:
    """What is declared, without the system's."""
    system, whole = fog_topology(), topology_of(read(text, **env))
    whole.validate()
    return Topology(
        tuple(each for each in whole.exchanges if each not in system.exchanges),
        tuple(each for each in whole.queues if each not in system.queues),
        tuple(each for each in whole.bindings if each not in system.bindings),
        tuple(each for each in whole.families if each not in system.families),
    )


def queue(text: str, name: str = "q", **env: str) -> Queue:
    return own(f"{SHOP}[queues.{name}]\n{text}", **env).queue(name)


def error(text: str, **env: str) -> str:
    with pytest.raises(ConfigError) as caught:
        read(text, **env)
    message = str(caught.value)
    assert len(message.splitlines()) == 1
    return message.removeprefix("actors.toml: ")


# -- the sample


def commented_sample() -> str:
    lines = SAMPLE.read_text().split("# FOGACTORS_QUEUES__SHOP_ORDERS__MAX_LENGTH.\n")[1].split("\n\n")[0].splitlines()
    return "\n".join(line.removeprefix("#").removeprefix(" ") for line in lines)


def test_the_sample_has_every_key_with_its_default():
    text = commented_sample()
    read(text)
    tables = tomllib.loads(text)
    kinds = {"exchanges": ExchangeSettings, "queues": QueueSettings, "policies": PolicySettings}
    for table, kind in kinds.items():
        [row] = tables[table].values()
        assert list(row) == [each.name for each in fields(kind) if each.name != "name"], table
    said = {key: tomllib.loads(f"x = {value}")["x"] for value, key in re.findall(r"Default: (.*)\.\n(\w+) = ", text)}
    defaults = {
        each.name: each.default for kind in kinds.values() for each in fields(kind) if each.default is not MISSING
    }
    assert {key: tuple(value) if isinstance(value, list) else value for key, value in said.items()} == defaults


# -- what becomes of them


def test_users_of_a_queue_of_tasks():
    settings = read(
        '[exchanges.t]\ntype = "direct"\npublishers = ["brain"]\n'
        '[queues.q]\npriority = "bands"\nbindings = ["t q"]\nreaders = ["worker"]\n'
        '[users.brain]\nroles = ["event-publisher"]\n[users.worker]\nroles = ["event-subscriber"]\n'
    )
    brain, worker = (permissions(user, ()) for user in users_of(settings.users, settings.exchanges, settings.queues))
    for name in ("q", "q.high", "q.low"):
        assert brain.may_see(name)
        assert not re.search(brain.read, name)
        assert re.search(worker.read, name)
        assert not re.search(worker.write, name)
    assert re.search(brain.write, "t")


def test_nothing_is_declared_by_default():
    assert topology_of(Settings()) == fog_topology()


def test_names_with_dots_bindings_and_limits():
    found = own(
        SHOP
        + '[queues."shop.orders"]\nmax_length = 5\nmessage_ttl_s = 0.25\n'
        + 'bindings = ["shop.events shop.order.#", "all", "dlx shop.#", "events.topic a.*"]\n'
    )
    assert Exchange("shop.tasks", "direct") in found.exchanges
    assert found.queue("shop.orders") == Queue(
        "shop.orders", policy=Policy(max_length=5, overflow="drop-head", message_ttl_ms=250)
    )
    assert set(found.bindings) == {
        Binding("shop.events", "shop.order.#", "shop.orders"),
        Binding("all", "", "shop.orders"),
        Binding("dlx", "shop.#", "shop.orders"),
        Binding("events.topic", "a.*", "shop.orders"),
    }


@pytest.mark.parametrize(
    ("text", "policy"),
    [
        ("", Policy()),
        ("max_length = 3", Policy(max_length=3, overflow="drop-head")),
        ('max_length = 3\noverflow = "reject-publish"', Policy(max_length=3, overflow="reject-publish")),
        ("expires_s = 60", Policy(expires_ms=60_000)),
        (
            'dead_letter_exchange = "dlx"\ndelivery_limit = 2',
            Policy(
                delivery_limit=2,
                dead_letter_exchange="dlx",
                overflow="reject-publish",
                dead_letter_strategy="at-least-once",
            ),
        ),
        (
            'dead_letter_exchange = "dlx"\ndead_letter_key = "k"\nmax_length = 3',
            Policy(max_length=3, overflow="drop-head", dead_letter_exchange="dlx", dead_letter_routing_key="k"),
        ),
        (
            'dead_letter_exchange = "dlx"\nmax_length = 3\noverflow = "reject-publish"\n'
            'dead_letter_strategy = "at-most-once"',
            Policy(
                max_length=3,
                overflow="reject-publish",
                dead_letter_exchange="dlx",
                dead_letter_strategy="at-most-once",
            ),
        ),
    ],
)
def test_the_policy_of_a_queue(text, policy):
    assert queue(text) == Queue("q", policy=policy)


def test_a_queue_in_which_messages_wait_sends_them_to_another():
    found = own(f'{SHOP}[queues.work]\n[queues."retry.work"]\nmessage_ttl_s = 300\nretry_to = "work"\n')
    assert found.queue("retry.work").policy == Policy(
        overflow="reject-publish",
        message_ttl_ms=300_000,
        dead_letter_exchange="",
        dead_letter_routing_key="work",
        dead_letter_strategy="at-least-once",
    )


def test_a_queue_of_tasks_is_one_for_each_band():
    text = f'{SHOP}[queues."research.tasks"]\nmax_length = 7\n'
    bound = 'bindings = ["shop.tasks research.tasks"]\n'
    found = own(f'{text}priority = "bands"\n{bound}')
    work = declared_work("research.tasks", "shop.tasks", max_length=7)
    assert (found.queues, found.bindings) == (work.queues, work.bindings)
    assert (
        own(f'{text}priority = "levels"\n').queues == declared_work("research.tasks", max_length=7, levels=True).queues
    )
    unlimited = own('[queues.q]\npriority = "bands"\n').queue("q.low").policy
    assert (unlimited.max_length, unlimited.overflow) == (None, "reject-publish")


def test_a_stream():
    assert queue('type = "stream"\nmax_age_s = 60') == Queue("q", "stream", Policy(max_age_s=60))


def test_a_policy_for_names_that_begin_alike_and_what_a_queue_takes_from_it():
    found = own(
        '[policies."events.audit."]\nmax_length = 9\n[policies."audit."]\nmessage_ttl_s = 3\nmax_length = 2\n'
        '[queues."audit.all"]\nmax_length = 4\n[queues."audit.stream"]\ntype = "stream"\n[queues.other]\n'
    )
    assert Family("events.audit.", Policy(max_length=9, overflow="drop-head")) in found.families
    audit = Policy(max_length=4, overflow="drop-head", message_ttl_ms=3000)
    assert found.queue("audit.all").policy == audit
    assert found.queue("audit.stream").policy == found.queue("other").policy == Policy()


def test_definitions_have_them_and_narrow_policies_take_precedence():
    text = SHOP + '[queues.q]\nbindings = ["all"]\n[policies."events.audit."]\nmax_length = 9\n'
    made = definitions(topology_of(read(text)), "/shop")
    assert {"q", "tasks.normal"} <= {each["name"] for each in made["queues"]}
    assert ("all", "q") in {(each["source"], each["destination"]) for each in made["bindings"]}
    policies = {each["name"]: each for each in made["policies"]}
    wide, narrow = policies["fog.events.*"], policies["fog.events.audit.*"]
    assert wide["priority"] < narrow["priority"] < policies["fog.q"]["priority"]
    assert (narrow["pattern"], narrow["definition"]["max-length"]) == (r"^events\.audit\.", 9)


def test_a_variable_changes_a_limit():
    text, name = '[queues."shop.orders"]\nmax_length = 5\n', "FOGACTORS_QUEUES__SHOP_ORDERS__MAX_LENGTH"
    settings = read(text, QUEUES__SHOP_ORDERS__MAX_LENGTH="7")
    assert topology_of(settings).queue("shop.orders").policy.max_length == 7
    assert settings.source('queues."shop.orders".max_length') == name
    assert list(settings.provenance) == [key for key, _ in settings.items()]
    message = error(text, QUEUES__SHOP_ORDERS__MAX_LENGTH="-1")
    assert message == f'{name}: [queues."shop.orders"] max_length: expected a whole number >= 0, got "-1"'


def test_users_may_use_what_lets_them():
    settings = read(
        '[exchanges."shop.events"]\ntype = "topic"\npublishers = ["shop"]\nsubscribers = ["audit"]\n'
        '[queues."audit.events"]\nreaders = ["audit"]\n'
        '[users.shop]\nroles = ["event-publisher"]\n[users.audit]\nroles = ["event-subscriber"]\nlogin = "auditor"\n'
    )
    tiers = [tier.name for tier in settings.tiers]
    users = users_of(settings.users, settings.exchanges, settings.queues)
    shop, audit = (permissions(user, tiers) for user in users)
    assert shop.write == r"^(events\.topic|shop\.events)$"
    assert shop.read == "^$"
    assert re.fullmatch(audit.read, "audit.events")
    assert re.fullmatch(audit.read, "shop.events")
    assert not re.fullmatch(audit.write, "shop.events")
    assert not re.fullmatch(audit.configure, "audit.events")


# -- what is refused

Q = f"{SHOP}[queues.q]\n"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (f"{Q}max_lenght = 1", "[queues.q] max_lenght: unknown key; did you mean max_length?"),
        (f"{Q}message_ttl = 1", "[queues.q] message_ttl: unknown key; did you mean message_ttl_s?"),
        (
            f"{Q}message_ttl_s = 2_592_000_000",
            "[queues.q] message_ttl_s: expected a number >= 0 and <= 31536000, got 2592000000",
        ),
        (
            f"{Q}overflow = 'drop-tail'",
            '[queues.q] overflow: expected one of drop-head, reject-publish, got "drop-tail"',
        ),
        (f"{Q}type = 'classic'", '[queues.q] type: expected one of quorum, stream, got "classic"'),
        ("[exchanges.x]\n", "[exchanges.x] type: missing; each table of [exchanges] states type"),
        ("[exchanges.x]\ntype = 'headers'", '[exchanges.x] type: expected one of direct, fanout, topic, got "headers"'),
        (
            "[queues.'a b']\n",
            '[queues]: "a b" is no name; expected at most 127 letters, digits and . _ : -',
        ),
        (
            f"{Q}bindings = ['shop.event a']",
            '[queues.q] bindings: "shop.event a": there is no exchange "shop.event"; did you mean shop.events?',
        ),
        (
            f"{Q}bindings = ['nowhere a']",
            '[queues.q] bindings: "nowhere a": there is no exchange "nowhere"; declare it in [exchanges]',
        ),
        (f"{Q}bindings = ['all x']", '[queues.q] bindings: "all x": all is a fanout exchange, which has no keys'),
        (
            f"{Q}bindings = ['shop.events']",
            '[queues.q] bindings: "shop.events": expected "<exchange> <key>", because shop.events is a topic exchange',
        ),
        (
            f"{Q}bindings = ['shop.tasks a.*']",
            '[queues.q] bindings: "shop.tasks a.*": shop.tasks is a direct exchange, which takes * and # literally',
        ),
        (
            f"{Q}bindings = ['shop.events a.b*']",
            '[queues.q] bindings: "shop.events a.b*": * and # stand for whole words, between dots',
        ),
        (
            f"{Q}dead_letter_exchange = 'dxl'",
            '[queues.q] dead_letter_exchange: there is no exchange "dxl"; did you mean dlx?',
        ),
        (f"{Q}dead_letter_key = 'k'", "[queues.q] dead_letter_key: there is no dead_letter_exchange beside it"),
        (
            f"{Q}dead_letter_exchange = 'dlx'\ndead_letter_strategy = 'at-least-once'\nmax_length = 1",
            '[queues.q] dead_letter_strategy: at-least-once needs overflow = "reject-publish": '
            "else the broker falls back to at-most-once silently",
        ),
        (
            f"{Q}dead_letter_strategy = 'at-least-once'",
            "[queues.q] dead_letter_strategy: there is no dead_letter_exchange beside it",
        ),
        (
            f"{Q}delivery_limit = 3",
            "[queues.q] delivery_limit: without a dead_letter_exchange what is over it is discarded silently",
        ),
        (f"{Q}overflow = 'drop-head'", "[queues.q] overflow: there is no max_length beside it"),
        (
            f"{Q}type = 'stream'\nmax_length = 1",
            "[queues.q] max_length: a stream knows only max_age_s; for this it must be a quorum queue",
        ),
        (
            f"{Q}priority = 'bands'\nmessage_ttl_s = 1",
            "[queues.q] message_ttl_s: with priority it is a queue of tasks, which has its own: "
            "only max_length is to be said",
        ),
        (
            f"{Q}priority = 'bands'\nbindings = ['shop.tasks other']",
            '[queues.q] bindings: with priority it is one, "<direct exchange> q"',
        ),
        (
            f"{Q}priority = 'bands'\nbindings = ['shop.events q']",
            '[queues.q] bindings: "shop.events q": shop.events is a topic exchange; '
            "a queue of tasks needs a direct one",
        ),
        (
            f"{Q}priority = 'bands'\n[queues.'q.low']\n",
            "[queues.q] priority: it makes a queue q.low, which is declared as well; rename that",
        ),
        (
            f"{Q}priority = 'bands'\n[queues.'retry.q']\nbindings = ['dlx task.#']\nmessage_ttl_s = 5\nretry_to = 'q'",
            "[queues.q] priority: what it gives up by itself comes back to it (q -> retry.q -> q), and the broker "
            "drops such a message silently; only what a consumer rejects may go round",
        ),
        (f"{Q}max_age_s = 1", "[queues.q] max_age_s: only a stream has it; a quorum queue has message_ttl_s"),
        (
            f"{Q}retry_to = 'gone'\nmessage_ttl_s = 1",
            '[queues.q] retry_to: there is no quorum queue [queues."gone"] that could take it',
        ),
        (
            f"{Q}[queues.r]\nretry_to = 'q'",
            "[queues.r] message_ttl_s: missing: with retry_to it says how long a message waits here",
        ),
        (
            f"{Q}[queues.r]\nretry_to = 'q'\nmessage_ttl_s = 1\nmax_length = 1\noverflow = 'drop-head'",
            "[queues.r] overflow: a queue with retry_to keeps what it has until its time, and then sends it there: "
            "leave this out",
        ),
        ("[queues.dlq]\n", "[queues] dlq: that is one of the system's own queues; take another name"),
        (
            '[queues."tasks.mine"]\n',
            '[queues."tasks.mine"]: names that begin with tasks. are the system\'s own; take another name',
        ),
        (
            '[queues."rpc.math"]\n',
            '[queues."rpc.math"]: names that begin with rpc. are the system\'s own; take another name',
        ),
        (
            "[exchanges.dlx]\ntype = 'fanout'",
            "[exchanges.dlx] type: fanout is not what the system's own exchange dlx is, topic; take another name",
        ),
        (
            '[exchanges."amq.mine"]\ntype = "topic"',
            '[exchanges."amq.mine"]: names that begin with amq. are the broker\'s own',
        ),
        (
            '[policies."events."]\nmax_length = 1',
            '[policies."events."]: the system has a policy for all of these; name fewer queues',
        ),
        (
            "".join(f"[policies.{'a' * many}]\nmax_length = 1\n" for many in (1, 2, 3, 4)),
            "[policies] aaaa: 3 others begin its name, more than 2",
        ),
        (
            '[queues."a.b"]\n[queues.a_b]\n',
            '[queues."a.b"]: another name has the same variables, FOGACTORS_QUEUES__A_B__...; rename one',
        ),
        (f"{Q}readers = ['nobody']", "[queues.q] readers: there is no [users.nobody]; there are admin, operator, "),
        (
            f"{SHOP}publishers = ['nobody']",
            "[exchanges.all] publishers: there is no [users.nobody]; there are admin, operator, ",
        ),
        (
            f"{Q}bindings = ['shop.events #']\ndead_letter_exchange = 'dlx'\ndelivery_limit = 3\n"
            "[queues.'retry.q']\nbindings = ['dlx #']\nmessage_ttl_s = 5\nretry_to = 'q'",
            "[queues.q] dead_letter_exchange: what it gives up by itself comes back to it (q -> retry.q -> q), and the "
            "broker drops such a message silently; only what a consumer rejects may go round",
        ),
    ],
)
def test_refused(text, message):
    found = error(text)
    assert found.startswith(message) if message.endswith(", ") else found == message


def test_the_systems_own_exchange_may_be_named_as_it_is():
    assert own('[exchanges.dlx]\ntype = "topic"\n') == Topology()


def test_retries_that_a_consumer_asks_for_may_come_back():
    own(
        f"{Q}bindings = ['shop.events #']\ndead_letter_exchange = 'dlx'\n"
        "[queues.'retry.q']\nbindings = ['dlx #']\nmessage_ttl_s = 5\nretry_to = 'q'"
    )

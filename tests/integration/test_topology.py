"""`fogactors topology` against a real broker: what is there, made so, compared, exported; and roles that meet
another."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from urllib.parse import quote
from uuid import uuid4

import anyio
import pytest

from fogactors.wire import fog_topology
from tests.integration.fog import Done, Services, apply_topology
from tests.services import RabbitMQ, ServiceUnavailable, skip_or_fail

pytestmark = pytest.mark.services

REPLACE = "the broker refuses to change it (PRECONDITION_FAILED): empty and delete it, then apply again"
COUNT = "17 exchanges, 33 queues, 24 bindings"


@pytest.fixture
def command(command, bare) -> Callable[..., Done]:
    """Against a virtual host of each test's own, with nothing in it."""
    return lambda *words, **more: command(*words, **{"services": bare, **more})


class Operator:
    """Somebody who changes things by hand."""

    def __init__(self, services: Services) -> None:
        self._services = services
        self._vhost = quote(services.vhost, safe="")

    def delete_queue(self, name: str) -> None:
        self._services.api("DELETE", f"/queues/{self._vhost}/{name}")

    def declare(self, name: str, kind: str) -> None:
        body = {"durable": True, "arguments": {"x-queue-type": kind}}
        self._services.api("PUT", f"/queues/{self._vhost}/{name}", body)

    def unbind(self, exchange: str, queue: str, key: str) -> None:
        self._services.api("DELETE", f"/bindings/{self._vhost}/e/{exchange}/q/{queue}/{key}")

    def set_policy(self, name: str, pattern: str, priority: int = 10, **definition: object) -> None:
        body = {"pattern": pattern, "priority": priority, "apply-to": "queues"}
        definition = {key.replace("_", "-"): value for key, value in definition.items()}
        self._services.api("PUT", f"/policies/{self._vhost}/{name}", {**body, "definition": definition})


def test_show_asks_no_broker(command):
    nowhere = Services("amqp://nobody@127.0.0.1:1/fog", "", "redis://127.0.0.1:1")
    shown = command("topology", "show", services=nowhere)  # in 80 columns
    assert (shown.code, shown.err) == (0, "")
    assert "tasks.low_priority.heavy quorum tasks.direct low_priority.heavy" in " ".join(shown.out.split())
    assert "…" not in shown.out
    as_json = json.loads(command("topology", "show", "--json", services=nowhere).out)
    assert len(as_json["queues"]) == len(fog_topology().queues)


def test_apply_makes_it_and_may_be_repeated(command, bare):
    before = command("topology", "diff")
    assert (before.code, before.err) == (2, "")
    assert "queue tasks.normal: wanted quorum, found none" in before.out.splitlines()
    first = command("topology", "apply")
    assert (first.code, first.err) == (0, "")
    assert first.out == f"{COUNT}: {len(before.out.splitlines())} differences mended\n"
    second = command("topology", "apply")
    assert (second.code, second.out) == (0, f"{COUNT}: all there already\n")
    assert json.loads(command("topology", "apply", "--json").out) == {"mended": 0, "left": []}
    diff = command("topology", "diff")
    assert (diff.code, diff.out) == (0, f"{COUNT}: no difference\n")


def test_diff_names_each_thing_that_was_changed_by_hand(command, bare):
    anyio.run(apply_topology, bare)
    operator = Operator(bare)
    operator.set_policy("fog.metrics.node", r"^metrics\.node$", max_length=5, delivery_limit=-1, overflow="drop-head")
    operator.set_policy("mine", "^results.pending", priority=99, max_length=7)
    operator.delete_queue("retry.4")
    operator.unbind("tasks.direct", "tasks.low_priority", "low_priority")
    operator.delete_queue("tasks.normal")
    operator.declare("tasks.normal", "classic")
    diff = command("topology", "diff")
    assert (diff.code, diff.err) == (2, "")
    assert set(diff.out.splitlines()) == {
        "policy fog.metrics.node max-length: wanted 100000, found 5",
        "policy in force for queue results.pending: wanted fog.results.pending, found mine",
        "queue retry.4: wanted quorum, found none",
        f"queue tasks.normal: wanted quorum, found classic; {REPLACE}",
        "binding of retry.4 to retry.4: wanted '', found none",
        "binding of tasks.low_priority to tasks.direct: wanted 'low_priority', found none",
        "binding of tasks.normal to tasks.direct: wanted 'normal', found none",
    }
    as_json = json.loads(command("topology", "diff", "--json").out)
    other = {"what": "queue tasks.normal", "wanted": "quorum", "found": "classic", "todo": REPLACE, "fatal": True}
    assert other in as_json

    refused = command("topology", "apply")
    line = f"queue tasks.normal: wanted quorum, found classic; {REPLACE} (nothing was changed)"
    assert (refused.code, refused.out, refused.err) == (2, "", f"fogactors: {line}\n")
    assert command("topology", "diff").out == diff.out

    operator.delete_queue("tasks.normal")
    applied = command("topology", "apply")
    left = "policy in force for queue results.pending: wanted fog.results.pending, found mine"
    assert (applied.code, applied.out) == (2, f"{COUNT}: 6 differences mended\nnot mended: {left}\n")


def test_export_is_what_a_fresh_broker_loads(command, bare, tmp_path):
    definitions = tmp_path / "definitions.json"
    exported = command("topology", "export", "--out", str(definitions))
    assert (exported.code, exported.out, exported.err) == (0, "", "")
    assert definitions.read_text() == command("topology", "export").out
    assert "password" not in definitions.read_text()
    bare.api("POST", "/definitions", json.loads(definitions.read_text()))
    diff = command("topology", "diff")
    assert (diff.code, diff.out) == (0, f"{COUNT}: no difference\n")


def test_all_of_it_on_the_older_broker(command):
    broker = RabbitMQ("4.0")
    try:
        anyio.run(broker.start)
    except ServiceUnavailable as error:
        skip_or_fail(error)
    try:
        older = Services(broker.amqp_url, broker.management_url, "redis://127.0.0.1:1")  # a store that nobody asks
        assert command("topology", "apply", services=older).code == 0
        assert command("topology", "apply", services=older).out == f"{COUNT}: all there already\n"
        anyio.run(broker.ctl, "delete_vhost", "/fog")
        definitions = broker.home / "definitions.json"
        definitions.write_text(command("topology", "export", services=older).out)
        anyio.run(broker.ctl, "import_definitions", "/srv/definitions.json")
        anyio.run(broker.ctl, "set_permissions", "-p", "/fog", "fogadmin", ".*", ".*", ".*")
        assert command("topology", "diff", services=older).out == f"{COUNT}: no difference\n"
    finally:
        anyio.run(broker.stop, 0)


# -- roles on a broker that has another


@pytest.mark.parametrize("kind", ["classic", "stream"])
def test_a_role_on_a_queue_of_another_type_ends_with_one_line(command, bare, kind):
    anyio.run(apply_topology, bare)
    operator = Operator(bare)
    operator.delete_queue("tasks.normal")
    operator.declare("tasks.normal", kind)
    done = command("run", "tier-executor", "--tier", "light")
    assert (done.code, len(done.err.splitlines())) == (2, 1), done.err
    assert "queue 'tasks.normal'" in done.err
    assert f"received 'quorum' but current is '{kind}'" in done.err
    assert "`fogactors topology diff` lists all" in done.err


def test_a_role_without_a_queue_ends_with_one_line(command, bare):
    anyio.run(apply_topology, bare)
    operator = Operator(bare)
    operator.delete_queue("retry.16")
    done = command("run", "dlq-reaper")
    assert (done.code, done.err) == (
        2,
        "fogactors: queue retry.16 is missing; run `fogactors topology apply`\n",
    )
    operator.delete_queue("retry.4")
    done = command("run", "dlq-reaper")
    assert "(and 1 more; `fogactors topology diff` lists them)" in done.err


# -- users who may not


@contextmanager
def user(services: Services, tags: str, **permissions: str) -> Iterator[Services]:
    """The same broker, as somebody who may do this and nothing else."""
    name = f"fog-test-{uuid4().hex[:6]}"
    services.api("PUT", f"/users/{name}", {"password": "a/b@c", "tags": tags})
    try:
        nothing = {"configure": "^$", "write": "^$", "read": "^$"}
        services.api("PUT", f"/permissions/{quote(services.vhost, safe='')}/{name}", {**nothing, **permissions})
        password = quote("a/b@c", safe="")
        scheme, _, rest = services.management_url.partition("://")
        management_url = f"{scheme}://{name}:{password}@{rest.rpartition('@')[2]}"
        yield replace(services.as_user(name, password), management_url=management_url)
    finally:
        services.api("DELETE", f"/users/{name}")


def test_a_user_without_permissions_may_look(command, bare):
    anyio.run(apply_topology, bare)
    with user(bare, "management") as watcher:
        diff = command("topology", "diff", services=watcher)
    assert (diff.code, diff.out) == (0, f"{COUNT}: no difference\n")


@pytest.mark.parametrize("tags", ["management", "policymaker", ""])
def test_apply_without_the_permission_is_one_line(command, bare, tags):
    with user(bare, tags, read=".*", write=".*") as poor:
        done = command("topology", "apply", services=poor)
    assert (done.code, done.out, len(done.err.splitlines())) == (2, "", 1), done.err
    assert "refuse" in done.err
    assert {"management": "tag policymaker", "policymaker": "configure access", "": "tag management"}[tags] in done.err


@pytest.mark.asyncio
async def test_an_executor_needs_no_permission_to_configure(fog):
    """But for its own queue on the control exchange."""
    with user(fog.services, "", configure=r"^ctl\..*$", write=".*", read=".*") as worker:
        executor = await fog.executor(services=worker)
        assert (await fog.submit("add", "a=1", services=worker)).out == "2\n"
        assert (await executor.stop()).code == 0
        assert not executor.log


@pytest.mark.parametrize(
    ("url", "code", "says"),
    [
        ("http://{login}wrong@{place}", 2, "refuses user 'fogadmin'"),
        ("http://{login}@127.0.0.1:1", 3, "cannot be reached"),
        ("http://{login}@{broker}", 3, "is [bus] management_url right?"),
        ("https://{login}@{place}", 3, "is [bus] management_url right?"),
        ("{place}", 2, "[bus] management_url must be a URL such as http://"),
        ("", 2, "[bus] management_url is needed for this"),
    ],
)
def test_a_wrong_management_url_is_one_line(command, bare, url, code, says):
    login, _, place = bare.management_url.partition("://")[2].rpartition("@")
    url = url.format(login=login, place=place, broker=bare.address)
    done = command("topology", "diff", services=replace(bare, management_url=url))
    assert (done.code, len(done.err.splitlines())) == (code, 1), done.err
    assert says in done.err
    assert login.partition(":")[2] not in done.err


def test_a_virtual_host_that_is_not_there_is_one_line(command, bare):
    done = command("topology", "apply", services=bare.in_vhost("/nope"))
    assert (done.code, len(done.err.splitlines())) == (2, 1), done.err
    assert "knows no virtual host '/nope'; create it" in done.err

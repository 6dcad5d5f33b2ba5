"""Copies: what docker is told, what is checked, and that a real Redis reads what `PUT` makes of a copy."""

from __future__ import annotations

import json
import shutil
import stat
from pathlib import Path

import anyio
import pytest
import redis.asyncio

from fogactors.app.swarm.backup import EXPORT, IMPORT, PUT, missing_from
from fogactors.app.swarm.inside import BROKER_FILE
from tests.services import RabbitMQ, RedisServer, ServiceFailed, ServiceUnavailable, skip_or_fail
from tests.services.routes import HOME

STACK = ("--file", str(Path(__file__).parents[3] / "swarm/stack.yml"))
SNAPSHOT = "REDIS0012 and so on"
DEFINITIONS = {
    "rabbitmq_version": "4.1.6",
    "users": [{"name": "admin", "password_hash": "x"}],
    "permissions": [{"user": "admin"}],
    "vhosts": [{"name": "/fog"}],
    "queues": [{"name": "mine"}],
}


def info(saves: int, *, status: str = "ok", busy: int = 0) -> str:
    return (
        f"# Server\r\nredis_version:8.0.6\r\n# Persistence\r\nrdb_bgsave_in_progress:{busy}\r\n"
        f"rdb_saves:{saves}\r\nrdb_last_bgsave_status:{status}\r\n"
    )


class Inside:
    """The two containers of this host, by the words that go into them."""

    def __init__(self, client) -> None:
        self.client = client
        client.on("ps --quiet --no-trunc --filter label=com.docker.swarm.service.name=fog_redis", "aaa\n")
        client.on("ps --quiet --no-trunc --filter label=com.docker.swarm.service.name=fog_rabbitmq1", "bbb\n")
        client.on("ps --quiet --no-trunc --filter id=aaa", "aaa\n", "")
        client.on(
            "inspect --type container aaa",
            [{"Image": "sha256:77", "Mounts": [{"Destination": "/data", "Name": "fog_redis-data"}]}],
        )
        client.on("exec aaa sh -c", info(3), "Background saving scheduled", info(3, busy=1), info(4))
        client.on("exec aaa redis-check-rdb")
        client.on("exec aaa cat", SNAPSHOT)
        client.on("exec aaa rm")
        client.on("exec bbb sh -c", json.dumps(DEFINITIONS))
        client.on("exec -i bbb sh -c")
        client.on("service scale")
        client.on("run --rm")

    def words(self, start: str = "") -> list[list[str]]:
        return [call.words for call in self.client.calls(start)]


@pytest.fixture
def inside(client):
    return Inside(client)


@pytest.fixture
def copy(fog, inside):
    assert fog("swarm", "backup", "--out", "copy", *STACK)[0] == 0
    inside.client.forget()
    return Path("copy")


@pytest.fixture
def whole(monkeypatch):
    """Whether services are up is `test_services`' business."""
    waited: list[list[str]] = []
    monkeypatch.setattr(
        "fogactors.app.cli.swarm.backup.wait_whole", lambda _docker, _stack, names, *_rest: waited.append(list(names))
    )
    return waited


def test_a_copy_is_made_when_redis_has_saved(fog, inside):
    code, out, _ = fog("swarm", "backup", "--out", "copy", *STACK)
    assert (code, out) == (0, "copy: redis.rdb 19 bytes, definitions.json 177 bytes\n")
    assert Path("copy/redis.rdb").read_text() == SNAPSHOT
    assert json.loads(Path("copy/definitions.json").read_text()) == DEFINITIONS
    assert [words[2] for words in inside.words("exec aaa")][-3:] == ["redis-check-rdb", "cat", "rm"]
    for path in Path("copy").iterdir():
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert stat.S_IMODE(Path("copy").stat().st_mode) == 0o700


def test_copies_lie_in_backups_by_their_time(fog, inside):
    code, out, _ = fog("swarm", "backup", "--json", *STACK)
    assert code == 0
    said = json.loads(out)
    assert said["folder"].startswith("backups/20")
    assert said["copy"]["redis"] == "8.0.6"
    assert said["copy"]["files"].keys() == said["bytes"].keys() == {"redis.rdb", "definitions.json"}


@pytest.mark.parametrize(
    ("rule", "answers", "text"),
    [
        ("exec aaa sh -c", (info(3), "scheduled", info(3, status="err")), "Redis cannot save"),
        ("exec aaa cat", None, "no space"),
        ("exec aaa redis-check-rdb", None, "no space"),
        ("exec bbb sh -c", None, "no space"),
    ],
)
def test_half_a_copy_is_none(fog, inside, rule, answers, text):
    if answers is None:
        inside.client.on(rule, err="no space\n", code=1)
    else:
        inside.client.on(rule, *answers)
    code, _, err = fog("swarm", "backup", "--out", "copy", *STACK)
    assert code == 1
    assert text in err
    assert not Path("copy").exists()
    assert [path.name for path in Path().iterdir()] == []


def test_a_copy_is_not_written_over(fog, copy):
    code, _, err = fog("swarm", "backup", "--out", "copy", *STACK)
    assert code == 2
    assert "copy is there already" in err
    assert Path("copy/redis.rdb").read_text() == SNAPSHOT


def test_a_restore_stops_redis_puts_the_copy_in_place_and_starts_it(fog, inside, copy, whole):
    inside.client.on("exec bbb sh -c", json.dumps({**DEFINITIONS, "queues": []}))
    code, out, _ = fog("swarm", "restore", "copy", "--yes", *STACK)
    assert code == 0
    assert out.startswith("restored redis and rabbitmq of 20")
    order = [words for words in inside.words() if words[:2] in (["service", "scale"], ["run", "--rm"], ["exec", "-i"])]
    assert [words[-1] for words in (order[0], order[2])] == ["fog_redis=0", "fog_redis=1"]
    [put] = inside.client.calls("run")
    assert put.stdin == SNAPSHOT
    assert put.words[-6:] == ["fog_redis-data:/data", "sha256:77", "-c", PUT, "sh", "/data"]
    assert order[1] == put.words
    assert whole == [["redis"]]
    [imported] = inside.client.calls("exec -i bbb")
    assert imported.words[-3:] == ["rabbitmqctl", "-q", "import_definitions"]
    assert json.loads(imported.stdin) == {"queues": [{"name": "mine"}]}


def test_redis_comes_back_also_when_the_copy_could_not_be_put_in_place(fog, inside, copy, whole):
    inside.client.on("run --rm", err="RDB is damaged\n", code=1)
    code, _, err = fog("swarm", "restore", "copy", "--yes", *STACK)
    assert code == 1
    assert "RDB is damaged" in err
    assert [words[-1] for words in inside.words("service scale")] == ["fog_redis=0", "fog_redis=1"]
    assert not inside.words("exec -i")


def test_nothing_is_replaced_unless_it_is_said(fog, inside, copy):
    code, _, err = fog("swarm", "restore", "copy", *STACK)
    assert code == 2
    assert "replaces all that Redis has" in err
    assert not inside.words()


def test_the_broker_alone_needs_no_yes(fog, inside, copy):
    code, out, _ = fog("swarm", "restore", "copy", "--only", "rabbitmq", *STACK)
    assert code == 0
    assert out.startswith("restored rabbitmq of")
    assert not inside.words("service scale")
    assert not inside.words("exec -i")  # there was nothing to bring back


def test_what_is_there_stays_as_it_is():
    def both(value: object) -> dict[str, list[dict[str, object]]]:
        return {
            "users": [{"name": "admin"}],
            "vhosts": [{"name": "/fog", "metadata": {"tags": [value]}}],
            "policies": [
                {"vhost": "/fog", "name": "mine", "definition": {"max-length": value}},
                {"vhost": "/fog", "name": "fog.tasks.normal", "definition": {"max-length": value}},
            ],
            "operator_policies": [{"vhost": "/fog", "name": "mine", "definition": {"max-length": value}}],
            "parameters": [{"component": "shovel", "vhost": "/fog", "name": "s", "value": value}],
            "queues": [{"vhost": "/fog", "name": "mine", "arguments": {"x-max-length": value}}],
            "bindings": [{"vhost": "/fog", "source": "a", "destination": "mine", "routing_key": "x", "arguments": {}}],
        }

    live, copy = both(1), both(2)
    assert json.loads(missing_from(json.dumps(live), json.dumps(copy))) == {}
    other = {"vhost": "/other", "name": "mine", "definition": {"max-length": 2}}
    obsolete = {"vhost": "/fog", "name": "fog.gone", "definition": {"max-length": 2}}
    again = {**copy["bindings"][0], "routing_key": "y"}
    copy["policies"] += [other, obsolete]
    copy["bindings"].append(again)
    assert json.loads(missing_from(json.dumps(live), json.dumps(copy))) == {"policies": [other], "bindings": [again]}
    assert json.loads(missing_from("{}", json.dumps(copy))).keys() == copy.keys() - {"users"}


@pytest.mark.parametrize("file", ["redis.rdb", "definitions.json", "manifest.json"])
def test_a_copy_that_has_changed_is_refused(fog, inside, copy, file):
    (copy / file).write_text("other")
    code, _, err = fog("swarm", "restore", "copy", "--yes", *STACK)
    assert code == 2
    assert file in err
    (copy / file).unlink()
    code, _, err = fog("swarm", "restore", "copy", "--yes", *STACK)
    assert code == 2
    assert "no whole copy" in err
    assert not inside.words()


# -- real servers


async def saved(client) -> None:
    before = (await client.info("persistence"))["rdb_saves"]
    await client.bgsave(schedule=True)
    with anyio.fail_after(20):
        while (await client.info("persistence"))["rdb_saves"] == before:  # noqa: ASYNC110 - it tells nobody
            await anyio.sleep(0.02)


@pytest.mark.services
@pytest.mark.asyncio
async def test_a_real_redis_reads_the_copy_and_a_damaged_one_changes_nothing():
    server = RedisServer()
    try:
        await server.start()
        put = (f"{HOME}/data", f"{HOME}/dump.rdb")
        async with redis.asyncio.from_url(server.url) as client:
            await client.set("kept", "as it was", ex=1000)
            await client.sadd("members", "a", "b")
            await saved(client)
            await client.set("kept", "changed")
            await client.set("later", "1")
        await server.run_inside("mkdir", put[0])
        await server.run_inside("sh", "-c", 'sh -c "$1" sh "$2" <"$3"', "sh", PUT, *put)
        made = server.home / "data/appendonlydir"
        whole = {path.name: path.read_bytes() for path in made.iterdir()}
        (server.home / "dump.rdb").write_bytes(b"REDIS0012 damaged")
        with pytest.raises(ServiceFailed):
            await server.run_inside("sh", "-c", 'sh -c "$1" sh "$2" <"$3"', "sh", PUT, *put)
        assert {path.name: path.read_bytes() for path in made.iterdir()} == whole
        await server.kill9()
        shutil.rmtree(server.home / "appendonlydir")
        made.rename(server.home / "appendonlydir")
        await server.start()
        async with redis.asyncio.from_url(server.url) as client:
            assert await client.get("kept") == b"as it was"
            assert 0 < await client.ttl("kept") <= 1000
            assert await client.smembers("members") == {b"a", b"b"}
            assert await client.get("later") is None
            await client.set("after", "1")  # and goes on from there
        await server.kill9()
        await server.start()
        async with redis.asyncio.from_url(server.url) as client:
            assert await client.get("after") == b"1"
    except ServiceUnavailable as error:
        skip_or_fail(error)
    finally:
        with anyio.CancelScope(shield=True):
            await server.stop(grace_s=0)


@pytest.mark.services
@pytest.mark.asyncio
@pytest.mark.parametrize("version", ["4.3", "4.0"])
async def test_a_real_broker_takes_back_what_is_missing_and_no_users(version):
    broker = RabbitMQ(version)
    mine, policy, lost = "/api/queues/%2Ffog/mine", "/api/policies/%2Ffog/mine", "/api/policies/%2Ffog/lost"

    def limit(length: int) -> object:
        return {"pattern": "^mine$", "definition": {"max-length": length}, "apply-to": "queues"}

    try:
        await broker.start()
        await broker.api("PUT", mine, {"durable": True, "arguments": {"x-queue-type": "quorum"}})
        await broker.api("PUT", policy, limit(1000))
        await broker.api("PUT", lost, limit(2000))
        await broker.add_user("gone")
        copy = await broker.run_inside(*EXPORT)
        await broker.api("DELETE", mine)
        await broker.api("PUT", policy, limit(5))
        await broker.api("DELETE", lost)
        await broker.api("DELETE", "/api/users/gone")
        (broker.home / "copy.json").write_bytes(missing_from(await broker.run_inside(*EXPORT), copy))
        await broker.run_inside("sh", "-c", f'exec sh -c "$0" sh "$@" <{HOME}/copy.json', BROKER_FILE, *IMPORT)
        assert (await broker.api("GET", mine))["type"] == "quorum"
        assert (await broker.api("GET", policy))["definition"] == {"max-length": 5}
        assert (await broker.api("GET", lost))["definition"] == {"max-length": 2000}
        with pytest.raises(ServiceFailed, match="404"):
            await broker.api("GET", "/api/users/gone")
    except ServiceUnavailable as error:
        skip_or_fail(error)
    finally:
        with anyio.CancelScope(shield=True):
            await broker.stop(grace_s=0)

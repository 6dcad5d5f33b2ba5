"""`fogactors swarm deploy`, `status`, `scale`, `logs`, `down`, against a scripted docker client."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from fogactors.app.swarm import services
from fogactors.app.swarm.docker import Docker, DockerFailed
from fogactors.app.swarm.env import PASSWORDS, generated, read_env
from fogactors.app.swarm.services import look, wait_whole
from fogactors.app.swarm.stack import read_stack
from tests.app.swarm.client import node, on_five, on_nodes, on_services, service, task

ROOT = Path(__file__).parents[3]
STACK = str(ROOT / "swarm" / "stack.yml")
NAMES = list(read_stack(Path(STACK), {}).services)


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    monkeypatch.setattr(services, "_POLL_S", 0.01)
    monkeypatch.setattr("fogactors.app.swarm.deploy._POLL_S", 0.01)


@pytest.fixture
def env(fog):
    """A complete .env in the folder of the command; its values."""
    made = generated(PASSWORDS)
    Path(".env").write_text("".join(f"{name}={value}\n" for name, value in made.items()) + "MQ_ADMIN_USER=root\n")
    return made


def whole(*names: str, **changed) -> tuple[list, list]:
    found = [service(name, **changed) for name in names]
    return found, [task(each) for each in found]


def empty_swarm(client) -> None:
    client.on("secret ls", "")
    client.on("secret create", "id\n")
    client.on("stack deploy", "Creating network fog-network\n")
    on_five(client)


def test_deploy_makes_secrets_and_hands_docker_the_files_and_variables_but_no_password(fog, client, env):
    empty_swarm(client)
    on_services(client, ([], []), whole(*NAMES))
    code, out, err = fog("swarm", "deploy", "--file", STACK)
    assert (code, err) == (0, "")
    assert out.startswith("Creating network fog-network\n")
    assert "rabbitmq1" in out
    (call,) = client.calls("stack deploy")
    assert call.words == ["stack", "deploy", "--with-registry-auth", "-c", STACK, "fog"]
    made = {call.words[-2]: call.stdin for call in client.calls("secret create")}
    assert sorted(made.values()) == sorted(env.values())
    names = {name: value for name, value in call.environment.items() if name.startswith("FOG_SECRET_")}
    assert set(names.values()) == set(made)
    assert call.environment["MQ_ADMIN_USER"] == "root"
    hashes = {name: value for name, value in call.environment.items() if name.startswith("FOG_CONFIG_")}
    assert hashes == read_stack(Path(STACK), {}).config_hashes()
    shown = [out, err, *(word for call in client.calls() for word in call.words), *call.environment.values()]
    assert not any(value in text for value in env.values() for text in shown)


def test_a_first_deploy_on_nodes_that_cannot_carry_it_is_refused(fog, client, env):
    empty_swarm(client)
    on_nodes(client, node("m1", manager=True, labels={"manager-master": "true"}, engine="19.3.1"))
    on_services(client, ([], []))
    code, _, err = fog("swarm", "deploy", "--file", STACK)
    assert code == 2
    assert err == (
        "fogactors: m1 has Docker Engine 19.3.1; 20.10 or newer is needed (and 5 more; see `fogactors swarm doctor`); "
        "--no-doctor deploys all the same\n"
    )
    assert client.calls("secret create") == client.calls("stack deploy") == []
    on_services(client, ([], []), whole(*NAMES))
    assert fog("swarm", "deploy", "--file", STACK, "--no-doctor")[0] == 0


def test_a_host_that_is_down_does_not_keep_a_change_from_the_others(fog, client, env):
    empty_swarm(client)
    on_nodes(client, node("m1", manager=True, ready=False))
    on_services(client, whole(*NAMES))
    code, _, err = fog("swarm", "deploy", "--file", STACK)
    assert code == 0
    assert err.startswith("error: m1 takes no tasks: it is down, drained or paused\n")


def test_deploy_adds_passwords_that_the_file_lacks(fog, client):
    empty_swarm(client)
    on_services(client, ([], []), whole(*NAMES))
    Path(".env").write_text("REDIS_PASS=kX9-w2-0123456789\n")
    code, _, err = fog("swarm", "deploy", "--file", STACK)
    assert code == 0
    assert err.startswith(".env: 10 passwords were missing and have been added: RABBITMQ_ERLANG_COOKIE, ")
    assert set(read_env(Path(".env"))) == set(PASSWORDS)


def test_deploy_refuses_another_cookie_while_brokers_run(fog, client, env):
    empty_swarm(client)
    on_services(client, whole("rabbitmq1", secrets={"erlang_cookie": "fog_erlang_cookie_00000000"}))
    code, _, err = fog("swarm", "deploy", "--file", STACK)
    assert code == 2
    assert err.startswith(
        "fogactors: the running brokers have another cookie, fog_erlang_cookie_00000000; bring the .env"
    )
    assert client.calls("stack deploy") == []
    assert client.calls("secret create") == []


def test_deploy_keeps_what_was_scaled(fog, client, env):
    empty_swarm(client)
    found = [service(name, replicas=3 if name == "fog-node-1" else 1) for name in NAMES]
    tasks = [task(each, at=str(n)) for each in found for n in range(3 if each["ID"] == "id-fog-node-1" else 1)]
    on_services(client, (found, tasks))
    assert fog("swarm", "deploy", "--file", STACK)[0] == 0
    (call,) = client.calls("stack deploy")
    extra = [json.loads(text) for name, text in call.files.items() if name != STACK]
    assert extra == [{"version": "3.8", "services": {"fog-node-1": {"deploy": {"replicas": 3}}}}]


def test_deploy_with_tls_needs_the_certificates(fog, client, env, monkeypatch, tmp_path):
    empty_swarm(client)
    on_services(client, ([], []), whole("a"))
    (tmp_path / "stack.yml").write_text("services: {a: {image: x}}\n")
    (tmp_path / "tls.yml").write_text("secrets: {tls_ca: {external: true}, tls_cert: {}, tls_key: {}}\n")
    monkeypatch.setenv("FOG_TLS", "on")
    words = ("swarm", "deploy", "--file", str(tmp_path / "stack.yml"), "--json")
    code, _, err = fog(*words)
    assert (code, err) == (2, "fogactors: certs/ca.crt: No such file or directory; `fogactors swarm certs` makes it\n")
    assert fog("swarm", "certs")[0] == 0
    code, out, _ = fog(*words)
    assert code == 0
    assert [name.rpartition("_")[0] for name in json.loads(out)["secrets_made"]] == [
        "fog_tls_ca",
        "fog_tls_cert",
        "fog_tls_key",
    ]
    (call,) = client.calls("stack deploy")
    assert call.environment["FOG_MANAGEMENT_PORT"] == "15671"
    assert [word for word in call.words if word.endswith(".yml")] == [
        str(tmp_path / "stack.yml"),
        str(tmp_path / "tls.yml"),
    ]


def test_a_secret_that_nothing_makes_is_named(fog, client, env, tmp_path):
    empty_swarm(client)
    on_services(client, ([], []))
    (tmp_path / "stack.yml").write_text("services: {}\nsecrets: {mine: {external: true}}\n")
    code, _, err = fog("swarm", "deploy", "--file", str(tmp_path / "stack.yml"))
    assert code == 2
    assert err.endswith("stack.yml: nothing makes the secret mine\n")


def test_a_task_of_before_the_update_does_not_count(client):
    new = service("redis", image="redis:2", update="updating")
    on_services(client, ([new], [task(new, image="redis:1")]))
    (state,) = look(Docker(), "fog")
    assert (state.running, state.wanted, state.whole, state.hosts) == (0, 1, False, ("m1",))


def test_the_wait_ends_when_all_are_up_and_tells_what_it_waits_for(client):
    new = service("redis", image="redis:2", update="updating")
    failed = task(new, "failed", err="no space left", at="2")
    on_services(
        client,
        ([], []),
        ([new], [task(new, image="redis:1")]),
        ([new], [failed]),
        ([service("redis", image="redis:2", update="completed")], [failed, task(new, at="3")]),
    )
    told: list[str] = []
    (state,) = wait_whole(Docker(), "fog", ["redis"], 20, told.append)
    assert told == [
        "waiting for redis is not there",
        "waiting for redis 0/1, updating",
        "waiting for redis 0/1, updating, no space left",
    ]
    assert (str(state), state.whole) == ("redis 1/1", True)


def test_the_wait_ends_with_what_is_missing(client):
    down = service("redis")
    on_services(client, ([down], [task(down, "failed", err="old", at="1"), task(down, "failed", err="new", at="2")]))
    with pytest.raises(DockerFailed, match=r"^not up within 0\.05 s: redis 0/1, new; rabbitmq1 is not there; `docker"):
        wait_whole(Docker(), "fog", ["redis", "rabbitmq1"], 0.05)


def test_the_wait_ends_at_once_when_docker_has_given_the_update_up(client):
    on_services(client, whole("redis", update="rollback_completed"))
    with pytest.raises(DockerFailed, match="an update was given up: redis 1/1, rollback_completed"):
        wait_whole(Docker(), "fog", ["redis"], 600)


def test_managers_that_choose_a_leader_are_waited_for(client):
    on_services(client, whole("redis"))
    client.on("service ls", err="The swarm does not have a leader.", code=1)
    with pytest.raises(DockerFailed, match=r"not up within 0\.05 s: docker service ls .* does not have a leader"):
        wait_whole(Docker(), "fog", ["redis"], 0.05)


def test_status_says_what_is_wrong_and_exits_1(fog, client):
    on_services(client, whole("redis"))
    code, out, err = fog("swarm", "status", "--json")
    assert (code, err) == (0, "")
    assert json.loads(out)[0] | {"name": "redis", "running": 1, "hosts": ["m1"]} == json.loads(out)[0]
    broken = service("redis")
    on_services(client, ([broken], [task(broken, "rejected", err="no suitable node")]))
    code, out, _ = fog("swarm", "status")
    assert code == 1
    assert out.splitlines()[1].split() == ["redis", "0/1", "starting", "fogactors:1"]
    assert out.splitlines()[2] == "redis: no suitable node"
    on_services(client, ([], []))
    code, _, err = fog("swarm", "status")
    assert (code, err) == (2, "fogactors: there is no stack 'fog'; `fogactors swarm deploy` makes it\n")


def test_scale(fog, client):
    client.on("service scale", "")
    found = service("fog-node-1", replicas=2)
    on_services(client, ([found], [task(found)]), ([found], [task(found), task(found, at="2")]))
    code, out, err = fog("swarm", "scale", "fog-node-1=2", "--file", STACK, "--json")
    assert (code, err) == (0, "waiting for fog-node-1 1/2\n")
    assert json.loads(out)[0]["running"] == 2
    assert [call.words[2:] for call in client.calls("service scale")] == [["--detach", "fog_fog-node-1=2"]]


@pytest.mark.parametrize(
    ("word", "wrong"),
    [
        ("rabbitmq1=2", "rabbitmq1 cannot be scaled; these can: fog-node-1, fog-node-2, fog-node-3"),
        ("fog-node-1", "expected SERVICE=N, e.g. fog-node-1=3, got 'fog-node-1'"),
        ("fog-node-1=-1", "expected SERVICE=N, e.g. fog-node-1=3, got 'fog-node-1=-1'"),
    ],
)
def test_scale_refuses(fog, client, word, wrong):
    code, _, err = fog("swarm", "scale", "--file", STACK, "--", word)
    assert (code, err) == (2, f"fogactors: {wrong}\n")
    assert client.calls("service scale") == []


def test_logs_are_dockers_own_lines(fog, client):
    client.on("service ls", "fog_redis\nfog_rabbitmq1\n")
    client.on("service logs", "a line\n")
    assert fog("swarm", "logs", "redis", "--tail", "5", "--since", "10m")[0] == 0
    assert [call.words for call in client.calls("service logs")] == [
        ["service", "logs", "--tail", "5", "--since", "10m", "fog_redis"]
    ]
    client.forget()
    assert fog("swarm", "logs")[0] == 0
    assert [call.words[-1] for call in client.calls("service logs")] == ["fog_rabbitmq1", "fog_redis"]
    code, _, err = fog("swarm", "logs", "x")
    assert (code, err) == (2, "fogactors: there is no service 'x' in the stack 'fog'; there are rabbitmq1, redis\n")
    assert fog("swarm", "logs", "-f")[2] == "fogactors: --follow needs a service: rabbitmq1, redis\n"


def test_down_waits_until_services_network_and_containers_are_gone(fog, client):
    client.on("service ls", "fog_redis\n", "", "")
    client.on("network ls", "net\n", "net\n", "net\n", "")
    client.on("ps", "one\ntwo\n", "one\n", "")
    client.on("stack rm", "")
    client.on("network rm", err="network has active endpoints", code=1)
    code, out, err = fog("swarm", "down")
    assert (code, out) == (0, "fog: removed; its volumes are kept\n")
    assert err == "removing 1 services, 1 networks, 2 containers\n"
    assert len(client.calls("stack rm")) == 1
    assert len(client.calls("network rm")) == 2


def test_down_without_a_stack_and_one_that_does_not_go(fog, client):
    for each in ("service ls", "network ls", "ps"):
        client.on(each, "")
    assert fog("swarm", "down", "--json")[:2] == (0, '{\n  "removed": false\n}\n')
    client.on("ps", "one\n")
    code, _, err = fog("swarm", "down", "--wait", "1")
    assert code == 1
    assert "fogactors: not gone within 1 s: 1 containers; `docker stack rm fog` once more, or look at them\n" in err

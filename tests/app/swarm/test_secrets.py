"""`fogactors swarm secrets`, and the secrets that a deploy makes."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from fogactors.app.swarm.docker import Docker
from fogactors.app.swarm.env import PASSWORDS, generated, read_env, values_of
from fogactors.app.swarm.secrets import cookie_in_use, create, missing, of_certs, of_values, variable
from fogactors.errors import ConfigError

GUESSED = "changeme"
VALUES = {name: f"value-of-{name}" for name in PASSWORDS}


def test_names_follow_the_content_and_hide_it():
    first, again = of_values("fog", VALUES), of_values("fog", VALUES)
    assert [each.name for each in first] == [each.name for each in again]
    changed = of_values("fog", {**VALUES, "REDIS_PASS": "another"})
    assert [each.key for each, other in zip(first, changed, strict=True) if each.name != other.name] == [
        "redis_password"
    ]
    assert len({each.name for each in of_values("fog", dict.fromkeys(PASSWORDS, "same"))}) == len(PASSWORDS)
    for each in first:
        assert each.name.startswith(f"fog_{each.key}_")
        assert len(each.name) <= 64  # docker's limit
        assert each.content.decode() not in repr(each)


def test_what_is_missing_is_named():
    with pytest.raises(ConfigError, match=r"^REDIS_PASS, FOG_REAPER_PASS missing; `fogactors swarm secrets` adds"):
        of_values("fog", {k: v for k, v in VALUES.items() if k not in ("REDIS_PASS", "FOG_REAPER_PASS")})


def test_create_makes_those_that_are_not_there_and_sends_their_content_by_standard_input(client):
    wanted = of_values("fog", VALUES)
    client.on("secret ls", "".join(f"{each.name}\n" for each in wanted[2:]))
    client.on("secret create", "id\n")
    assert create(Docker(), wanted) == [each.name for each in wanted[:2]]
    calls = client.calls("secret create")
    assert [(call.words[-2:], call.stdin) for call in calls] == [
        ([each.name, "-"], each.content.decode()) for each in wanted[:2]
    ]
    assert not any(value in word for call in client.calls() for word in call.words for value in VALUES.values())


def test_certificates_become_secrets(tmp_path):
    with pytest.raises(ConfigError, match=r"ca\.crt: No such file or directory; `fogactors swarm certs` makes it"):
        of_certs("fog", tmp_path, VALUES)
    for name in ("ca.crt", "server.crt", "server.key"):
        (tmp_path / name).write_text(name)
    found = of_certs("fog", tmp_path, VALUES)
    assert [(each.key, each.content) for each in found] == [
        ("tls_ca", b"ca.crt"),
        ("tls_cert", b"server.crt"),
        ("tls_key", b"server.key"),
    ]


def test_a_password_that_the_swarm_has_is_not_made_anew():
    values = values_of({"REDIS_PASS": "here"}, {})
    there = ["fog_redis_password_00000000", "fog_admin_password_0123abcd", "other_reaper_password_0123abcd"]
    with pytest.raises(
        ConfigError, match=r"^MQ_ADMIN_PASS is missing, but the swarm has the secret fog_admin_password"
    ):
        missing("fog", values, there)
    assert set(missing("other2", values, there)) == set(PASSWORDS) - {"REDIS_PASS"}
    renewed = missing("fog", values, there, renew=["MQ_ADMIN_PASS", "REDIS_PASS"])
    assert set(renewed) == set(PASSWORDS)
    with pytest.raises(ConfigError, match=r"^there is no password MQ_PASS; there are REDIS_PASS, "):
        missing("fog", values, [], renew=["MQ_PASS"])


def test_the_cookie_in_use_is_that_of_a_running_broker():
    mounted = [
        {"File": {"Name": "admin_password"}, "SecretName": "fog_admin_password_1"},
        {"File": {"Name": "erlang_cookie"}, "SecretName": "fog_erlang_cookie_1"},
    ]
    service = {"Spec": {"TaskTemplate": {"ContainerSpec": {"Secrets": mounted}}}}
    assert cookie_in_use([{"Spec": {"TaskTemplate": {"ContainerSpec": {}}}}, service]) == "fog_erlang_cookie_1"
    assert cookie_in_use([]) is None


def test_the_command_fills_the_file_and_shows_no_value(fog, client):
    client.on("secret ls", "")
    Path(".env").write_text(f"MQ_ADMIN_PASS={GUESSED}\n")
    code, out, err = fog("swarm", "secrets")
    assert (code, err) == (0, "")
    values = read_env(Path(".env"))
    assert set(values) == set(PASSWORDS)
    assert values["MQ_ADMIN_PASS"] == GUESSED
    assert out.startswith(".env: 10 made, 1 kept (REDIS_PASS, RABBITMQ_ERLANG_COOKIE, ")
    assert "MQ_ADMIN_PASS is a placeholder" in out
    code, out, _ = fog("swarm", "secrets", "--json", "--renew", "MQ_ADMIN_PASS")
    assert code == 0
    assert json.loads(out)["made"] == ["MQ_ADMIN_PASS"]
    after = read_env(Path(".env"))
    assert after["MQ_ADMIN_PASS"] != GUESSED
    assert {k: v for k, v in after.items() if k != "MQ_ADMIN_PASS"} == {
        k: v for k, v in values.items() if k != "MQ_ADMIN_PASS"
    }
    assert not any(value in out for value in after.values())


def test_the_command_works_before_there_is_a_swarm(fog, client):
    client.on("secret ls", err="This node is not a swarm manager.", code=1)
    code, out, err = fog("swarm", "secrets")
    assert code == 0
    assert "11 made, 0 kept" in out
    assert err.startswith(
        "no swarm was asked which secrets it has: docker secret ls --format ended with 1: This node is"
    )


def test_the_command_refuses_to_renew_what_the_environment_says(fog, client, monkeypatch):
    client.on("secret ls", "")
    monkeypatch.setenv("REDIS_PASS", generated(["x"])["x"])
    code, _, err = fog("swarm", "secrets", "--renew", "REDIS_PASS")
    assert (code, err) == (
        2,
        "fogactors: REDIS_PASS is set in the environment, which counts more than .env; unset it first\n",
    )
    assert not Path(".env").exists()


def test_each_secret_has_a_variable_that_the_stack_expands():
    stack = (Path(__file__).parents[3] / "swarm" / "stack.yml").read_text()
    for each in of_values("fog", VALUES):
        assert f"${{{variable(each.key)}:-" in stack

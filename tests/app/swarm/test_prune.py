"""Secrets and configs that a deploy has made superfluous go, when the new ones are up; the ones before stay."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from fogactors.app.swarm.env import PASSWORDS, generated
from fogactors.app.swarm.prune import superseded
from fogactors.app.swarm.stack import read_stack
from tests.app.swarm.client import on_five, on_services, service, task

STACK = str(Path(__file__).parents[3] / "swarm" / "stack.yml")
NAMES = list(read_stack(Path(STACK), {}).services)


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    monkeypatch.setattr("fogactors.app.swarm.services._POLL_S", 0.01)


def made(name: str, day: int, *, key: str = "") -> dict[str, Any]:
    """As docker inspects a secret or a config."""
    labels = {"fog.key": key} if key else {"com.docker.stack.namespace": "fog"}
    return {"CreatedAt": f"2026-01-{day:02}T10:00:00.123456789Z", "Spec": {"Name": name, "Labels": labels}}


def uses(name: str, *, secrets: tuple[str, ...] = (), configs: tuple[str, ...] = (), before: Any = None) -> Any:
    found = service(name, image="x")
    found["Spec"]["TaskTemplate"]["ContainerSpec"] |= {
        "Secrets": [{"SecretName": each} for each in secrets],
        "Configs": [{"ConfigName": each} for each in configs],
    }
    if before:
        found["PreviousSpec"] = before["Spec"]
    return found


def redis_conf(day: int) -> str:
    return f"fog_redis_conf_0000000{day}"


def test_what_runs_what_it_would_be_rolled_back_to_and_the_newest_of_the_rest_stay():
    there = [made(redis_conf(day), day) for day in (3, 1, 5, 2, 4)]
    now = uses("redis", configs=(redis_conf(5),), before=uses("redis", configs=(redis_conf(3),)))
    assert superseded("config", "fog", there, [now]) == [redis_conf(1), redis_conf(2)]
    # one update later that changed something else: docker would roll back to the same file, and the one before stays
    again = uses("redis", configs=(redis_conf(5),), before=now)
    assert superseded("config", "fog", there, [again]) == [redis_conf(1), redis_conf(2), redis_conf(3)]


def test_what_another_service_or_another_stack_has_stays():
    there = [made(f"fog_actors_toml_0000000{day}", day) for day in (1, 2, 3)]
    services = [
        uses("redis", configs=("fog_actors_toml_00000003",)),
        uses("mine", configs=("fog_actors_toml_00000001",)),
    ]
    assert superseded("config", "fog", there, services) == []
    secrets = [made(f"fog_a_0000000{day}", day, key="a") for day in (1, 2)]
    other = [made(f"fog_test_a_0000000{day}", day, key="a") for day in (1, 2)]
    assert superseded("secret", "fog", [*secrets, *other], []) == ["fog_a_00000001"]
    assert superseded("secret", "fog_test", [*secrets, *other], []) == ["fog_test_a_00000001"]


def test_names_without_a_version_are_not_ours():
    assert superseded("config", "fog", [made("fog_mine", 1), made("fog_mine_2", 2)], []) == []
    assert superseded("secret", "fog", [made(f"fog_mine_0000000{day}", day, key="x") for day in (1, 2)], []) == []


def swarm_with_old_ones(client) -> list[Any]:
    """The stack is up; of the reaper's password there are two that nothing uses, of redis.conf too."""
    Path(".env").write_text("".join(f"{name}={value}\n" for name, value in generated(PASSWORDS).items()))
    on_five(client)
    found = [service(name) for name in NAMES]
    on_services(client, (found, [task(each) for each in found]))
    passwords = [made(f"fog_reaper_password_0000000{day}", day, key="reaper_password") for day in (1, 2)]
    configs = [made(redis_conf(day), day) for day in (1, 2)]
    client.on("secret ls", "".join(f"{each['Spec']['Name']}\n" for each in passwords))
    client.on("config ls", "".join(f"{each['Spec']['Name']}\n" for each in configs))
    client.on("secret inspect", passwords)
    client.on("config inspect", configs)
    client.on("secret create", "id\n")
    client.on("stack deploy", "")
    return found


def removals(client) -> list[list[str]]:
    return [call.words for call in client.calls() if call.words[1:2] == ["rm"]]


def test_a_deploy_that_is_up_removes_them_and_says_so(fog, client):
    swarm_with_old_ones(client)
    client.on("secret rm", "")
    client.on("config rm", "")
    code, out, err = fog("swarm", "deploy", "--file", STACK, "--json")
    assert code == 0
    assert removals(client) == [["secret", "rm", "fog_reaper_password_00000001"], ["config", "rm", redis_conf(1)]]
    assert json.loads(out)["removed"] == ["fog_reaper_password_00000001", redis_conf(1)]
    assert err == (
        "removed, because nothing uses them any more: fog_reaper_password_00000001, fog_redis_conf_00000001\n"
    )


def test_one_that_docker_does_not_remove_is_told_of_and_is_no_failure(fog, client):
    swarm_with_old_ones(client)
    client.on("secret rm", err="Error response: secret is in use by the following service: mine", code=1)
    client.on("config rm", "")
    code, _, err = fog("swarm", "deploy", "--file", STACK)
    assert code == 0
    assert err.splitlines() == [
        "removed, because nothing uses them any more: fog_redis_conf_00000001",
        "an old secret or config was not removed: docker secret rm fog_reaper_password_00000001 ended with 1: Error "
        "response: secret is in use by the following service: mine",
    ]


def test_nothing_is_removed_before_the_new_ones_are_up(fog, client):
    found = swarm_with_old_ones(client)
    on_services(client, (found, [task(each, "failed", err="no such image") for each in found]))
    assert fog("swarm", "deploy", "--file", STACK, "--wait", "0")[0] == 0
    code, _, err = fog("swarm", "deploy", "--file", STACK, "--wait", "0.05")
    assert code == 1
    assert "not up within 0.05 s: " in err
    assert removals(client) == []

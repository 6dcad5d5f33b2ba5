"""swarm/stack.yml as data: what Swarm would take without a word and then do otherwise than meant."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import yaml

from fogactors.app.check import check
from fogactors.app.settings import Settings, load
from fogactors.app.settings_users import DEFAULT_USERS
from tests.images.conf import IMAGES, rabbitmq_conf

SWARM = Path(__file__).parents[2] / "swarm"
STACK = yaml.safe_load((SWARM / "stack.yml").read_text())
TLS = yaml.safe_load((SWARM / "tls.yml").read_text())
SERVICES = STACK["services"]
BROKERS = {"rabbitmq1": "manager-master", "rabbitmq2": "manager-rep1", "rabbitmq3": "manager-rep2"}
ROLE_OF = {name: service["command"][1] for name, service in SERVICES.items() if "command" in service}
IGNORED = {"build", "container_name", "depends_on", "restart", "env_file", "extends", "links", "mem_limit"}


def secret_names(service) -> set[str]:
    return {each["source"] for each in service.get("secrets", ())}


def passwords_by_env(service) -> dict[str, str]:
    pattern = re.compile(r"FOGACTORS_USERS__(\w+?)__PASSWORD_FILE")
    environment = service["environment"].items()
    return {match[1].lower(): value for key, value in environment if (match := pattern.fullmatch(key))}


@pytest.mark.parametrize("name", SERVICES)
def test_each_service_is_as_swarm_needs_it(name):
    service = SERVICES[name]
    assert not IGNORED & service.keys()
    deploy = service["deploy"]
    assert deploy["endpoint_mode"] == "dnsrr"  # a virtual IP forgets connections that were idle for 15 minutes
    assert "max_attempts" not in deploy["restart_policy"]
    assert deploy["restart_policy"]["condition"] == "any"
    # What has a volume, a port or a turn cannot be there twice; an executor can, and then tasks need not wait.
    order = "start-first" if name.startswith("fog-node-") else "stop-first"
    assert deploy["update_config"]["order"] == deploy["rollback_config"]["order"] == order
    assert deploy["update_config"]["failure_action"] == "rollback"
    assert deploy["resources"]["limits"]["memory"]
    assert all("==" in constraint for constraint in deploy["placement"]["constraints"])
    assert service["init"] is True
    assert service["read_only"] is True
    assert {"type": "tmpfs", "target": "/tmp", "tmpfs": {"size": 67108864}} in service["volumes"]
    assert all(port["mode"] == "host" for port in service.get("ports", ()))
    assert service["networks"] == ["fog-network"]


@pytest.mark.parametrize("name", BROKERS)
def test_a_broker_keeps_its_name_its_host_and_its_data(name):
    service = SERVICES[name]
    assert service["hostname"] == name
    assert service["deploy"]["placement"]["constraints"] == [f"node.labels.{BROKERS[name]} == true"]
    assert service["deploy"].get("replicas", 1) == 1
    data = [each for each in service["volumes"] if each["type"] == "volume"]
    assert data == [{"type": "volume", "source": f"{name}-data", "target": "/var/lib/rabbitmq"}]
    published = [port["published"] for port in service["ports"]]
    assert published == [15671 + int(name[-1])]


def test_a_broker_has_the_time_that_its_sentinel_takes_to_stop():
    assert {SERVICES[name]["stop_grace_period"] for name in BROKERS} == {"300s"}


def test_a_broker_knows_how_much_memory_its_container_has():
    limits = {SERVICES[name]["deploy"]["resources"]["limits"]["memory"] for name in BROKERS}
    assert limits == {rabbitmq_conf()["total_memory_available_override_value"].removesuffix("iB")}


def test_redis_is_not_reached_from_outside():
    assert "ports" not in SERVICES["redis"]


@pytest.mark.parametrize("name", ROLE_OF)
def test_a_role_exists_and_knows_its_own_password_only(name):
    service = SERVICES[name]
    user = service["environment"]["FOGACTORS_NODE__USER"]
    [settings] = [each for each in DEFAULT_USERS if each.name == user]
    assert ROLE_OF[name] in settings.roles
    if "--tier" in service["command"]:
        assert settings.tiers == (service["command"][-1],)
    assert secret_names(service) == {f"{user}_password"}
    assert passwords_by_env(service) == {user: f"/run/secrets/{user}_password"}


def test_the_servers_know_the_users_that_log_in_at_them():
    users = {each.name for each in DEFAULT_USERS}
    for name in (*BROKERS, "redis"):
        known = users if name == "redis" else users - {"redis"}
        service = SERVICES[name]
        assert passwords_by_env(service) == {user: f"/run/secrets/{user}_password" for user in known}
        assert secret_names(service) - {"erlang_cookie"} == {f"{user}_password" for user in known}
        assert all(each["mode"] == 0o400 for each in service["secrets"])


def test_every_secret_is_given_and_no_value_is_in_the_file():
    assert {name for service in SERVICES.values() for name in secret_names(service)} == STACK["secrets"].keys()
    for name, secret in STACK["secrets"].items():
        assert secret == {"external": True, "name": f"${{FOG_SECRET_{name.upper()}:-fog_{name}}}"}
    for service in SERVICES.values():
        for key, value in service["environment"].items():
            assert key.endswith("_FILE") or "PASS" not in key, (key, value)


def test_configs_are_the_images_own_files_under_versioned_names():
    for name, config in STACK["configs"].items():
        assert (SWARM / config["file"]).is_file()
        assert config["name"] == f"fog_{name}_${{FOG_CONFIG_{name.upper()}:-0}}"
    used = {each["source"] for service in SERVICES.values() for each in service["configs"]}
    assert used == STACK["configs"].keys()


def test_tls_is_for_all_and_only_servers_have_the_key():
    assert TLS["services"].keys() == SERVICES.keys()
    for name, service in TLS["services"].items():
        environment = service["environment"]
        assert environment["FOGACTORS_TLS__ENABLED"] == "true"
        assert environment["FOGACTORS_TLS__CA_FILE"] == "/run/secrets/tls_ca"
        assert ("tls_key" in secret_names(service)) == (name in (*BROKERS, "redis"))
        uids = {each["uid"] for each in SERVICES[name]["secrets"]}
        assert {each["uid"] for each in service["secrets"]} == uids
        assert "ports" not in service  # Swarm would add them to those that there are
    assert set(TLS["secrets"]) == {"tls_ca", "tls_cert", "tls_key"}
    assert TLS["configs"].keys() <= STACK["configs"].keys()
    for name, config in TLS["configs"].items():
        assert (SWARM / config["file"]).is_file()
        assert config["name"] == f"fog_{name}_tls_${{FOG_CONFIG_{name.upper()}:-0}}"


def test_with_tls_nothing_listens_without_it():
    text = (IMAGES / "rabbitmq/listeners-tls.conf").read_text()
    assert "listeners.tcp = none" in text
    assert "management.tcp" not in text
    assert "listeners." not in (IMAGES / "rabbitmq/rabbitmq.conf").read_text().replace("listeners.conf", "")
    command = TLS["services"]["redis"]["command"]
    assert command[command.index("--port") + 1] == "0"
    assert command[command.index("--tls-port") + 1] == "6379"


def test_tiers_get_what_the_settings_say_that_they_have():
    tiers = {tier.name: tier for tier in Settings().tiers}
    for name in ("fog-node-1", "fog-node-2", "fog-node-3"):
        service = SERVICES[name]
        tier = tiers[service["command"][-1]]
        limits = service["deploy"]["resources"]["limits"]
        assert (float(limits["cpus"]), limits["memory"]) == (tier.cpu, f"{tier.memory_mb}M")
    places = {name: SERVICES[name]["deploy"]["placement"]["constraints"] for name in SERVICES if name.startswith("fog")}
    assert places == {
        "fog-node-1": ["node.labels.fog == 1"],
        "fog-node-2": ["node.labels.fog == 3"],
        "fog-node-3": ["node.labels.fog == 3"],
    }


@pytest.mark.parametrize("image", ["fogactors", "redis", "rabbitmq"])
def test_an_image_has_no_root_and_takes_any_base(image):
    lines = (IMAGES / image / "Dockerfile").read_text().splitlines()
    words = [line.split(maxsplit=1) for line in lines if line and not line.startswith(("#", " "))]
    instructions = {word[0]: word[1] for word in words if len(word) == 2}
    assert instructions["USER"] not in ("root", "0")
    assert instructions["STOPSIGNAL"] == "SIGTERM"
    assert instructions["FROM"] == "${BASE}"
    assert "HEALTHCHECK" in instructions
    assert "org.opencontainers.image.title" in instructions["LABEL"]


@pytest.mark.parametrize("image", ["fogactors", "rabbitmq"])
def test_who_looks_up_names_does_not_wait_for_the_sites_name_server(image):
    assert 'RES_OPTIONS="timeout:1 attempts:2"' in (IMAGES / image / "Dockerfile").read_text()


def expanded(value: str, tmp_path: Path) -> str:
    """As docker does it when nobody sets a variable; secrets lie elsewhere."""
    return re.sub(r"\$\{\w+:-([^}]*)\}", r"\1", value).replace("/run/secrets", str(tmp_path))


def environment_of(name: str, tmp_path: Path, *, tls: bool) -> dict[str, str]:
    image = {"rabbitmq": "rabbitmq", "redis": "redis"}.get(name.rstrip("123"), "fogactors")
    dockerfile = (IMAGES / image / "Dockerfile").read_text()
    found = dict(re.findall(r"\b(FOGACTORS_\w+)=(\S+)", dockerfile)) | SERVICES[name]["environment"]
    if tls:
        found |= TLS["services"][name]["environment"]
    return {key: expanded(value, tmp_path) for key, value in found.items()}


@pytest.mark.parametrize("tls", [False, True], ids=["plain", "tls"])
@pytest.mark.parametrize("name", SERVICES)
def test_the_settings_of_each_service_are_taken(name, tls, tmp_path, monkeypatch):
    services = [SERVICES[name], *([TLS["services"][name]] if tls else [])]
    for secret in {each for service in services for each in secret_names(service)}:
        (tmp_path / secret).write_text(f"content-of-{secret}\n")
    monkeypatch.setattr("socket.gethostname", lambda: SERVICES[name]["hostname"].replace("{{.Task.Slot}}", "1"))
    settings = load(SWARM.parent / "actors.toml", environment_of(name, tmp_path, tls=tls), default_ok=False)
    assert [finding for finding in check(settings) if finding.level == "error"] == []
    if name in ROLE_OF or name in BROKERS:
        user = settings.node.user
        login = f"{user}:content-of-{user}_password@"
        assert settings.bus.url.startswith(f"{'amqps' if tls else 'amqp'}://{login}")
        assert settings.coord.url.startswith(f"{'rediss' if tls else 'redis'}://{login}redis:6379/0")
        assert settings.probe.port == 9101  # that the image's health check asks
    if name in ROLE_OF:
        assert settings.shutdown.budget_s < float(SERVICES[name]["stop_grace_period"].removesuffix("s"))
    if name in BROKERS:
        assert f"rabbit@{settings.cluster.node}" == f"rabbit@{name}"
        assert settings.cluster.nodes == tuple(BROKERS)
        assert settings.cluster.cookie_file == str(tmp_path / "erlang_cookie")
        grace_s = float(SERVICES[name]["stop_grace_period"].removesuffix("s"))
        assert settings.cluster.stop_budget_s <= grace_s
    if name == "metrics-sink":
        assert settings.metrics.host != "127.0.0.1"
        assert settings.metrics.port == SERVICES[name]["ports"][0]["target"]

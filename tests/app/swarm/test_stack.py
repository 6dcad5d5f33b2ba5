"""swarm/stack.yml as the commands read it."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import pytest
import yaml

from fogactors.app.swarm.env import PASSWORDS
from fogactors.app.swarm.secrets import CERTIFICATES
from fogactors.app.swarm.stack import OVERRIDES, read_stack, switched_on
from fogactors.errors import ConfigError

FILE = Path(__file__).parents[3] / "swarm" / "stack.yml"


def test_what_the_stack_needs_is_read_from_it():
    stack = read_stack(FILE, {})
    assert stack.brokers == ["rabbitmq1", "rabbitmq2", "rabbitmq3"]
    assert stack.scalable == ["fog-node-1", "fog-node-2", "fog-node-3"]
    assert {port for ports in stack.ports.values() for port in ports} >= {15672, 15673, 15674}
    assert stack.constraint("rabbitmq1") == "node.labels.manager-master == true"
    assert stack.constraint("fog-node-3") == "node.labels.fog == 3"
    assert stack.memory_mb("fog-node-2") == 768


@pytest.mark.parametrize("switch", ["", *OVERRIDES])
def test_every_secret_that_the_files_name_is_made(switch):
    keys = set(read_stack(FILE, {switch: "on"} if switch else {}).secrets)
    assert keys <= {*PASSWORDS.values(), *CERTIFICATES}
    if not switch:
        assert keys == set(PASSWORDS.values())


def test_switches_add_their_files():
    assert [path.name for path in read_stack(FILE, {"FOG_NETWORK_ENCRYPTED": "on"}).files] == [
        "stack.yml",
        "encrypted.yml",
    ]
    assert [switched_on({"X": value}, "X") for value in ("on", "TRUE", "1", "off", "no", "0")] == [True] * 3 + [
        False
    ] * 3
    with pytest.raises(ConfigError, match="FOG_TLS: expected on or off, got 'maybe'"):
        read_stack(FILE, {"FOG_TLS": "maybe"})


@pytest.mark.parametrize(
    ("text", "wrong"),
    [
        (None, "No such file or directory; run this in a clone"),
        ("a: [", "no YAML: while parsing"),
        ("x", "no stack file"),
    ],
)
def test_a_file_that_is_none(tmp_path, text, wrong):
    if text is not None:
        (tmp_path / "stack.yml").write_text(text)
    with pytest.raises(ConfigError, match=wrong):
        read_stack(tmp_path / "stack.yml", {})


def test_each_configuration_file_has_a_hash_of_its_own(tmp_path):
    for name in ("a.conf", "b.conf", "tls.conf"):
        (tmp_path / name).write_text(name)
    (tmp_path / "swarm").mkdir()
    file = tmp_path / "swarm" / "stack.yml"
    file.write_text("services: {}\nconfigs: {a: {file: ../a.conf}, b: {file: ../b.conf}, c: {external: true}}\n")
    (tmp_path / "swarm" / "tls.yml").write_text("configs: {a: {file: ../tls.conf}}\n")
    stack = read_stack(file, {})
    first = stack.config_hashes()
    assert first.keys() == {"FOG_CONFIG_A", "FOG_CONFIG_B"}
    assert {len(each) for each in first.values()} == {8}
    assert stack.config_hashes() == first
    with_tls = read_stack(file, {"FOG_TLS": "on"}).config_hashes()
    assert with_tls["FOG_CONFIG_A"] != first["FOG_CONFIG_A"]
    assert with_tls["FOG_CONFIG_B"] == first["FOG_CONFIG_B"]
    (tmp_path / "b.conf").write_text("changed")
    changed = stack.config_hashes()
    assert changed["FOG_CONFIG_A"] == first["FOG_CONFIG_A"]
    assert changed["FOG_CONFIG_B"] != first["FOG_CONFIG_B"]
    (tmp_path / "b.conf").unlink()
    with pytest.raises(ConfigError, match=r"b\.conf: No such file or directory; .*stack\.yml names it"):
        stack.config_hashes()


@pytest.mark.parametrize("switch", ["", *OVERRIDES])
def test_another_redis_conf_is_another_name_for_what_redis_uses_alone(switch, tmp_path):
    """As docker sees it: the names of a service's configs, expanded."""
    root = FILE.parents[1]
    shutil.copytree(root / "swarm", tmp_path / "swarm")
    shutil.copytree(root / "images", tmp_path / "images")
    shutil.copy(root / "actors.toml", tmp_path)
    values = {switch: "on"} if switch else {}

    def names() -> dict[str, set[str]]:
        stack = read_stack(tmp_path / "swarm" / "stack.yml", values)
        hashes = stack.config_hashes()
        found = {key: each["name"] for document in stack.documents for key, each in document.get("configs", {}).items()}
        assert {each[each.index("${") + 2 : each.index(":-")] for each in found.values()} == hashes.keys()
        return {
            service: {
                re.sub(r"\$\{(\w+):-0\}", lambda m: hashes[m[1]], found[each["source"]]) for each in of["configs"]
            }
            for service, of in stack.services.items()
        }

    before = names()
    with (tmp_path / "images/redis/redis.conf").open("a") as file:
        file.write("maxclients 500\n")
    assert {name for name, used in names().items() if used != before[name]} == {"redis"}
    with (tmp_path / "images/rabbitmq/rabbitmq.conf").open("a") as file:
        file.write("# changed\n")
    assert {name for name, used in names().items() if used != before[name]} == {"redis", *read_stack(FILE, {}).brokers}


def test_files_with_one_service_hold_what_it_had_and_find_their_configs(tmp_path):
    stack = read_stack(FILE, {"FOG_NETWORK_ENCRYPTED": "on"})
    first, second = (json.loads(path.read_text()) for path in stack.only(["rabbitmq2"], tmp_path))
    whole = yaml.safe_load(FILE.read_text())
    assert first["services"] == {"rabbitmq2": whole["services"]["rabbitmq2"]}
    assert {key: first[key] for key in ("version", "networks", "volumes", "secrets")} == {
        key: whole[key] for key in ("version", "networks", "volumes", "secrets")
    }
    assert not any(key.startswith("x-") for key in first)
    for config in first["configs"].values():
        assert Path(config["file"]).is_absolute()
        assert Path(config["file"]).exists()
    assert second["services"] == {}
    assert second["networks"]["fog-network"]["driver_opts"] == {"encrypted": "true"}

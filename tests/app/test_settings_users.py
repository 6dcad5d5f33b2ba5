"""`[users]` and `[node] user`: who logs in, and as whom this process does."""

from pathlib import Path

import pytest

from fogactors.app.settings import Settings, load
from fogactors.app.settings_users import DEFAULT_USERS, users_of
from fogactors.errors import ConfigError
from fogactors.wire.access import User

REMOTE = '[bus]\nurl = "amqp://a,b:5673/%2Ffog"\nmanagement_url = "http://a:15672"\n[coord]\nurl = "redis://r:6379/0"\n'


@pytest.fixture(autouse=True)
def empty_directory(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def read(text: str = "", **env: str) -> Settings:
    Path("actors.toml").write_text(text)
    return load(None, {f"FOGACTORS_{key}": value for key, value in env.items()}, default_ok=False)


def error(text: str = "", **env: str) -> str:
    with pytest.raises(ConfigError) as caught:
        read(text, **env)
    message = str(caught.value)
    assert len(message.splitlines()) == 1
    return message


def test_a_password_comes_from_a_secret_file():
    Path("secret").write_text("open sesame\n")
    settings = read(USERS__WORKER1__PASSWORD_FILE="secret")
    found = {user.name: user for user in users_of(settings.users)}
    assert found["worker1"] == User("worker1", ("tier-executor",), ("light",), "open sesame")
    assert settings.source("users.worker1.password") == "FOGACTORS_USERS__WORKER1__PASSWORD_FILE"
    assert {user.name for user in found.values() if user.password} == {"worker1"}


def test_a_login_is_what_the_servers_call_it():
    settings = read(USERS__WORKER1__LOGIN="fog-worker", USERS__WORKER1__PASSWORD="x")
    assert "fog-worker" in {user.name for user in users_of(settings.users)}


def test_a_file_that_names_users_names_all_and_leaves_out_what_has_a_default():
    settings = read('[users.me]\nroles = ["admin"]\n')
    [me] = settings.users
    assert (me.name, me.roles, me.tiers, me.login, me.password) == ("me", ("admin",), (), "", "")
    assert error("[users.me]\n") == "actors.toml: [users.me] roles: missing; each table of [users] states roles"


def test_the_user_of_the_node_goes_into_urls_that_name_nobody():
    settings = read(REMOTE, NODE__USER="worker2", USERS__WORKER2__PASSWORD="p@ss/word")
    assert settings.bus.url == "amqp://worker2:p%40ss%2Fword@a,b:5673/%2Ffog"
    assert settings.bus.management_url == "http://worker2:p%40ss%2Fword@a:15672"
    assert settings.coord.url == "redis://worker2:p%40ss%2Fword@r:6379/0"


def test_a_url_that_names_somebody_keeps_it_and_so_does_one_that_needs_nobody():
    text = REMOTE.replace("amqp://", "amqp://other:x@")
    settings = read(text, NODE__USER="worker2", USERS__WORKER2__PASSWORD="p")
    assert settings.bus.url == "amqp://other:x@a,b:5673/%2Ffog"
    assert read("", NODE__USER="worker2", USERS__WORKER2__PASSWORD="p").bus == Settings().bus


@pytest.mark.parametrize(
    ("text", "env", "said"),
    [
        (
            REMOTE,
            {"NODE__USER": "worker9"},
            "FOGACTORS_NODE__USER: [node] user: there is no [users.worker9]; there are",
        ),
        (REMOTE, {"NODE__USER": "worker1"}, "[users.worker1] password: missing, and [node] user names it"),
        ('[users.a]\nroles = ["boss"]\n', {}, "[users.a] roles: there is no role 'boss'; there are tier-executor, "),
        ("[users.a]\nroles = []\n", {}, "[users.a] roles: expected at least one of tier-executor, "),
        (
            '[users.a]\nroles = ["tier-executor"]\ntiers = ["huge"]\npassword = "x"\n',
            {},
            "[users.a] tiers: there is no tier 'huge'; [tiers] has light, medium, heavy",
        ),
        ("", {"USERS__ADMIN__LOGIN": "a b"}, "[users.admin] login: expected at most 63 letters, digits, - and _"),
        (
            "",
            {"USERS__REAPER__LOGIN": "admin", "USERS__REAPER__PASSWORD": "x", "USERS__ADMIN__PASSWORD": "x"},
            "[users.reaper] login: 'admin' is that of [users.admin] as well",
        ),
        ("[users.a]\nroles = ['admin']\npassword = 17\n", {}, "[users.a] password: expected text"),
    ],
)
def test_what_is_wrong_is_one_line(text, env, said):
    assert said in error(text, **env)
    assert "17" not in error(text, **env)


def test_tiers_of_ones_own_need_no_change_of_the_users_that_have_no_password():
    assert read("[tiers.tiny]\ncpu = 1\nmemory_mb = 64\nslots = 1\n").users == DEFAULT_USERS

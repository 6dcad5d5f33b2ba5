"""`fogactors access`, as its user sees it: no server, and no password on the screen."""

import hashlib
import json
import sys

import pytest

from fogactors.app import cli
from fogactors.app.cli.common import state

PASSWORD = "open sesame"  # noqa: S105


@pytest.fixture
def fog(tmp_path, monkeypatch, capsys):
    """`code, out, err = fog("access", "show", ADMIN="secret")`: with the passwords of these users."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(state, "config", None)

    def run(*words: str, **passwords: str) -> tuple[int, str, str]:
        with monkeypatch.context() as patch:
            for user, password in passwords.items():
                secret = tmp_path / user
                secret.write_text(f"{password}\n")
                patch.setenv(f"FOGACTORS_USERS__{user}__PASSWORD_FILE", str(secret))
            patch.setattr(sys, "argv", ["fogactors", *words])
            with pytest.raises(SystemExit) as left:
                cli.main()
        captured = capsys.readouterr()
        return int(left.value.code or 0), captured.out, captured.err

    return run


def test_show_says_what_each_user_may_do(fog):
    code, out, err = fog("access", "show", WORKER1=PASSWORD)
    assert (code, err) == (0, "")
    lines = out.splitlines()
    assert lines[lines.index("worker1: tier-executor") + 1] == r"  configure  ^(ctl\.worker1\..*)$"
    assert "worker2: tier-executor (no password: not made)" in lines
    assert PASSWORD not in out


def test_show_as_json(fog):
    code, out, _ = fog("access", "show", "--json", WORKER1=PASSWORD)
    assert code == 0
    users = {each["user"]: each for each in json.loads(out)}
    assert users["worker1"]["password"] is True
    assert users["worker2"]["password"] is False
    assert users["admin"]["tags"] == ["administrator"]
    assert users["redis"]["read"] is None
    assert "~fog:result:*" in users["worker1"]["redis"].split()
    hashed = hashlib.sha256(PASSWORD.encode()).hexdigest()
    assert PASSWORD not in out
    assert hashed not in out


def test_redis_acl_is_a_file_for_redis_with_those_who_have_a_password(fog):
    code, out, err = fog("access", "redis-acl", WORKER1=PASSWORD, REDIS="x")
    assert (code, err) == (0, "")
    assert [line.split()[:3] for line in out.splitlines()] == [
        ["user", "default", "off"],
        ["user", "worker1", "on"],
        ["user", "redis", "on"],
    ]
    assert hashlib.sha256(PASSWORD.encode()).hexdigest() in out
    assert PASSWORD not in out


def test_a_file_that_would_lock_everybody_out_is_not_made(fog):
    code, out, err = fog("access", "redis-acl")
    assert (code, out) == (2, "")
    assert err.startswith("fogactors: no user of [users] has a password, so nobody could log in; set FOGACTORS_USERS__")


def test_check_shows_where_a_password_comes_from_and_not_what_it_is(fog):
    code, out, _ = fog("check", "--json", WORKER1=PASSWORD)
    rows = {row["key"]: row for row in json.loads(out)["values"]}
    assert code == 0
    assert rows["users.worker1.password"]["value"] == "***"
    assert rows["users.worker1.password"]["source"] == "FOGACTORS_USERS__WORKER1__PASSWORD_FILE"
    assert PASSWORD not in out

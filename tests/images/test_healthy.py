"""images/redis/healthy beside a redis-cli that is a script, and prints what Redis' own prints into a pipe."""

from __future__ import annotations

import subprocess

import pytest

from tests.images.conf import IMAGES

_CLI = """#!/bin/sh
echo "$REDISCLI_AUTH $*" > "{folder}/asked"
cat "{folder}/answer"
cat "{folder}/error" >&2
exit {code}
"""


def healthy(folder, answer: str, error: str = "", code: int = 0) -> int:
    (folder / "password").write_text("secret")
    (folder / "answer").write_text(answer)
    (folder / "error").write_text(error)
    (folder / "redis-cli").write_text(_CLI.format(folder=folder, code=code))
    (folder / "redis-cli").chmod(0o755)
    env = {
        "PATH": f"{folder}:/usr/bin:/bin",
        "FOGACTORS_USERS__REDIS__PASSWORD_FILE": str(folder / "password"),
        "REDIS_CLI_OPTIONS": "--tls --cacert /ca",
    }
    script = IMAGES / "redis/healthy"
    return subprocess.run(["/bin/sh", script], env=env, timeout=10, check=False).returncode


@pytest.mark.parametrize("answer", ["PONG\n", "LOADING Redis is loading the dataset in memory\n\n"])
def test_one_that_answers_lives_also_while_it_reads_its_file_back(tmp_path, answer):
    assert healthy(tmp_path, answer) == 0
    assert (tmp_path / "asked").read_text() == "secret --user redis --tls --cacert /ca ping\n"


@pytest.mark.parametrize(
    ("answer", "error", "code"),
    [
        ("", "", 0),
        ("", "Could not connect to Redis at 127.0.0.1:6379: Connection refused\n", 1),
        ("NOAUTH Authentication required.\n\n", "AUTH failed: WRONGPASS invalid username-password pair\n", 0),
    ],
)
def test_one_that_says_nothing_or_refuses_does_not(tmp_path, answer, error, code):
    assert healthy(tmp_path, answer, error, code) == 1


def test_without_its_password_nobody_is_asked(tmp_path):
    env = {"PATH": f"{tmp_path}:/usr/bin:/bin", "FOGACTORS_USERS__REDIS__PASSWORD_FILE": str(tmp_path / "none")}
    script = IMAGES / "redis/healthy"
    assert subprocess.run(["/bin/sh", script], env=env, capture_output=True, timeout=10, check=False).returncode == 1

"""`.env`: what it may look like, what counts, and that nothing of it is ever shown."""

from __future__ import annotations

import pytest

from fogactors.app.swarm.env import COOKIE, LOGINS, PASSWORDS, add_values, generated, read_env, values_of, warnings
from fogactors.errors import ConfigError

REFERENCE = """\
# Redis Configuration
REDIS_PASS=your_very_secure_redis_password_here

# RabbitMQ Cluster Configuration
RABBITMQ_ERLANG_COOKIE=your_secret_erlang_cookie_here

# RabbitMQ Admin User
MQ_ADMIN_USER=root
MQ_ADMIN_PASS=your_admin_password_here

# RabbitMQ Worker Users
MQ_NODE1_WORKER=worker1
MQ_NODE1_PASS=worker1_secure_password
MQ_NODE2_WORKER=worker2
MQ_NODE2_PASS=worker2_secure_password
MQ_NODE3_WORKER=worker3
MQ_NODE3_PASS=worker3_secure_password
"""


@pytest.mark.parametrize(
    ("line", "value"),
    [
        ("A=b", "b"),
        ("  export A = b  ", "b"),
        ("A=b#c", "b#c"),
        ("A=b # why", "b"),
        ("A=# why", ""),
        ("A=", ""),
        ("A=b=c==", "b=c=="),
        ("A='b #$c' # why", "b #$c"),
        ("A='b\\n'", "b\\n"),
        ('A="b \\"c\\" \\\\ \\$d"', 'b "c" \\ $d'),
        ("A=$B", "$B"),
        ("A=it's", "it's"),
    ],
)
def test_a_line(tmp_path, line, value):
    (tmp_path / ".env").write_text(f"# first\n\n{line}\n")
    assert read_env(tmp_path / ".env") == {"A": value}


@pytest.mark.parametrize(
    ("line", "wrong"),
    [
        ("secret", "expected NAME=value"),
        ("A B=secret", "expected NAME=value"),
        ("1A=secret", "expected NAME=value"),
        ("A='secret", "A: the quote is not closed"),
        ('A="secret\\"', "A: the quote is not closed"),
        ("A='x' secret", "A: something follows the closing quote"),
        ("B=secret", "B is there twice; keep one of them"),
    ],
)
def test_a_line_that_is_wrong_is_named_and_not_shown(tmp_path, line, wrong):
    path = tmp_path / ".env"
    path.write_text(f"B=1\n{line}\n")
    with pytest.raises(ConfigError) as error:
        read_env(path)
    assert str(error.value) == f"{path}: line 2: {wrong}"


def test_no_file_is_no_variables_and_one_that_cannot_be_read_is_an_error(tmp_path):
    assert read_env(tmp_path / ".env") == {}
    with pytest.raises(ConfigError, match="cannot be read: Is a directory"):
        read_env(tmp_path)


def test_the_file_of_the_shell_script_scheduler_is_taken_as_it_is(tmp_path):
    (tmp_path / ".env").write_text(REFERENCE)
    values = values_of(read_env(tmp_path / ".env"), {})
    assert values["MQ_ADMIN_USER"] == "root"
    assert f"REDIS_PASS={values['REDIS_PASS']}\n" in REFERENCE
    assert [line.split()[0] for line in warnings(values)] == [name for name in PASSWORDS if name in values]


def test_the_environment_counts_more_and_logins_have_defaults():
    values = values_of(
        {"MQ_ADMIN_PASS": "file", "MQ_NODE1_WORKER": ""}, {"MQ_ADMIN_PASS": "env", "FOG_TLS": "on", "X": "1"}
    )
    assert values == {**LOGINS, "MQ_ADMIN_PASS": "env", "FOG_TLS": "on"}


@pytest.mark.parametrize(
    ("given", "wrong"),
    [
        ({"REDIS_PASS": "open sesame"}, "REDIS_PASS: has a space"),
        ({"REDIS_PASS": "öffne"}, "REDIS_PASS: has a space"),
        ({COOKIE: "x" * 256}, f"{COOKIE}: is longer than the 255"),
        ({"MQ_ADMIN_USER": "a b"}, "MQ_ADMIN_USER: expected at most 63 letters"),
        ({"MQ_ADMIN_USER": "reaper"}, "MQ_ADMIN_USER: 'reaper' is the login of another user"),
        ({"MQ_NODE2_WORKER": "worker1"}, "MQ_NODE2_WORKER: 'worker1' is the login of MQ_NODE1_WORKER"),
    ],
)
def test_what_no_server_would_take_is_refused(given, wrong):
    with pytest.raises(ConfigError) as error:
        values_of(given, {})
    assert str(error.value).startswith(wrong)
    assert "sesame" not in str(error.value)


def test_generated_values_are_strong_and_all_different():
    made = generated(PASSWORDS)
    assert set(made) == set(PASSWORDS)
    assert len(set(made.values())) == len(PASSWORDS)
    assert min(map(len, made.values())) == 32
    assert warnings(made) == []
    values_of(made, {})


def test_a_short_password_is_warned_of():
    assert warnings({"REDIS_PASS": "kX9-w2"}) == [
        "REDIS_PASS has fewer than 12 characters; `fogactors swarm secrets --renew REDIS_PASS` makes a strong one"
    ]


def test_adding_values_keeps_all_else_and_the_file_is_its_owners_alone(tmp_path):
    path = tmp_path / ".env"
    path.write_text("# mine\nA=1\nexport B=2 # old\nC='x y'")
    path.chmod(0o644)
    add_values(path, {"B": "new", "D": "4"})
    assert path.read_text() == "# mine\nA=1\nB=new\nC='x y'\nD=4\n"
    assert path.stat().st_mode & 0o777 == 0o600
    assert [each.name for each in tmp_path.iterdir()] == [".env"]


def test_a_link_to_the_file_stays_a_link(tmp_path):
    (tmp_path / "safe").mkdir()
    (tmp_path / "safe" / "env").write_text("A=1\n")
    (tmp_path / ".env").symlink_to(tmp_path / "safe" / "env")
    add_values(tmp_path / ".env", {"B": "2"})
    assert (tmp_path / ".env").is_symlink()
    assert (tmp_path / "safe" / "env").read_text() == "A=1\nB=2\n"

"""Settings: what is read, in which order, and the one line that says what is wrong."""

import re
import socket
import tomllib
from dataclasses import FrozenInstanceError
from pathlib import Path

import pytest

from fogactors.app.settings import DEFAULT_TIERS, Settings, load, masked
from fogactors.app.settings_load import env_name
from fogactors.errors import ConfigError

SAMPLE = Path(__file__).parents[2] / "actors.toml"

TIER = "cpu = 1\nmemory_mb = 512\nslots = 1\n"


@pytest.fixture(autouse=True)
def empty_directory(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def read(text: str = "", env: dict[str, str] | None = None) -> Settings:
    Path("actors.toml").write_text(text)
    return load(None, env or {}, default_ok=False)


def error(text: str = "", env: dict[str, str] | None = None) -> str:
    with pytest.raises(ConfigError) as caught:
        read(text, env)
    message = str(caught.value)
    assert len(message.splitlines()) == 1
    return message


# -- the sample


def test_sample_says_the_defaults():
    assert load(SAMPLE, {}, default_ok=False) == Settings()


def test_sample_has_every_key_with_a_comment():
    table, commented, keys = "", False, []
    for line in SAMPLE.read_text().splitlines():
        if line.startswith("["):
            table = line.strip("[]")
        elif found := re.match(r"(\w+) = ", line):
            assert commented, f"[{table}] {found[1]} has no comment with its default"
            keys.append(f"{table}.{found[1]}")
        commented = line.startswith("#") and "Default: " in line
    assert keys == [key for key, _ in Settings().items()]


def test_sample_names_each_default_rightly():
    """The default in a comment is the value below it."""
    pairs = re.findall(r"Default: (.*?)(?: \(\d+ .iB\))?\.\n\w+ = (.*)\n", SAMPLE.read_text())
    assert len(pairs) == len(list(Settings().items()))
    for said, written in pairs:
        assert tomllib.loads(f"x = {said}") == tomllib.loads(f"x = {written}"), said


# -- where values come from


def test_defaults_without_a_file():
    settings = load(None, {}, default_ok=True)
    assert settings == Settings()
    assert settings.tiers == DEFAULT_TIERS
    assert set(settings.provenance.values()) == {"default"}


def test_no_file_where_one_is_needed():
    with pytest.raises(ConfigError, match=r"^actors\.toml: there is no such file$"):
        load(None, {}, default_ok=False)


@pytest.mark.parametrize("default_ok", [True, False])
def test_named_file_must_exist(default_ok):
    with pytest.raises(ConfigError, match=r"^other\.toml: there is no such file$"):
        load(Path("other.toml"), {}, default_ok=default_ok)


def test_environment_wins_over_the_file_and_the_file_over_defaults():
    settings = read("[executor]\ndrain_s = 5\nlook_ahead = 3", {"FOGACTORS_EXECUTOR__DRAIN_S": "7.5"})
    assert (settings.executor.drain_s, settings.executor.look_ahead, settings.executor.guarantee_every) == (7.5, 3, 10)
    assert settings.source("executor.drain_s") == "FOGACTORS_EXECUTOR__DRAIN_S"
    assert settings.source("executor.look_ahead") == "actors.toml"
    assert settings.source("executor.guarantee_every") == "default"
    assert list(settings.provenance) == [key for key, _ in settings.items()]


@pytest.mark.parametrize(
    ("variable", "text", "value"),
    [
        ("FOGACTORS_NODE__NAME", "fog-1", "fog-1"),
        ("FOGACTORS_SUPERVISION__MAILBOX", "50", 50),
        ("FOGACTORS_TIERS__LIGHT__CPU", "0.25", 0.25),
        ("FOGACTORS_LOG__FORMAT", "json", "json"),
        ("FOGACTORS_TASKS__MODULES", "a.b, c,", ("a.b", "c")),
        ("FOGACTORS_TASKS__MODULES", "", ()),
    ],
)
def test_environment_by_type(variable, text, value):
    settings = load(None, {variable: text}, default_ok=True)
    assert value in [each for key, each in settings.items() if env_name(key) == variable]


def test_secret_file():
    Path("secret").write_bytes(b"memory://a:b@c\r\n")
    settings = read(env={"FOGACTORS_BUS__URL_FILE": "secret"})
    assert settings.bus.url == "memory://a:b@c"
    assert settings.source("bus.url") == "FOGACTORS_BUS__URL_FILE"


def test_other_variables_are_ignored():
    env = {"FOGACTORS_DEBUG": "1", "FOGACTORS_TEST_A__B": "1", "OTHER__X": "1", "FOGACTORS": "1"}
    assert load(None, env, default_ok=True) == Settings()


def test_tiers_of_the_file_replace_the_defaults():
    settings = read(f"[tiers.small]\n{TIER}[tiers.very_big]\n{TIER}", {"FOGACTORS_TIERS__VERY_BIG__SLOTS": "9"})
    assert [(tier.name, tier.slots) for tier in settings.tiers] == [("small", 1), ("very_big", 9)]


def test_environment_completes_a_tier():
    assert (
        read("[tiers.light]\ncpu = 1\nslots = 1", {"FOGACTORS_TIERS__LIGHT__MEMORY_MB": "64"}).tiers[0].memory_mb == 64
    )


def test_node_name_defaults_to_one_word_of_the_host_name(monkeypatch):
    monkeypatch.setattr(socket, "gethostname", lambda: "fog1.example.org")
    assert Settings().node.name == "fog1"


def test_settings_are_frozen():
    settings = read()
    with pytest.raises(FrozenInstanceError):
        settings.executor.drain_s = 1
    with pytest.raises(TypeError):
        settings.provenance["executor.drain_s"] = "me"


def test_byte_order_mark_is_no_error():
    Path("actors.toml").write_bytes(b"\xef\xbb\xbf[log]\r\nlevel = 'debug'\r\n")
    assert load(None, {}, default_ok=True).log.level == "debug"


# -- what is refused


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[executor]\nlook_ahed = 1", "[executor] look_ahed: unknown key; did you mean look_ahead?"),
        ("[executer]\n", "[executer]: unknown table; did you mean [executor]?"),
        ("[shutdown]\ndrain_s = 1", "[shutdown] drain_s: unknown key; did you mean [executor] drain_s?"),
        ("[log]\nxyz = 1", "[log] xyz: unknown key; known: level, format"),
        ("[log]\n'l\\nx' = 1", r"""[log] l\nx: unknown key; known: level, format"""),
        ('[log]\n"l\\nx" = 1', r"""[log] "l\nx": unknown key; known: level, format"""),
        ("drain_s = 1", "drain_s: a key outside a table; did you mean [executor] drain_s?"),
        ("executor = 1", "[executor]: expected a table, got 1"),
        ("[[executor]]\n", "[executor]: expected a table, got a list"),
        ("[tiers]\nlight = 1", "[tiers.light]: expected a table, got 1"),
        ("[tiers]\n", "[tiers]: expected at least one table, e.g. [tiers.light]"),
        ("[tiers.Big]\n", '[tiers]: "Big" is no name; expected lower-case letters, digits and single _'),
        ("[tiers.big]\ncpu=1", "[tiers.big] memory_mb: missing; each table of [tiers] states cpu, memory_mb, slots"),
        ("[tiers.light]\ncpu='much'", '[tiers.light] cpu: expected a number, got "much"'),
        ("[tiers.light]\nslot = 1", "[tiers.light] slot: unknown key; did you mean slots?"),
        ("[executor]\ndrain_s = true", "[executor] drain_s: expected a number, got true"),
        ("[executor]\ndrain_s = {}", "[executor] drain_s: expected a number, got a table"),
        ("[executor]\ndrain_s = nan", "[executor] drain_s: expected a number > 0 and <= 31536000, got nan"),
        ("[executor]\ndrain_s = inf", "[executor] drain_s: expected a number > 0 and <= 31536000, got inf"),
        ("[executor]\nlook_ahead = 0", "[executor] look_ahead: expected a whole number >= 1 and <= 10000, got 0"),
        ("[executor]\nlook_ahead = 1.5", "[executor] look_ahead: expected a whole number, got 1.5"),
        (
            "[tasks]\ntime_limit_s = 1741",
            "[tasks] time_limit_s: 1741.0 is more than 1740, which [bus] consumer_timeout_s = 1800.0 leaves a task",
        ),
        (
            "[bus]\nconsumer_timeout_s = 900",
            "[tasks] time_limit_s: 1500.0 is more than 840, which [bus] consumer_timeout_s = 900.0 leaves a task",
        ),
        (
            "[bus]\nconsumer_timeout_s = 60",
            "[bus] consumer_timeout_s: expected a number > 60 and <= 31536000, got 60",
        ),
        ("[tasks]\nmodules = 'a'", '[tasks] modules: expected a list of text, got "a"'),
        ("[tasks]\nmodules = [1]", "[tasks] modules: expected a list of text, got a list"),
        ("[bus]\nurl = 1", "[bus] url: expected text, got 1"),
        ("[log]\nlevel = 'loud'", '[log] level: expected one of debug, error, info, warning, got "loud"'),
        ("[node]\nname = 'a.b'", '[node] name: expected at most 63 letters, digits, - and _, got "a.b"'),
        ('[node]\nname = "a\\n"', r'[node] name: expected at most 63 letters, digits, - and _, got "a\n"'),
        ("[bus]\nurl = 'nats://u:p@h'", '[bus] url: scheme "nats" is not supported; supported: memory, amqp, amqps'),
        (
            "[bus]\nurl = 'amqp://u:p@h'",
            "[coord] url: [bus] url and [coord] url must both be memory:// or neither; one would end with its process",
        ),
        ("[coord]\nurl = 'redis'", '[coord] url: expected a URL such as memory://, got "redis"'),
        (
            f"[tiers.a]\n{TIER}[tiers.b]\ncpu = 0.5\nmemory_mb = 512\nslots = 1",
            "[tiers.b] cpu: 0.5 is less than the 1.0 of [tiers.a]; list tiers from small to large",
        ),
        (
            f"[tiers.a]\n{TIER}[tiers.b]\ncpu = 1\nmemory_mb = 256\nslots = 1",
            "[tiers.b] memory_mb: 256 is less than the 512 of [tiers.a]; list tiers from small to large",
        ),
        (
            "[executor]\ndrain_s = 30",
            "[shutdown] budget_s: 30.0 is not more than [executor] drain_s = 30.0; a drain could not end in time",
        ),
    ],
)
def test_refused_in_the_file(text, message):
    assert error(text) == f"actors.toml: {message}"


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"[log]\nlevel 'x'\n", "line 2: malformed TOML: Expected '=' after a key in a key/value pair"),
        (b"[log]\nlevel = [\n", "line 3: malformed TOML: Invalid value"),
        (b"[log]\nlevel = 1\nlevel = 2", "line 3: malformed TOML: Cannot overwrite a value"),
        (b"[log]\nlevel = '\xff'", "line 2: not UTF-8"),
    ],
)
def test_malformed_file_names_the_line(content, message):
    Path("actors.toml").write_bytes(content)
    with pytest.raises(ConfigError) as caught:
        load(None, {}, default_ok=True)
    assert str(caught.value) == f"actors.toml: {message}"


def test_unreadable_file():
    with pytest.raises(ConfigError, match=r": cannot be read: Is a directory$"):
        load(Path("/"), {}, default_ok=True)


@pytest.mark.parametrize(
    ("env", "message"),
    [
        ({"EXECUTOR__DRAIN_S": "abc"}, 'EXECUTOR__DRAIN_S: [executor] drain_s: expected a number, got "abc"'),
        ({"EXECUTOR__DRAIN_S": ""}, 'EXECUTOR__DRAIN_S: [executor] drain_s: expected a number, got ""'),
        ({"EXECUTOR__DRAIN": "1"}, "EXECUTOR__DRAIN: unknown setting; did you mean FOGACTORS_EXECUTOR__DRAIN_S?"),
        ({"TIERS__LIHT__CPU": "1"}, "TIERS__LIHT__CPU: unknown setting; did you mean FOGACTORS_TIERS__LIGHT__CPU?"),
        (
            {"BUS__PUBLISH_TIMEOUT_S": "-1"},
            'BUS__PUBLISH_TIMEOUT_S: [bus] publish_timeout_s: expected a number > 0 and <= 31536000, got "-1"',
        ),
        ({"BUS__URL_FILE": "absent"}, "BUS__URL_FILE: cannot read absent: No such file or directory"),
        ({"BUS__URL_FILE": "a", "BUS__URL": "b"}, "BUS__URL_FILE: FOGACTORS_BUS__URL is set as well; set one of them"),
        (
            {"LOG__LEVEL_FILE": "actors.toml"},
            "LOG__LEVEL_FILE: [log] level: expected one of debug, error, info, warning",
        ),
        (
            {"EXECUTOR__DRAIN_S": "40"},
            "EXECUTOR__DRAIN_S: [shutdown] budget_s: 30.0 is not more than [executor] drain_s = 40.0; "
            "a drain could not end in time",
        ),
    ],
)
def test_refused_in_the_environment(env, message):
    assert error("", {f"FOGACTORS_{name}": value for name, value in env.items()}) == f"FOGACTORS_{message}"


# -- secrets


@pytest.mark.parametrize(
    ("value", "text"),
    [
        ("amqp://fog:s3cret@h:5672/fog", "amqp://fog:***@h:5672/fog"),
        ("amqp://fog:p@/:w@h", "amqp://fog:***@h"),
        ("redis://:pw@h", "redis://:***@h"),
        ("u:pw@h", "u:***@h"),
        ("redis://h:6379/0?db=1&Password=x&a=b", "redis://h:6379/0?db=1&Password=***&a=b"),
        ("memory://", "memory://"),
        (("a", "amqp://u:p@h"), '["a", "amqp://u:***@h"]'),
        ((), "[]"),
        (True, "true"),
        (1.5, "1.5"),
    ],
)
def test_masked(value, text):
    assert masked(value) == text


def test_no_password_in_a_message():
    assert "s3cret" not in error("[executor]\ndrain_s = 'amqp://u:s3cret@h'")
    assert "s3cret" not in error("[coord]\nurl = 'u:s3cret@h'")

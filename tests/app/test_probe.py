"""`fogactors probe`: both ways to ask say the same."""

import json
import subprocess
import sys
from pathlib import Path

import anyio
import anyio.to_thread
import pytest

from fogactors.app.probe import lines, plain_address
from fogactors.app.settings import load
from fogactors.errors import ConfigError
from fogactors.observe.probe import ProbeServer
from fogactors.roles.health import Health

HOST, PORT = "FOGACTORS_PROBE__HOST", "FOGACTORS_PROBE__PORT"


@pytest.mark.parametrize(
    ("file", "env", "plain"),
    [
        (None, {}, False),
        (None, {PORT: "9101"}, True),
        (None, {HOST: "::", PORT: "9101"}, True),
        ("[probe]\nport = 9101\n", {}, True),
        ("[probe]\nport = 9101\nhost = '::1'\n[bus]\nboot_wait_s = 1.0\n", {}, True),
        ("[probe]\nport = 9101\n", {PORT: "9102"}, True),
        ("[probe]\nport = 0\n", {}, False),
        ("[probe]\nport = '9101'\n", {}, False),
        ("[probe]\nport = 70000\n", {}, False),
        ("[probe]\nport = true\n", {}, False),
        ("[probe]\nport = 9101\nhots = 'x'\n", {}, False),
        ("[probe]\nport = 9101\nhost = 1\n", {}, False),
        ("probe = 1\n", {}, False),
        ("[probe\n", {}, False),
        (None, {PORT: "x"}, False),
        (None, {PORT: "70000"}, False),
        (None, {f"{PORT}_FILE": "port"}, False),
        ("[probe]\nport = 9101\n", {f"{HOST}_FILE": "host"}, False),
    ],
)
def test_the_short_way_finds_what_the_loader_finds_or_leaves_it_to_it(file, env, plain, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    if file is not None:
        Path("actors.toml").write_text(file)
    Path("port").write_text("9103")
    Path("host").write_text("::1")
    found = plain_address(env)
    assert (found is not None) == plain
    if found is None:
        return
    probe = load(None, env, default_ok=True).probe
    assert found == (probe.host, probe.port)


def fogactors(*words, folder, **env):
    return subprocess.run(
        [sys.executable, "-m", "fogactors", *words], cwd=folder, env=env, capture_output=True, text=True, timeout=30
    )


@pytest.mark.asyncio
async def test_it_prints_what_is_wrong_and_exits_1(tmp_path):
    health = Health()
    server = ProbeServer("127.0.0.1", 0, health)
    port = str(server.address[1])

    async def run(*words):
        return await anyio.to_thread.run_sync(lambda: fogactors(*words, folder=tmp_path, **{PORT: port}))

    try:
        done = await run("probe", "livez")
        assert (done.returncode, done.stdout, done.stderr) == (0, "ok\n", "")
        done = await run("probe", "readyz")
        assert (done.returncode, done.stdout, done.stderr) == (1, "program: starting\n", "")
        done = await run("probe", "readyz", "--json")
        assert (done.returncode, json.loads(done.stdout)["facts"]["program"]) == (1, "starting")
        done = await run("probe", "livez", "--timeout", "5")
        assert (done.returncode, done.stdout) == (0, "ok\n")
    finally:
        server.close()
    done = await run("probe", "livez")
    assert (done.returncode, done.stdout) == (1, f"probe: no answer from 127.0.0.1:{port}: Connection refused\n")


@pytest.mark.parametrize(
    ("words", "env", "says"),
    [
        (["livez"], {}, "fogactors: [probe] port is 0, so no process answers probes"),
        (["health"], {PORT: "1"}, "fogactors: there is no probe 'health'; there are: livez, readyz"),
        (["livez"], {PORT: "many"}, f"fogactors: {PORT}: [probe] port: expected a whole number"),
    ],
)
def test_what_cannot_be_asked_is_one_line_and_exit_2(words, env, says, tmp_path):
    done = fogactors("probe", *words, folder=tmp_path, **env)
    assert (done.returncode, len(done.stderr.splitlines())) == (2, 1)
    assert done.stderr.startswith(says)


def test_the_short_way_pays_for_no_library(tmp_path):
    code = "import sys; from fogactors.app.probe import main; main(['livez']); print(sorted(sys.modules))"
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, env={PORT: "1"}, capture_output=True, text=True, timeout=30
    )
    assert done.stdout.startswith("probe: no answer")
    for name in ("typer", "msgspec", "anyio", "fogactors.core"):
        assert f"'{name}'" not in done.stdout


def test_an_answer_without_facts_still_says_something():
    assert lines({"ok": True, "facts": {}}) == ["ok"]
    assert lines({"ok": False, "facts": {}}) == ["not ok"]
    with pytest.raises(ConfigError):
        load(None, {PORT: "-1"}, default_ok=True)

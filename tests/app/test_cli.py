"""The command as its user sees it: one line and an exit code. In this process where nothing needs a signal."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from fogactors.app import cli
from fogactors.app.cli.common import state
from fogactors.tasks.registry import Registry, default_registry
from fogactors.tasks.task import task

TASKS = """
import os
import time
from pathlib import Path

from fogactors import task


@task
async def add(a: int, b: int = 1) -> int:
    return a + b


@task
def fails() -> None:
    raise ValueError("no luck")


@task(process=True)
def dies() -> None:
    os._exit(3)


@task
def slow(mark: Path, seconds: float) -> str:
    mark.write_text("running")
    time.sleep(seconds)
    return "done"
"""


@pytest.fixture
def here(tmp_path, monkeypatch):
    """A working directory with a module of tasks, named anew for each test."""
    name = f"tasks_{tmp_path.name.replace('-', '_')}"
    (tmp_path / f"{name}.py").write_text(TASKS)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(state, "config", None)
    monkeypatch.setattr(state, "debug", False)
    return name


@pytest.fixture
def fog(here, capsys, monkeypatch):
    """Run the command in this process: `code, out, err = fog("check")`."""

    def run(*words: str) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["fogactors", *words])
        with pytest.raises(SystemExit) as left:
            cli.main()
        captured = capsys.readouterr()
        return int(left.value.code or 0), captured.out, captured.err

    return run


def test_submit_prints_the_result(fog, here):
    assert fog("submit", f"{here}.add", "a=1", "b=2", "-i", here) == (0, "3\n", "")


def test_submit_as_json(fog, here):
    code, out, _ = fog("submit", f"{here}.add", "--args", '{"a": 40}', "-i", here, "--json", "--priority", "high")
    result = json.loads(out)
    assert (code, result["state"], result["value"], result["attempts"]) == (0, "succeeded", 41, 1)


def test_a_task_that_fails_exits_1_with_its_type_and_text(fog, here):
    code, _, err = fog("submit", f"{here}.fails", "-i", here)
    assert code == 1
    assert err.splitlines()[-1] == f"fogactors: {here}.fails failed after 1 attempt: ValueError: no luck"


def test_a_task_that_kills_its_worker_is_given_up(fog, here):
    code, _, err = fog("submit", f"{here}.dies", "-i", here)
    assert code == 1
    assert f"{here}.dies worker_lost after 4 attempts" in err


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["submit", "{m}.ad", "-i", "{m}"], "no task is named '{m}.ad' (did you mean "),
        (["submit", "{m}.add", "-i", "{m}", "a=x"], "argument 'a': Expected `int`, got `str`"),
        (["submit", "{m}.add", "-i", "{m}"], "missing"),
        (["submit", "{m}.add", "-i", "{m}", "a=1", "c=1"], "unknown argument `c`"),
        (["submit", "{m}.add", "-i", "{m}", "a"], "an argument is KEY=VALUE, got 'a'"),
        (["submit", "{m}.add", "-i", "{m}", "--args", "[1]"], "--args must be a JSON object"),
        (["submit", "{m}.add", "-i", "{m}", "--args", "{{"], "--args is not JSON"),
        (["submit", "{m}.add", "-i", "{m}", "a=1", "--priority", "urgent"], "must be one of high, normal, low"),
        (["submit", "{m}.add", "-i", "{m}", "a=1", "--tier", "huge"], "there is no tier 'huge'"),
        (["submit", "x.y", "-i", "no_such_module"], "cannot import no_such_module: ModuleNotFoundError"),
        (["run", "tier-executer"], "there is no role 'tier-executer' (did you mean tier-executor?); the roles are:"),
        (["run", "tier-executor"], "name the tier that this executor is to serve with --tier: light, medium, heavy"),
        (["run", "tier-executor", "--tier", "huge"], "there is no tier 'huge'; [tiers] has: light, medium, heavy"),
        (["submit", "{m}.add", "-i", "{m}", "a=1", "--key", ""], "idempotency_key must be text of 1 to 200 characters"),
        (["submit", "{m}.add", "-i", "{m}", "a=1", "--no-wait"], "[bus] url is memory://, so the task would end with"),
        (["tree", "nobody"], "there is no role 'nobody'"),
        (["cancel", "a-1"], "[bus] url is memory://: there is nobody to talk to"),
        (["where", "a-1"], "[bus] url is memory://: there is nobody to talk to"),
        (["--config", "missing.toml", "check"], "missing.toml"),
        (["check", "--nonsense"], "No such option: --nonsense"),
        (["nonsense"], "No such command 'nonsense'"),
    ],
)
def test_bad_input_is_one_line_and_exit_2(fog, here, words, says):
    code, out, err = fog(*(word.format(m=here) for word in words))
    assert (code, out, len(err.splitlines())) == (2, "", 1), err
    assert err.startswith("fogactors: ")
    assert says.format(m=here) in err


def test_an_unknown_key_names_file_table_key_and_the_nearest(fog):
    Path("actors.toml").write_text("[executor]\nlook_ahed = 2\n")
    code, _, err = fog("check")
    assert (code, err) == (2, "fogactors: actors.toml: [executor] look_ahed: unknown key; did you mean look_ahead?\n")


@pytest.mark.parametrize("words", [["check"], ["run", "dlq-reaper"], ["up"], ["submit", "long.winded"]])
def test_a_task_that_takes_too_long_is_refused_at_the_start(fog, words, monkeypatch):
    definition = task(name="long.winded", time_limit=1741, registry=Registry())(lambda: None)
    monkeypatch.setitem(default_registry._tasks, definition.name, definition)
    code, out, err = fog(*words)
    said = " ".join((out + err).split())
    assert code == 2
    assert "task long.winded: its time_limit of 1741 s is more than the 1740 s that [bus] consumer_timeout_s" in said


def test_check_reports_what_does_not_go_together(fog):
    Path("actors.toml").write_text("[supervision]\nmailbox = 3\n")
    code, out, _ = fog("check", "--json")
    found = json.loads(out)
    assert (code, found["ok"], found["findings"][0]["key"]) == (2, False, "supervision.mailbox")
    assert {"key": "supervision.mailbox", "value": 3, "source": "actors.toml"} in found["values"]
    code, _, err = fog("run", "dlq-reaper")
    assert code == 2
    assert "supervision.mailbox: 3 is less than" in err


def test_tree_prints_the_specification(fog):
    code, out, _ = fog("tree", "--json")
    (reaper,) = [child for child in json.loads(out)["children"] if child["id"] == "dlq-reaper"]
    assert (code, reaper["strategy"], reaper["exceeded"]) == (0, "rest_for_one", "pause")
    assert [child["id"] for child in reaper["children"]] == ["link", "reaper", "indexer", "control"]
    assert "tier-executor-heavy" in fog("tree")[1]


def test_debug_shows_the_traceback(fog):
    _, _, err = fog("--debug", "run", "nobody")
    assert "Traceback" in err
    assert err.splitlines()[-1].startswith("fogactors: there is no role 'nobody'")


# -- with signals, so as processes of their own


def start(*words: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "fogactors", *words],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONUNBUFFERED": "1"},
    )


def wait_line(process: subprocess.Popen[str], text: str) -> None:
    assert process.stderr is not None
    for line in process.stderr:
        if text in line:
            return
    raise AssertionError(f"{text!r} never came; exit code {process.wait()}")


def wait_for(path: Path) -> None:
    deadline = time.monotonic() + 15
    while not path.exists():
        assert time.monotonic() < deadline, f"{path} was not written in time"
        time.sleep(0.01)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_up_stops_on_a_signal_with_exit_0(here, number):
    process = start("up", "--no-live")
    try:
        wait_line(process, "up is up")
        process.send_signal(number)
        assert process.wait(20) == 0
    finally:
        process.kill()
        process.communicate()


def test_a_second_signal_ends_it_at_once(here, tmp_path):
    mark = tmp_path / "mark"
    process = start("submit", f"{here}.slow", f"mark={mark}", "seconds=30", "-i", here)
    try:
        wait_for(mark)
        process.send_signal(signal.SIGTERM)
        wait_line(process, "draining")
        deadline = time.monotonic() + 5
        while process.poll() is None:  # one that comes within 0.2 s of the first is taken for its echo
            assert time.monotonic() < deadline, "still there"
            process.send_signal(signal.SIGTERM)
            time.sleep(0.05)
        assert process.returncode == 143
    finally:
        process.kill()
        process.communicate()


def test_a_thread_that_hangs_does_not_hold_the_exit(here, tmp_path, monkeypatch):
    monkeypatch.setenv("FOGACTORS_SHUTDOWN__BUDGET_S", "1.5")
    monkeypatch.setenv("FOGACTORS_EXECUTOR__DRAIN_S", "0.2")
    mark = tmp_path / "mark"
    process = start("submit", f"{here}.slow", f"mark={mark}", "seconds=60", "-i", here)
    try:
        wait_for(mark)
        process.send_signal(signal.SIGTERM)
        assert process.wait(15) == 5
    finally:
        process.kill()
        process.communicate()

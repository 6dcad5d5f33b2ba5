"""The main job on small folders: every file and kind has exactly one result, whatever happens on the way."""

import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import anyio
import psutil
import pytest

from fogactors.app.cli import main
from fogactors.app.demo.files import File, Found, scan
from fogactors.app.demo.ledger import Job, Ledger, Row
from fogactors.app.demo.run import JobRun
from fogactors.app.demo.work import Digest, compression, digest, tokens
from fogactors.app.program import Program
from fogactors.app.settings import ProbeSettings, Settings
from fogactors.app.workers import worker_tree
from fogactors.core import Events
from fogactors.errors import ConfigError
from fogactors.observe.board import Board
from fogactors.roles import WORK


@pytest.fixture
def fogactors(monkeypatch, tmp_path_factory, capsys):
    """Run the command in a folder without an actors.toml; returns exit code, standard output and standard error."""
    monkeypatch.chdir(tmp_path_factory.mktemp("here"))

    def run(*args: object) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["fogactors", *map(str, args)])
        with pytest.raises(SystemExit) as left:
            main()
        return left.value.code, *capsys.readouterr()

    return run


@pytest.fixture
def folder(tmp_path) -> Path:
    root = tmp_path / "files"
    for name, content in {
        "a.py": b"# a comment\nx = 1\n\ny = 'two'\n",
        "b.bin": b"ab" * 3000,
        "deep/empty": b"",
        "deep/large.txt": b"line\n" * 8000,
        "__pycache__/a.cpython.pyc": b"not counted",
    }.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(content)
    (root / "link.py").symlink_to(root / "a.py")
    (root / "broken").symlink_to("nowhere")
    (root / "up").symlink_to(tmp_path)
    os.mkfifo(root / "pipe")
    return root


def rows_of(out: Path) -> list[dict]:
    return [json.loads(line) for line in out.read_text().splitlines()]


# -- the whole command


def test_every_file_and_kind_once(fogactors, folder, tmp_path):
    out = tmp_path / "out.jsonl"
    code, stdout, _ = fogactors("demo", folder, "--out", out)
    assert code == 0
    rows = rows_of(out)
    names = ("a.py", "b.bin", "deep/empty", "deep/large.txt")
    expected = {(name, kind) for name in names for kind in ("digest", "compression")} | {("a.py", "tokens")}
    assert sorted((row["path"], row["kind"]) for row in rows) == sorted(expected)
    assert {row["state"] for row in rows} == {"succeeded"}
    assert {(row["kind"], row["tier"]) for row in rows} == {
        ("digest", "light"),
        ("compression", "medium"),
        ("tokens", "heavy"),
    }
    assert {row["path"]: row["priority"] for row in rows} == {
        "a.py": "high",
        "b.bin": "normal",
        "deep/empty": "high",
        "deep/large.txt": "low",
    }
    assert all(row["attempts"] == 1 and row["wait_s"] >= 0 and row["run_s"] > 0 for row in rows)
    by_key = {(row["path"], row["kind"]): row["value"] for row in rows}
    assert by_key["deep/empty", "digest"]["sha256"].startswith("e3b0c44298fc1c14")
    assert by_key["a.py", "tokens"]["lines"] == 4
    assert "9 succeeded, 0 failed, 0 lost" in stdout


def test_summary_as_json(fogactors, folder):
    code, stdout, stderr = fogactors("demo", folder, "--json")
    summary = json.loads(stdout)
    assert (code, stderr) == (0, "")
    picked = ("files", "tasks", "recorded", "succeeded", "failed", "lost", "not_run", "left_out")
    assert [summary[key] for key in picked] == [4, 9, 9, 9, 0, 0, 0, 4]
    groups = {(group["tier"], group["priority"]): group["count"] for group in summary["groups"]}
    assert groups["light", "high"] == 2
    assert groups["heavy", "high"] == 1
    assert sum(groups.values()) == 9


def test_a_file_that_cannot_be_read_is_a_failure_and_no_loss(fogactors, folder, tmp_path, monkeypatch):
    out = tmp_path / "out.jsonl"

    def scan_then_lose(*args, **kwargs):
        found = scan(*args, **kwargs)
        (folder / "a.py").unlink()  # tests may run as root, whom permissions do not stop
        return found

    monkeypatch.setattr(sys.modules["fogactors.app.cli.demo"], "scan", scan_then_lose)
    code, stdout, _ = fogactors("demo", folder, "--out", out)
    failed = [row for row in rows_of(out) if row["state"] == "failed"]
    assert sorted(row["kind"] for row in failed) == ["compression", "digest", "tokens"]
    assert {(row["path"], row["error"]["type"]) for row in failed} == {("a.py", "FileNotFoundError")}
    assert code == 0
    assert "6 succeeded, 3 failed, 0 lost" in stdout
    assert "failed: digest of a.py: FileNotFoundError" in stdout


def test_source_that_is_not_python(fogactors, folder):
    (folder / "bad.py").write_bytes(b"# coding: no-such-codec\n")
    code, stdout, _ = fogactors("demo", folder)
    assert code == 0
    assert "failed: tokens of bad.py: SyntaxError" in stdout
    assert "11 succeeded, 1 failed, 0 lost" in stdout


def test_a_name_that_is_not_utf8(fogactors, folder):
    Path(os.fsdecode(os.fsencode(folder) + b"/\xff")).touch()
    code, stdout, _ = fogactors("demo", folder)
    assert code == 0
    assert "failed: digest of \\xff: TaskArgumentError" in stdout
    assert "9 succeeded, 2 failed, 0 lost" in stdout


@pytest.mark.parametrize(
    ("path", "says"),
    [("missing", "cannot be read: No such file"), ("file", "is not a folder"), ("empty", "holds no regular file")],
)
def test_a_path_that_will_not_do(fogactors, tmp_path, path, says):
    (tmp_path / "file").touch()
    (tmp_path / "empty").mkdir()
    code, stdout, stderr = fogactors("demo", tmp_path / path)
    assert (code, stdout) == (2, "")
    assert says in stderr
    assert stderr.count("\n") == 1


def test_executors_that_run_already_are_at_a_broker(fogactors, folder):
    code, stdout, stderr = fogactors("demo", folder, "--no-workers")
    assert (code, stdout) == (2, "")
    assert "--no-workers: executors that run already are at a RabbitMQ; name it with --amqp" in stderr


@pytest.mark.parametrize("out", ["missing/out.jsonl", "."])
def test_out_that_cannot_be_written(fogactors, folder, out):
    code, _, stderr = fogactors("demo", folder, "--out", folder / out)
    assert code == 2
    assert "cannot be written" in stderr
    assert stderr.count("\n") == 1


def test_a_full_disk(fogactors, folder):
    code, _, stderr = fogactors("demo", folder, "--out", "/dev/full")
    assert code == 2
    assert "--out /dev/full cannot be written: No space left on device" in stderr


def test_out_is_no_part_of_the_job_and_survives_a_wrong_path(fogactors, folder):
    out = folder / "out.jsonl"
    for _ in range(2):
        code, stdout, _ = fogactors("demo", folder, "--out", out)
        assert code == 0
        assert "9 succeeded" in stdout
    fogactors("demo", folder / "missing", "--out", out)
    assert len(rows_of(out)) == 9


def test_limit(fogactors, folder):
    code, stdout, _ = fogactors("demo", folder, "--limit", 2)
    assert code == 0
    assert "2 files" in stdout
    assert "5 succeeded" in stdout


def test_one_tier_does_it_all(fogactors, folder):
    Path("actors.toml").write_text("[tiers.only]\ncpu = 1.0\nmemory_mb = 512\nslots = 2\n")
    code, stdout, _ = fogactors("demo", folder, "--json")
    assert code == 0
    assert {group["tier"] for group in json.loads(stdout)["groups"]} == {"only"}
    assert json.loads(stdout)["succeeded"] == 9


def test_a_signal_stops_the_job(tmp_path):
    many, out = tmp_path / "many", tmp_path / "out.jsonl"
    many.mkdir()
    for number in range(1500):
        (many / f"{number}").write_bytes(b"x")
    args = [sys.executable, "-m", "fogactors", "demo", str(many), "--out", str(out)]
    with subprocess.Popen(args, cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        deadline = time.monotonic() + 20
        while not (out.exists() and out.stat().st_size) and time.monotonic() < deadline:
            time.sleep(0.002)
        process.send_signal(signal.SIGTERM)
        stdout, stderr = process.communicate(timeout=20)
    assert process.returncode == 1
    done = len(rows_of(out))
    assert 0 < done < 3000
    assert f"stopped; {3000 - done} of 3000 tasks were not run" in stderr
    assert f"{done:,} succeeded, 0 failed, 0 lost, {3000 - done:,} not run" in stdout


# -- losses


@pytest.mark.asyncio
async def test_kill_9_of_a_worker_process_loses_nothing(tmp_path):
    big = tmp_path / "big.py"
    big.write_text("x = 1\n" * 40_000)
    (tmp_path / "other.py").write_text("y = 2\n")
    rows: list[Row] = []
    events, board, ledger = Events(), Board(), Ledger(scan(tmp_path))
    board.attach(events)

    async def kill_whoever_reads_it() -> None:
        while True:
            for child in psutil.Process().children():
                if any(file.path == str(big) for file in child.open_files()):
                    os.kill(child.pid, signal.SIGKILL)
                    return
            await anyio.sleep(0.002)

    with anyio.fail_after(20):
        async with (
            Program.start(Settings(), WORK, events=events) as program,
            program.submitter() as submitter,
            anyio.create_task_group() as group,
        ):
            group.start_soon(kill_whoever_reads_it)
            await JobRun(ledger, program.context.tiers.names, on_row=rows.append).run(
                submitter, anyio.Event(), grace_s=1
            )
    assert board.crashed == 1
    assert (ledger.missing, ledger.failed, ledger.recorded) == (0, 0, 6)
    assert [(row.path, row.attempts) for row in rows if row.attempts > 1] == [("big.py", 2)]


def test_worker_processes_answer_no_probes_on_the_port_of_the_one_that_started_them(monkeypatch):
    monkeypatch.setenv("FOGACTORS_PROBE__PORT_FILE", "/nowhere")
    for child in worker_tree(replace(Settings(), probe=ProbeSettings(port=9101)), (), None).children:
        env = child.make()._env
        assert (env["FOGACTORS_PROBE__PORT"], env.get("FOGACTORS_PROBE__PORT_FILE")) == ("0", None)


def test_the_ledger_counts_from_the_files():
    ledger = Ledger(Found(Path("/r"), (File("/r/a.py", 1), File("/r/b", 1)), 0, ()))
    assert (ledger.expected, ledger.missing) == (5, 5)
    job = Job(0, ledger.found.files[0], "digest")
    row = Row(path="a.py", kind="digest", tier="light", priority="high", state="succeeded", attempts=1)
    ledger.record(job, row, Digest("00", 1))
    assert (ledger.recorded, ledger.missing) == (1, 4)
    with pytest.raises(ValueError, match=r"no open entry for digest of a\.py"):
        ledger.record(job, row, Digest("00", 1))
    with pytest.raises(ValueError, match="no open entry"):
        ledger.record(Job(1, ledger.found.files[1], "tokens"), row, None)
    assert ledger.missing == 4


def test_a_lost_task_is_a_failure_of_the_command(fogactors, folder, monkeypatch):
    async def unrecorded(*_: object) -> None:
        """No record and no ack."""

    monkeypatch.setattr("fogactors.app.demo.run.RESULT_S", 0.001)
    monkeypatch.setattr("fogactors.tasks.settle.Settler.succeeded", unrecorded)
    code, stdout, stderr = fogactors("demo", folder)
    assert code == 1
    assert "0 succeeded, 0 failed, 9 lost" in stdout
    assert "9 of 9 tasks were lost" in stderr


# -- the parts


def test_scan_is_sorted_and_tells_what_it_could_not_list(folder, monkeypatch):
    scandir = os.scandir

    def closed(path):
        if str(path).endswith("deep"):
            raise PermissionError(13, "Permission denied", path)
        return scandir(path)

    monkeypatch.setattr(os, "scandir", closed)
    found = scan(folder)
    assert [file.path for file in found.files] == [str(folder / "a.py"), str(folder / "b.bin")]
    assert found.unreadable == (f"{folder}/deep: Permission denied",)
    (folder / "a.py").unlink()
    (folder / "b.bin").unlink()
    with pytest.raises(ConfigError, match=r"holds no regular file \(not readable: .*deep"):
        scan(folder)


def test_the_default_is_the_standard_library():
    found = scan(None)
    assert len(found.files) > 500
    assert not any("__pycache__" in file.path or "site-packages" in file.path for file in found.files)


def test_the_tasks_are_still_functions(folder):
    assert digest(folder / "b.bin").size == 6000
    packed = compression(folder / "b.bin")
    assert packed.zlib_ratio == round(6000 / packed.zlib, 3) > 1
    assert compression(folder / "deep/empty").bz2_ratio == 1
    counted = tokens(folder / "a.py")
    assert (counted.lines, counted.code_lines, counted.comments, counted.names, counted.strings) == (4, 2, 1, 2, 1)

"""Worker processes: what they answer, how they die, and that nothing of them stays."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import anyio
import msgspec
import psutil
import pytest

from fogactors.errors import ChildCrashed, StartFailed, TaskError, TimeLimitExceeded
from fogactors.tasks import isolation
from fogactors.tasks.isolation import Done, Failed, Outcome, ProcessPool, Skipped

pytestmark = pytest.mark.anyio

SAMPLES = "tests.tasks.sample_tasks"
ROOT = Path(__file__).parents[2]


both_loops = pytest.mark.parametrize(
    "anyio_backend",
    [("asyncio", {"use_uvloop": False}), ("asyncio", {"use_uvloop": True})],
    ids=["asyncio", "uvloop"],
)


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


async def run(pool: ProcessPool, name: str, *, timeout: float | None = 20, **args: object) -> Outcome:
    return await pool.run(SAMPLES, f"{SAMPLES}.{name}", msgspec.json.encode(args), timeout=timeout)


async def value(pool: ProcessPool, name: str, **args: object) -> Any:
    outcome = await run(pool, name, **args)
    assert isinstance(outcome, Done), outcome
    return msgspec.json.decode(outcome.value)


async def failure(pool: ProcessPool, name: str, **args: object) -> Failed:
    outcome = await run(pool, name, **args)
    assert isinstance(outcome, Failed), outcome
    return outcome


async def wait_until(condition: Callable[[], bool], within: float = 5) -> None:
    with anyio.fail_after(within):
        while not condition():  # noqa: ASYNC110  it watches processes, and they set no event
            await anyio.sleep(0.005)


def dead(pid: int) -> bool:
    """Gone, or a zombie that whoever inherited it has not reaped."""
    try:
        return psutil.Process(pid).status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True


def open_descriptors() -> int:
    return psutil.Process().num_fds()


# -- answers


async def test_typed_arguments_and_a_result() -> None:
    async with ProcessPool(1) as pool:
        assert await value(pool, "add", a=1) == 3
        assert await value(pool, "add", a=1, b=3, scale=0.5) == 2
        outcome = await pool.run(SAMPLES, f"{SAMPLES}.suffix", b'{"path":"a/b.txt"}', timeout=5)
        assert outcome == Done(b'".txt"')


FAILURES = [
    ("value", "ValueError", "not good", False),
    ("os", "OSError", "may work later", True),
    ("memory", "MemoryError", "not enough", False),
    ("allocate", "MemoryError", "", False),
    ("exit", "SystemExit", "3", False),
    ("interrupt", "KeyboardInterrupt", "", False),
    ("unprintable", "Unprintable", "<its text raised RuntimeError>", False),
    ("surrogate", "ValueError", "name \\udcff", False),
    ("long", "ValueError", "x" * 4_000, False),
    ("result", "TaskResultError", "result cannot be sent: object has no JSON form", False),
    ("huge", "ValueError", "bytes are more than", False),
]


async def test_a_failure_is_data_and_the_process_lives_on() -> None:
    async with ProcessPool(1) as pool:
        before = await value(pool, "pid")
        for how, type_, message, retryable in FAILURES:
            failed = await failure(pool, "fail", how=how)
            assert failed.error.type == type_, how
            assert message in failed.error.message, how
            assert len(failed.error.message) <= 4_000, how
            assert (failed.retryable, failed.retry_after_s) == (retryable, None), how
        assert await value(pool, "pid") == before


async def test_a_traceback_starts_in_the_task() -> None:
    async with ProcessPool(1) as pool:
        traceback = (await failure(pool, "fail", how="value")).error.traceback
        assert traceback is not None
        assert "sample_tasks.py" in traceback.splitlines()[1]
        assert traceback.endswith("ValueError: not good\n")


async def test_control_flow_is_data() -> None:
    async with ProcessPool(1) as pool:
        asked = await failure(pool, "fail", how="retry")
        assert (asked.error.type, asked.retryable, asked.retry_after_s) == ("Retry", True, 30)
        assert await run(pool, "fail", how="skip") == Skipped("nothing new")


@pytest.mark.parametrize(
    ("module", "name", "args", "type_"),
    [
        (SAMPLES, "add", b'{"a":"one"}', "TaskArgumentError"),
        (SAMPLES, "nothing", b"{}", "UnknownTask"),
        ("no.such.module", "add", b"{}", "ModuleNotFoundError"),
    ],
)
async def test_what_cannot_be_run_is_a_failure(module: str, name: str, args: bytes, type_: str) -> None:
    async with ProcessPool(1) as pool:
        outcome = await pool.run(module, f"{module}.{name}", args, timeout=5)
        assert isinstance(outcome, Failed)
        assert outcome.error.type == type_
        assert await value(pool, "add", a=1) == 3


async def test_print_and_input_do_not_touch_the_protocol(capfd: pytest.CaptureFixture[str]) -> None:
    async with ProcessPool(1) as pool:
        assert await value(pool, "noisy") == "nothing to read"
        assert await value(pool, "add", a=1) == 3
    out, err = capfd.readouterr()
    assert out == ""
    assert "a line on standard output" in err
    assert "raw bytes" in err


@both_loops
async def test_a_mebibyte_passes_both_ways() -> None:
    text = "x" * (1 << 20)
    async with ProcessPool(1) as pool:
        assert await value(pool, "echo", text=text) == text


async def test_a_child_imports_what_the_parent_can(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "only_here.py").write_text(
        "import os\nfrom fogactors.tasks.task import task\n"
        "@task(process=True)\ndef path() -> str | None: return os.environ.get('PYTHONPATH')\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delenv("PYTHONPATH", raising=False)
    async with ProcessPool(1) as pool:
        assert await pool.run("only_here", "only_here.path", b"{}", timeout=5) == Done(b"null")
    async with ProcessPool(1, env={"PYTHONPATH": "/mine"}) as pool:
        assert await pool.run("only_here", "only_here.path", b"{}", timeout=5) == Done(b'"/mine"')


async def test_a_slow_import_is_not_charged_to_the_task(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = "import time; time.sleep({})\nfrom fogactors.tasks.task import task\n"
    source += "@task(process=True)\ndef one() -> int: return 1\n"
    (tmp_path / "slow_to_import.py").write_text(source.format(0.6))
    (tmp_path / "never_imported.py").write_text(source.format(60))
    monkeypatch.syspath_prepend(tmp_path)
    async with ProcessPool(1) as pool:
        assert await pool.run("slow_to_import", "slow_to_import.one", b"{}", timeout=0.4) == Done(b"1")
    async with ProcessPool(1, start_s=1) as pool:
        with pytest.raises(TimeLimitExceeded, match="importing never_imported"):
            await pool.run("never_imported", "never_imported.one", b"{}", timeout=30)


# -- deaths


@both_loops
@pytest.mark.parametrize(
    ("how", "end"),
    [("exit", "exit code 9"), ("kill", "SIGKILL"), ("segfault", "SIGSEGV"), ("close", "exit code 1")],
)
async def test_a_crash_is_named_and_the_next_task_gets_a_new_process(how: str, end: str) -> None:
    async with ProcessPool(1) as pool:
        before = await value(pool, "pid")
        with pytest.raises(ChildCrashed, match=end):
            await run(pool, "die", how=how)
        assert await value(pool, "pid") != before


@both_loops
async def test_a_process_that_the_task_forked_does_not_hide_its_death() -> None:
    async with ProcessPool(1) as pool:
        with anyio.fail_after(10), pytest.raises(ChildCrashed, match="exit code 7"):
            await run(pool, "fork_and_die")


async def test_a_process_that_the_task_forked_does_not_answer_for_it() -> None:
    async with ProcessPool(1) as pool:
        assert await value(pool, "fork_and_return") == pool.pids()[0]
        assert await value(pool, "add", a=1) == 3


@both_loops
async def test_killed_from_outside_in_the_middle_of_a_task(tmp_path: Path) -> None:
    note = tmp_path / "note"
    async with ProcessPool(1) as pool, anyio.create_task_group() as group:

        async def kill() -> None:
            await wait_until(note.exists)
            os.kill(pool.pids()[0], signal.SIGKILL)

        group.start_soon(kill)
        with pytest.raises(ChildCrashed, match="SIGKILL"):
            await run(pool, "stay", note=note.as_posix())


@both_loops
async def test_killed_from_outside_while_idle_costs_no_task() -> None:
    async with ProcessPool(1) as pool:
        before = await value(pool, "pid")
        os.kill(before, signal.SIGKILL)
        await wait_until(lambda: not psutil.pid_exists(before))
        assert await value(pool, "pid") != before


@both_loops
async def test_a_time_limit_kills_the_task_and_what_it_started(tmp_path: Path) -> None:
    note = tmp_path / "note"
    async with ProcessPool(1) as pool:
        with pytest.raises(TimeLimitExceeded, match="1 s"):
            await run(pool, "stay", note=note.as_posix(), program=True, timeout=1)
        child, program = map(int, note.read_text().split())
        assert not psutil.pid_exists(child)
        await wait_until(lambda: dead(program))
        assert await value(pool, "add", a=1) == 3


@both_loops
async def test_a_cancel_kills_the_task_and_what_it_started(tmp_path: Path) -> None:
    note = tmp_path / "note"
    async with ProcessPool(1) as pool:
        async with anyio.create_task_group() as group:
            group.start_soon(lambda: run(pool, "stay", note=note.as_posix(), program=True))
            await wait_until(note.exists)
            group.cancel_scope.cancel()
        child, program = map(int, note.read_text().split())
        assert not psutil.pid_exists(child)
        await wait_until(lambda: dead(program))
        assert pool.pids() == ()


@pytest.mark.skipif(sys.platform != "linux", reason="the parent-death signal is Linux's")
async def test_the_children_of_a_killed_parent_die(tmp_path: Path) -> None:
    note = tmp_path / "note"
    args = msgspec.json.encode({"note": note.as_posix()})
    script = (
        "import anyio\nfrom fogactors.tasks.isolation import ProcessPool\n"
        f"anyio.run(lambda: ProcessPool(1).run({SAMPLES!r}, '{SAMPLES}.stay', {args!r}, timeout=None))"
    )
    parent = subprocess.Popen([sys.executable, "-c", script], cwd=ROOT)  # noqa: ASYNC220
    try:
        await wait_until(note.exists, within=20)
        child = int(note.read_text())
        assert not dead(child)
    finally:
        parent.kill()
        parent.wait()
    await wait_until(lambda: dead(child))


@both_loops
async def test_a_process_that_does_not_come_up(capfd: pytest.CaptureFixture[str]) -> None:
    async with ProcessPool(1, env={"PYTHONMALLOC": "nonsense"}) as pool:
        with pytest.raises(StartFailed, match="exit code 1 before it was up"):
            await run(pool, "add", a=1)
        assert pool.pids() == ()
    assert "Fatal Python error" in capfd.readouterr().err


# -- the pool


@both_loops
async def test_no_more_than_its_size_at_once(tmp_path: Path) -> None:
    seen: list[int] = []
    async with ProcessPool(2) as pool:

        async def meet() -> None:
            seen.append(await value(pool, "meet", folder=tmp_path.as_posix(), n=2))
            assert len(pool.pids()) <= 2

        async with anyio.create_task_group() as group:
            for _ in range(6):
                group.start_soon(meet)
    assert len(seen) == 6
    assert max(seen) == 2


async def test_recycled_after_so_many_jobs() -> None:
    async with ProcessPool(1, recycle_after=2) as pool:
        a, b, c, d, e = [await value(pool, "pid") for _ in range(5)]
    assert a == b != c == d != e


async def test_prestart_is_idempotent_and_bounded_by_the_size() -> None:
    async with ProcessPool(2) as pool:
        await pool.prestart(1)
        first = pool.pids()
        await pool.prestart(5)
        assert len(pool.pids()) == 2
        assert set(first) < set(pool.pids())
        assert await value(pool, "pid") in pool.pids()


@both_loops
async def test_close_leaves_no_process_and_no_descriptor(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(isolation, "_GRACE_S", 0.3)

    async def use(note: Path) -> None:
        async with ProcessPool(2) as pool, anyio.create_task_group() as group:

            async def crash() -> None:
                with pytest.raises(ChildCrashed):
                    await run(pool, "stay", note=note.as_posix())

            group.start_soon(crash)
            assert await value(pool, "add", a=1) == 3
            await wait_until(note.exists)
            pids = pool.pids()
            assert len(pids) == 2
            await pool.close()
            assert pool.pids() == ()
            assert not any(psutil.pid_exists(pid) for pid in pids)
            with pytest.raises(TaskError, match="closed"):
                await run(pool, "add", a=1)

    await use(tmp_path / "first")  # the loop opens some of its own the first time
    before = open_descriptors()
    await use(tmp_path / "second")
    assert open_descriptors() == before
    assert not [child for child in psutil.Process().children() if child.status() == psutil.STATUS_ZOMBIE]

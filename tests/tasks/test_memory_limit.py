"""The memory limit of a worker process: what counts, when it acts, and what it costs those who keep to it."""

from __future__ import annotations

import random
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import anyio
import msgspec
import pytest

from fogactors.errors import MemoryLimitExceeded
from fogactors.messages import Task
from fogactors.tasks import memory
from fogactors.tasks.attempt import Attempt, GaveUp, Outcome, TryAgain
from fogactors.tasks.isolation import Done, ProcessPool
from fogactors.tasks.task import TaskDef
from tests.tasks import memory_tasks as tasks
from tests.tasks.test_isolation import both_loops, dead, wait_until

pytestmark = [pytest.mark.anyio, pytest.mark.skipif(sys.platform != "linux", reason="counts as Linux does")]

BASE_MB = 64
"""More than a process takes that does nothing yet."""


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


async def run(pool: ProcessPool, task: TaskDef[..., Any], *, memory_mb: int | None, **args: object) -> Any:
    raw = msgspec.json.encode(args, enc_hook=str)
    with anyio.fail_after(20):
        outcome = await pool.run(task.module, task.name, raw, timeout=None, memory_mb=memory_mb)
    assert isinstance(outcome, Done), outcome
    return msgspec.json.decode(outcome.value)


@both_loops
async def test_a_task_over_its_limit_is_killed_while_it_runs() -> None:
    async with ProcessPool(1) as pool:
        before = await run(pool, tasks.pid, memory_mb=None)
        with pytest.raises(MemoryLimitExceeded) as caught:
            await run(pool, tasks.eat, memory_mb=128, mb=256, hold_s=60)
        text = str(caught.value)
        assert text.startswith(f"the worker process of task {tasks.eat.name} took ")
        assert "MiB, more than its limit of 128 MiB" in text
        assert text.endswith("let the task take less, or give it a larger memory_mb")
        assert "\n" not in text
        assert dead(before)
        assert await run(pool, tasks.pid, memory_mb=BASE_MB) != before


async def test_a_task_within_its_limit_is_left_alone() -> None:
    async with ProcessPool(1) as pool:
        assert await run(pool, tasks.eat, memory_mb=128 + BASE_MB, mb=128, hold_s=0.5) == 128


@pytest.mark.parametrize("own_session", [False, True], ids=["in the group", "in a session of its own"])
async def test_what_the_task_starts_counts_and_dies_with_it(tmp_path: Path, own_session: bool) -> None:
    """Each of them would be within the limit."""
    note = tmp_path / "note"
    async with ProcessPool(1) as pool:
        with pytest.raises(MemoryLimitExceeded, match=r"with the 3 it started took \d+ MiB"):
            await run(
                pool, tasks.start_eaters, memory_mb=160 + BASE_MB, note=note, n=3, mb=100, own_session=own_session
            )
    for pid in map(int, note.read_text().split()):
        await wait_until(lambda pid=pid: dead(pid))


async def test_what_processes_share_counts_once() -> None:
    """Four resident sets of 128 MiB, and one block of memory."""
    async with ProcessPool(1) as pool:
        assert await run(pool, tasks.share, memory_mb=128 + BASE_MB, mb=128, n=3, hold_s=0.5) == 128
        with pytest.raises(MemoryLimitExceeded):
            await run(pool, tasks.share, memory_mb=64 + BASE_MB, mb=128, n=3, hold_s=60)


async def test_an_import_counts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = "from tests.tasks.memory_tasks import take\nimport time\ntable = take(256)\ntime.sleep(60)\n"
    (tmp_path / "large_table.py").write_text(source)
    monkeypatch.syspath_prepend(tmp_path)
    async with ProcessPool(1) as pool:
        with anyio.fail_after(15), pytest.raises(MemoryLimitExceeded, match=r"task large_table\.one"):
            await pool.run("large_table", "large_table.one", b"{}", timeout=None, memory_mb=128)


async def test_a_process_in_which_others_left_too_much_is_replaced_before_the_task_begins() -> None:
    async with ProcessPool(1) as pool:
        used = await run(pool, tasks.leave, memory_mb=None, mb=100)
        assert await run(pool, tasks.pid, memory_mb=1024) == used
        assert await run(pool, tasks.pid, memory_mb=None) == used
        assert await run(pool, tasks.eat, memory_mb=100 + BASE_MB, mb=80, hold_s=0.3) == 80
        assert dead(used)


async def test_imports_are_not_what_others_left(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Or every task of a large module would wait for a process of its own."""
    source = "from tests.tasks.memory_tasks import *\ntable = take(100)\n"
    source += "@task(process=True, name='library.pid')\ndef pid_(): return os.getpid()\n"
    (tmp_path / "library.py").write_text(source)
    monkeypatch.syspath_prepend(tmp_path)
    async with ProcessPool(1) as pool:
        pids = {
            await pool.run("library", "library.pid", b"{}", timeout=None, memory_mb=100 + BASE_MB) for _ in range(3)
        }
    assert len(pids) == 1


@both_loops
async def test_an_answer_that_comes_while_it_is_looked_at_is_not_lost(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory, "SOON_S", 0.0002)
    monkeypatch.setattr(memory, "LATE_S", 0.0002)
    async with ProcessPool(1) as pool:
        for size in range(300):
            assert await run(pool, tasks.eat, memory_mb=1024, mb=size % 3) == size % 3


async def test_a_short_job_and_one_without_a_limit_are_not_looked_at(monkeypatch: pytest.MonkeyPatch) -> None:
    looks: list[float] = []
    look = memory.MemoryWatch.look

    async def counted(watch: memory.MemoryWatch) -> None:
        looks.append(anyio.current_time())
        await look(watch)

    monkeypatch.setattr(memory.MemoryWatch, "look", counted)
    monkeypatch.setattr(memory, "LATE_S", 10)
    monkeypatch.setattr(memory, "_FILL_MB_S", 1)
    async with ProcessPool(1) as pool:
        await run(pool, tasks.pid, memory_mb=512)
        await run(pool, tasks.eat, memory_mb=None, mb=1, hold_s=0.5)
        assert looks == []
        monkeypatch.setattr(memory, "LATE_S", 0.1)
        await run(pool, tasks.eat, memory_mb=512, mb=1, hold_s=0.5)
        assert looks


async def test_the_kernel_takes_a_worker_process_first() -> None:
    before = willingness()
    assert before < 1000
    async with ProcessPool(1) as pool:
        assert await run(pool, tasks.willing_to_die, memory_mb=None) == [1000, 1000]
    assert willingness() == before


def willingness() -> int:
    return int(Path("/proc/self/oom_score_adj").read_text())


# -- what becomes of the task


async def attempt(number: int) -> Outcome:
    task = Task(
        id="t-1",
        name=tasks.eat.name,
        args=msgspec.Raw(b'{"mb": 256, "hold_s": 60}'),
        attempt=number,
        max_attempts=2,
        created=datetime.now(UTC),
    )
    async with ProcessPool(1) as pool:
        attempts = Attempt(pool, inline_bytes=1000, time_limit_s=20, rng=random.Random(1))
        return await attempts.run(task, tasks.eat, lambda: pytest.fail("abandoned"), memory_mb=128)


async def test_it_is_tried_again_as_its_policy_says_and_then_given_up_as_memory_limit() -> None:
    again = await attempt(1)
    assert isinstance(again, TryAgain)
    assert again.error.type == "MemoryLimitExceeded"
    end = await attempt(2)
    assert isinstance(end, GaveUp)
    assert (end.reason, end.error.type) == ("memory_limit", "MemoryLimitExceeded")
    assert "limit of 128 MiB" in end.error.message


async def test_in_a_family_what_is_gone_takes_nothing() -> None:
    process = await anyio.open_process(["sleep", "60"])
    family = memory.Family(process.pid)
    family.search()
    assert family.resident_mb() > 0
    process.kill()
    await process.wait()
    await process.aclose()
    for _ in range(2):
        assert (family.resident_mb(), family.proportional_mb()) == (0, 0)
        family.kill()
        family.search()

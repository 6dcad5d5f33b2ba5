"""The account finds what is lost, claims nothing that the disk does not have, and measures silences."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import anyio
import pytest

from fogactors.coord import MemoryCoord
from fogactors.testing import Fog, fog
from tests.swarm.ledger import Entry, Ledger, Runs, balance, quantile, read, runs_of, silences
from tests.swarm.load import run

TASK_QUEUES = {
    f"tasks.{priority}{tier}"
    for priority in ("high_priority", "normal", "low_priority")
    for tier in ("", ".medium", ".heavy")
}
REPOSITORY = Path(__file__).parents[2]
WRITER = """
import sys
from pathlib import Path
from tests.swarm.ledger import Entry, Ledger
ledger = Ledger(Path(sys.argv[1]))
number = 0
while True:
    number += 1
    ledger.add(Entry(f"a-{number}", number, "tasks.normal", 1.0, 2.0))
    if ledger.durable > 100:
        print(ledger.durable, flush=True)
        ledger.durable = -1_000_000_000
"""


def entry(number: int, confirmed: float = 1.0, lane: str = "tasks.normal") -> Entry:
    return Entry(f"a-{number}", number, lane, confirmed - 0.1, confirmed)


def test_what_is_in_neither_account_is_lost() -> None:
    entries = [entry(number) for number in range(6)]
    ends = {"a-0": "succeeded", "a-1": "succeeded", "a-2": "failed", "a-3": "worker_lost"}
    account = balance(entries, ends, dead=["a-3", "a-4", "b-9"])
    assert account.confirmed == 6
    assert account.states == {"succeeded": 2, "failed": 1, "worker_lost": 1}
    assert account.dead == 1
    assert account.lost == ("a-5",)


def test_runs_of_confirmed_tasks_are_counted_and_a_pause_is_found() -> None:
    traces = [(1, 10.5), (2, 10.6), (1, 14.0), (99, 14.2), (0, 14.3), (1, 25.0)]
    found = runs_of([entry(number) for number in range(4)], traces, since=10.0, until=16.0)
    assert found == Runs(runs=5, duplicates=1, unseen=1, pause_s=pytest.approx(3.4))
    assert runs_of([entry(1)], [(1, 3.0)], since=10.0, until=16.0).pause_s == 6.0


def test_every_entry_is_on_the_disk_before_it_counts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    synced: list[int] = []
    real = os.fsync
    path = tmp_path / "ledger"

    def fsync(handle: int) -> None:
        real(handle)
        synced.append(len(path.read_text().splitlines()))

    monkeypatch.setattr(os, "fsync", fsync)
    ledger = Ledger(path)
    for number in range(50):
        ledger.add(entry(number))
    ledger.close()
    assert ledger.durable == 50 == synced[-1]
    assert read(path) == [entry(number) for number in range(50)]


def test_a_writer_that_is_killed_leaves_what_it_counted(tmp_path: Path) -> None:
    path = tmp_path / "ledger"
    command = [sys.executable, "-c", WRITER, str(path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=REPOSITORY) as writer:
        assert writer.stdout is not None
        counted = int(writer.stdout.readline())
        writer.send_signal(signal.SIGKILL)
    assert len(read(path)) >= counted > 100


def test_a_line_that_was_cut_off_is_not_an_entry(tmp_path: Path) -> None:
    (tmp_path / "ledger").write_text("a-1 1 tasks.normal 1.0 2.0\na-2 2 tasks.nor")
    assert read(tmp_path / "ledger") == [Entry("a-1", 1, "tasks.normal", 1.0, 2.0)]


def test_a_silence_is_the_longest_time_without_a_confirm() -> None:
    entries = [entry(n, at) for n, at in enumerate((8.0, 10.1, 10.2, 14.7, 14.8, 19.9))]
    entries.append(entry(9, 10.0, "tasks.low_priority"))
    found = silences(entries, ["tasks.normal", "tasks.low_priority", "tasks.normal.heavy"], 10.0, 20.0)
    assert found["tasks.normal"] == pytest.approx(5.1)
    assert found["tasks.low_priority"] == pytest.approx(10.0)
    assert found["tasks.normal.heavy"] == pytest.approx(10.0)


def test_a_quantile_is_a_value_that_was_there() -> None:
    assert quantile([3.0, 1.0, 2.0], 0.5) == 2.0
    assert quantile([1.0] * 99 + [9.0], 0.99) == 9.0
    assert quantile([], 0.99) == 0.0


async def published(system: Fog, folder: Path, settle: float) -> dict[str, Any]:
    """The report of a load of more than 200 tasks."""
    coord = MemoryCoord(system.store)
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(run, folder, system.submitter, coord, system.tiers.names, 300.0, settle)
        with anyio.fail_after(30):
            # The ledger is a file: nobody tells us that it grew.
            while not (folder / "ledger").exists() or len(read(folder / "ledger")) <= 200:  # noqa: ASYNC110
                await anyio.sleep(0.05)
        (folder / "stop").touch()
    return json.loads((folder / "report.json").read_text())


@pytest.mark.asyncio
async def test_the_load_accounts_for_all_that_it_published(tmp_path: Path) -> None:
    async with fog(serve=("light", "medium", "heavy")) as system:
        report = await published(system, tmp_path, settle=10.0)
    entries = read(tmp_path / "ledger")
    assert report["confirmed"] == report["states"]["succeeded"] == len(entries) > 200
    assert {entry.lane for entry in entries} == TASK_QUEUES
    assert (report["lost"], report["refused"]) == ([], {})
    assert set(report["wait_p99_s"]) == TASK_QUEUES


@pytest.mark.asyncio
async def test_what_nobody_ran_is_reported_as_lost(tmp_path: Path) -> None:
    async with fog(serve=("medium",)) as system:
        report = await published(system, tmp_path, settle=1.0)
    heavy = {entry.id for entry in read(tmp_path / "ledger") if entry.lane.endswith(".heavy")}
    assert set(report["lost"]) >= heavy != set()  # on a busy machine some of the others have not run either
    assert len(report["lost"]) + report["states"]["succeeded"] == report["confirmed"]

"""The load: tasks for every task queue at a steady rate, a ledger of what was confirmed, and the check of it.

`python -m tests.swarm.load FOLDER --rate 500` runs in a container of its own on the stack's network. It publishes until
FOLDER/stop exists, then waits until each confirmed task is accounted for, or until no more were in `--settle` seconds,
and writes FOLDER/report.json. FOLDER/ledger is the account, FOLDER/status.json says twice a second how it goes.
"""

from __future__ import annotations

import argparse
import json
import os
import time
from collections import Counter
from dataclasses import asdict
from itertools import count
from pathlib import Path
from typing import Any

import anyio

from fogactors.app.program import Program
from fogactors.app.settings import Settings, load
from fogactors.coord.base import Coord
from fogactors.errors import BusError, CoordError, FogError
from fogactors.messages import PRIORITIES
from fogactors.tasks.client import Handle, Submitter
from fogactors.tasks.task import TaskDef
from fogactors.wire.topology import task_queue
from tests.swarm.ledger import Entry, Ledger, Refusals, balance, quantile, read
from tests.swarm.work import touch

IN_FLIGHT = 300
"""Publishes of one lane that wait for their confirm: what a client keeps while a broker elects."""
TICK_S = 0.02
LOOK_S = 1.0
IN_A_ROW = 100
"""Tasks of one lane without an end, one after the other: those behind them hardly have one yet."""


class Load:
    """One load. `tiers`: from small to large; lanes are the task queues, one for each tier and priority. `again`:
    publish once more, with the same id, what raised."""

    def __init__(
        self, folder: Path, submitter: Submitter, tiers: tuple[str, ...], rate: float, *, again: bool = False
    ) -> None:
        self._again = again
        self._repeated = 0
        self._folder = folder
        self._submitter = submitter
        self._rate = rate
        self._ledger = Ledger(folder / "ledger")
        self._number = count(1)
        self._in_flight = Counter[str]()
        self._held_back = 0
        self._last_error = ""
        self.refusals = Refusals()
        self.lanes: dict[str, TaskDef[[str, int], int]] = {
            task_queue(priority, tier, tiers[0]): touch.options(priority=priority, tier=tier)
            for tier in tiers
            for priority in PRIORITIES
        }

    async def run(self) -> None:
        """Publish until there is a file `stop`; all that was confirmed is in the ledger when it returns."""
        async with anyio.create_task_group() as beside:
            beside.start_soon(self._say)
            async with anyio.create_task_group() as publishes:
                due = 0.0
                began = anyio.current_time()
                while not (self._folder / "stop").exists():
                    due_now = (anyio.current_time() - began) * self._rate / len(self.lanes)
                    while due < due_now:
                        due += 1
                        for lane in self.lanes:
                            if self._in_flight[lane] < IN_FLIGHT:
                                publishes.start_soon(self._publish, lane)
                            else:
                                self._held_back += 1
                    await anyio.sleep(TICK_S)
            await anyio.to_thread.run_sync(self._ledger.close)
            beside.cancel_scope.cancel()
        await self._write("status.json", self.status())

    def status(self) -> dict[str, Any]:
        return {
            "at": time.time(),
            "confirmed": self._ledger.durable,
            "in_flight": sum(self._in_flight.values()),
            "held_back": self._held_back,
            "refused": self.refusals.by_error(),
            "repeated": self._repeated,
            "last_error": self._last_error,
        }

    async def _publish(self, lane: str) -> None:
        self._in_flight[lane] += 1
        number, sent = next(self._number), time.time()
        try:
            handle = await self._submit(lane, number)
        except FogError as error:
            self.refusals.add(lane, error)
            self._last_error = f"{type(error).__name__}: {error}"
        else:
            self._ledger.add(Entry(handle.id, number, lane, sent, time.time()))
        finally:
            self._in_flight[lane] -= 1

    async def _submit(self, lane: str, number: int) -> Handle[int]:
        """As the docs tell an application. Raises FogError: it, or where it is to be tried again the second try."""
        try:
            return await self._submitter.submit(self.lanes[lane], self._folder.name, number)
        except BusError as error:
            if not self._again or error.unsent is None:
                raise
            self._repeated += 1
            return await self._submitter.resubmit(error.unsent)

    async def _say(self) -> None:
        while True:
            await self._write("status.json", self.status())
            await anyio.sleep(0.5)

    async def _write(self, name: str, value: object) -> None:
        await anyio.to_thread.run_sync(write_json, self._folder / name, value)


class Check:
    """Reads what became of tasks, until each is accounted for."""

    def __init__(self, coord: Coord) -> None:
        self._coord = coord
        self.ends: dict[str, str] = {}
        self.dead: set[str] = set()
        self.waits: dict[str, float] = {}

    async def settle(self, entries: list[Entry], patience: float) -> None:
        """Returns when all entries are accounted for, or when for `patience` seconds nothing more was."""
        quiet_since = anyio.current_time()
        before, look_at_all = 0, False
        while open_entries := [e for e in entries if e.id not in self.ends and e.id not in self.dead]:
            try:
                await self._read_ends(open_entries, len(entries) if look_at_all else IN_A_ROW)
                async for letters in self._coord.letters.scan():
                    self.dead.update(letter.task_id for letter in letters if letter.task_id is not None)
            except* CoordError:
                pass  # away: what is there is read when it is back
            known = len(self.ends) + len(self.dead)
            look_at_all = known == before
            if not look_at_all:
                before, quiet_since = known, anyio.current_time()
            elif anyio.current_time() - quiet_since > patience:
                return
            await anyio.sleep(LOOK_S)

    async def _read_ends(self, entries: list[Entry], in_a_row: int) -> None:
        """Lane by lane, in the order of their confirms. To ask for all of a backlog takes from those who run it."""
        lanes: dict[str, list[str]] = {}
        for entry in entries:
            lanes.setdefault(entry.lane, []).append(entry.id)

        async def reader(ids: list[str]) -> None:
            missed = 0
            for task_id in ids:
                result = await self._coord.result(task_id)
                if result is None:
                    missed += 1
                    if missed == in_a_row:
                        return
                    continue
                missed = 0
                self.ends[task_id] = result.state
                if result.created is not None and result.started is not None:
                    self.waits[task_id] = (result.started - result.created).total_seconds()

        async with anyio.create_task_group() as readers:
            for ids in lanes.values():
                readers.start_soon(reader, ids)


async def run(
    folder: Path,
    submitter: Submitter,
    coord: Coord,
    tiers: tuple[str, ...],
    rate: float,
    settle: float,
    *,
    again: bool = False,
) -> None:
    """The whole of it: load, check, report."""
    work = Load(folder, submitter, tiers, rate, again=again)
    began = time.time()
    await work.run()
    published_s = time.time() - began
    entries = read(folder / "ledger")
    check = Check(coord)
    await check.settle(entries, settle)
    account = balance(entries, check.ends, check.dead)
    waits: dict[str, list[float]] = {}
    for entry in entries:
        if entry.id in check.waits:
            waits.setdefault(entry.lane, []).append(check.waits[entry.id])
    report = {
        **asdict(account),
        "seconds": published_s,
        "wait_p50_s": {lane: round(quantile(values, 0.5), 3) for lane, values in waits.items()},
        "wait_p99_s": {lane: round(quantile(values, 0.99), 3) for lane, values in waits.items()},
        **{
            name: value
            for name, value in work.status().items()
            if name in ("held_back", "refused", "repeated", "last_error")
        },
    }
    await anyio.to_thread.run_sync(write_json, folder / "report.json", report)


def write_json(path: Path, value: object) -> None:
    """Renamed into place: a reader never sees half of it."""
    fresh = path.with_suffix(".new")
    fresh.write_text(json.dumps(value), encoding="utf-8")
    fresh.rename(path)


async def _main(options: argparse.Namespace, settings: Settings) -> None:
    async with Program.start(settings, (), needs=("submitter",)) as program, program.submitter() as submitter:
        coord = program.services.coord("check")
        try:
            tiers = program.context.tiers.names
            await run(options.folder, submitter, coord, tiers, options.rate, options.settle, again=options.again)
        finally:
            await coord.close()


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("folder", type=Path)
    parser.add_argument("--rate", type=float, default=500.0)
    parser.add_argument("--settle", type=float, default=180.0)
    parser.add_argument("--again", action="store_true")
    anyio.run(_main, parser.parse_args(), load(None, os.environ, default_ok=True))

"""Errors become one line and an exit code."""

from __future__ import annotations

import asyncio
import gc
import socket
from dataclasses import replace

import anyio
import pytest

from fogactors.app.boot import exit_code, report, run
from fogactors.app.services import Remote, part_for
from fogactors.app.settings import Settings
from fogactors.errors import (
    AccessRefused,
    BusUnavailable,
    ConfigError,
    QueueMissing,
    RestartIntensityExceeded,
    StartFailed,
    StoppedAtBoot,
    TaskArgumentError,
)


def caused(error: Exception, by: Exception) -> Exception:
    error.__cause__ = by
    return error


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (ConfigError("x"), 2),
        (TaskArgumentError("x"), 2),
        (AccessRefused("x"), 2),
        (QueueMissing("x"), 2),
        (BusUnavailable("x"), 3),
        (caused(StartFailed("the link"), BusUnavailable("x")), 3),
        (RestartIntensityExceeded("x"), 4),
        (caused(RestartIntensityExceeded("x"), BusUnavailable("y")), 4),
        (ExceptionGroup("", [ExceptionGroup("", [RestartIntensityExceeded("x")])]), 4),
        (StoppedAtBoot(), 0),
        (ValueError("x"), 1),
    ],
)
def test_exit_codes(error, code):
    assert exit_code(error) == code


def test_one_line_for_each_reason_and_a_bug_says_that_it_is_one(capsys):
    twice = ExceptionGroup("", [ConfigError("no such tier"), ConfigError("no such tier"), ZeroDivisionError("oh")])
    report(twice, debug=False)
    assert capsys.readouterr().err.splitlines() == [
        "fogactors: no such tier",
        "fogactors: ZeroDivisionError: oh",
        "fogactors: this is a bug; --debug shows where",
    ]


@pytest.mark.asyncio
async def test_a_stop_while_it_waits_for_the_broker_is_heard():
    bus = replace(Settings().bus, url="amqp://nobody:x@127.0.0.1:1/x", boot_wait_s=60.0)
    settings = replace(Settings(), bus=bus, coord=replace(Settings().coord, url="redis://127.0.0.1:1/0"))
    stop = anyio.Event()
    with anyio.fail_after(10):
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(stop_soon, stop)
            with pytest.raises(StoppedAtBoot):
                async with Remote.open(settings, part_for(settings, (), None), stop):
                    pass


async def stop_soon(stop: anyio.Event) -> None:
    await anyio.wait_all_tasks_blocked()
    stop.set()


@pytest.mark.parametrize(
    ("error", "told"), [(socket.gaierror(-3, "Temporary failure in name resolution"), False), (ValueError("x"), True)]
)
def test_a_lookup_that_nobody_waits_for_any_more_is_no_news(error, told, caplog):
    async def main() -> int:
        asyncio.get_running_loop().create_future().set_exception(error)
        gc.collect()
        return 0

    assert run(main) == 0
    assert bool(caplog.records) is told

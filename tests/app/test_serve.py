"""What `fogactors run` does with an actor that cannot be ended."""

from __future__ import annotations

from contextlib import asynccontextmanager
from types import SimpleNamespace

import pytest

from fogactors.app.boot import EXIT_STUCK
from fogactors.app.cli import serve
from fogactors.app.settings import Settings
from fogactors.core import ChildStuck

pytestmark = pytest.mark.asyncio


@pytest.mark.parametrize(("roles", "ends"), [(("heartbeat", "dlq-reaper"), True), (("node-sentinel",), False)])
async def test_it_ends_a_process_but_no_broker(monkeypatch, capsys, roles, ends):
    @asynccontextmanager
    async def start(settings, roles, *, events, stop, request_stop, **_):
        events.emit(ChildStuck(path="fogactors/it", at=1.0, waited_s=2.0))
        assert stop.is_set() is ends
        request_stop()  # what was asked for first holds
        yield SimpleNamespace(settings=settings, services=SimpleNamespace(is_embedded=True))

    monkeypatch.setattr(serve.Program, "start", start)
    monkeypatch.setattr(serve.Stopping, "_arm", lambda self: None)  # it would end this process when the budget is over
    code = await serve._serve(Settings(), roles, None, roles[-1], show=False)

    assert code == (EXIT_STUCK if ends else 0)
    assert "fogactors/it" in capsys.readouterr().err

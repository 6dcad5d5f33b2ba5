"""Real services, shared by all tests of a session; each module has a virtual host of its own in them."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import anyio
import pytest

from fogactors.app import cli
from fogactors.app.cli.common import state
from tests.integration.fog import Done, Fog, Services, apply_topology, own_vhost
from tests.services import ServiceUnavailable, skip_or_fail

VARIABLES = ("FOGACTORS_TEST_AMQP_URL", "FOGACTORS_TEST_MANAGEMENT_URL", "FOGACTORS_TEST_REDIS_URL")


@pytest.fixture(scope="session")
def shared_services() -> Services:
    """Those that the environment names, as `python -m tests.services run -- pytest` does."""
    missing = [name for name in VARIABLES if not os.environ.get(name)]
    if missing:
        skip_or_fail(
            ServiceUnavailable(f"{' and '.join(missing)} not set; `python -m tests.services run -- ...` sets it")
        )
    return Services(*(os.environ[name] for name in VARIABLES))


@pytest.fixture(scope="module")
def services(shared_services: Services) -> Iterator[Services]:
    """With the topology in place."""
    with own_vhost(shared_services) as own:
        anyio.run(apply_topology, own)
        yield own


@pytest.fixture
def bare(shared_services: Services) -> Iterator[Services]:
    """A virtual host of this test's own with nothing in it."""
    with own_vhost(shared_services) as own:
        yield own


@pytest.fixture
def fog(services: Services, tmp_path: Path) -> Iterator[Fog]:
    """Commands against `services`; none of them outlives the test."""
    fog = Fog(services, tmp_path)
    yield fog
    fog.clean_up()


@pytest.fixture
def command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Callable[..., Done]:
    """`command("topology", "diff", services=services)` runs it to its end in this process, at a tenth of the cost of
    one of its own. For tests that are not async, and for what needs no signal."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(state, "config", None)
    monkeypatch.setattr(state, "debug", False)
    monkeypatch.setenv("COLUMNS", "80")
    for name in list(os.environ):
        if name.startswith("FOGACTORS_") and name not in VARIABLES:
            monkeypatch.delenv(name)

    def run(*words: str, services: Services, **env: str) -> Done:
        with monkeypatch.context() as patch:
            patch.setattr(sys, "argv", ["fogactors", *words])
            for name, value in {**services.environment(), **Fog.variables(env)}.items():
                patch.setenv(name, value)
            with pytest.raises(SystemExit) as left:
                cli.main()
        printed = capsys.readouterr()
        return Done(int(left.value.code or 0), printed.out, printed.err)

    return run

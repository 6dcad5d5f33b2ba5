from __future__ import annotations

import os
import sys

import pytest

from fogactors.app import cli
from fogactors.app.cli.common import state
from tests.app.swarm.client import ScriptedClient, path_with


@pytest.fixture
def client(tmp_path, monkeypatch):
    """The docker client on PATH."""
    scripted = ScriptedClient(tmp_path / "client")
    monkeypatch.setenv("PATH", path_with(scripted))
    for name in list(os.environ):
        if name == "DOCKER" or name.startswith(("FOG_", "MQ_", "REDIS_", "RABBITMQ_", "DOCKER_")):
            monkeypatch.delenv(name)
    return scripted


@pytest.fixture
def fog(client, tmp_path, monkeypatch, capsys):
    """`code, out, err = fog("swarm", "label")`, in a folder of its own, with the scripted client."""
    folder = tmp_path / "here"
    folder.mkdir()
    monkeypatch.chdir(folder)
    monkeypatch.setattr(state, "config", None)

    def run(*words: str) -> tuple[int, str, str]:
        with monkeypatch.context() as patch:
            patch.setattr(sys, "argv", ["fogactors", *words])
            with pytest.raises(SystemExit) as left:
                cli.main()
        captured = capsys.readouterr()
        return int(left.value.code or 0), captured.out, captured.err

    return run

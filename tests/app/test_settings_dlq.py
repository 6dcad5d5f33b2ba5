"""`[dlq]` and a table within it for each reason."""

from dataclasses import fields, is_dataclass
from typing import get_args

import pytest

from fogactors.app.program import role_context
from fogactors.app.services import Embedded, topology_of
from fogactors.app.settings import DlqSettings, LetterSettings, Settings, load
from fogactors.errors import ConfigError
from fogactors.messages import Reason
from fogactors.tasks.replay import DlqConfig, DlqPolicy
from fogactors.wire.topology import PARKED


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


def read(folder, text, env=None):
    (folder / "actors.toml").write_text(text)
    return load(None, env or {}, default_ok=False)


def test_every_reason_has_a_table():
    tables = [each.name for each in fields(DlqSettings) if is_dataclass(getattr(DlqSettings(), each.name))]
    assert tables == list(get_args(Reason)) == list(DlqSettings().by_reason())


def test_a_table_within_a_table_is_read_and_keeps_its_other_defaults(folder):
    text = "[dlq]\nretention_s = 86_400\n[dlq.failed]\nreplay_after_s = 60\n[dlq.expired]\nretention_s = 3600\n"
    settings = read(folder, text, {"FOGACTORS_DLQ__FAILED__MAX_REPLAYS": "3"})
    assert settings.dlq == DlqSettings(
        retention_s=86_400,
        failed=LetterSettings(replay_after_s=60.0, max_replays=3),
        expired=LetterSettings(retention_s=3600.0),
    )
    assert settings.source("dlq.failed.replay_after_s") == "actors.toml"
    assert settings.source("dlq.failed.max_replays") == "FOGACTORS_DLQ__FAILED__MAX_REPLAYS"
    assert settings.source("dlq.malformed.max_replays") == "default"
    assert dict(settings.items())["dlq.failed.max_replays"] == 3


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[dlq.faild]\nmax_replays = 1", "[dlq.faild]: unknown table; did you mean [dlq.failed]?"),
        ("[dlq.failed]\nmax_replay = 1", "[dlq.failed] max_replay: unknown key; did you mean max_replays?"),
        ("[dlq]\nretention = 1", "[dlq] retention: unknown key; did you mean retention_s?"),
        ("[dlq]\nfailed = 1", "[dlq.failed]: expected a table, got 1"),
        ("[dlq]\nretention_s = 0", "[dlq] retention_s: expected a whole number >= 1 and <= 31536000, got 0"),
        (
            "[dlq.failed]\nmax_replays = -1",
            "[dlq.failed] max_replays: expected a whole number >= 0 and <= 1000, got -1",
        ),
        (
            "[dlq]\nretention_s = 60\n[dlq.expired]\nretention_s = 61",
            "[dlq.expired] retention_s: 61.0 is more than [dlq] retention_s = 60; that ends it sooner",
        ),
    ],
)
def test_refused(folder, text, message):
    with pytest.raises(ConfigError) as raised:
        read(folder, text)
    assert str(raised.value) == f"actors.toml: {message}"


def test_an_unknown_reason_in_the_environment():
    with pytest.raises(ConfigError) as raised:
        load(None, {"FOGACTORS_DLQ__FAILD__MAX_REPLAYS": "1"}, default_ok=True)
    assert str(raised.value).endswith("unknown setting; did you mean FOGACTORS_DLQ__FAILED__MAX_REPLAYS?")


@pytest.mark.asyncio
async def test_the_reaper_and_the_stream_go_by_it():
    settings = Settings(dlq=DlqSettings(retention_s=60, failed=LetterSettings(replay_after_s=1.0, max_replays=2)))
    assert topology_of(settings).queue(PARKED).policy.max_age_s == 60
    async with Embedded.open(settings) as services:
        config = role_context(settings, services).dlq
    assert config.retention_s == 60
    assert config.policy("failed") == DlqPolicy(replay_after_s=1.0, max_replays=2)
    assert config.policy("expired") == DlqConfig().policy("expired") == DlqPolicy()

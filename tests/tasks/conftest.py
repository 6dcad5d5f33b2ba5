from collections.abc import Iterator

import pytest
from hypothesis import settings

from fogactors.roles import dlq_reaper
from fogactors.tasks import cancellations, client, executor, store
from tests.tasks import fog_tasks

settings.register_profile("tasks", deadline=None, max_examples=60, database=None)  # a busy machine is no failure
settings.load_profile("tasks")


@pytest.fixture(autouse=True)
def in_a_hurry(monkeypatch: pytest.MonkeyPatch) -> None:
    """Waits of a second that are right in a cluster and only long in a test."""
    monkeypatch.setattr(client, "POLL_S", 0.1)
    monkeypatch.setattr(dlq_reaper, "LATER_S", 0.1)
    monkeypatch.setattr(store, "COORD_TIMEOUT_S", 0.2)
    monkeypatch.setattr(store, "ASK_AGAIN_S", 0.1)
    monkeypatch.setattr(cancellations, "LOAD_TIMEOUT_S", 0.2)
    monkeypatch.setattr(cancellations, "LOAD_ALL_S", 0.2)
    monkeypatch.setattr(cancellations, "LATER_S", 0.1)
    monkeypatch.setattr(executor, "TICK_S", 0.1)


@pytest.fixture(autouse=True)
def forget() -> Iterator[None]:
    """The tasks' memory is of one test, and no thread of theirs stays behind it."""
    fog_tasks.forget()
    yield
    fog_tasks.forget()

"""The index of dead letters follows their stream, whatever happens to either, and is built again from it."""

from datetime import UTC, datetime, timedelta

import pytest

from fogactors.bus import Message
from fogactors.coord import MemoryCoord
from fogactors.core import ActorExited, ActorStarted
from fogactors.messages import DeadLetter, DeadLetterFate
from fogactors.roles import dlq_indexer
from fogactors.roles.dlq_indexer import PREFETCH, LetterIndexAway, LetterIndexBehind, LetterRecordSkipped
from fogactors.tasks.deadletter import DEAD_LETTER_KEY, publish_fate, publish_letter
from fogactors.tasks.replay import DlqConfig, DlqPolicy, entry_of
from fogactors.testing.kit import eventually
from fogactors.wire.topology import DLX, PARKED
from tests.tasks.harness import Hanging, fog

pytestmark = pytest.mark.asyncio

INDEXER = "fogactors/dlq-reaper/indexer"
NOW = datetime(2030, 1, 1, tzinfo=UTC)


@pytest.fixture(autouse=True)
def often(monkeypatch):
    monkeypatch.setattr(dlq_indexer, "LOOK_S", 0.02)
    monkeypatch.setattr(dlq_indexer, "PROOF_S", 0.1)


def reaper(**options):
    return fog(roles=("dlq-reaper",), **options)


def letter(id_="a-1", **fields):
    return DeadLetter(id=id_, **({"reason": "failed", "body": b"x", "first": NOW, "last": NOW} | fields))


async def park(system, *records, exchange=PARKED):
    for record in records:
        if isinstance(record, DeadLetter):
            await publish_letter(system.bus, exchange, record, timeout=1)
        else:
            await publish_fate(system.bus, record, timeout=1)


def table(system):
    return {entry.id: entry for name in system.store.letters.in_order() for entry in [system.store.letters.get(name)]}


async def indexed(system, offset):
    await eventually(lambda: system.store.letters.position == offset, f"indexed up to {offset}")


async def test_what_is_parked_is_in_the_index_with_all_that_a_list_says():
    async with reaper() as system:
        await park(system, letter(name="t", origin="tasks.normal", attempts=3, worker="w"), exchange=DLX)
        await indexed(system, 0)
        entry = table(system)["a-1"]
        assert (entry.offset, entry.state, entry.reason, entry.name, entry.queue) == (
            0,
            "parked",
            "failed",
            "t",
            "tasks.normal",
        )
        assert (entry.attempts, entry.worker, entry.size, entry.last) == (3, "w", 1, NOW)


async def test_what_became_of_a_letter_is_there_too():
    async with reaper() as system:
        replayed = DeadLetterFate(id="a-1", state="replayed", at=NOW, by="fogactors dlq")
        await park(system, letter(), letter("b-1"), replayed, DeadLetterFate(id="b-1", state="purged", at=NOW))
        await indexed(system, 3)
        assert {id_: (entry.state, entry.by) for id_, entry in table(system).items()} == {
            "a-1": ("replayed", "fogactors dlq")
        }


async def test_an_index_that_was_wiped_is_built_again_from_the_stream():
    async with reaper() as system:
        count = 3 * PREFETCH
        await park(system, *(letter(f"a-{n}") for n in range(count)), DeadLetterFate(id="a-0", state="purged", at=NOW))
        await indexed(system, count)
        before = table(system)
        assert len(before) == count - 1
        system.store.letters.wipe()
        await indexed(system, count)
        assert table(system) == before
        event = await system.recorder.wait_for(LetterIndexBehind)
        assert (event.position, event.was, event.worker) == (None, count, "node/dlq-reaper")
        assert not system.recorder.of(ActorExited)


async def test_it_is_noticed_by_the_next_letter_as_well(monkeypatch):
    monkeypatch.setattr(dlq_indexer, "LOOK_S", 60)
    async with reaper() as system:
        await park(system, letter("a-1"), letter("a-2"))
        await indexed(system, 1)
        system.store.letters.wipe()
        await park(system, letter("a-3"))
        await indexed(system, 2)
        assert list(table(system)) == ["a-1", "a-2", "a-3"]


async def test_it_begins_where_the_index_stands():
    async with reaper() as system:
        await park(system, letter("a-1"), letter("a-2"))
        await indexed(system, 1)
        system.store.letters.wipe()
        await MemoryCoord(system.store).letters.apply(None, [], 0)
        await indexed(system, 1)
        assert list(table(system)) == ["a-2"]


async def test_where_another_reaper_is_further_it_goes_on_behind_that_one(monkeypatch):
    monkeypatch.setattr(dlq_indexer, "LOOK_S", 60)
    async with reaper() as system:
        await park(system, letter("a-1"))
        await indexed(system, 0)
        # The other has read what comes next before we have.
        await MemoryCoord(system.store).letters.apply(0, [entry_of(letter("a-2"), 1), entry_of(letter("a-3"), 2)], 2)
        await park(system, letter("a-2"), letter("a-3"), letter("a-4"))
        await indexed(system, 3)
        assert [entry.offset for entry in table(system).values()] == [0, 1, 2, 3]
        assert not system.recorder.of(LetterIndexBehind)


async def test_a_stream_that_was_declared_anew_is_read_from_its_beginning():
    """The index has the position of the old one, where the new one may come in years."""
    async with reaper() as system:
        await park(system, letter("a-1"))
        await indexed(system, 0)
        await MemoryCoord(system.store).letters.apply(0, [], 1000)
        system.actors.ref(INDEXER).kill()
        await system.recorder.wait_for(ActorStarted, path=INDEXER, incarnation=2)
        await indexed(system, 0)
        await park(system, letter("a-2"))
        await indexed(system, 1)
        assert set(table(system)) == {"a-1", "a-2"}
        event = await system.recorder.wait_for(LetterIndexBehind)
        assert (event.position, event.was) == (None, 1000)


@pytest.mark.parametrize("how", ["away", "hangs"])
async def test_without_the_store_letters_are_parked_and_indexed_later(monkeypatch, how):
    monkeypatch.setattr(dlq_indexer, "COORD_TIMEOUT_S", 0.05)
    switch = {"hangs": how == "hangs"}

    class Letters(Hanging):
        @property
        def letters(self):
            index = Hanging(self._coord.letters, "apply", "position")
            index.hangs = switch["hangs"]
            return index

    async with reaper(wrap_coord=Letters) as system:
        system.store.away = how == "away"
        away = await system.recorder.wait_for(LetterIndexAway)
        assert away.away
        assert away.error
        await park(system, *(letter(f"a-{n}") for n in range(5)), exchange=DLX)
        await eventually(lambda: system.ready(PARKED) == 5, "parked all the same")
        system.store.away = switch["hangs"] = False
        await indexed(system, 4)
        assert len(table(system)) == 5
        assert [event.away for event in system.recorder.of(LetterIndexAway)] == [True, False]
        assert not system.recorder.of(ActorExited)


async def test_while_a_batch_cannot_be_applied_no_more_is_read():
    async with reaper() as system:
        await park(system, letter())
        await indexed(system, 0)
        system.store.away = True
        await park(system, *(letter(f"b-{n}") for n in range(3 * PREFETCH)))
        await system.recorder.wait_for(LetterIndexAway, away=True)
        assert system.broker.depths()[PARKED].unsettled == PREFETCH
        system.store.away = False
        await indexed(system, 3 * PREFETCH)
        await eventually(lambda: system.broker.depths()[PARKED].unsettled == 0, "all settled")


@pytest.mark.parametrize("kind", ["dead_letter", "dead_letter_fate", "", "something"])
async def test_what_cannot_be_read_is_passed_over_and_counted(kind):
    async with reaper() as system:
        for _ in range(2):
            await system.bus.publish(PARKED, DEAD_LETTER_KEY, Message(b"garbage", kind))
        await park(system, letter())
        await indexed(system, 2)
        assert list(table(system)) == ["a-1"]
        assert [(event.offset, event.total) for event in system.recorder.of(LetterRecordSkipped)] == [(0, 1), (1, 2)]
        assert not system.recorder.of(ActorExited)


# -- forgetting


async def test_letters_are_purged_when_their_reasons_time_is_over(monkeypatch):
    monkeypatch.setattr(dlq_indexer, "SWEEP_S", 0.02)
    config = DlqConfig(policies={"expired": DlqPolicy(retention_s=60)})
    async with reaper(skip_delays=False, dlq=config) as system:
        now = system.now()
        await park(
            system,
            letter("old", reason="expired", last=now - timedelta(seconds=61)),
            letter("young", reason="expired", last=now),
            letter("kept", last=now - timedelta(seconds=61)),
        )
        await indexed(system, 3)
        assert set(table(system)) == {"young", "kept"}
        system.advance(61)
        await indexed(system, 4)
        assert set(table(system)) == {"kept"}
        system.store.letters.wipe()
        await indexed(system, 4)
        assert set(table(system)) == {"kept"}  # the stream says so too


async def test_what_the_stream_forgets_the_index_forgets(monkeypatch):
    monkeypatch.setattr(dlq_indexer, "SWEEP_S", 0.02)
    async with reaper(skip_delays=False) as system:
        await park(system, letter("a-1", last=system.now()), letter("a-2", last=system.now() + timedelta(days=1)))
        await indexed(system, 1)
        system.advance(7 * 24 * 3600 + 1)
        await eventually(lambda: set(table(system)) == {"a-2"}, "swept")

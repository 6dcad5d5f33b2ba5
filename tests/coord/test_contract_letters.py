"""What every index of dead letters does. Offsets are the stream's, so the tests give them."""

from datetime import UTC, datetime, timedelta, timezone

import anyio
import pytest
from msgspec import structs

from fogactors.coord import LetterIndex, ParkedLetter
from fogactors.messages import DeadLetterFate

pytestmark = pytest.mark.asyncio

AT = datetime(2026, 3, 1, 12, 30, 15, 250_000, tzinfo=UTC)
LATER = AT + timedelta(minutes=5)


def letter(which: str = "a", offset: int = 0, **fields) -> ParkedLetter:
    return ParkedLetter(**{"id": which, "offset": offset, "reason": "failed", "first": AT, "last": AT} | fields)


def fate(state: str, which: str = "a", generation: int = 0, at: datetime = LATER, by: str = "me") -> DeadLetterFate:
    return DeadLetterFate(id=which, generation=generation, state=state, at=at, by=by)


def replayed(known: ParkedLetter) -> ParkedLetter:
    return structs.replace(known, **REPLAYED)


REPLAYED = {"state": "replayed", "since": LATER, "by": "me"}


async def all_of(index: LetterIndex, batch: int = 1000) -> list[ParkedLetter]:
    with anyio.fail_after(30):
        return [each async for found in index.scan(batch) for each in found]


async def build(index: LetterIndex, *records: ParkedLetter | DeadLetterFate) -> None:
    """Apply each record of a stream by itself, as an indexer that is never behind."""
    after = await index.position()
    for upto, record in enumerate(records, start=0 if after is None else after + 1):
        assert await index.apply(after, [record], upto) == upto
        after = upto


@pytest.fixture
def index(coord) -> LetterIndex:
    return coord.letters


@pytest.fixture
def second(other) -> LetterIndex:
    """Another client's."""
    return other.letters


async def test_is_an_index_and_empty_at_first(index):
    assert isinstance(index, LetterIndex)
    assert await index.position() is None
    assert await index.get("a") is None
    assert await index.count() == 0
    assert await all_of(index) == []


async def test_a_letter_comes_back_as_it_was(index, second):
    full = letter(
        name="größe.task",
        task_id="me-1",
        generation=2,
        revision=1,
        queue="tasks.normal",
        error='ValueError: "no"\tno',
        attempts=3,
        worker="n1",
        size=4711,
        first=AT.astimezone(timezone(timedelta(hours=2))),
        correlation_id="c",
        traceparent="00-1-2-01",
        reason="worker_lost",
    )
    assert await index.apply(None, [full, letter("b", 1)], 1) == 1
    assert await second.get("a") == full
    assert await all_of(second) == [full, letter("b", 1)]
    assert await second.count() == 2


async def test_what_is_read_is_a_copy(index):
    given = letter()
    await index.apply(None, [given], 0)
    given.error = "changed"
    (await index.get("a")).error = "changed"
    (await all_of(index))[0].error = "changed"
    assert await index.get("a") == letter()


# -- the position


async def test_records_are_applied_from_where_the_index_stands(index, second):
    assert await index.apply(None, [letter("a", 3)], 5) == 5
    assert await second.position() == 5
    assert await second.apply(5, [letter("b", 6)], 6) == 6
    assert await second.apply(6, [], 9) == 9  # nothing for the index among them
    assert await index.position() == 9


@pytest.mark.parametrize("after", [None, 0, 4, 6])
async def test_from_anywhere_else_nothing_is_applied(index, second, after):
    await index.apply(None, [letter("a", 5)], 5)
    assert await second.apply(after, [letter("b", 7), fate("purged")], 7) == 5
    assert await second.get("b") is None
    assert await second.get("a") == letter("a", 5)


async def test_asked_again_for_a_lost_answer_it_says_the_same_and_changes_nothing(index):
    records = [letter("a", 0), fate("replayed"), letter("b", 2)]
    for _ in range(3):
        assert await index.apply(None, records, 2) == 2
    assert await all_of(index) == [replayed(letter("a", 0)), letter("b", 2)]


async def test_a_wipe_shows_and_the_stream_builds_the_same_index_again(index, harness):
    records = [letter("a", 0), fate("replayed"), letter("b", 2), letter("c", 3), fate("purged", "b"), letter("b", 5)]
    await build(index, *records)
    before = await all_of(index)
    assert [each.id for each in before] == ["a", "c"]
    await harness.wipe()
    assert await index.apply(5, [letter("d", 6)], 6) is None
    assert await all_of(index) == []
    assert await index.apply(None, [*records, letter("d", 6)], 6) == 6
    assert await all_of(index) == [*before, letter("d", 6)]


async def test_several_indexers_apply_each_record_once(index, second):
    """Each reads on from where the index stands; who finds it elsewhere reads again."""
    applied: list[int] = []

    async def keep_up(mine: LetterIndex) -> None:
        with anyio.fail_after(15):
            while (at := await mine.position()) != 99:
                start = 0 if at is None else at + 1
                ends = min(start + 6, 99)
                records = [letter(f"l{n}", n) for n in range(start, ends + 1)]
                if await mine.apply(at, records, ends) == ends:
                    applied.append(ends)

    async with anyio.create_task_group() as group:
        for mine in (index, second, index, second):
            group.start_soon(keep_up, mine)
    assert [each.id for each in await all_of(index)] == [f"l{n}" for n in range(100)]
    assert max(applied) == 99


# -- the rules


async def test_a_newer_generation_takes_the_place_and_is_parked(index):
    await build(index, letter("a", 0), fate("replayed"), letter("a", 2, generation=1, error="again"))
    assert await all_of(index) == [letter("a", 2, generation=1, error="again")]


async def test_a_newer_revision_takes_the_place_and_keeps_the_state(index):
    await build(index, letter("a", 0), fate("replayed"), letter("a", 2, revision=1, name="edited"))
    assert await all_of(index) == [replayed(letter("a", 2, revision=1, name="edited"))]


@pytest.mark.parametrize(
    ("generation", "revision"),
    [pytest.param(0, 9, id="older generation"), pytest.param(1, 1, id="older revision")],
)
async def test_an_older_one_is_ignored(index, generation, revision):
    known = letter("a", 0, generation=1, revision=2)
    await build(index, known, letter("a", 1, generation=generation, revision=revision, error="old"))
    assert await all_of(index) == [known]


async def test_the_very_same_letter_changes_nothing_but_its_offset(index):
    await build(index, letter("a", 0), letter("b", 1), fate("replayed"), letter("a", 3))
    assert await index.get("a") == replayed(letter("a", 3))
    assert [each.id for each in await all_of(index)] == ["b", "a"]
    assert await index.count() == 2


async def test_generations_and_revisions_are_compared_as_numbers(index):
    await build(index, letter("a", 0, generation=9), letter("a", 1, generation=10), letter("a", 2, generation=9))
    assert (await index.get("a")).generation == 10
    await build(index, letter("b", 3, revision=9), letter("b", 4, revision=10), letter("b", 5, revision=9))
    assert (await index.get("b")).revision == 10


async def test_a_letter_comes_in_parked_whatever_it_says_of_itself(index):
    await build(index, letter("a", 0, **REPLAYED))
    assert await index.get("a") == letter("a", 0)


@pytest.mark.parametrize("how", ["apply", "mark"])
@pytest.mark.parametrize("generation", [0, 2])
async def test_a_fate_of_another_generation_changes_nothing(index, how, generation):
    known = letter("a", 0, generation=1)
    await build(index, known)
    for state in ("replayed", "purged"):
        if how == "mark":
            await index.mark(fate(state, generation=generation))
        else:
            await build(index, fate(state, generation=generation))
    assert await all_of(index) == [known]


async def test_a_letter_can_be_parked_again(index):
    await build(index, letter("a", 0), fate("replayed"), fate("parked", at=LATER, by="reaper"))
    assert await index.get("a") == letter("a", 0, since=LATER, by="reaper")


@pytest.mark.parametrize("copy", [{}, {"revision": 1}], ids=["the same", "a newer revision"])
async def test_purged_is_for_good(index, copy):
    await build(index, letter("a", 0), letter("b", 1), fate("purged"))
    assert await index.get("a") is None
    assert [each.id for each in await all_of(index)] == ["b"]
    await build(index, letter("a", 3, **copy), fate("replayed"), letter("a", 5, **copy))
    assert await index.get("a") is None
    assert await index.count() == 1


async def test_a_newer_generation_of_what_was_purged_is_a_new_letter(index):
    again = letter("a", 2, generation=1)
    await build(index, letter("a", 0), fate("purged"), again)
    assert await all_of(index) == [again]
    await build(index, letter("a", 3))
    assert await all_of(index) == [again]


async def test_a_fate_counts_also_where_the_stream_forgot_the_first_copy(index):
    await build(index, fate("purged", "a"), fate("replayed", "b"), letter("a", 2), letter("b", 3))
    assert await all_of(index) == [replayed(letter("b", 3))]


async def test_a_mark_is_seen_at_once_and_comes_round_again(index, second):
    await build(index, letter("a", 0), letter("b", 1))
    for _ in range(2):
        await index.mark(fate("replayed"))
        await index.mark(fate("purged", "b"))
    assert await second.get("a") == replayed(letter("a", 0))
    assert await second.get("b") is None
    assert await second.position() == 1
    await build(second, fate("replayed"), fate("replayed", "b"), fate("purged", "b"))
    assert await all_of(index) == [replayed(letter("a", 0))]


# -- all of them


@pytest.mark.parametrize("batch", [1, 7, 10, 1000])
async def test_all_come_in_the_order_of_their_offsets(index, batch):
    offsets = [(7 * n) % 25 for n in range(25)]
    await index.apply(None, [letter(f"l{offset}", offset) for offset in offsets], 25)
    batches = [found async for found in index.scan(batch)]
    assert [each.offset for found in batches for each in found] == list(range(25))
    assert max(map(len, batches)) == min(batch, 25)


async def test_several_of_one_offset_all_come(index):
    """So it is where a stream was deleted and began anew."""
    await index.apply(None, [letter(f"{n}-{offset}", offset) for offset in (1, 2) for n in range(5)], 2)
    found = await all_of(index, 3)
    assert sorted(each.id for each in found) == sorted(f"{n}-{offset}" for offset in (1, 2) for n in range(5))
    assert [each.offset for each in found] == [1] * 5 + [2] * 5


async def test_offsets_are_exact_when_they_are_large(index):
    large = 2**53 - 3
    await index.apply(None, [letter("a", large), letter("b", large + 1)], large + 1)
    assert await index.position() == large + 1
    assert [each.offset for each in await all_of(index, 1)] == [large, large + 1]


async def test_what_changes_meanwhile_comes_once_and_the_rest_all_the_same(index, second):
    await index.apply(None, [letter(f"l{n}", n) for n in range(10)], 9)
    seen: list[str] = []
    async for found in index.scan(2):
        seen += [each.id for each in found]
        if len(seen) == 4:
            await second.apply(9, [letter("l0", 10), fate("purged", "l1"), fate("purged", "l6"), letter("l8", 13)], 13)
    assert sorted(seen) == [f"l{n}" for n in range(10) if n != 6]


# -- sweeping


async def test_old_letters_are_swept_and_younger_ones_stay(index, second):
    letters = [letter(f"l{n}", n, last=AT + timedelta(microseconds=n)) for n in range(5)]
    await index.apply(None, letters, 4)
    await index.mark(fate("replayed", "l0"))
    assert await second.sweep(AT + timedelta(microseconds=3)) == 3
    assert await second.sweep(AT + timedelta(microseconds=3)) == 0
    assert await all_of(index) == letters[3:]
    assert await index.get("l0") is None
    assert await index.position() == 4
    await build(index, letter("l0", 5))  # its fate went with it
    assert await index.get("l0") == letter("l0", 5)


async def test_more_than_one_batch_is_swept(index):
    for start in range(0, 1200, 400):
        at = await index.position()
        await index.apply(at, [letter(f"l{n}", n) for n in range(start, start + 400)], start + 399)
    assert await index.sweep(LATER) == 1200
    assert await index.count() == 0


async def test_a_letter_is_as_old_as_its_last_revision(index):
    await build(index, letter("a", 0), letter("a", 1, revision=1, last=LATER))
    assert await index.sweep(LATER) == 0
    assert await index.count() == 1


async def test_what_is_remembered_of_a_purged_letter_is_swept_by_its_own_age(index):
    await build(index, letter("a", 0), fate("purged", at=LATER))
    assert await index.sweep(LATER) == 0
    await build(index, letter("a", 2))
    assert await index.get("a") is None
    assert await index.sweep(LATER + timedelta(microseconds=1)) == 0
    await build(index, letter("a", 3))
    assert await index.get("a") == letter("a", 3)

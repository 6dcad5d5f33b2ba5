"""What an operator does with dead letters, on the embedded services."""

import anyio
import pytest
from msgspec import Raw

from fogactors.app.dlq import edited, task_of
from fogactors.app.dlq_select import Selection, find
from fogactors.bus import Message
from fogactors.errors import BusUnavailable, CoordUnavailable, DeadLetterMissing, TaskArgumentError, WireError
from fogactors.messages import Task, TaskResult
from fogactors.tasks.registry import Registry
from fogactors.tasks.task import task
from fogactors.wire import decode, encode
from tests.app.dlq_support import EVERYTHING, NOW, desk, letter_of

pytestmark = pytest.mark.asyncio

registry = Registry()


@task(registry=registry, name="shop.add")
async def add(a: int, b: int = 1) -> int:
    return a + b


def ids(count):
    return [f"a-{n}" for n in range(count)]


async def chosen(here, **filters):
    return [letter.id async for batch in find(here.coord, Selection(**filters), NOW) for letter in batch]


# -- choosing


@pytest.mark.parametrize(
    ("filters", "expected"),
    [
        ({}, ["a", "b", "c"]),
        ({"reasons": {"expired"}}, ["b"]),
        ({"reasons": {"expired", "failed"}, "task": "shop.*"}, ["a", "b"]),
        ({"task": "shop.add"}, ["a"]),
        ({"task": "shop.*"}, ["a", "b"]),
        ({"queue": "tasks.*.heavy"}, ["b"]),
        ({"older_than_s": 3600}, ["c"]),
        ({"newer_than_s": 3600}, ["a", "b"]),
        ({"states": frozenset({"replayed"})}, ["d"]),
        ({"states": frozenset({"parked", "replayed"})}, ["a", "b", "c", "d"]),
        ({"limit": 2}, ["a", "b"]),
        ({"task": "shop.*", "limit": 1}, ["a"]),
        ({"ids": ("d", "a", "d")}, ["a", "d"]),
    ],
)
async def test_filters(filters, expected):
    async with desk() as here:
        await here.park(
            letter_of("a"),
            letter_of("b", name="shop.sub", reason="expired", origin="tasks.normal.heavy"),
            letter_of("c", name="till.close", last=NOW.replace(hour=1)),
            letter_of("d"),
        )
        await here.operator().replay(Selection(ids=("d",)))
        await here.catch_up()
        assert await chosen(here, **filters) == expected


@pytest.mark.parametrize("verb", ["replay", "purge", "export"])
async def test_an_id_that_is_not_there_is_named_and_the_others_go_on(verb):
    async with desk() as here:
        await here.park(letter_of("a"))
        operator, got = here.operator(), []
        more = (got.append,) if verb == "export" else ()
        tally = await getattr(operator, verb)(Selection(ids=("b", "a")), *more)
        # What is to be purged and is not there is as it shall be, as after an interruption.
        assert (tally.done, tally.skipped, list(tally.failed)) == ((1, 1, []) if verb == "purge" else (1, 0, ["b"]))
        assert here.told == ["there is no dead letter 'b'; `fogactors dlq list --state all` shows them"]


async def test_to_look_at_one_that_is_not_there_says_so():
    async with desk() as here:
        with pytest.raises(DeadLetterMissing, match="'b'"):
            await here.operator().get("b")


# -- replay


async def test_a_replay_needs_no_target_and_marks_what_was_replayed():
    async with desk() as here:
        await here.park(letter_of("a"), letter_of("b", origin="tasks.high_priority.medium"))
        tally = await here.operator().replay(EVERYTHING)
        assert (tally.done, tally.skipped, tally.failed) == (2, 0, {})
        [a] = await here.tasks()
        [b] = await here.tasks("tasks.high_priority.medium")
        assert [(each.id, each.generation, each.attempt) for each in (a, b)] == [("a", 1, 1), ("b", 1, 1)]
        assert await here.states() == {"a": "replayed", "b": "replayed"}
        assert here.fates() == [("a", "replayed"), ("b", "replayed")]
        entry = await here.index.get("a")
        assert (entry.by, entry.since) == ("fogactors dlq", NOW)


async def test_what_was_replayed_is_not_replayed_again_unless_it_must_be():
    async with desk() as here:
        await here.park(letter_of("a"))
        for _ in range(2):
            await here.operator().replay(EVERYTHING)
        named = await here.operator().replay(Selection(ids=("a",)))
        assert (named.done, named.skipped) == (0, 1)
        assert "already at 2030-01-01 12:00:00 UTC by fogactors dlq" in here.told[0]
        assert [each.generation for each in await here.tasks()] == [1]
        # It ran meanwhile, and an executor does not run a generation whose end is recorded.
        await here.coord.record(TaskResult(task_id="a", name="shop.add", state="succeeded", generation=1, finished=NOW))
        assert (await here.operator().replay(Selection(ids=("a",)), again=True)).done == 1
        assert [each.generation for each in await here.tasks()] == [2]
        await here.catch_up()
        assert (await here.index.get("a")).living == 2
        here.store.expire_now("results")
        assert (await here.operator().replay(Selection(ids=("a",)), again=True)).done == 1
        assert [each.generation for each in await here.tasks()] == [3]


async def test_a_letter_that_comes_back_while_all_are_replayed_does_not_come_up_again(monkeypatch):
    monkeypatch.setattr("fogactors.app.dlq_select.PAGE", 1)
    async with desk() as here:
        await here.park(*map(letter_of, ids(3)))

        operator = here.operator()
        replay_letter = operator.replay_letter

        async def replay_and_fail(entry, letter):
            await replay_letter(entry, letter)
            await here.park(letter_of("a-0", generation=1), letter_of("a-1", generation=1))

        monkeypatch.setattr(operator, "replay_letter", replay_and_fail)
        assert (await operator.replay(EVERYTHING)).done == 2
        assert [each.id for each in await here.tasks()] == ["a-0", "a-2"]
        assert await here.states() == {"a-0": "parked", "a-1": "parked", "a-2": "replayed"}


async def test_a_limit_counts_across_pages(monkeypatch):
    monkeypatch.setattr("fogactors.app.dlq_select.PAGE", 1)
    async with desk() as here:
        await here.park(*map(letter_of, ids(5)))
        assert await chosen(here, limit=3) == ids(3)


async def test_an_interrupted_replay_goes_on_where_it_stopped():
    async with desk() as here:
        await here.park(*map(letter_of, ids(50)))
        stop = anyio.Event()
        operator = here.operator(stop=stop, on_progress=lambda tally: stop.set() if tally.done == 20 else None)
        first = await operator.replay(EVERYTHING)
        assert (first.done, first.stopped) == (20, True)
        second = await here.operator().replay(EVERYTHING)
        assert (second.done, second.stopped) == (30, False)
        assert [each.id for each in await here.tasks()] == ids(50)


async def test_a_connection_that_is_lost_ends_it_and_what_was_done_is_marked():
    async with desk() as here:
        await here.park(*map(letter_of, ids(5)))
        operator = here.operator(
            publish_timeout_s=0.05,
            on_progress=lambda tally: here.broker.kill_connection("operator", "cut") if tally.done == 2 else None,
        )
        with pytest.raises(BusUnavailable):
            await operator.replay(EVERYTHING)
        assert operator.tally.done == 2
        await here.bus.open()
        assert (await here.operator().replay(EVERYTHING)).done == 3
        assert [each.id for each in await here.tasks()] == ids(5)


async def test_a_store_that_is_away_ends_it_before_anything_is_published():
    async with desk() as here:
        await here.park(letter_of("a"))
        here.store.away = True
        with pytest.raises(CoordUnavailable):
            await here.operator().replay(EVERYTHING)
        assert await here.tasks() == []


async def test_a_rate_is_not_passed():
    async with desk() as here:
        await here.park(*map(letter_of, ids(6)))
        began = anyio.current_time()
        await here.operator().replay(EVERYTHING, rate=50)
        assert anyio.current_time() - began >= 0.1
        assert len(await here.tasks()) == 6


async def test_a_stop_ends_the_wait_of_a_slow_rate():
    async with desk() as here:
        await here.park(*map(letter_of, ids(2)))
        stop = anyio.Event()
        operator = here.operator(stop=stop, on_progress=lambda tally: stop.set())
        with anyio.fail_after(5):
            tally = await operator.replay(EVERYTHING, rate=0.001)
        assert (tally.done, tally.stopped) == (1, True)


async def test_a_queue_that_refuses_is_waited_for():
    async with desk() as here:
        await here.park(*map(letter_of, ids(2)))
        here.broker.faults.refuse("tasks.normal", 2)
        tally = await here.operator().replay(EVERYTHING)
        assert (tally.done, tally.failed) == (2, {})
        assert here.told == ["the queue for 'normal' has no room: waiting for it, 60 s at most"]


async def test_a_queue_that_stays_full_fails_its_own_letters_after_one_wait():
    async with desk() as here:
        await here.park(*map(letter_of, ids(3)), letter_of("b", origin="tasks.low_priority"))
        here.broker.faults.refuse("tasks.normal", 1_000)
        with anyio.fail_after(5):
            tally = await here.operator(full_wait_s=0.3).replay(EVERYTHING)
        assert (tally.done, list(tally.failed)) == (1, ids(3))
        assert "has no room" in tally.failed["a-0"]
        assert sum("waiting for it" in line for line in here.told) == 1
        assert await here.states() == {**dict.fromkeys(ids(3), "parked"), "b": "replayed"}


@pytest.mark.parametrize(
    ("fields", "text"),
    [
        ({"origin": "tasks.nowhere"}, "nowhere"),
        ({"origin": "gone", "body": b"\xff", "task_id": None}, "gone"),
        ({"body": b""}, "holds no body"),
    ],
)
async def test_one_that_cannot_be_replayed_is_reported_and_the_others_go_on(fields, text):
    async with desk() as here:
        await here.park(letter_of("bad", **fields), letter_of("good"))
        tally = await here.operator().replay(EVERYTHING)
        assert (tally.done, list(tally.failed)) == (1, ["bad"])
        assert text in tally.failed["bad"]
        assert await here.states() == {"bad": "parked", "good": "replayed"}


async def test_a_stream_that_takes_no_mark_ends_it():
    async with desk() as here:
        await here.park(*map(letter_of, ids(3)))
        here.broker.faults.refuse("dlq.parked", 1)
        with pytest.raises(BusUnavailable, match=r"does not take that 'a-0' was replayed"):
            await here.operator().replay(EVERYTHING)
        assert len(await here.tasks()) == 1


# -- edit


async def test_an_edit_changes_the_arguments_and_every_other_byte_stays():
    body = encode(Task(id="a", name="shop.add", args=Raw(b'{"a":"x"}'), created=NOW))
    body = body[:-1] + b',"tenant":"north"}'
    new = edited(letter_of("a", body=body), b'{"a": 5, "b": 2}', add)
    assert new.body == body.replace(b'{"a":"x"}', b'{"a": 5, "b": 2}')
    assert (new.id, new.generation, new.revision) == ("a", 0, 1)


async def test_an_edit_of_messagepack_stays_messagepack():
    known = Task(id="a", name="shop.add", args=Raw(b'{"a":"x"}'), created=NOW)
    kind = "application/msgpack"
    new = edited(letter_of("a", body=encode(known, kind), content_type=kind), b'{"a": 5}', add)
    assert bytes(decode(new.body, Task, kind).args) == b'{"a":5}'


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (b'{"a": "five"}', "argument 'a'"),
        (b'{"b": 1}', "missing argument `a`"),
        (b'{"a": 1, "c": 1}', "unknown argument `c`"),
        (b"{", "not JSON"),
        (b"[1]", "array"),
    ],
)
async def test_an_edit_that_does_not_fit_says_which_argument_is_wrong(arguments, text):
    with pytest.raises(TaskArgumentError, match=r"shop\.add") as refused:
        edited(letter_of("a"), arguments, add)
    assert text in str(refused.value)


async def test_what_is_no_task_cannot_be_edited():
    with pytest.raises(WireError, match=r"'a' holds no task"):
        task_of(letter_of("a", body=b"\xff"))


async def test_a_replay_after_an_edit_takes_the_edited_one():
    async with desk() as here:
        letter = letter_of("a")
        await here.park(letter, letter_of("b"))
        operator = here.operator()
        new = edited(await operator.read(await operator.get("a")), b'{"a":7,"b":7}', add)
        await operator.store(new)
        await here.catch_up()
        assert await operator.wait_indexed(new)
        assert (await operator.replay(EVERYTHING)).done == 2
        found = {each.id: bytes(each.args) for each in await here.tasks()}
        assert found == {"a": b'{"a":7,"b":7}', "b": b'{"a":1,"b":2}'}


async def test_an_edit_that_nobody_indexes_is_noticed(monkeypatch):
    monkeypatch.setattr("fogactors.app.dlq.INDEXED_S", 0.1)
    async with desk() as here:
        await here.park(letter_of("a"))
        new = edited(letter_of("a"), b'{"a":7}', add)
        await here.operator().store(new)
        assert not await here.operator().wait_indexed(new)


# -- purge, export, look


async def test_purge_takes_letters_out_for_good():
    async with desk() as here:
        await here.park(*map(letter_of, ids(120)), letter_of("b", reason="expired"))
        tally = await here.operator().purge(Selection(reasons=frozenset({"failed"})))
        assert (tally.done, tally.failed) == (120, {})
        assert await here.states() == {"b": "parked"}
        assert sorted(here.fates()) == sorted((each, "purged") for each in ids(120))


async def test_export_gives_whole_letters_in_the_order_of_the_stream():
    async with desk() as here:
        letters = [letter_of(each, worker="edge1/light") for each in ids(3)]
        await here.park(*letters)
        got = []
        assert (await here.operator().export(EVERYTHING, got.append)).done == 3
        assert got == letters


async def test_looking_changes_nothing():
    async with desk() as here:
        await here.park(*map(letter_of, ids(3)))
        await here.bus.publish("dlx", "task.failed", Message(b"x"))
        before = here.broker.depths()
        operator = here.operator()
        assert await chosen(here) == ids(3)
        await operator.read(await operator.get("a-1"))
        await operator.history(await operator.get("a-1"))
        await operator.export(EVERYTHING, lambda letter: None)
        assert here.broker.depths() == before
        got = []
        await here.bus.consume("dlq", got.append, prefetch=1)
        assert got[0].delivery_count == 0


async def test_history_is_all_that_the_stream_has_of_one_id():
    async with desk() as here:
        await here.park(letter_of("a"), letter_of("b"))
        await here.operator().replay(Selection(ids=("a",)))
        await here.park(letter_of("a", generation=1))
        operator = here.operator()
        events = await operator.history(await operator.get("a"))
        assert [(event.what, event.generation) for event in events] == [("parked", 0), ("replayed", 0), ("parked", 1)]
        assert "ValueError: no luck" in events[0].detail.replace("\n", " ")


async def test_nobody_consuming_dlq_is_told():
    async with desk() as here:
        await here.bus.publish("dlx", "task.failed", Message(b"x"))
        assert "does dlq-reaper run?; 1 more wait in dlq" in (await here.operator().lag())
        await here.bus.consume("dlq", lambda delivery: None, prefetch=1)
        assert await here.operator().lag() is None

"""One key, one task: whoever submits it again, and wherever the first one was when it died."""

import anyio
import pytest

from fogactors.bus import MemoryBroker, MemoryBus
from fogactors.coord import MemoryCoord, MemoryStore
from fogactors.errors import BusUnavailable, CoordUnavailable, QueueFull, TaskDefinitionError
from fogactors.messages import Task
from fogactors.tasks import once
from fogactors.tasks.client import Submitter
from fogactors.tasks.events import DuplicateResult, TaskEnded
from fogactors.tasks.retry import RetryPolicy
from fogactors.tasks.tiers import Tiers
from fogactors.testing import eventually
from fogactors.testing.kit import TIERS
from fogactors.wire import decode, fog_topology
from tests.tasks import fog_tasks as tasks
from tests.tasks.harness import Hanging, Refusing, fog, settled

pytestmark = pytest.mark.asyncio

ORDER_7 = tasks.note.options(idempotency_key="order-7")


@pytest.fixture(autouse=True)
def impatient(monkeypatch):
    monkeypatch.setattr(once, "PATIENCE_S", 0.1)
    monkeypatch.setattr(once, "LOOK_S", 0.01)
    monkeypatch.setattr(once, "LATER_S", 0.01)


class Shops:
    """Submitters, each with clients of its own, and nobody who runs anything."""

    def __init__(self):
        self.now = 0.0
        self.store = MemoryStore(lambda: self.now)
        self.open = []

    async def __aenter__(self):
        self.broker = await MemoryBroker().__aenter__()
        self.broker.declare(fog_topology())
        return self

    async def __aexit__(self, *error):
        for submitter in reversed(self.open):
            await submitter.__aexit__(None, None, None)
        await self.broker.__aexit__(None, None, None)

    async def shop(self, wrap=lambda coord: coord):
        bus = MemoryBus(self.broker)
        await bus.open()
        coord = wrap(MemoryCoord(self.store))
        submitter = Submitter(bus, coord, Tiers(TIERS), publish_timeout_s=0.1, idempotency_ttl_s=100)
        self.open.append(await submitter.__aenter__())
        return submitter

    async def published(self):
        bus, got = MemoryBus(self.broker), []
        await bus.open()
        await (await bus.consume("tasks.normal", got.append, prefetch=1000)).close()
        await bus.close()
        return [decode(delivery.body, Task) for delivery in got]


async def test_a_second_submit_returns_the_first_tasks_handle_and_publishes_nothing():
    async with Shops() as shops:
        one, other = await shops.shop(), await shops.shop()
        first = await one.submit(ORDER_7, "a")
        handles = [await one.submit(ORDER_7, "b"), await other.submit(ORDER_7, "c")]
        assert [handle.id for handle in handles] == [first.id, first.id]
        [task] = await shops.published()
        assert (task.id, task.idempotency_key, task.hops) == (first.id, "order-7", 0)


async def test_the_handle_of_a_second_submit_has_the_result():
    async with fog() as system:
        assert [await (await system.submit(ORDER_7, name)).result(5) for name in ("a", "b")] == ["a", "a"]
        assert tasks.runs == {"a": 1}


async def test_a_key_is_of_one_tasks_name():
    async with Shops() as shops:
        shop = await shops.shop()
        note = await shop.submit(ORDER_7, "a")
        hold = await shop.submit(tasks.hold.options(idempotency_key="order-7"), "a")
        raw = await shop.submit_raw(tasks.note.name, ORDER_7.encode_args("a"), tier="light", idempotency_key="order-7")
        assert note.id != hold.id
        assert raw.id == note.id
        assert len(await shops.published()) == 2


async def test_after_its_window_a_key_makes_another_task():
    async with Shops() as shops:
        shop = await shops.shop()
        first = await shop.submit(ORDER_7, "a")
        shops.now = 99
        assert (await shop.submit(ORDER_7, "a")).id == first.id
        shops.now = 101
        assert (await shop.submit(ORDER_7, "a")).id != first.id


async def test_two_that_race_make_one_task_and_one_message():
    async with Shops() as shops:
        got = []

        async def submit(shop):
            got.append((await shop.submit(ORDER_7, "a")).id)

        each = [await shops.shop() for _ in range(10)]
        async with anyio.create_task_group() as group:
            for shop in each:
                group.start_soon(submit, shop)
        assert len(got) == 10
        assert [task.id for task in await shops.published()] == [got[0]]
        assert len(set(got)) == 1


async def test_a_crash_between_claim_and_publish_leaves_the_id_to_the_next():
    async with Shops() as shops:
        dying = await shops.shop()
        dying._bus.publish = lambda *args, **more: anyio.sleep_forever()  # it claims, and not a byte leaves
        with anyio.move_on_after(0.05):
            await dying.submit(ORDER_7, "a")
        assert await shops.published() == []
        handle = await (await shops.shop()).submit(ORDER_7, "a")
        [task] = await shops.published()
        assert task.id == handle.id
        assert handle.id.startswith(dying.id)
        assert task.hops == 1  # looked up before it is run: nobody knows how far the first one came


async def test_after_a_crash_between_publish_and_confirm_it_may_run_twice_and_is_recorded_once():
    async with fog() as system:
        coord = Hanging(MemoryCoord(system.store), "confirm")
        async with Submitter(system.bus, coord, system.tiers) as dying:
            with anyio.move_on_after(0.05):
                await dying.submit(tasks.hold.options(idempotency_key="order-7"), "a")
            assert coord.asked == 1
        await eventually(lambda: tasks.runs["a"] == 1, "the first runs")
        handle = await system.submit(tasks.hold.options(idempotency_key="order-7"), "a")
        assert handle.id.startswith(dying.id)
        tasks.gate("a").set()
        assert await handle.result(5) == "a"
        await settled(system)
        [ended], [duplicate] = system.recorder.of(TaskEnded), system.recorder.of(DuplicateResult)
        assert (ended.task_id, duplicate.task_id) == (handle.id, handle.id)


async def test_what_has_ended_is_not_published_again_though_nobody_confirmed_it():
    async with fog() as system:
        coord = Hanging(MemoryCoord(system.store), "confirm")
        async with Submitter(system.bus, coord, system.tiers) as dying:
            with anyio.move_on_after(0.05):
                await dying.submit(ORDER_7, "a")
        await eventually(lambda: bool(system.store.sizes()["results"]), "it has ended")
        assert await (await system.submit(ORDER_7, "b")).result(5) == "a"
        assert system.bus.stats.published == 1  # by the submitter that died: both are on one bus
        assert tasks.runs == {"a": 1}


async def test_a_store_that_goes_away_before_the_confirm_is_told_later():
    async with Shops() as shops:
        lost = []

        class Losing(Hanging):
            def __getattr__(self, name):
                if name != "confirm" or len(lost) == 3:
                    return getattr(self._coord, name)

                async def confirm(*args, **kwargs):
                    lost.append(args)
                    raise CoordUnavailable

                return confirm

        one, other = await shops.shop(Losing), await shops.shop()
        handle = await one.submit(ORDER_7, "a")
        await eventually(lambda: shops.store._claims.get(f"{tasks.note.name} order-7").confirmed, "it was told")
        assert (await other.submit(ORDER_7, "a")).id == handle.id
        assert len(await shops.published()) == 1


async def test_a_store_that_refuses_the_confirm_is_told_when_it_may_be():
    async with Shops() as shops:
        refusing = []

        def wrap(coord):
            refusing.append(Refusing(coord, "confirm"))
            return refusing[0]

        shop = await shops.shop(wrap)
        first = await shop.submit(ORDER_7, "a")  # published, so it is no error
        await eventually(lambda: refusing[0].asked >= 3, "it is tried again")
        refusing[0].refuses = False
        await eventually(lambda: shops.store._claims.get(f"{tasks.note.name} order-7").confirmed, "it was told")
        assert (await shop.submit(ORDER_7, "a")).id == first.id
        assert len(await shops.published()) == 1


async def test_a_task_with_a_second_attempt_whose_record_ran_out_runs_for_who_comes_next():
    """It was never confirmed, so the next publishes it again: that is no copy of the attempts that have ended."""
    async with fog() as system:
        coord = Hanging(MemoryCoord(system.store), "confirm")
        system.fail_next(tasks.note, ValueError("no"))
        again = ORDER_7.options(retry=RetryPolicy(attempts=3))
        async with Submitter(system.bus, coord, system.tiers) as dying:
            with anyio.move_on_after(0.05):
                await dying.submit(again, "a")
        await system.recorder.wait_for(TaskEnded, state="succeeded", attempt=2)
        system.store.expire_now("results")
        assert await (await system.submit(again, "a")).result(5) == "a"
        assert tasks.runs == {"a": 2}


@pytest.mark.parametrize("condition", ["away", "full"])
async def test_without_the_store_nothing_is_published(condition):
    async with Shops() as shops:
        shop = await shops.shop()
        setattr(shops.store, condition, True)
        with pytest.raises(CoordUnavailable):
            await shop.submit(ORDER_7, "a")
        await shop.submit(tasks.note, "b")  # without a key it needs no store
        setattr(shops.store, condition, False)
        assert [task.idempotency_key for task in await shops.published()] == [None]


async def test_what_the_broker_refused_is_published_by_the_next_under_the_same_id():
    async with Shops() as shops:
        shop = await shops.shop()
        shops.broker.faults.refuse("tasks.normal")
        with pytest.raises(QueueFull) as refused:
            await shop.submit(ORDER_7, "a")
        unsent = decode(refused.value.unsent.body, Task)
        assert (await (await shops.shop()).submit(ORDER_7, "a")).id == unsent.id
        assert (await shop.resubmit(refused.value.unsent)).id == unsent.id  # and now it is there
        assert len(await shops.published()) == 1


async def test_what_was_not_sent_is_published_again_under_its_own_id_and_looked_up_first():
    async with Shops() as shops:
        shop = await shops.shop()
        shops.broker.faults.lose_confirms()
        with pytest.raises(BusUnavailable) as away:
            await shop.submit(ORDER_7, "a")
        handle = await shop.resubmit(away.value.unsent)
        assert [(task.id, task.hops) for task in await shops.published()] == [(handle.id, 0), (handle.id, 1)]


@pytest.mark.parametrize("key", ["", "x" * 201, 7])
async def test_what_is_no_key_is_refused(key):
    async with Shops() as shops:
        shop = await shops.shop()
        with pytest.raises(TaskDefinitionError, match=r"idempotency_key must be text of 1 to 200 characters, not "):
            await shop.submit(tasks.note.options(idempotency_key=key), "a")

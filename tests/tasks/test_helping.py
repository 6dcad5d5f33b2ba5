"""A big tier helps the smaller ones, never the other way round, and does not hoard what it cannot start."""

from types import SimpleNamespace

import anyio
import pytest

from fogactors.errors import BusUnavailable
from fogactors.tasks.events import TaskEnded, TaskHandedBack, TaskStarted
from fogactors.tasks.intake import Intake
from fogactors.tasks.tiers import Tiers
from fogactors.testing.kit import TIERS, eventually
from tests.tasks import fog_tasks as tasks
from tests.tasks.harness import fog, nothing_in_hand

pytestmark = pytest.mark.asyncio


def helpers(system, queue="tasks.normal"):
    return system.broker.depths()[queue].consumers


async def test_an_idle_heavy_executor_runs_light_and_medium_work():
    async with fog(serve=("heavy",)) as system:
        handles = [await system.submit(tasks.note.options(tier=tier), tier) for tier in ("light", "medium") * 5]
        for handle in handles:
            assert (await handle.outcome(5)).worker == "node/heavy"
        await system.wait_idle("heavy")


async def test_a_light_executor_never_takes_what_is_heavier():
    async with fog(serve=("light",)) as system:
        handle = await system.submit(tasks.note.options(tier="medium"), "medium")
        for n in range(20):
            await (await system.submit(tasks.note, f"{n}")).result(5)
        await anyio.sleep(0.2)  # several times as long as an idle executor takes to begin to help
        assert tasks.runs["medium"] == 0
        assert system.ready("tasks.normal.medium") == 1
        assert not (await system.load()).helping
        assert handle.id


async def test_its_own_executor_is_served_before_a_helper():
    async with fog(serve=("light", "heavy")) as system:
        await eventually(lambda: helpers(system) == 2, "heavy helps")
        for n in range(20):
            assert (await (await system.submit(tasks.note, f"{n}")).outcome(5)).worker == "node/light"


async def test_a_helper_takes_over_what_is_too_much_for_the_light_one():
    async with fog(serve=("light", "heavy")) as system:
        handles = [await system.submit(tasks.hold, f"{n}", "all") for n in range(12)]
        await system.recorder.wait_for(TaskStarted, worker="node/heavy")
        await system.recorder.wait_for(TaskStarted, worker="node/light", count=4)
        tasks.gate("all").set()
        for handle in handles:
            await handle.result(5)


async def test_who_has_work_of_its_own_does_not_begin_to_help():
    async with fog(serve=("heavy",), help_after_s=0.1) as system:
        for name in "abc":  # two fill it, the third waits
            await system.submit(tasks.hold.options(tier="heavy"), name, "all")
        await system.submit(tasks.note, "light")
        await anyio.sleep(0.3)
        assert (helpers(system), tasks.runs["light"]) == (0, 0)
        tasks.gate("all").set()
        await eventually(lambda: tasks.runs["light"] == 1, "helped when there is room")


async def test_a_helper_does_not_hoard_behind_a_long_task():
    async with fog(serve=("heavy",)) as system:
        await eventually(lambda: helpers(system) == 1, "heavy helps")
        for name in "ab":
            await system.submit(tasks.hold.options(tier="heavy"), name, "all")
        await eventually(lambda: tasks.runs["b"] == 1, "it is full")
        began = anyio.current_time()
        lights = [await system.submit(tasks.note.options(priority=p), p) for p in ("high", "normal", "low")]
        assert (await system.load("heavy")).waiting == 3
        event = await system.recorder.wait_for(TaskHandedBack, count=3)
        assert event.why == "the helper has no room"
        assert 0.15 < anyio.current_time() - began < 1.0  # help_grace_s is 0.2, a look every 0.05
        await nothing_in_hand_of_lights(system)
        assert helpers(system) == 0
        tasks.gate("all").set()
        for handle in lights:
            assert (await handle.outcome(10)).attempts == 1
        await system.wait_idle("heavy")
        await nothing_in_hand(system)


async def nothing_in_hand_of_lights(system):
    depths = system.broker.depths
    await eventually(
        lambda: not any(depths()[f"tasks.{name}"].unsettled for name in ("high_priority", "normal", "low_priority")),
        "nothing light in hand",
    )


async def test_a_saturated_helper_goes_on_while_what_it_holds_keeps_moving():
    async with fog(serve=("heavy",), help_grace_s=0.3) as system:
        handles = [await system.submit(tasks.nap.options(priority=p), 0.02) for p in ("high", "normal", "low") * 30]
        for handle in handles:
            await handle.result(10)
        assert not system.recorder.of(TaskHandedBack)
        assert len(system.recorder.of(TaskEnded)) == 90


async def test_a_stopped_helper_gives_back_what_it_holds():
    async with fog(serve=("heavy",), drain_s=0.05) as system:
        await eventually(lambda: helpers(system) == 1, "heavy helps")
        await system.submit(tasks.hold, "light", "never")
        await eventually(lambda: tasks.runs["light"] == 1, "it runs")
        await system.stop()
        await nothing_in_hand(system)
        await eventually(lambda: system.ready("tasks.normal") == 1, "back in its own queue")


# -- the consumers


class FakeBus:
    def __init__(self):
        self.log = []
        self.deliver = {}
        self.made = None
        self.cancelled = None
        self.refuses = False

    async def consume(self, queue, on_delivery, *, prefetch, priority, on_lost):
        if self.refuses:
            raise BusUnavailable("no leader")
        self.deliver[queue] = on_delivery
        self.log.append((queue, prefetch, priority))
        if self.made is not None:
            await self.made.wait()
        if self.refuses:
            raise BusUnavailable("no leader")

        async def cancel():
            self.log.append(("cancel", queue))
            if self.cancelled is not None:
                await self.cancelled.wait()

        async def close():
            self.log.append(("close", queue))

        return SimpleNamespace(cancel=cancel, close=close)


@pytest.fixture
def bus():
    return FakeBus()


@pytest.fixture
def got():
    return []


@pytest.fixture
def intake(bus, got):
    return Intake(
        bus,
        Tiers(TIERS[:2]),
        "medium",
        prefetch=3,
        tell=lambda message: got.append(getattr(message, "subscription", message)),
    )


async def test_own_queues_come_with_a_look_ahead_and_precedence_helped_ones_without(intake, bus):
    for lane in intake.own:
        await intake.open(lane)
    await intake.open_helping()
    assert bus.log[0] == ("tasks.high_priority.medium", 3, 10)
    assert bus.log[3:] == [("tasks.high_priority", 1, 0), ("tasks.normal", 1, 0), ("tasks.low_priority", 1, 0)]


async def test_a_cancelled_channel_is_closed_exactly_when_its_last_delivery_is_settled(intake, bus, got):
    await intake.open_helping()
    bus.deliver["tasks.normal"](None)
    bus.deliver["tasks.normal"](None)
    bus.log.clear()
    await intake.cancel_helping()
    assert not intake.helping
    assert ("cancel", "tasks.normal") in bus.log
    assert ("close", "tasks.high_priority") in bus.log
    assert ("close", "tasks.normal") not in bus.log
    await intake.settled(got[0])
    assert ("close", "tasks.normal") not in bus.log
    await intake.settled(got[1])
    assert bus.log.count(("close", "tasks.normal")) == 1
    await intake.close()
    assert bus.log.count(("close", "tasks.normal")) == 1


async def test_a_lost_consumer_is_wanted_again_unless_it_was_cancelled(intake, bus, got):
    await intake.open_helping()
    bus.deliver["tasks.normal"](None)
    assert await intake.drop(got[0])
    assert bus.log[-1] == ("close", "tasks.normal")
    assert not await intake.drop(got[0])


async def test_a_consumer_that_is_cancelled_while_it_is_being_made_ends_at_once(intake, bus, got):
    bus.made = anyio.Event()
    async with anyio.create_task_group() as group:
        group.start_soon(intake.open, intake.own[0])
        await anyio.wait_all_tasks_blocked()
        bus.deliver["tasks.high_priority.medium"](None)  # the first may come before the answer
        await intake.cancel_all()
        await intake.settled(got[0])
        bus.made.set()
    assert bus.log[1:] == [("cancel", "tasks.high_priority.medium"), ("close", "tasks.high_priority.medium")]


async def test_a_replaced_consumer_keeps_its_channel_for_what_came_on_it(intake, bus, got):
    await intake.open_helping()
    bus.deliver["tasks.normal"](None)
    [stalled] = got
    bus.log.clear()
    await intake.replace(stalled)
    await intake.replace(stalled)
    assert bus.log == [("tasks.normal", 1, 0), ("cancel", "tasks.normal")]
    assert [each.queue for each in intake.standing].count("tasks.normal") == 1
    assert stalled not in intake.standing
    await intake.settled(stalled)
    assert bus.log[2:] == [("close", "tasks.normal")]


async def test_a_consumer_that_cannot_be_replaced_just_now_stays(intake, bus, got):
    await intake.open(intake.own[0])
    bus.deliver["tasks.high_priority.medium"](None)
    bus.refuses = True
    await intake.replace(got[0])
    assert intake.standing == [got[0]]
    bus.refuses = False
    await intake.replace(got[0])
    assert got[0] not in intake.standing
    assert len(intake.standing) == 1


async def test_a_consumer_that_is_lost_while_it_cannot_be_replaced_is_wanted_on(intake, bus, got):
    await intake.open(intake.own[0])
    bus.deliver["tasks.high_priority.medium"](None)
    bus.made = anyio.Event()
    async with anyio.create_task_group() as group:
        group.start_soon(intake.replace, got[0])
        await anyio.wait_all_tasks_blocked()
        assert not await intake.drop(got[0])  # the one who replaces it sees to it
        bus.refuses = True
        bus.made.set()
        await eventually(lambda: len(got) == 2, "that it cannot be had is told")
        bus.refuses, bus.made = False, None
    assert [each.lane for each in intake.standing] == [intake.own[0]]


async def test_what_is_being_replaced_ends_with_all_others(intake, bus, got):
    await intake.open(intake.own[0])
    bus.deliver["tasks.high_priority.medium"](None)
    bus.made = anyio.Event()
    async with anyio.create_task_group() as group:
        group.start_soon(intake.replace, got[0])
        await anyio.wait_all_tasks_blocked()
        await intake.cancel_all()
        bus.refuses = True
        bus.made.set()
    assert not intake.standing
    bus.refuses, bus.made = False, None
    async with anyio.create_task_group() as group:
        intake.open_own(group)
    assert [each.lane for each in intake.standing] == intake.own


async def test_a_channel_is_closed_when_the_broker_has_confirmed_that_nothing_more_comes(intake, bus, got):
    await intake.open(intake.own[0])
    bus.deliver["tasks.high_priority.medium"](None)
    bus.cancelled = anyio.Event()
    async with anyio.create_task_group() as group:
        group.start_soon(intake.cancel_all)
        await anyio.wait_all_tasks_blocked()
        await intake.settled(got[0])
        bus.deliver["tasks.high_priority.medium"](None)  # it was on its way
        bus.cancelled.set()
    assert ("close", "tasks.high_priority.medium") not in bus.log
    await intake.settled(got[0])
    assert ("close", "tasks.high_priority.medium") in bus.log


async def test_a_lane_that_stands_is_not_opened_twice(intake, bus):
    async with anyio.create_task_group() as group:
        intake.open_own(group)
        group.start_soon(intake.stand, intake.own[0])
    assert [each.lane for each in intake.standing] == intake.own


async def test_whoever_does_not_want_work_any_more_does_not_go_on_opening(bus):
    wanted = [True]
    intake = Intake(bus, Tiers(TIERS[:2]), "medium", prefetch=3, tell=lambda _: None, wanted=lambda: wanted[0])
    bus.made = anyio.Event()
    async with anyio.create_task_group() as group:
        group.start_soon(intake.open_helping)
        await anyio.wait_all_tasks_blocked()
        wanted[0] = False
        bus.made.set()
    assert len(intake.standing) == 1


async def test_lanes_that_are_opened_while_all_are_cancelled_stand_afterwards(intake, bus):
    async with anyio.create_task_group() as group:
        intake.open_own(group)
    bus.cancelled = anyio.Event()
    async with anyio.create_task_group() as group:
        group.start_soon(intake.cancel_all)
        await anyio.wait_all_tasks_blocked()  # the first of them waits for its answer
        intake.open_own(group)
        await anyio.wait_all_tasks_blocked()
        bus.cancelled.set()
    assert sorted(each.lane for each in intake.standing) == sorted(intake.own)

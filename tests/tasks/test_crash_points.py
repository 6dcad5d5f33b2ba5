"""Every process dies at every await between "delivered" and "settled": nothing is lost, and nothing ends twice.

A failing schedule is printed as text. To play it again: FOGACTORS_TEST_SCHEDULE='<text>' pytest <this file>.
"""

import os
from functools import cache

import pytest

from fogactors.core import ActorStarted
from fogactors.tasks.events import DuplicateResult
from fogactors.testing import Mortal, crash_at, fog
from tests.tasks import fog_tasks
from tests.tasks.crash_awaits import awaits, unread
from tests.tasks.crash_points import ROLE_NAMES, Schedule, Site, When
from tests.tasks.crash_scenes import SCENES, Play

SETUP = {"bus.open", "bus.open_exclusive", "bus.consume", "bus.inspect", "coord.cancelled", "letters.position"}
"""The same in every scene, so that to die there in one of them is enough."""
MIXED = tuple(name for name in SCENES if name != "broker_gives_up")
"""What is played with others. That one's refusals would meet their letters too."""
SEEDS = 300
BATCH = 30
LONG_RUN = 5_000
"""Seeds of the long run."""


@pytest.fixture
def in_a_hurry():
    """Not here: waits cost nothing, and shorter ones would make a slow call look like a store that is away."""


def explain(schedule: Schedule, faults: list[str]) -> str:
    return f"FOGACTORS_TEST_SCHEDULE='{schedule}': {'; '.join(faults)}"


def failures(schedules: list[Schedule]) -> list[str]:
    played = ((schedule, Play(schedule).run()) for schedule in schedules)
    return [explain(schedule, faults) for schedule, faults in played if faults]


@cache
def swept(scene: str) -> tuple[int, list[str], set[tuple[Site, When | None]]]:
    """A scene, once undisturbed and then with a crash before and after each call of each process: how many schedules
    that was, which of them failed, and where the processes died."""
    undisturbed = Play(Schedule((scene,)))
    faults, hits, count = undisturbed.run(), set(undisturbed.world.hits), 1
    failed = [explain(undisturbed.world.schedule, faults)] if faults else []
    for role in ROLE_NAMES:
        for number, call in enumerate(undisturbed.world.calls[role], 1):
            if call in SETUP and scene != "works":
                continue
            for when in ("before", "after"):
                play = Play(Schedule((scene,), {role: ((number, when),)}))
                faults = play.run()
                failed += [explain(play.world.schedule, faults)] if faults else []
                hits |= play.world.hits
                count += 1
    return count, failed, hits


@pytest.mark.parametrize("scene", SCENES)
def test_a_crash_at_any_call_loses_nothing_and_ends_nothing_twice(scene):
    _, failed, _ = swept(scene)
    assert not failed, "\n".join(failed)


@pytest.mark.parametrize("first", range(1, SEEDS, BATCH))
def test_crashes_at_random_calls_of_several_tasks_at_once(first):
    failed = failures([Schedule.random(seed, MIXED) for seed in range(first, first + BATCH)])
    assert not failed, "\n".join(failed)


@pytest.mark.slow
def test_thousands_of_crashes_at_random_calls():
    failed = failures([Schedule.random(seed, MIXED) for seed in range(SEEDS + 1, SEEDS + LONG_RUN)])
    assert not failed, "\n".join(failed)


@pytest.mark.skipif("FOGACTORS_TEST_SCHEDULE" not in os.environ, reason="no FOGACTORS_TEST_SCHEDULE to play again")
def test_the_schedule_of_the_environment():
    schedule = Schedule.read(os.environ["FOGACTORS_TEST_SCHEDULE"])
    assert not (faults := Play(schedule).run()), explain(schedule, faults)


def test_the_text_of_a_schedule_is_all_of_it():
    for seed in range(1, 20):
        schedule = Schedule.random(seed, MIXED)
        assert Schedule.read(str(schedule)) == schedule


def test_a_schedule_is_played_the_same_way_each_time():
    crashes = {"tier-executor": ((9, "after"), (12, "before")), "dlq-reaper": ((8, "before"),)}
    first, second = (Play(Schedule(("works", "gives_up", "children_die"), crashes, seed=7)) for _ in range(2))
    assert (first.run(), second.run()) == ([], [])
    assert first.world.crashes == second.world.crashes == 3
    assert first.world.calls == second.world.calls
    assert first.world.runs == second.world.runs


def test_these_are_more_than_a_thousand_schedules():
    assert sum(swept(scene)[0] for scene in SCENES) + SEEDS >= 1_000


# -- no await is forgotten


def test_every_await_is_a_crash_point_or_known_not_to_be_one():
    assert not unread(), "files with awaits that are neither followed nor elsewhere (see crash_awaits.py)"
    unknown = [str(each) for each in awaits() if not each.known]
    assert not unknown, "\n".join(unknown)


def test_processes_died_before_and_after_every_call_that_is_a_crash_point():
    hits = set().union(*(swept(scene)[2] for scene in SCENES))
    spared = [
        f"never died {when} it: {each}"
        for each in awaits()
        for when in ("before", "after")
        if each.must_die and not any(each.covers(*site) and when == died for site, died in hits)
    ]
    assert not spared, "\n".join(spared)


# -- what is shipped


@pytest.mark.asyncio
@pytest.mark.parametrize(("when", "redelivered"), [("before", 1), ("after", 0)])
@pytest.mark.parametrize("number", [1, 2])
async def test_a_process_of_the_kit_dies_at_a_call_and_lives_again(number, when, redelivered):
    process = Mortal(crash_at(number, when, name="delivery.ack"), kill=lambda: system.kill("tier-executor-light"))
    options = {"wrap_bus": process.bus, "wrap_coord": process.coord, "roles": ("tier-executor",)}
    async with fog(registry=fog_tasks.registry, **options) as system:
        for name in ("a", "b"):
            assert await (await system.submit(fog_tasks.note, name)).result(5) == name
        await system.recorder.wait_for(ActorStarted, path="fogactors/tier-executor-light/executor", incarnation=2)
        assert await (await system.submit(fog_tasks.note, "c")).result(5) == "c"
        await system.wait_idle()
        # It was recorded before it was acked, so it does not run again.
        assert len(system.recorder.of(DuplicateResult)) == redelivered
        assert dict(fog_tasks.runs) == {"a": 1, "b": 1, "c": 1}

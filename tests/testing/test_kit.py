"""The kit that users test with: attempts that fail on command, delays that nobody waits for, dead letters."""

from __future__ import annotations

from datetime import timedelta

import anyio
import pytest

from fogactors.errors import ChildCrashed, TaskExpired, TaskFailed, UnknownTask, WorkerLost
from fogactors.messages import DeadLetter, DeadLetterFate
from fogactors.tasks.deadletter import publish_fate, publish_letter
from fogactors.tasks.events import TaskEnded, TaskHandedBack, TaskRetried, TaskStarted
from fogactors.tasks.registry import Registry
from fogactors.tasks.retry import Retry, RetryPolicy
from fogactors.tasks.task import task
from fogactors.testing import eventually, fog
from fogactors.wire.topology import PARKED, retry_exchange

pytestmark = pytest.mark.asyncio

DAY_S = 86_400.0
SILENCE_S = 0.05
"""How long nothing must come before we believe that nothing comes."""

calls: list[int] = []
gates: list[anyio.Event] = []


@pytest.fixture(autouse=True)
def forget():
    calls.clear()
    gates.clear()


@task(retry=RetryPolicy(attempts=3, first_s=60))
async def charge(amount: int) -> str:
    calls.append(amount)
    return "ok"


@task(retry=RetryPolicy(attempts=3, first_s=60))
def charge_in_a_thread(amount: int) -> str:
    return "ok"


@task(process=True, retry=RetryPolicy(attempts=3, first_s=60))
def charge_in_a_process(amount: int) -> str:
    return "ok"


@task(retry=RetryPolicy(attempts=3, first_s=60, never_on=(ValueError,)))
async def choosy() -> None: ...


@task
async def hold() -> None:
    gates.append(anyio.Event())
    await gates[-1].wait()


# -- the test that everybody writes first


async def test_fails_twice_then_works():
    async with fog() as system:
        system.fail_next(charge, ConnectionError("reset"), times=2)
        handle = await system.submit(charge, 7)
        assert await handle.result(timeout=5) == "ok"


# -- failing on command


@pytest.mark.parametrize("kind", [charge, charge_in_a_thread, charge_in_a_process], ids=lambda each: each.mode)
async def test_an_attempt_that_was_told_to_fail_is_one_in_every_mode(kind):
    async with fog() as system:
        system.fail_next(kind, ConnectionError("reset"))
        handle = await system.submit(kind, 7)
        assert await handle.result(timeout=20) == "ok"
        assert (await handle.outcome(1)).attempts == 2
        assert [event.error for event in system.recorder.of(TaskRetried)] == ["ConnectionError: reset"]
        assert [event.attempt for event in system.recorder.of(TaskStarted)] == [1, 2]


async def test_the_function_is_not_called_for_it():
    async with fog() as system:
        system.fail_next(charge, ConnectionError, times=2)  # a class will do
        await (await system.submit(charge, 7)).result(timeout=5)
        assert calls == [7]


async def test_the_tasks_own_policy_judges_the_error():
    async with fog() as system:
        system.fail_next(choosy, ValueError("no such account"))
        with pytest.raises(TaskFailed, match="no such account"):
            await (await system.submit(choosy)).result(timeout=5)
        system.fail_next(choosy, Retry(delay=5, reason="later"))
        await (await system.submit(choosy)).result(timeout=5)
        assert [event.delay_s for event in system.recorder.of(TaskRetried)] == [5]


async def test_a_worker_process_that_dies_can_be_played():
    async with fog() as system:
        system.fail_next(charge, ChildCrashed("killed by the test"), times=4)
        with pytest.raises(WorkerLost):
            await (await system.submit(charge, 7)).result(timeout=5)
        letter = await system.dead_letters.wait_for(task=charge, reason="worker_lost")
        assert (letter.attempts, calls) == (4, [])


async def test_of_several_in_hand_no_more_fail_than_were_told_to():
    async with fog() as system:
        system.fail_next(charge, ConnectionError("reset"), times=2)
        handles = [await system.submit(charge, amount) for amount in range(5)]
        assert [await handle.result(timeout=5) for handle in handles] == ["ok"] * 5
        assert len(system.recorder.of(TaskRetried)) == 2


async def test_a_delivery_that_is_never_run_costs_no_failure():
    async with fog(skip_delays=False) as system:
        for _ in range(4):
            await system.submit(hold)  # the executor is full
        await eventually(lambda: len(gates) == 4, "four run")
        system.fail_next(charge, ConnectionError("reset"))
        handle = await system.submit(charge, 7)
        await eventually(lambda: system.ready("tasks.normal") == 0, "it waits in the executor")
        system.executor().stop()  # which hands it back; the next one takes it
        await system.recorder.wait_for(TaskHandedBack, task_id=handle.id)
        for gate in gates:
            gate.set()
        system.advance(60)
        await system.recorder.wait_for(TaskRetried, task_id=handle.id)
        system.advance(60)
        assert await handle.result(timeout=5) == "ok"


async def test_a_delivery_that_a_dead_worker_held_costs_none_either():
    async with fog() as system:
        for _ in range(4):
            await system.submit(hold)
        await eventually(lambda: len(gates) == 4, "four run")
        system.fail_next(charge, ConnectionError("reset"))
        handle = await system.submit(charge, 7)
        await eventually(lambda: system.ready("tasks.normal") == 0, "it waits in the executor")
        system.kill("tier-executor-light")
        await eventually(lambda: len(gates) == 8, "all is delivered again")
        for gate in gates:
            gate.set()
        assert await handle.result(timeout=5) == "ok"
        assert [event.task_id for event in system.recorder.of(TaskRetried)] == [handle.id]


async def test_what_an_executor_has_in_hand_can_still_be_told_to_fail():
    async with fog() as system:
        for _ in range(4):
            await system.submit(hold)
        await eventually(lambda: len(gates) == 4, "four run")
        handle = await system.submit(charge, 7)
        await eventually(lambda: system.ready("tasks.normal") == 0, "it waits in the executor")
        system.fail_next(charge, ConnectionError("reset"))
        for gate in gates:
            gate.set()
        assert (await handle.outcome(timeout=5)).attempts == 2


async def test_a_failure_that_no_attempt_met_fails_the_test():
    async def test() -> None:
        async with fog() as system:
            system.fail_next(charge, ConnectionError("reset"), times=2)
            with pytest.raises(TaskFailed):
                await (await system.submit(charge.options(retry=0), 7)).result(timeout=5)

    with pytest.raises(AssertionError, match=r"no attempt met: 1 of .*charge$"):
        await test()


async def test_the_tests_own_error_comes_first():
    async def test() -> None:
        async with fog() as system:
            system.fail_next(charge, ConnectionError("reset"))
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        await test()


async def test_what_cannot_be_told_to_fail():
    async with fog(registry=Registry()) as system:
        with pytest.raises(UnknownTask):
            system.fail_next(charge, ConnectionError("reset"))
    async with fog() as system:
        with pytest.raises(ValueError, match="at least 1"):
            system.fail_next(charge, ConnectionError("reset"), times=0)


# -- time


async def test_tomorrow_is_now():
    async with fog() as system:
        tomorrow = (system.now() + timedelta(days=1)).replace(hour=8, minute=0)
        handle = await system.submit(charge.options(not_before=tomorrow), 7)
        assert await handle.result(timeout=5) == "ok"
        started = system.recorder.of(TaskStarted)[0].at
        assert abs(started - tomorrow) < timedelta(seconds=60)  # never earlier than by a second, that is how delays are
        assert tomorrow - started < timedelta(seconds=1.1)
        assert system.now() >= started


async def test_a_day_is_many_hops_and_each_attempt_is_counted_once():
    async with fog() as system:
        handle = await system.submit(charge.options(delay_s=DAY_S), 7)
        assert (await handle.outcome(timeout=5)).attempts == 1
        assert DAY_S - 2 < system.clock.skew_s <= DAY_S


async def test_what_is_sooner_comes_first():
    async with fog() as system:
        handles = [await system.submit(charge.options(delay_s=delay_s), int(delay_s)) for delay_s in (3600, 60, 5)]
        for handle in handles:
            await handle.result(timeout=5)
        assert calls == [5, 60, 3600]


async def test_a_deadline_is_passed_by_the_same_clock():
    async with fog() as system:
        handle = await system.submit(charge.options(delay_s=120, deadline_s=60), 7)
        with pytest.raises(TaskExpired):
            await handle.result(timeout=5)
        assert calls == []
        assert await system.dead_letters.wait_for(task=charge, reason="expired")


async def test_time_stands_while_a_task_runs():
    async with fog() as system:
        await system.submit(hold)
        await eventually(lambda: len(gates) == 1, "it runs")
        later = await system.submit(charge.options(delay_s=60), 7)
        await anyio.sleep(SILENCE_S)
        assert (system.clock.skew_s, calls) == (0, [])
        gates[0].set()
        assert await later.result(timeout=5) == "ok"


async def test_time_can_be_moved_while_a_task_runs():
    async with fog() as system:
        running = await system.submit(hold)
        await eventually(lambda: len(gates) == 1, "it runs")
        later = await system.submit(charge.options(delay_s=60), 7)
        system.advance(60)
        assert await later.result(timeout=5) == "ok"
        gates[0].set()
        await running.result(timeout=5)


async def test_without_skipping_a_delay_waits_for_the_test():
    async with fog(skip_delays=False) as system:
        handle = await system.submit(charge.options(delay_s=16), 7)
        await anyio.sleep(SILENCE_S)
        assert (calls, system.ready(retry_exchange(16))) == ([], 1)
        system.advance(16)
        assert await handle.result(timeout=5) == "ok"
        with pytest.raises(ValueError, match="backwards"):
            system.advance(-1)


async def test_a_worker_that_is_away_for_a_moment_lets_no_deadline_pass():
    async with fog() as system:
        system.kill("tier-executor-light")
        soon = await system.submit(charge.options(deadline_s=30), 1)
        later = await system.submit(charge.options(delay_s=DAY_S), 2)
        assert [await each.result(timeout=5) for each in (soon, later)] == ["ok", "ok"]
        assert calls == [1, 2]


async def test_a_delay_outlives_a_broker_that_goes_away():
    async with fog() as system:
        await system.submit(hold)
        await eventually(lambda: len(gates) == 1, "it runs, so that time stands")
        handle = await system.submit(charge.options(delay_s=60), 7)
        system.broker.faults.down()
        await anyio.sleep(SILENCE_S)
        system.broker.faults.up()
        await eventually(lambda: len(gates) == 2, "it runs once more")
        gates[1].set()
        assert await handle.result(timeout=5) == "ok"


async def test_a_result_is_there_after_a_day_of_another_task():
    async with fog() as system:
        first = await system.submit(charge, 1)
        await (await system.submit(charge.options(delay_s=DAY_S), 2)).result(timeout=5)
        assert await first.result(timeout=1) == "ok"


async def test_all_times_of_day_are_by_one_clock():
    async with fog() as system:
        before = system.now()
        await (await system.submit(charge.options(delay_s=DAY_S), 1)).result(timeout=5)
        next_day = await (await system.submit(charge, 2)).outcome(timeout=5)
        ends = system.recorder.of(TaskEnded)
        for each in (next_day.created, next_day.finished, ends[0].at, system.now()):
            assert each - before > timedelta(hours=20)


# -- dead letters


async def test_a_dead_letter_can_be_waited_for_and_looked_at():
    async with fog() as system:
        assert not system.dead_letters
        system.fail_next(charge, ConnectionError("reset"), times=3)
        handle = await system.submit(charge, 7)
        letter = await system.dead_letters.wait_for(task=charge, reason="failed")
        assert (letter.task_id, letter.attempts, letter.error.message) == (handle.id, 3, "reset")
        assert list(system.dead_letters) == system.dead_letters[:] == [letter]
        assert await system.dead_letters.wait_for(task=charge.name, task_id=handle.id, timeout=0.1) == letter
        assert repr(system.dead_letters) == f"<dead letters: {charge.name} failed (ConnectionError: reset)>"


async def test_a_wait_in_vain_says_what_there_is():
    async with fog() as system:
        system.fail_next(choosy, ValueError("no such account"))
        await system.submit(choosy)
        await system.dead_letters.wait_for(task=choosy)
        with pytest.raises(AssertionError, match=r"dead letter\(reason='expired'\) x 1 within .*no such account"):
            await system.dead_letters.wait_for(reason="expired", timeout=0.01)
        with pytest.raises(AssertionError, match="x 2 within"):
            await system.dead_letters.wait_for(count=2, timeout=0.01)


async def test_an_edited_letter_counts_once_and_its_fate_is_none():
    async with fog(roles=("tier-executor",)) as system:
        letter = await dead_letter(system, attempts=1)
        edited = await dead_letter(system, revision=1, attempts=2)
        await publish_fate(system.bus, DeadLetterFate(id=letter.id, state="replayed", at=system.now()), timeout=1)
        again = await dead_letter(system, generation=1)
        assert list(system.dead_letters) == [edited, again]
        assert system.ready(PARKED) == 4


async def dead_letter(system, **fields):
    letter = DeadLetter(id="a-1", reason="failed", body=b"x", first=system.now(), last=system.now(), **fields)
    await publish_letter(system.bus, PARKED, letter, timeout=1)
    return letter

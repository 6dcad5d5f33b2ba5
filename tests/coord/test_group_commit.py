"""Many in one request, and nobody left behind when the one who asks is gone."""

from __future__ import annotations

import anyio
import anyio.lowlevel
import pytest

from fogactors.coord.group_commit import MOST, GroupCommit
from fogactors.errors import CoordUnavailable

pytestmark = pytest.mark.asyncio


class Store:
    """Answers with the item itself; a negative one is an error. `gate`: a request waits for it."""

    def __init__(self) -> None:
        self.requests: list[list[int]] = []
        self.gate = anyio.Event()
        self.gate.set()

    async def __call__(self, items: list[int]) -> list[int | Exception]:
        self.requests.append(items)
        await self.gate.wait()
        return [ValueError(item) if item < 0 else item for item in items]


async def all_of(commit: GroupCommit[int, int], items: range, answers: dict[int, int]) -> None:
    async def one(item: int) -> None:
        answers[item] = await commit(item)

    async with anyio.create_task_group() as group:
        for item in items:
            group.start_soon(one, item)


async def test_what_comes_in_one_turn_is_one_request_and_each_gets_its_answer():
    store, answers = Store(), dict[int, int]()
    await all_of(GroupCommit(store), range(1, 9), answers)
    assert store.requests == [list(range(1, 9))]
    assert answers == {item: item for item in range(1, 9)}


async def test_a_request_has_a_bound_and_the_next_waits_for_it():
    store, answers = Store(), dict[int, int]()
    await all_of(GroupCommit(store), range(1, 2 * MOST + 2), answers)
    assert [len(request) for request in store.requests] == [MOST, MOST, 1]
    assert len(answers) == 2 * MOST + 1


async def test_an_error_is_that_items_own():
    commit = GroupCommit(Store())
    with pytest.raises(ValueError, match="-1"):
        await commit(-1)
    assert await commit(1) == 1


async def test_a_request_that_fails_fails_all_of_it_and_not_the_next():
    async def broken(items: list[int]) -> list[int | Exception]:
        if 1 in items:
            raise CoordUnavailable("away")
        return list(items)

    commit, seen = GroupCommit(broken), list[str]()

    async def one(item: int) -> None:
        with pytest.raises(CoordUnavailable, match="away"):
            await commit(item)
        seen.append("failed")

    async with anyio.create_task_group() as group:
        group.start_soon(one, 1)
        group.start_soon(one, 2)
    assert seen == ["failed", "failed"]
    assert await commit(3) == 3


@pytest.mark.parametrize("given_up", [(1,), (2,), (1, 2), (3,), (1, 3)], ids=str)
async def test_who_gives_up_takes_nobody_along(given_up):
    """1 and 2 are in the request that hangs, 3 and 4 wait for the next."""
    store, answers = Store(), dict[int, int]()
    store.gate = anyio.Event()
    commit, scopes = GroupCommit(store), {item: anyio.CancelScope() for item in range(1, 5)}

    async def one(item: int) -> None:
        with scopes[item]:
            answers[item] = await commit(item)

    with anyio.fail_after(5):
        async with anyio.create_task_group() as group:
            for item in (1, 2):
                group.start_soon(one, item)
            while not store.requests:
                await anyio.lowlevel.checkpoint()
            for item in (3, 4):
                group.start_soon(one, item)
            await anyio.wait_all_tasks_blocked()
            for item in given_up:
                scopes[item].cancel()
            await anyio.wait_all_tasks_blocked()
            store.gate.set()
    assert set(answers) == {1, 2, 3, 4} - set(given_up)

"""Many writes in one request, as databases do it for their log (group commit)."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from typing import Final, Generic, TypeVar

from anyio.lowlevel import checkpoint

__all__ = ["GroupCommit"]

Item = TypeVar("Item")
Answer = TypeVar("Answer")

MOST: Final = 100
"""Items of one request, so that none holds up the store for long."""


class _Place(Generic[Item, Answer]):
    __slots__ = ("answer", "item", "left", "woken")

    def __init__(self, item: Item) -> None:
        self.item = item
        self.left = False
        self.answer: Answer | Exception | None = None
        self.woken: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def wake(self) -> None:
        if not self.woken.done():
            self.woken.set_result(None)


class GroupCommit(Generic[Item, Answer]):
    """`await commit(item)` gives the item's answer (never `None`), or raises it if it is an error. `ask` takes the
    items of one request and answers each, in order; items may come again.

    Who finds nobody asking asks for all that have come meanwhile; who comes while a request is out waits for the next.
    There is no task in the background: when the one who asks is cancelled, another asks again for the rest. So each
    request is bounded by the patience of its callers, and the batch grows by itself with the load.
    """

    def __init__(self, ask: Callable[[list[Item]], Awaitable[Sequence[Answer | Exception]]]) -> None:
        self._ask = ask
        self._waiting: deque[_Place[Item, Answer]] = deque()
        self._asking = False

    async def __call__(self, item: Item) -> Answer:
        place: _Place[Item, Answer] = _Place(item)
        self._waiting.append(place)
        try:
            while place.answer is None:
                if self._asking:
                    await place.woken
                    place.woken = asyncio.get_running_loop().create_future()
                else:
                    await self._lead()
        except BaseException:
            place.left = True
            self._pass_on()
            raise
        if isinstance(place.answer, Exception):
            raise place.answer.with_traceback(None)  # it may be the answer of many
        return place.answer

    async def _lead(self) -> None:
        self._asking = True
        asked: list[_Place[Item, Answer]] = []
        try:
            await checkpoint()  # all that comes in this turn of the loop
            asked = [self._waiting.popleft() for _ in range(min(MOST, len(self._waiting)))]
            answers: Sequence[Answer | Exception] = await self._ask([place.item for place in asked])
        except Exception as error:
            answers = [error] * len(asked)
        except BaseException:
            self._waiting.extendleft(reversed(asked))
            raise
        finally:
            self._asking = False
        for place, answer in zip(asked, answers, strict=True):
            place.answer = answer
            place.wake()
        self._pass_on()

    def _pass_on(self) -> None:
        self._waiting = deque(place for place in self._waiting if not place.left)
        if self._waiting and not self._asking:
            self._waiting[0].wake()

"""Which of a node's data is the last: a number that goes with the data, and the largest of them in Redis.

Data gets a number when the node begins or joins with it, larger than any before. Once the node has settled, the number
is in Redis. A volume with a smaller one, on a host to which the node's place has come back, is a voter that has
forgotten what it confirmed elsewhere.

Numbers have an order, which names drawn by lot have not: where Redis was put back from a copy it is Redis that is
behind, and the broker's data is good.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime
from typing import Final

import anyio

from fogactors.cluster.data import DataDir
from fogactors.coord.base import Coord
from fogactors.errors import CoordError, CoordRefused

__all__ = ["Incarnations", "incarnation_key"]

ASK_S: Final = 2.0
"""Neither a start with data nor the next look at the cluster is to wait for Redis for long."""


def incarnation_key(node: str) -> str:
    """A set whose largest number counts; the others are about to be removed."""
    return f"fog:incarnation:{node}"


class Incarnations:
    """Of one node. `now`: numbers are milliseconds of it, for people; only their order counts."""

    def __init__(self, node: str, data: DataDir, coord: Coord, now: Callable[[], datetime]) -> None:
        self._key = incarnation_key(node)
        self._data = data
        self._coord = coord
        self._now = now

    async def last(self) -> int:
        """The last that has settled, by Redis' word; 0: none. Raises `CoordUnavailable`."""
        try:
            return max(await self._known(), default=0)
        except CoordRefused:  # a Redis that does not know this key of ours yet has none either
            return 0

    async def last_heard(self) -> int:
        """The same, and 0 when Redis says nothing: no reason not to start."""
        try:
            with anyio.fail_after(ASK_S):
                return await self.last()
        except (CoordError, TimeoutError):
            return 0

    def next(self, last: int) -> int:
        """Larger than all before, whatever the clock says."""
        return max(round(self._now().timestamp() * 1000), last + 1, self._data.incarnation() + 1)

    async def keep(self) -> int:
        """The node has settled: from now on its data is the last, and Redis says so. Returns the number of other data
        that was the last, of which nobody knew when this was started; 0: there is none. Does nothing while Redis is
        away: it is done again at each look. Raises `DataError`."""
        try:
            with anyio.fail_after(ASK_S):
                return await self._keep()
        except (CoordError, TimeoutError):
            return 0

    async def _keep(self) -> int:
        known, own = await self._known(), self._data.incarnation()
        last = max(known, default=0)
        later = last if last > own else 0
        if later or own == 0:
            own = self.next(last)
            self._data.begin(own)
        if own not in known:
            await self._coord.join(self._key, str(own))
        for older in known - {own}:
            await self._coord.leave(self._key, str(older))
        return later

    async def _known(self) -> frozenset[int]:
        return frozenset(int(each) for each in await self._coord.members(self._key) if each.isdecimal())

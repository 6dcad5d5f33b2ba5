"""One node's memory, shared by the executors of all its tiers.

Each tier admits by its own size; where the tiers together are larger than the machine, this decides who is next.
Bookkeeping without a single await.

Whoever waits first is served first, and yet nobody stands behind it idly. While it waits for what is in use now, the
others may take whatever it will not need: in all no more than the budget less its wish. So it fits as soon as all that
was in use when its wait began has been given back, however many small ones have come and gone meanwhile; and the
hour that a large task still runs holds up nobody who fits beside both. (Batch schedulers call this backfilling: D.
Lifka, "The ANL/IBM SP Scheduling System", 1995. They know how long jobs run; as we do not, a wait is bounded by what
was there before it, not by a clock.)
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Final

__all__ = ["Claimant", "MemoryBudget"]

_UNITS_PER_MB: Final = 1024
# KiB, as integers: sums of fractions of a MiB drift, and a drift here would never heal.


class MemoryBudget:
    """`total_mb`: MiB; 0 is no budget: everything fits, at once."""

    def __init__(self, total_mb: int = 0) -> None:
        self.total_mb = total_mb
        self._books = _Books(_units(total_mb) if total_mb else None)

    @property
    def free_mb(self) -> float:
        """What nobody has taken; infinite without a budget."""
        return self._books.free / _UNITS_PER_MB

    def fits_ever(self, mb: float) -> bool:
        """Whether it fits when nothing else is taken."""
        return self._books.fits_ever(_units(mb))

    def claimant(self, wake: Callable[[], None]) -> Claimant:
        """One that takes from it. `wake` is called when it waits and its wish fits, sometimes once too often; it may
        take there and then."""
        return Claimant(self._books, wake)


class Claimant:
    """One executor's part, for one incarnation of it."""

    def __init__(self, books: _Books, wake: Callable[[], None]) -> None:
        self._books = books
        self._account = _Account(wake)
        books.accounts.append(self._account)

    def take(self, mb: float) -> bool:
        """Take so much, or stand in line for it. `False`: not now; ask again when woken, or `withdraw`.

        Ask for the task whose turn it is. A claimant has one wish, its last, and one place in the line: who asks for
        something smaller instead has given up waiting for the larger. Raises `ValueError` for what never fits.
        """
        return self._books.take(self._account, _units(mb))

    def withdraw(self) -> None:
        """Wait for nothing any more: the task has gone elsewhere. A wish that nobody has holds up the others."""
        self._books.withdraw(self._account)

    def give_back(self, mb: float) -> None:
        """What was taken, exactly as it was taken. After `close` it does nothing."""
        self._books.give_back(self._account, _units(mb))

    def close(self) -> None:
        """Give back all, and take nothing more: its executor has ended. Idempotent."""
        self._books.close(self._account)


class _Account:
    """`early`, `late`: what is taken, from before and since the first in the line began to wait; `wish`: what it waits
    for."""

    def __init__(self, wake: Callable[[], None]) -> None:
        self.wake = wake
        self.early = 0
        self.late = 0
        self.wish = 0


class _Books:
    """Amounts in KiB. `total`: `None` for no budget."""

    def __init__(self, total: int | None) -> None:
        self._total: float = math.inf if total is None else total
        self.accounts: list[_Account] = []
        self._line: list[_Account] = []

    @property
    def free(self) -> float:
        return self._total - sum(each.early + each.late for each in self.accounts)

    def fits_ever(self, amount: int) -> bool:
        return amount <= self._total

    def take(self, account: _Account, amount: int) -> bool:
        if not self.fits_ever(amount):
            text = f"{amount / _UNITS_PER_MB:g} MiB never fit into a budget of {self._total / _UNITS_PER_MB:g} MiB"
            raise ValueError(f"{text}; ask `fits_ever` first")
        if account not in self.accounts:
            return False
        fits = self._fits(account, amount)
        if fits:
            if self._line and self._line[0] is not account:
                account.late += amount
            else:
                account.early += amount
            self._leave_line(account)
        else:
            account.wish = amount
            if account not in self._line:
                self._line.append(account)
                self._count_anew(account)
        self._wake()
        return fits

    def withdraw(self, account: _Account) -> None:
        self._leave_line(account)
        self._wake()

    def give_back(self, account: _Account, amount: int) -> None:
        if account not in self.accounts:
            return
        # Early first: nobody says which it was, and what counts as late for too long only lets fewer pass by.
        early = min(amount, account.early)
        account.early -= early
        account.late -= min(amount - early, account.late)
        self._wake()

    def close(self, account: _Account) -> None:
        if account in self.accounts:
            self._leave_line(account)
            self.accounts.remove(account)
            self._wake()

    def _fits(self, account: _Account, amount: int) -> bool:
        free = self.free
        first = self._line[0] if self._line else account
        if first is account:
            return amount <= free
        if first.wish <= free:  # its turn has come, and it has been woken
            return amount <= free - first.wish
        late = sum(each.late for each in self.accounts)
        return amount <= free and late + amount <= self._total - first.wish

    def _leave_line(self, account: _Account) -> None:
        if account in self._line:
            was_first = self._line[0] is account
            self._line.remove(account)
            if was_first and self._line:
                self._count_anew(self._line[0])

    def _count_anew(self, waiting: _Account) -> None:
        """What the first in the line waits for is all that is in use now."""
        if self._line[0] is waiting:
            for each in self.accounts:
                each.early, each.late = each.early + each.late, 0

    def _wake(self) -> None:
        for each in tuple(self._line):
            if each in self._line and self._fits(each, each.wish):  # it may be out by the wake of another
                each.wake()


def _units(mb: float) -> int:
    return math.ceil(mb * _UNITS_PER_MB)

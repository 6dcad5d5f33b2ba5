"""Resource tiers as data: how large an executor of a tier is, and which tier a task belongs to."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from fogactors.errors import ConfigError, NoTierFits

__all__ = ["Amount", "Tier", "Tiers"]


@dataclass(frozen=True, slots=True)
class Amount:
    """Cores and MiB: of a machine, of what is free on it, or of what a task takes."""

    cpu: float
    memory_mb: float

    def fits(self, other: Amount) -> bool:
        """Whether `other` goes into this. With a hair of slack: four quarters of 0.5 cores must make 0.5."""
        return other.cpu <= self.cpu + 1e-9 and other.memory_mb <= self.memory_mb + 1e-6

    def __add__(self, other: Amount) -> Amount:
        return Amount(self.cpu + other.cpu, self.memory_mb + other.memory_mb)

    def __sub__(self, other: Amount) -> Amount:
        return Amount(self.cpu - other.cpu, self.memory_mb - other.memory_mb)


@dataclass(frozen=True, slots=True)
class Tier:
    """`cpu` cores and `memory_mb` MiB are what one executor of the tier has. `slots` tasks that state no need of
    their own share it equally."""

    name: str
    cpu: float
    memory_mb: int
    slots: int

    @property
    def size(self) -> Amount:
        return Amount(self.cpu, self.memory_mb)

    @property
    def share(self) -> Amount:
        return Amount(self.cpu / self.slots, self.memory_mb / self.slots)


class Tiers:
    """All tiers, from the smallest to the largest; the first is the one that any executor may run."""

    def __init__(self, tiers: tuple[Tier, ...]) -> None:
        if not tiers:
            raise ConfigError("there must be at least one tier")
        self._tiers = tiers

    def __iter__(self) -> Iterator[Tier]:
        return iter(self._tiers)

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(tier.name for tier in self._tiers)

    @property
    def lightest(self) -> Tier:
        return self._tiers[0]

    def get(self, name: str) -> Tier:
        """Raises `NoTierFits` with the names that there are."""
        for tier in self._tiers:
            if tier.name == name:
                return tier
        raise NoTierFits(f"there is no tier {name!r}; there are: {', '.join(self.names)}")

    def smaller_than(self, name: str) -> tuple[Tier, ...]:
        """Those that an executor of this tier may help, the largest first."""
        at = self.names.index(self.get(name).name)
        return tuple(reversed(self._tiers[:at]))

    def smallest_for(self, cpu: float | None, memory_mb: float | None) -> Tier:
        """The smallest that holds this much. Raises `NoTierFits`."""
        for tier in self._tiers:
            if tier.size.fits(Amount(cpu or 0, memory_mb or 0)):
                return tier
        largest = self._tiers[-1]
        raise NoTierFits(
            f"no tier holds {cpu or 0:g} cores and {memory_mb or 0:g} MiB; the largest, {largest.name}, "
            f"has {largest.cpu:g} cores and {largest.memory_mb} MiB"
        )

    def amount(self, tier: str, cpu: float | None, memory_mb: float | None) -> Amount:
        """What a task takes: what it states, and its tier's share of what it does not. Raises `NoTierFits`."""
        home = self.get(tier)
        share = home.share
        amount = Amount(share.cpu if cpu is None else cpu, share.memory_mb if memory_mb is None else memory_mb)
        if amount.cpu < 0 or amount.memory_mb < 0:
            raise NoTierFits(f"{amount.cpu:g} cores and {amount.memory_mb:g} MiB: a task cannot take less than nothing")
        if not home.size.fits(amount):
            raise NoTierFits(
                f"{amount.cpu:g} cores and {amount.memory_mb:g} MiB do not fit into tier {tier} "
                f"({home.cpu:g} cores, {home.memory_mb} MiB)"
            )
        return amount

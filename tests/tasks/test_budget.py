"""A node's memory budget: who gets what, who waits, and that nobody waits for ever."""

from __future__ import annotations

import math
import random
from collections.abc import Callable
from pathlib import Path

import pytest

from fogactors.app.program import Program
from fogactors.app.settings import Settings, load
from fogactors.errors import ConfigError
from fogactors.tasks.budget import Claimant, MemoryBudget

TOTAL = 1536


class Executors:
    """Claimants by name. `woken`: who was, in order, since it was last asked."""

    def __init__(self, *names: str, total: int = TOTAL) -> None:
        self.budget = MemoryBudget(total)
        self._woken: list[str] = []
        self.by_name: dict[str, Claimant] = {name: self.budget.claimant(self._waker(name)) for name in names}

    def _waker(self, name: str) -> Callable[[], None]:
        return lambda: self._woken.append(name)

    @property
    def woken(self) -> list[str]:
        woken, self._woken = self._woken, []
        return woken


LIGHT, MEDIUM, HEAVY, OTHER = "light", "medium", "heavy", "other"

# Steps: who, +MiB asks and gets, ~MiB asks in vain, -MiB gives back, "withdraw", "close"; then who is woken by it.
CASES = {
    "what fits is had at once": [(LIGHT, "+512"), (HEAVY, "+1024")],
    "what does not fit is had when it is free": [
        (HEAVY, "+1024"),
        (MEDIUM, "~768"),
        (HEAVY, "-1024", MEDIUM),
        (MEDIUM, "+768"),
    ],
    "fractions come back whole": [(LIGHT, "+170.7"), (LIGHT, "+170.7"), (LIGHT, "-170.7"), (LIGHT, "-170.7")],
    "who waits first is first": [
        (LIGHT, "+1536"),
        (HEAVY, "~1024"),
        (MEDIUM, "~768"),
        (LIGHT, "-512"),
        (LIGHT, "-512", HEAVY),
        (MEDIUM, "~768", HEAVY),
        (HEAVY, "+1024"),
        (LIGHT, "-512"),
        (HEAVY, "-1024", MEDIUM),
        (MEDIUM, "+768"),
    ],
    "a long task holds up nobody who fits beside it and the one that waits": [
        (HEAVY, "+1024"),
        (MEDIUM, "~768"),
        (LIGHT, "+512"),
        (LIGHT, "-512"),
        (LIGHT, "+512"),
        (HEAVY, "-1024", MEDIUM),
        (MEDIUM, "+768"),
    ],
    "small ones that come later take nothing of what the large one waits for": [
        (LIGHT, "+512"),
        (MEDIUM, "+512"),
        (HEAVY, "~1024"),
        (LIGHT, "+512"),
        (MEDIUM, "-512"),
        (MEDIUM, "~1"),
        (LIGHT, "-512", HEAVY),
        (HEAVY, "+1024"),
        (LIGHT, "-512", MEDIUM),
    ],
    "what passed the one before is there for the next": [
        (MEDIUM, "+1024"),
        (HEAVY, "~1024"),
        (LIGHT, "+256"),
        (OTHER, "~1200"),
        (MEDIUM, "-1024", HEAVY),
        (HEAVY, "+1024"),
        (LIGHT, "+256"),
    ],
    "what passed one that is long served is there for the next": [
        (MEDIUM, "+1024"),
        (HEAVY, "~1024"),
        (LIGHT, "+512"),
        (MEDIUM, "-1024", HEAVY),
        (HEAVY, "+1024"),
        (HEAVY, "-512"),
        (MEDIUM, "~1024"),
        (LIGHT, "+512"),
    ],
    "what the first has been woken for is kept for it": [
        (HEAVY, "+1024"),
        (MEDIUM, "~768"),
        (HEAVY, "-1024", MEDIUM),
        (HEAVY, "~1024", MEDIUM),
        (LIGHT, "+768", MEDIUM),
        (MEDIUM, "+768"),
    ],
    "who withdraws makes way": [
        (MEDIUM, "+768"),
        (HEAVY, "~1024"),
        (LIGHT, "+512"),
        (LIGHT, "~200"),
        (HEAVY, "withdraw", LIGHT),
        (LIGHT, "+200"),
    ],
    "who asks for less keeps its place": [
        (LIGHT, "+1536"),
        (HEAVY, "~1024"),
        (MEDIUM, "~300"),
        (HEAVY, "~400"),
        (LIGHT, "-400", HEAVY),
        (HEAVY, "+400"),
    ],
    "an executor that ends gives back all and leaves the line": [
        (HEAVY, "+1000"),
        (LIGHT, "~600"),
        (MEDIUM, "~1200"),
        (LIGHT, "close"),
        (HEAVY, "close", MEDIUM),
        (HEAVY, "close"),
        (HEAVY, "-1000"),
        (HEAVY, "~1"),
        (MEDIUM, "+1200"),
    ],
}


@pytest.mark.parametrize("case", CASES)
def test_who_gets_what(case: str) -> None:
    executors = Executors(LIGHT, MEDIUM, HEAVY, OTHER)
    for number, (name, what, *woken) in enumerate(CASES[case]):
        claimant, at = executors.by_name[name], f"step {number}: {name} {what}"
        match what[0], what[1:]:
            case "+", mb:
                assert claimant.take(float(mb)), at
            case "~", mb:
                assert not claimant.take(float(mb)), at
            case "-", mb:
                claimant.give_back(float(mb))
            case _:
                getattr(claimant, what)()
        assert executors.woken == woken, at


def test_after_all_that_was_taken_is_back_all_is_free() -> None:
    executors = Executors(LIGHT, total=512)
    light = executors.by_name[LIGHT]
    third = 512 / 3
    for _ in range(1000):
        assert light.take(third)
        light.give_back(third)
    assert executors.budget.free_mb == 512


def test_without_a_budget_everything_fits() -> None:
    budget = MemoryBudget()
    claimant = budget.claimant(lambda: pytest.fail("woken"))
    assert all(claimant.take(1e9) for _ in range(10))
    assert budget.fits_ever(1e12)
    assert budget.free_mb == math.inf
    claimant.give_back(1e9)
    claimant.close()


def test_what_never_fits_is_told_and_does_not_block_the_line() -> None:
    executors = Executors(LIGHT, HEAVY, total=512)
    assert [executors.budget.fits_ever(mb) for mb in (0, 512, 512.1)] == [True, True, False]
    with pytest.raises(ValueError, match="1024 MiB never fit into a budget of 512 MiB"):
        executors.by_name[HEAVY].take(1024)
    assert executors.by_name[LIGHT].take(512)


def test_it_may_be_taken_in_the_wake() -> None:
    budget = MemoryBudget(100)
    holder = budget.claimant(lambda: None)
    assert holder.take(100)
    got: list[str] = []

    def waiting(name: str, mb: int) -> Claimant:
        def wake() -> None:
            if claimant.take(mb):
                got.append(name)

        claimant = budget.claimant(wake)
        assert not claimant.take(mb)
        return claimant

    for name in "abc":
        waiting(name, 50)
    holder.give_back(100)
    assert sorted(got) == ["a", "b"]
    assert budget.free_mb == 0


def test_who_ends_in_the_wake_of_another_is_not_woken() -> None:
    budget = MemoryBudget(100)
    holder = budget.claimant(lambda: None)
    assert holder.take(100)
    first = budget.claimant(lambda: second.close())
    second = budget.claimant(lambda: pytest.fail("woken"))
    assert not first.take(10)
    assert not second.take(10)
    holder.give_back(100)


@pytest.mark.parametrize("seed", range(20))
def test_under_a_stream_of_small_ones_the_large_one_waits_no_longer_than_for_what_was_there(seed: int) -> None:
    """And the stream flows as long as there is room beside it."""
    print("seed", seed)  # noqa: T201
    rng = random.Random(seed)
    budget = MemoryBudget(TOTAL)
    heavy, streams = budget.claimant(lambda: None), [budget.claimant(lambda: None) for _ in range(2)]
    running: list[tuple[int, Claimant, int]] = []
    passed = 0

    def start(now: int) -> int:
        claimant, mb = rng.choice(streams), rng.randint(1, 256)
        if not claimant.take(mb):
            claimant.withdraw()
            return 0
        running.append((now + rng.randint(1, 30), claimant, mb))
        return 1

    def end(now: int) -> None:
        for job in [job for job in running if job[0] <= now]:
            running.remove(job)
            job[1].give_back(job[2])

    for now in range(200):
        end(now)
        start(now)
        start(now)
    assert not heavy.take(1024)
    there = max(end for end, _, _ in running)
    now = 200
    while not heavy.take(1024):
        now += 1
        assert now <= there, "it waits for what came after it"
        passed += start(now)
        end(now)
        assert 0 <= budget.free_mb <= TOTAL
    assert passed > 0


# -- the setting


def settings(tmp_path: Path, memory_mb: int) -> Settings:
    file = tmp_path / "actors.toml"
    file.write_text(f"[node]\nmemory_mb = {memory_mb}\n")
    return load(file, {}, default_ok=False)


def test_a_budget_in_which_no_tier_fits_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"\[node\] memory_mb: 511 is less than the 512 of \[tiers\.light\]"):
        settings(tmp_path, 511)
    with pytest.raises(ConfigError, match=r"\[node\] memory_mb: "):
        settings(tmp_path, -1)


@pytest.mark.asyncio
@pytest.mark.parametrize(
    ("memory_mb", "tiers", "refused"),
    [
        (0, None, None),
        (1024, None, None),
        (1023, None, "heavy"),
        (1023, ("light", "medium"), None),
        (600, ("light", "medium"), "medium"),
    ],
)
async def test_a_tier_that_is_served_fits_into_the_budget(
    tmp_path: Path, memory_mb: int, tiers: tuple[str, ...] | None, refused: str | None
) -> None:
    """Else its largest tasks would be taken from the queue and never started."""

    async def start() -> float:
        async with Program.start(settings(tmp_path, memory_mb), ("tier-executor",), tiers=tiers) as program:
            return program.context.memory.free_mb

    if refused is None:
        assert await start() == (memory_mb or math.inf)
    else:
        says = rf"\[node\] memory_mb = {memory_mb} is less than \[tiers\.{refused}\] memory_mb = .*--tier"
        with pytest.raises(ConfigError, match=says):
            await start()

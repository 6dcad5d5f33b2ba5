import pytest

from fogactors.errors import ConfigError, NoTierFits
from fogactors.tasks.tiers import Amount, Tier, Tiers

TIERS = Tiers((Tier("light", 0.5, 512, 4), Tier("medium", 0.75, 768, 2), Tier("heavy", 1.0, 1024, 2)))


@pytest.mark.parametrize(
    ("cpu", "memory_mb", "tier"),
    [
        (None, None, "light"),
        (0.5, 512, "light"),
        (0.5, 513, "medium"),
        (0.6, None, "medium"),
        (None, 1024, "heavy"),
        (1.0, 1, "heavy"),
    ],
)
def test_the_smallest_tier_that_holds_a_task_is_chosen(cpu, memory_mb, tier):
    assert TIERS.smallest_for(cpu, memory_mb).name == tier


def test_what_no_tier_holds_is_refused_with_the_size_of_the_largest():
    with pytest.raises(NoTierFits, match=r"2 cores and 0 MiB; the largest, heavy, has 1 cores and 1024 MiB"):
        TIERS.smallest_for(2, None)


def test_a_task_that_states_no_need_takes_its_tiers_share():
    assert TIERS.amount("light", None, None) == Amount(0.125, 128)
    assert TIERS.amount("heavy", None, 1024) == Amount(0.5, 1024)


def test_as_many_shares_as_slots_fill_a_tier_whatever_the_fractions():
    odd = Tiers((Tier("odd", 0.7, 1000, 7),))
    free = odd.lightest.size
    for _ in range(7):
        assert free.fits(odd.lightest.share)
        free -= odd.lightest.share
    assert not free.fits(odd.lightest.share)


@pytest.mark.parametrize(("cpu", "memory_mb"), [(0.6, None), (None, 513), (-0.1, None), (None, -1), (float("nan"), 1)])
def test_what_does_not_fit_or_takes_less_than_nothing_is_refused(cpu, memory_mb):
    with pytest.raises(NoTierFits):
        TIERS.amount("light", cpu, memory_mb)


def test_an_unknown_tier_is_answered_with_those_that_there_are():
    with pytest.raises(NoTierFits, match="no tier 'huge'; there are: light, medium, heavy"):
        TIERS.get("huge")


def test_a_tier_helps_the_smaller_ones_largest_first():
    assert [tier.name for tier in TIERS.smaller_than("heavy")] == ["medium", "light"]
    assert TIERS.smaller_than("light") == ()


def test_there_must_be_a_tier():
    with pytest.raises(ConfigError):
        Tiers(())

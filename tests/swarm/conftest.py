"""One testbed for the tests of a module: this machine can have one at a time."""

from collections.abc import Iterator

import pytest

from tests.services import ServiceUnavailable, skip_or_fail
from tests.swarm.testbed import Testbed
from tests.swarm.testbed import testbed as make_testbed


@pytest.fixture(scope="module")
def bed() -> Iterator[Testbed]:
    """Five hosts that are one Swarm, and an engine that builds."""
    try:
        made = make_testbed()
        bed = made.__enter__()
    except ServiceUnavailable as error:
        skip_or_fail(error)
    try:
        bed.hosts.form_swarm()
        yield bed
    finally:
        made.__exit__(None, None, None)

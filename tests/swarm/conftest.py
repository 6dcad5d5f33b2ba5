"""One testbed for the tests of a module: this machine can have one at a time."""

import time
from collections.abc import Iterator

import pytest

from tests.services import ServiceUnavailable, skip_or_fail
from tests.swarm.images import build
from tests.swarm.scenario import RABBITMQ, TLS
from tests.swarm.stack import Stack
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


@pytest.fixture(scope="module")
def stack(bed: Testbed) -> Stack:
    """Deployed on hosts that have the images, and whole: the cold start is measured here."""
    stack = Stack(bed, build(bed, RABBITMQ), tls=TLS)
    stack.prepare()
    stack.pull()
    began = time.monotonic()
    stack.deploy()
    stack.wait_whole(240)
    stack.cold_start_s = time.monotonic() - began
    stack.versions = stack.ask_versions()
    return stack

"""Async tests here run in virtual time on trio; those marked `every_loop` also on asyncio and uvloop, in real time.

Whatever the loop, a test that waits for what never comes fails after `LIMIT_S`, and one that shields itself from that
ends the run with the stacks of all threads.
"""

import faulthandler
import functools
import inspect

import anyio
import pytest

from fogactors.core import Actor, ActorSystem, ChildSpec, SupervisorSpec, WhichChildren
from fogactors.testing import EventRecorder, Script, run_virtual

LIMIT_S = 10.0


def on_asyncio(main, **options):
    async def bounded():
        with anyio.fail_after(LIMIT_S):
            await main()

    anyio.run(bounded, backend="asyncio", backend_options=options)


LOOPS = {"virtual": run_virtual, "asyncio": on_asyncio, "uvloop": functools.partial(on_asyncio, use_uvloop=True)}


def pytest_configure(config):
    config.addinivalue_line("markers", "every_loop: run on trio in virtual time, on asyncio and on uvloop")
    config.addinivalue_line("markers", "asyncio_loops: run on asyncio and on uvloop, in real time")


def pytest_generate_tests(metafunc):
    if not inspect.iscoroutinefunction(metafunc.function):
        return
    loops = ["virtual"]
    if metafunc.definition.get_closest_marker("every_loop"):
        loops = list(LOOPS)
    if metafunc.definition.get_closest_marker("asyncio_loops"):
        loops = ["asyncio", "uvloop"]
    metafunc.fixturenames.append("loop")
    metafunc.parametrize("loop", loops)


@pytest.hookimpl(tryfirst=True)
def pytest_pyfunc_call(pyfuncitem):
    if not inspect.iscoroutinefunction(pyfuncitem.obj):
        return None
    arguments = {name: pyfuncitem.funcargs[name] for name in inspect.signature(pyfuncitem.obj).parameters}
    faulthandler.dump_traceback_later(2 * LIMIT_S, exit=True)
    try:
        LOOPS[pyfuncitem.callspec.params["loop"]](functools.partial(pyfuncitem.obj, **arguments))
    finally:
        faulthandler.cancel_dump_traceback_later()
    return True


@pytest.fixture
def script():
    """What no test may leave behind: two incarnations at once, or one that still runs."""
    script = Script()
    yield script
    assert script.overlaps == []
    assert script.alive == {}


class Tree(ActorSystem):
    """A system with a recorder and one supervisor, `root`."""

    def __init__(self):
        super().__init__()
        self.recorder = EventRecorder(self)
        self.root = None

    async def grow(self, *children, **policy):
        self.root = await self.start(SupervisorSpec(id="root", children=children, **policy))
        return self.root

    def __getitem__(self, id):  # noqa: A002
        return self.ref(f"root/{id}")

    async def states(self):
        return {info.id: info.state for info in await self.root.ask(WhichChildren())}


@pytest.fixture
def tree():
    return Tree()


class Gate:
    """An actor that reads nothing until it is opened, and what it read then."""

    def __init__(self):
        self.opened = None
        self.read = []

    async def grow(self, tree, **spec):
        gate = self
        self.opened = anyio.Event()

        class Gated(Actor):
            async def run(self):
                await gate.opened.wait()
                await super().run()

            async def handle(self, message):
                gate.read.append(message)
                return message

        await tree.grow(ChildSpec(id="gate", factory=Gated, **spec))
        return tree["gate"]

    async def open(self, count):
        """Returns what it has read when that is `count` messages."""
        self.opened.set()
        while len(self.read) < count:  # noqa: ASYNC110 - the actor under test must not know of the test
            await anyio.sleep(0.001)
        return self.read


@pytest.fixture
def gate():
    return Gate()

"""What the terminal shows, as text: rendered into a console that records."""

import io
import re
from datetime import UTC, datetime
from types import SimpleNamespace

import anyio
import pytest
from rich.console import Console

from fogactors.core import Actor, ActorSystem, ChildSpec, Intensity, Node, SupervisorSpec
from fogactors.observe import console as console_module
from fogactors.observe.board import Board
from fogactors.observe.console import eta, live, live_view, plain_line, tree_live, tree_spec
from fogactors.observe.snapshot import Progress, Snapshot, TierRow, look
from fogactors.tasks.events import TaskEnded, TaskStarted, WorkerCrashed
from fogactors.tasks.executor import GetLoad, Load
from fogactors.tasks.tiers import Amount

AT = datetime(2026, 1, 1, 12, tzinfo=UTC)
FACTS = {"worker": "n/light", "task_id": "s-1", "name": "t", "lane_tier": "light", "priority": "high", "attempt": 1}
FACTS |= {"at": AT}
LOAD = Load("light", Amount(0.5, 512), Amount(0.125, 128), 3, 2, True)


def depth(ready=0, unsettled=0, consumers=1, stalled=0):
    return SimpleNamespace(ready=ready, unsettled=unsettled, consumers=consumers, stalled=stalled)


def snapshot(**changes) -> Snapshot:
    nodes = (Node("root", "root", "supervisor", "running", 0, 0, (Node("a", "root/a", "worker", "restarting", 7, 5),)),)
    parts = {"tiers": (TierRow("light", LOAD),), "depths": {"q.busy": depth(12, 3), "q.idle": depth()}, "nodes": nodes}
    return Snapshot(AT, **{**parts, **changes})


def text_of(renderable, width=100) -> str:
    console = Console(record=True, width=width, file=io.StringIO())
    console.print(renderable)
    return console.export_text()


def row_of(text: str, first: str) -> str:
    return next(" ".join(line.split()) for line in text.splitlines() if line.split()[:1] == [first])


def test_tree_spec():
    child = ChildSpec(id="a", factory=Actor, restart="transient", start_s=3, shutdown_s=4, mailbox=9, overflow="reject")
    root = SupervisorSpec(
        id="root", children=(child,), strategy="rest_for_one", exceeded="pause", intensity=Intensity(2, 7.0)
    )
    text = text_of(tree_spec((root,)), width=80)
    assert row_of(text, "root") == "root permanent rest_for_one, 2 in 7 s, pause 6 s 7 s"
    assert row_of(text, "a") == "a transient mailbox 9, reject 3 s 4 s"
    assert re.search(r"^  a", text, re.MULTILINE)


def test_tree_live():
    text = text_of(tree_live(snapshot().nodes))
    assert row_of(text, "root") == "root running 0 0"
    assert row_of(text, "a") == "a restarting 7 5"


def test_view():
    board = Board(now=lambda: AT)
    board.count(TaskStarted(**FACTS, wait_s=0))
    board.count(TaskEnded(**FACTS, state="failed", run_s=0))
    board.count(WorkerCrashed(**FACTS, error="was ended by SIGKILL"))
    text = text_of(live_view(snapshot(), board))
    assert row_of(text, "light") == "light 0.38 of 0.5 384 of 512 MiB 3 2 yes"
    assert row_of(text, "q.busy") == "q.busy 12 3 1"
    assert "q.idle" not in text
    assert "1 started, 1 tasks/s" in text
    assert "ended: 1 failed" in text
    assert "1 worker crashes" in text
    assert "restarting" in text
    assert "t: was ended by SIGKILL" in text


@pytest.mark.parametrize("width", [80, 120])
def test_view_fits(width):
    board = Board()
    board.count(WorkerCrashed(**FACTS, error="a long reason " * 20))
    text = text_of(live_view(snapshot(), board, Progress(1, 3, 0)), width)
    assert re.search(r"^\d\d:\d\d:\d\d  t: a long reason", text, re.MULTILINE)
    assert (text.index("trouble") < text.index("actor")) == (width == 80), "a low terminal cuts the tree first"
    lines = text.splitlines()
    assert max(map(len, lines)) <= width
    beside = any("light" in line and "root" in line for line in lines)
    assert beside == (width == 120)


def test_view_of_a_job():
    board = Board()
    for _ in range(10):
        board.count(TaskEnded(**FACTS, state="succeeded", run_s=0))
    text = text_of(live_view(snapshot(), board, Progress(2999, 3000, 4)))
    assert "2,999 of 3,000 (99%)  4 failed  ETA 0:00" in text


def test_an_executor_that_does_not_answer():
    board, down = Board(), snapshot(tiers=(TierRow("light", None, "root/executor is restarting"), TierRow("big", LOAD)))
    text = text_of(live_view(down, board))
    assert "root/executor is restarting" in text
    assert "0.38 of 0.5" in row_of(text, "big")
    assert plain_line(down, board) == "0 ended, 0 failed, 3 running, 0 tasks/s, no answer: light"


def test_empty_queues_and_stalled_dead_letters():
    assert "all queues are empty" in text_of(live_view(snapshot(depths={"q": depth()}), Board()))
    assert "q (2 stalled)" in text_of(live_view(snapshot(depths={"q": depth(stalled=2)}), Board()))


@pytest.mark.parametrize(
    ("done", "rate", "expected"),
    [(0, 0.0, "-:--"), (10, 5.0, "0:00"), (0, 1.0, "0:10"), (4, 0.1, "1:00"), (0, 0.001, "2:46:40")],
)
def test_eta(done, rate, expected):
    assert eta(Progress(done, 10, 0), rate) == expected


class Executor(Actor):
    """Answers, or takes too long."""

    def __init__(self, slow: bool) -> None:
        self._slow = slow

    async def handle(self, message):
        assert isinstance(message, GetLoad)
        if self._slow:
            await anyio.sleep(5)
        return LOAD


def program_of(system: ActorSystem):
    async def depths():
        return {"q": depth(1)}

    return SimpleNamespace(system=system, depths=depths)


def tier_of(name: str, *, slow: bool) -> SupervisorSpec:
    executor = ChildSpec(id="executor", factory=lambda: Executor(slow), shutdown_s=0)
    return SupervisorSpec(id=f"tier-executor-{name}", children=(executor,))


@pytest.mark.asyncio
async def test_look_bears_a_slow_executor_and_one_that_is_down(monkeypatch):
    monkeypatch.setattr("fogactors.observe.snapshot.LOAD_TIMEOUT_S", 0.05)
    down = SupervisorSpec(id="tier-executor-down")
    root = SupervisorSpec(id="root", children=(tier_of("good", slow=False), tier_of("slow", slow=True), down))
    async with ActorSystem() as system:
        await system.start(root)
        good, slow, gone = (await look(program_of(system))).tiers
    assert (good.tier, good.load) == ("good", LOAD)
    assert slow.load is None
    assert "did not answer" in slow.why
    assert gone.load is None
    assert "root/tier-executor-down/executor is not started" in gone.why


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


async def shown(file: io.StringIO, until: str, **options) -> str:
    """What `live` writes until it has written this."""
    console = Console(file=file, force_terminal=True, width=100, height=40, _environ={"TERM": "xterm"})
    async with ActorSystem() as system:
        await system.start(SupervisorSpec(id="root", children=(tier_of("light", slow=False),)))
        with anyio.fail_after(5):
            async with anyio.create_task_group() as group:

                async def show() -> None:
                    await live(program_of(system), Board(), console=console, refresh_s=0.01, **options)

                group.start_soon(show)
                while until not in file.getvalue():  # noqa: ASYNC110 - a file tells nobody that it was written
                    await anyio.sleep(0.005)
                group.cancel_scope.cancel()
    return file.getvalue()


@pytest.mark.asyncio
async def test_live_on_a_terminal_draws_again_and_again():
    text = await shown(Terminal(), "\x1b[1A")  # the cursor goes up to draw over the last frame
    assert "tier-executor-light" in text
    assert text.count("\x1b[?25h") == 1, "the cursor is shown again"


@pytest.mark.asyncio
@pytest.mark.parametrize(("file", "options"), [(io.StringIO, {}), (Terminal, {"plain": True})])
async def test_live_elsewhere_is_a_plain_line(monkeypatch, file, options):
    monkeypatch.setattr(console_module, "PLAIN_S", 0.01)
    text = await shown(file(), "ETA", progress=lambda: Progress(1, 2, 0), **options)
    assert text.splitlines()[0] == "1 of 2 done, 0 failed, 3 running, 0 tasks/s, ETA -:--"

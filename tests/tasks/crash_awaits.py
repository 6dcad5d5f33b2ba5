"""Every await between "delivered" and "settled", read from the source, and what it is.

A crash point is a call of the broker or the store: these are wrapped, so a process can be made to die there. Other
awaits are calls of functions that are read here as well, or stand in a list with the reason why nothing happens there.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import fogactors
from fogactors.bus.base import Bus, Consumer, Delivery
from fogactors.coord.base import Coord
from fogactors.coord.letters import LetterIndex

HOME = Path(fogactors.__file__).parent

FOLLOWED = (
    "tasks/executor.py",
    "tasks/runner.py",
    "tasks/settle.py",
    "tasks/store.py",
    "tasks/feed.py",
    "tasks/deadletter.py",
    "tasks/intake.py",
    "tasks/cancellations.py",
    "tasks/attempt.py",
    "roles/dlq_reaper.py",
    "roles/dlq_indexer.py",
)

SUBMITTER = "a submitter's: before a task is delivered, or after its end"
WORKER = "a worker process's: it settles nothing, and its death is an outcome of the attempt"
OTHER_ROLE = "holds no delivery of a task or of a dead letter"
ELSEWHERE = {
    "tasks/client.py": SUBMITTER,
    "tasks/handle.py": SUBMITTER,
    "tasks/once.py": SUBMITTER,
    "tasks/orders.py": SUBMITTER,
    "tasks/tracker.py": SUBMITTER,
    "tasks/isolation.py": WORKER,
    "tasks/child.py": WORKER,
    "tasks/memory.py": WORKER,
    "tasks/frames.py": WORKER,
    "tasks/jobs.py": "runs the functions that are read here",
    "tasks/watchdog.py": "asks for the depth of a queue; what it then does is in intake.py",
    "roles/tier_executor.py": "passes orders on to what is read here",
    "tasks/control.py": OTHER_ROLE,
    "roles/health.py": OTHER_ROLE,
    "roles/heartbeat.py": OTHER_ROLE,
    "roles/loads.py": "only asks executors what they have in hand",
    "roles/metrics_sink.py": OTHER_ROLE,
    "roles/node_sentinel.py": OTHER_ROLE,
    "roles/reporter.py": "on a connection of its own; it sends reports and settles nothing",
}

COLLABORATORS = {
    "bus": Bus,
    "coord": Coord,
    "letters": LetterIndex,
    "delivery": Delivery,
    "consumer": Consumer,
}
NAMES = {"each": "delivery", "lost": "consumer"}
"""Other names that they go by."""

MEMBERS = frozenset({"self", "settler", "store", "intake", "runner", "attempt", "cancelled"})
"""What has the functions that are read here."""

LOOP = "waits for messages to itself"
END = "bounded, at the end of the process; changes nothing outside it"
ATTEMPT = "the attempt: the tasks of the schedules have crash points of their own"
REVIEWED = {
    ("tasks/executor.py", "anyio.create_task_group()"): LOOP,
    ("tasks/executor.py", "super().run()"): LOOP,
    ("tasks/executor.py", "self._pool.close()"): END,
    ("tasks/executor.py", "self._bus.wait_lost()"): "a wait without effect",
    ("tasks/executor.py", "self._jobs.wait_idle(self._config.drain_s)"): "waits for what is read here",
    ("tasks/executor.py", "self._jobs.wait_idle(KILL_S)"): "waits for what is read here",
    ("tasks/settle.py", "anyio.sleep(wait_s)"): "a pause",
    ("tasks/settle.py", "anyio.sleep(LAST_LOOK_S)"): "a pause",
    ("tasks/settle.py", "anyio.create_task_group()"): "waits for what is read here",
    ("tasks/intake.py", "anyio.sleep(delay_s)"): "a pause",
    ("tasks/intake.py", "self._bus.declare(self._topology)"): "idempotent, before anything is delivered",
    ("tasks/executor.py", "end()"): "one of three: a wait without effect, the mailbox, and what is read here",
    ("tasks/cancellations.py", "anyio.sleep(LATER_S)"): "a pause",
    ("tasks/cancellations.py", "self._stale.wait()"): "a wait without effect",
    ("tasks/cancellations.py", "self._loaded.wait()"): "a wait without effect",
    ("tasks/attempt.py", "fn(*args, **kwargs)"): ATTEMPT,
    ("tasks/attempt.py", "anyio.lowlevel.cancel_shielded_checkpoint()"): ATTEMPT,
    (
        "tasks/attempt.py",
        "anyio.to_thread.run_sync(thread.run, abandon_on_cancel=True, limiter=self._threads)",
    ): ATTEMPT,
    ("tasks/attempt.py", "self._pool.run"): ATTEMPT,
    ("roles/dlq_reaper.py", "super().run()"): LOOP,
    ("roles/dlq_reaper.py", "anyio.create_task_group()"): "waits for what is read here",
    ("roles/dlq_indexer.py", "super().run()"): LOOP,
    ("roles/dlq_indexer.py", "letters.scan()"): "reads only",
}
ARGUMENTS = {
    ("roles/dlq_indexer.py", "call"): True,
    ("roles/dlq_reaper.py", "publish()"): False,
    ("roles/dlq_reaper.py", "question()"): True,
    ("tasks/settle.py", "step()"): False,
    ("tasks/store.py", "question()"): True,
}
"""Calls that were handed in as an argument: whether they are calls of the store or the broker themselves."""


WALKED = ("tasks/settle.py", "roles/dlq_reaper.py")
"""Where each call of a function that is read here must be died in too: several share the line that calls the broker."""
SPARED = {
    (
        "tasks/settle.py",
        "self.duplicate(held)",
    ): "an ack and nothing else; takes two copies, so random schedules come here",
    ("roles/dlq_reaper.py", "self._consume(queue)"): "a queue that is lost and found; as at the start",
    ("roles/dlq_reaper.py", "self._bring_all_home()"): "all that it does is done in tasks of its own, and read here",
}


@dataclass(frozen=True, slots=True)
class Await:
    """`point`: where a process can be made to die. `known`: what it is, if anything is known of it."""

    file: str
    line: int
    end: int
    text: str
    point: bool
    known: bool

    @property
    def must_die(self) -> bool:
        """Whether processes must die in it: before its first call of the broker or the store, and after its last."""
        if self.point:
            return True
        key = self.file, self.text
        return self.file in WALKED and key not in SPARED and key not in REVIEWED and key not in ARGUMENTS

    def __str__(self) -> str:
        return f"fogactors/{self.file}:{self.line}: await {self.text}"

    def covers(self, file: str, line: int) -> bool:
        return file == self.file and self.line <= line <= self.end


def awaits() -> list[Await]:
    trees = {file: ast.parse((HOME / file).read_text()) for file in FOLLOWED}
    own = {node.name for tree in trees.values() for node in ast.walk(tree) if isinstance(node, ast.AsyncFunctionDef)}
    return [
        Await(file, node.lineno, node.end_lineno or node.lineno, text, *_judge(file, node, text, own))
        for file, tree in trees.items()
        for node, text in _awaited(tree)
    ]


def unread() -> list[str]:
    """Files of those folders with an await that are neither read nor known to be elsewhere."""
    files = [*(HOME / "tasks").glob("*.py"), *(HOME / "roles").glob("*.py")]
    return [
        str(file.relative_to(HOME))
        for file in files
        if next(_awaited(ast.parse(file.read_text())), None) is not None
        and str(file.relative_to(HOME)) not in {*FOLLOWED, *ELSEWHERE}
    ]


def _awaited(tree: ast.AST) -> Iterator[tuple[ast.expr, str]]:
    """What is awaited, also by `async with`, `async for` and in comprehensions."""
    for node in ast.walk(tree):
        match node:
            case ast.Await(value=value):
                yield value, ast.unparse(value)
            case ast.AsyncWith(items=items):
                yield from ((item.context_expr, ast.unparse(item.context_expr)) for item in items)
            case ast.AsyncFor(iter=value):
                yield value, ast.unparse(value)
            case ast.comprehension(is_async=1, iter=value):
                yield value, ast.unparse(value)
            case _:
                pass


def _judge(file: str, node: ast.expr, text: str, own: set[str]) -> tuple[bool, bool]:
    """Whether it is a crash point, and whether it is known."""
    if (file, text) in ARGUMENTS:
        return ARGUMENTS[file, text], True
    if (file, text) in REVIEWED or (file, text.partition("(")[0]) in REVIEWED:
        return False, True
    if not isinstance(node, ast.Call):
        return False, False
    called = [node.func.body, node.func.orelse] if isinstance(node.func, ast.IfExp) else [node.func]
    kinds = [_kind(each, own) for each in called]
    return "point" in kinds, None not in kinds


def _kind(called: ast.expr, own: set[str]) -> str | None:
    match called:
        case ast.Name(id=name):
            return "own" if name in own else None
        case ast.Attribute(value=of, attr=method):
            receiver = (of.attr if isinstance(of, ast.Attribute) else ast.unparse(of)).lstrip("_")
            collaborator = COLLABORATORS.get(NAMES.get(receiver, receiver))
            if collaborator is not None and hasattr(collaborator, method):
                return "point"
            return "own" if receiver in MEMBERS and method in own else None
        case _:
            return None

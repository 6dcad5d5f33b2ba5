"""Random trees, random accidents; what must hold whatever happens, read from the journal and the events."""

import random
from dataclasses import dataclass, field

import anyio
from hypothesis import given, note, settings
from hypothesis import strategies as st

from fogactors.core import (
    ActorExited,
    ActorStarted,
    ActorSystem,
    Backoff,
    ChildStuck,
    DeleteChild,
    Intensity,
    RemoveChild,
    RestartChild,
    RestartFailed,
    StartChild,
    StopChild,
    SupervisorSpec,
)
from fogactors.errors import ActorError, RestartIntensityExceeded
from fogactors.testing import Crash, EventRecorder, Hang, IgnoreStop, Return, Script, run_virtual

RESTARTS = st.sampled_from(["permanent", "transient", "temporary"])
COMMANDS = st.sampled_from(
    [
        "crash",
        "return",
        "stop",
        "kill",
        "hang",
        "ignore stop",
        "fail starts",
        "slow start",
        "add",
        "remove",
        "remove at once",
        "restart",
        "delete",
    ]
)


@dataclass
class Shape:
    """What `build` makes a spec of; leaves have no policy."""

    children: list = field(default_factory=list)
    policy: dict | None = None
    worker: dict | None = None


leaves = st.builds(
    Shape, worker=st.fixed_dictionaries({"restart": RESTARTS, "stop_takes_s": st.sampled_from([0, 0, 0.3, 2.0])})
)


def branches(children):
    policy = st.fixed_dictionaries(
        {
            "strategy": st.sampled_from(["one_for_one", "one_for_all", "rest_for_one"]),
            "exceeded": st.sampled_from(["escalate", "pause"]),
            "intensity": st.builds(Intensity, st.integers(0, 3), st.sampled_from([0.5, 5.0])),
            "restart": RESTARTS,
            "comes_back": st.sampled_from(["whole", "at_once"]),
        }
    )
    return st.builds(Shape, children=st.lists(children, min_size=1, max_size=3), policy=policy)


trees = branches(leaves | branches(leaves | branches(leaves)))


def build(shape, script, id_="root"):
    if shape.policy is None:
        return script.child(id_, shutdown_s=1, **shape.worker)
    children = tuple(build(child, script, f"{id_}.{n}") for n, child in enumerate(shape.children))
    return SupervisorSpec(id=id_, children=children, backoff=Backoff(0.3, 2, 2, 0.5), **shape.policy)


def in_start_order(spec, path=""):
    """Paths of workers."""
    path = f"{path}/{spec.id}" if path else spec.id
    if not isinstance(spec, SupervisorSpec):
        return [path]
    return [each for child in spec.children for each in in_start_order(child, path)]


def supervisors(spec, path=""):
    path = f"{path}/{spec.id}" if path else spec.id
    if isinstance(spec, SupervisorSpec):
        yield path, spec
        for child in spec.children:
            yield from supervisors(child, path)


class World:
    def __init__(self, shape, seed):
        self.script = Script()
        self.spec = build(shape, self.script)
        self.workers = in_start_order(self.spec)
        self.branches = [path for path, _ in supervisors(self.spec)]
        self.system = ActorSystem(rng=random.Random(seed))
        self.recorder = EventRecorder(self.system)
        self.added = []
        self.by_hand = set()
        self.slow = False

    async def run(self, commands, how):
        with anyio.CancelScope() as scope:
            try:
                async with self.system:
                    await self.system.start(self.spec)
                    assert [life.path for life in self.script] == self.workers
                    for command, where, pause_s in commands:
                        await self.do(command, where)
                        await anyio.sleep(pause_s)
                        self.check_running()
                    await anyio.sleep(0.001)  # let what was told arrive
                    self.before_end = len(self.script.journal)
                    self.alive_at_end = self.in_tree_order()
                    self.quiet = all(
                        node.state == "stopped" or (node.state == "running" and self.system.ref(node.path).is_alive)
                        for node in self.walk(self.system.tree())
                    )
                    if how == "cancel":
                        scope.cancel()
                        await anyio.sleep(1)
            except RestartIntensityExceeded:
                self.alive_at_end = None  # the root gave up

    async def do(self, command, where):
        refs = [self.system.ref(path) for path in [*self.workers, *self.added]]
        ref = refs[where % len(refs)]
        parent = self.system.ref(ref.path.rpartition("/")[0])
        id_ = ref.path.rpartition("/")[2]
        orders = {"crash": Crash(), "return": Return(), "hang": Hang(), "ignore stop": IgnoreStop()}
        try:
            match command:
                case "stop":
                    [*refs, *map(self.system.ref, self.branches[1:])][
                        where % (len(refs) + len(self.branches) - 1)
                    ].stop()
                case "kill":
                    [*refs, *map(self.system.ref, self.branches[1:])][
                        where % (len(refs) + len(self.branches) - 1)
                    ].kill()
                case "fail starts":
                    self.script[id_].fail_starts = 1 + where % 3
                    ref.tell_nowait(Crash())
                case "slow start":
                    self.script[id_].start_takes_s = where % 3
                    self.slow = True
                    ref.tell_nowait(Crash())
                case "add":
                    at = self.branches[where % len(self.branches)]
                    new = f"added{len(self.added)}"
                    self.added.append(f"{at}/{new}")
                    await self.system.ref(at).ask(StartChild(self.script.child(new, shutdown_s=1)), timeout=20)
                case "remove":
                    await parent.ask(StopChild(id_), timeout=20)
                case "remove at once":
                    with anyio.move_on_after(0.1):  # it goes on, and the play too
                        await parent.ask(RemoveChild(id_), timeout=20)
                case "restart":
                    await parent.ask(RestartChild(id_), timeout=20)
                    self.by_hand.add((ref.path, self.system.incarnations[ref.path]))
                case "delete":
                    await parent.ask(DeleteChild(id_), timeout=20)
                case _:
                    ref.tell_nowait(orders[command])
        except ActorError:
            pass  # it is down, or the request is wrong just now: that is part of the play

    def in_tree_order(self):
        """Paths of the workers that are up, in the order in which the live tree holds them."""

        def paths(nodes):
            for each in nodes:
                yield from paths(each.children) if each.kind == "supervisor" else [each.path]

        return [path for path in paths(self.system.tree()) if self.system.ref(path).is_alive]

    # -- what must hold

    def check_running(self):
        """What runs stands in the order of the specification, and what was added behind it."""
        for node in self.walk(self.system.tree()):
            spec = dict(supervisors(self.spec)).get(node.path)
            if spec is not None:
                mine = [child.id for child in node.children if not child.id.startswith("added")]
                specified = [child.id for child in spec.children]
                assert mine == [each for each in specified if each in mine]

    def walk(self, nodes):
        for node in nodes:
            yield node
            yield from self.walk(node.children)

    def check(self):
        assert self.script.overlaps == []
        assert self.script.alive == {}, "something runs after the system has closed"
        assert self.recorder.of(ChildStuck) == []
        self.check_intensity()
        self.check_stop_order()

    def check_intensity(self):
        """Restarts and tries of them in any window, of all that escalate and restart one by one (elsewhere one decision
        restarts several, and what comes back behind its supervisor is none). An event is as late as its start was slow,
        so it tells the time of the decision only where no start was."""
        if self.slow:
            return
        for path, spec in supervisors(self.spec):
            if (spec.exceeded, spec.strategy, spec.comes_back) != ("escalate", "one_for_one", "whole"):
                continue
            done, is_up = [], False
            for event in self.recorder.events:
                if event.path == path and isinstance(event, (ActorStarted, ActorExited)):
                    done, is_up = [], isinstance(event, ActorStarted)
                elif is_up and self.is_restart(event) and event.path.rpartition("/")[0] == path:
                    done.append(event.at)
                    recent = [at for at in done if event.at - at <= spec.intensity.period_s]
                    assert len(recent) <= spec.intensity.max_restarts

    def is_restart(self, event):
        if not isinstance(event, (ActorStarted, RestartFailed)):
            return False
        return event.incarnation > 1 and (event.path, event.incarnation) not in self.by_hand

    def check_stop_order(self):
        """Of what was up at the end, if all was quiet then. Who is restarted while the others stop stands apart."""
        if self.alive_at_end is None or not self.quiet:
            return  # a restart or an escalation was under way, and stops some before their turn
        since = self.script.journal[self.before_end :]
        restarted = {life.path for life in since if life.what != "stopped"}
        expected = [path for path in reversed(self.alive_at_end) if path not in restarted]
        assert [life.path for life in since if life.what == "stopped" and life.path in expected] == expected


@settings(deadline=None, max_examples=150, print_blob=True)
@given(
    trees,
    st.lists(st.tuples(COMMANDS, st.integers(0, 50), st.sampled_from([0, 0.01, 0.4, 3, 20])), max_size=25),
    st.sampled_from(["leave", "cancel"]),
    st.integers(0, 2**16),
)
def test_whatever_happens(shape, commands, how, seed):
    world = World(shape, seed)
    note(f"seed {seed}, tree {world.spec}")
    run_virtual(world.run, commands, how)
    note("\n".join(map(str, world.recorder.events)))
    world.check()

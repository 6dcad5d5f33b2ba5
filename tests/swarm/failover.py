"""failover.json, one row for each scenario that ran, and docs/failover.md, made from it.

Rows go where FOG_FAILOVER says (a path; `make failover` sets it), and nowhere without it.
"""

import json
import os
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs/failover.md"
_HEAD = """# What a failure costs, measured

A real Swarm of five hosts on one machine of two cores, the stack of `swarm/stack.yml` as it is, tasks for every task
queue all the time. Made by `tests/swarm/test_scenarios.py` from `failover.json`, where the seed and all figures are.

- In brackets what a figure must be; **bold** where it is not.
- *whole*: from the fault to three members, all replicas and on every task queue a consumer of the executor whose tier
  it is of; with a link that was down, also to the end of what Swarm replaces there. (The rows of TLS are older; there
  any consumer was enough.)
- *longest silence*: the longest time in which one of the nine task queues confirmed nothing.
- *lost*: tasks whose publish was confirmed and that are neither in the results nor in the dead letters when the check
  ends: when all are accounted for, or no more were in 180 s. Beside it, **bold**, those that ended otherwise than by
  success. A row with any of either has not passed.
- *ran again*: tasks that ran more than once, and all runs together. Each run leaves a line in the output of its
  executor, which the engine of its host keeps; a scenario fails when a confirmed task has left none. Empty in rows of
  runs that were counted in another way, which saw a part of them.
- *refused*: publishes that raised. The load repeats them, with the same id, where the measured column counts them.

These two cores run about 200 tasks a second. At 500 all are published and confirmed, and what waits is worked off when
the load has ended: the waits in these rows are those of a backlog. So what is measured by how long a task waits, an
update, is measured at 100.

When one node is killed the others see its connections end within half a second, and each queue whose leader it was has
another after about one. Now and then nothing confirms for longer: two of twelve kills were silent for 7.5 s, which fits
Erlang's patience with an address that is gone (`net_setuptime`, 7 s). The image has 3 s since, and the longest of 24
was 4.5 s.

One `docker stack deploy` that changes all services is survived, not unnoticed: no task ran for 31 s. Docker's engine
takes a task's name away before it tells it to stop (its source says so); it fits that who connects anew finds none of
the three while they wait for their turn. `make update` is for that.

The loss of a host was run 18 times, twelve times at 100 tasks/s and six at 500; the last three, at 100, with what the
second and the third of these led to:

- Coordination was back after 4.4 to 11.2 s at 100 and 7.7 to 16.5 s at 500, and five times after 36 to 44 s. In four
  of these, one of them among the last three, the engine of the host logged "Bulk sync to node ... timed out" after 30 s
  and started nothing before that (moby/moby 47396, 51701; the engine here is 20.10.24). So the 10 s are kept only where
  Docker is ready by then. In the fifth the broker of another host was just being replaced, so a majority was away and
  nothing was confirmed for 40 s: two faults at once, by a mistake of the test.
- In two nothing was confirmed for 14 s. The publisher had connected to another broker two seconds after the loss, in
  one of them seen to be while the queues elected leaders, and its connection ended after 11 s by its
  `TCP_USER_TIMEOUT`: the broker read nothing more from it. Now a connection on which nothing is confirmed for 5 s after
  a failover is given up for another. In the last three nothing was confirmed for at most 2.4 s, so it was not needed.
- In one **three tasks were given up as `worker_lost` that had never run**: RabbitMQ counts a delivery that comes back
  with a lost connection as it counts one whose worker died, and its fourth was the last. Now the executors count, and
  only workers that died; in the last three no task came so far as to be run alone.

The hosts are as [swarm.md](swarm.md) has them, without the routing mesh and with `net.ipv4.tcp_retries2 = 5`. With the
mesh, coordination was back 46 s after the lost host, also behind a "Bulk sync". Before two things were changed it was
back after 36.9 s and 41.5 s. Linux' own `tcp_retries2`: the managers' old connections to the host were silent, it
heard of no leader, and the swarm was without one for 14 s. And lookups: while Redis is away its name is gone, and each
took 10 s here, where no name server answers, until the images had `RES_OPTIONS`. Which of them cost how much was not
measured apart.

What the test itself takes of two cores may be part of these figures. Coordination after 10.8 and 11.2 s, at 500 after
16.1 and 16.5 s, was measured with three `docker exec` for each look; with one it was 4.4 to 5.4 s, at 500 7.7 to 8.8
s. But the former were late in long runs: at 500 Redis read 200,000 results for 8.4 s before it answered. And older
runs, with more looks, had 5.8 to 8.6 s at 100. The killed master's node was whole after 47 s at 500 with a look four
times a second, and after 26 s with one every two; one run each.

"""
MASTER = "rabbitmq:cluster:master"
FIRST_CONFIRM = "first confirm again on every task queue, s"
_COLUMNS = (
    "scenario",
    "RabbitMQ",
    "measured",
    "longest silence, s",
    "tasks/s",
    "confirmed",
    "lost",
    "ran again",
    "refused",
)


def record(
    name: str,
    version: str,
    seed: int,
    rate: float,
    figures: Mapping[str, Any],
    report: Mapping[str, Any] | None = None,
    quiet: Mapping[str, float] | None = None,
    versions: Mapping[str, str] | None = None,
    must: Mapping[str, float] | None = None,
) -> None:
    """Add a row, in the place of an earlier one of the same scenario, version and rate. `version`: of RabbitMQ, as it
    was asked for; `versions`: of the servers that ran, as they say; `rate`: tasks per second, 0 where it has none;
    `must`: which of the figures has to be less than what."""
    row = {"scenario": name, "rabbitmq": version, "seed": seed, "rate": rate, "figures": dict(figures)}
    if must:
        row["must"] = dict(must)
    if versions is not None:
        row["versions"] = dict(versions)
    if report is not None:
        row["load"] = {**report, "lost": len(report["lost"])}
    if quiet is not None:
        row["silence_s"] = {lane: round(seconds, 2) for lane, seconds in quiet.items()}
    sys.stderr.write(f"{json.dumps(row)}\n")
    target = os.environ.get("FOG_FAILOVER")
    if target:
        path = Path(target)
        rows = json.loads(path.read_text(encoding="utf-8")) if path.exists() else []
        rows = {(each["scenario"], each["rabbitmq"], each["rate"]): each for each in rows}
        rows[name, version, rate] = row
        path.write_text(json.dumps(list(rows.values()), indent=1) + "\n", encoding="utf-8")


def page(rows: list[dict[str, Any]]) -> str:
    """docs/failover.md for these rows."""
    lines = [f"| {' | '.join(_COLUMNS)} |", f"|{'---|' * len(_COLUMNS)}"]
    for row in rows:
        load, figures = row.get("load"), row["figures"]
        must = row.get("must", {})
        measured = ", ".join(
            f"{what}: {_beside(value, must.get(what))}" for what, value in figures.items() if what != FIRST_CONFIRM
        )
        silence = ""
        if row.get("silence_s"):
            silence = _beside(f"{max(row['silence_s'].values()):.2f}", must.get(FIRST_CONFIRM))
        counts = [""] * 5
        if load is not None:
            again = f"{load['duplicates']} of {load['runs']}" if "unseen" in load else ""
            counts = [f"{row['rate']:g}", str(load["confirmed"]), _lost(load), again, _refused(load)]
        lines.append(f"| {' | '.join((row['scenario'], row['rabbitmq'], measured, silence, *counts))} |")
    ran = sorted({tuple(row["versions"].items()) for row in rows if "versions" in row})
    said = "; ".join(", ".join(f"{name} {version}" for name, version in each) for each in ran)
    return _HEAD + "\n".join([*lines, *(["", f"What ran: {said}."] if ran else [])]) + "\n"


def missed(figures: Mapping[str, Any], must: Mapping[str, float]) -> dict[str, Any]:
    """Those of the figures that are not less than they must be, or not there."""
    return {what: figures.get(what) for what, limit in must.items() if not figures.get(what, limit) < limit}


def _beside(value: object, limit: float | None) -> str:
    """The figure and what it must be."""
    if limit is None:
        return str(value)
    return f"{value} (<{limit:g})" if float(str(value)) < limit else f"**{value} (<{limit:g})**"


def _lost(load: Mapping[str, Any]) -> str:
    """And what ended otherwise than it should: no task of the load fails by itself."""
    ended = (f"**{count} {state}**" for state, count in load["states"].items() if state != "succeeded")
    return ", ".join((str(load["lost"]), *ended))


def _refused(load: Mapping[str, Any]) -> str:
    return ", ".join(f"{count} {error}" for error, count in sorted(load["refused"].items())) or "0"


if __name__ == "__main__":
    source = Path(sys.argv[1])
    PAGE.write_text(page(json.loads(source.read_text(encoding="utf-8"))), encoding="utf-8")

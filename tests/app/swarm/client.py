"""A docker client that answers from a file and writes down how it was called: the real path through a process, and no
engine.

The file holds rules, and the first whose words begin a call answers it. A rule with several answers gives them one
after the other, and the last one from then on, which is how a service is seen to come up.
"""

from __future__ import annotations

import json
import os
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

SCRIPT = """\
#!/bin/sh
'''exec' "{python}" -SE "$0" "$@"  # the shell reads this line, and a path with spaces fits into no line before it
' '''
import json, os, pathlib, sys
folder = pathlib.Path({folder!r})
words = sys.argv[1:]
rules = json.loads((folder / "rules.json").read_text())
stdin = sys.stdin.buffer.read()
seen = {{k: v for k, v in os.environ.items() if k.startswith(("FOG_", "MQ_", "REDIS_", "RABBITMQ_"))}}
files = {{w: pathlib.Path(w).read_text() for b, w in zip(words, words[1:]) if b == "-c" and words[0] == "stack"}}
with (folder / "calls.jsonl").open("a") as calls:
    calls.write(json.dumps([words, stdin.decode(errors="replace"), seen, files]) + "\\n")
for number, (start, has, answers) in enumerate(rules):
    if words[: len(start)] == start and (not has or has in words):
        counter = folder / f"count.{{number}}"
        at = int(counter.read_text()) if counter.exists() else 0
        counter.write_text(str(at + 1))
        answer = answers[min(at, len(answers) - 1)]
        sys.stdout.write(answer.get("out", ""))
        sys.stderr.write(answer.get("err", ""))
        sys.exit(answer.get("code", 0))
sys.exit("nothing in the script answers: docker " + " ".join(words))
"""


@dataclass(frozen=True)
class Call:
    words: list[str]
    stdin: str
    environment: dict[str, str]
    files: dict[str, str]


class ScriptedClient:
    def __init__(self, folder: Path) -> None:
        folder.mkdir()
        self.folder = folder
        self.program = folder / "docker"
        self.program.write_text(SCRIPT.format(python=sys.executable, folder=str(folder)))
        self.program.chmod(0o755)
        self._rules: list[tuple[list[str], str, list[dict[str, Any]]]] = []
        self._write()

    def on(self, start: str, *outputs: Any, err: str = "", code: int = 0, has: str = "") -> None:
        """Answer calls that begin with these words, and `has` among them; what is no text is written as JSON. A
        later rule for the same words takes the place of the earlier one."""
        answers = [
            {"out": each if isinstance(each, str) else json.dumps(each), "err": err, "code": code}
            for each in outputs or ("",)
        ]
        words = start.split()
        self._rules = [rule for rule in self._rules if rule[:2] != (words, has)]
        self._rules.append((words, has, answers))
        self._rules.sort(key=lambda rule: (-len(rule[0]), not rule[1]))
        for counter in self.folder.glob("count.*"):
            counter.unlink()
        self._write()

    def _write(self) -> None:
        (self.folder / "rules.json").write_text(json.dumps(self._rules))

    def calls(self, start: str = "") -> list[Call]:
        file = self.folder / "calls.jsonl"
        lines = file.read_text().splitlines() if file.exists() else []
        found = [Call(*json.loads(line)) for line in lines]
        return [call for call in found if call.words[: len(start.split())] == start.split()]

    def forget(self) -> None:
        (self.folder / "calls.jsonl").unlink(missing_ok=True)


def lines(*rows: Any) -> str:
    """A listing as `--format {{json .}}` gives it."""
    return "".join(json.dumps(row) + "\n" for row in rows)


def node(name: str, *, manager: bool = False, labels: dict[str, str] | None = None, **changed: Any) -> dict[str, Any]:
    """As `docker inspect` has it. `changed`: engine, cpus, memory_mb, ready, reachable."""
    what = {"engine": "27.3.1", "cpus": 4, "memory_mb": 8192, "ready": True, "reachable": True} | changed
    found: dict[str, Any] = {
        "ID": f"id-{name}",
        "Spec": {"Role": "manager" if manager else "worker", "Availability": "active", "Labels": labels or {}},
        "Description": {
            "Hostname": name,
            "Resources": {"NanoCPUs": int(what["cpus"] * 1e9), "MemoryBytes": what["memory_mb"] * 1_048_576},
            "Engine": {"EngineVersion": what["engine"]},
        },
        "Status": {"State": "ready" if what["ready"] else "down", "Addr": f"10.9.0.{sum(name.encode()) % 250}"},
    }
    if manager:
        found["ManagerStatus"] = {"Reachability": "reachable" if what["reachable"] else "unreachable"}
    return found


def on_nodes(client: ScriptedClient, *found: dict[str, Any]) -> None:
    client.on("node ls --quiet", "".join(f"{each['ID']}\n" for each in found))
    client.on("inspect --type node", list(found))


def path_with(client: ScriptedClient) -> str:
    return f"{client.folder}{os.pathsep}{os.environ['PATH']}"


def service(name: str, *, image: str = "fogactors:1", replicas: int = 1, **changed: Any) -> dict[str, Any]:
    """As `docker inspect` has it. `changed`: update (its state), secrets (file to name)."""
    mounted = [{"File": {"Name": key}, "SecretName": name} for key, name in changed.get("secrets", {}).items()]
    found: dict[str, Any] = {
        "ID": f"id-{name}",
        "Spec": {
            "Name": f"fog_{name}",
            "Mode": {"Replicated": {"Replicas": replicas}},
            "TaskTemplate": {"ContainerSpec": {"Image": image, "Secrets": mounted}, "ForceUpdate": 0},
        },
    }
    if "update" in changed:
        found["UpdateStatus"] = {"State": changed["update"]}
    return found


def task(of: dict[str, Any], state: str = "running", *, image: str | None = None, err: str = "", at: str = "1") -> Any:
    """One of the service, on the node `m1`; `image`: where it still has another."""
    template = of["Spec"]["TaskTemplate"]
    container = template["ContainerSpec"] | ({"Image": image} if image else {})
    return {
        "ID": f"task-{of['ID']}-{state}-{at}",
        "ServiceID": of["ID"],
        "NodeID": "id-m1",
        "DesiredState": "running" if state == "running" else "shutdown",
        "Status": {"State": state, "Timestamp": at, **({"Err": err} if err else {})},
        "Spec": {**template, "ContainerSpec": container},
    }


def on_five(client: ScriptedClient) -> None:
    """A swarm that can carry the stack."""
    on_nodes(
        client,
        node("m1", manager=True, labels={"manager-master": "true"}),
        node("m2", manager=True, labels={"manager-rep1": "true"}),
        node("m3", manager=True, labels={"manager-rep2": "true"}),
        node("w1", labels={"worker1": "true", "fog": "1"}),
        node("w2", labels={"worker2": "true", "fog": "3"}),
    )


def on_services(client: ScriptedClient, *looks: tuple[list[dict[str, Any]], list[Any]]) -> None:
    """Each look at the stack finds the next pair of services and tasks; the last one stays."""
    client.on("service ls", *("".join(f"{each['Spec']['Name']}\n" for each in found) for found, _ in looks))
    # Nobody asks further where there is nothing.
    client.on("inspect --type service", *(found for found, _ in looks if found))
    client.on("stack ps", *("".join(f"{each['ID']}\n" for each in tasks) for found, tasks in looks if found))
    client.on("inspect --type task", *(tasks for _, tasks in looks if tasks))
    client.on("node ls", lines({"ID": "id-m1", "Hostname": "m1"}))
    client.on("config ls", "")

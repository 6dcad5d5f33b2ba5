"""The stack on the hosts: swarm/stack.yml as it is, deployed as an operator would, and looked at from outside.

What is done to it is done by `fogactors swarm`, as docs/swarm.md says it; what is seen of it is not.
"""

import base64
import http.client
import json
import os
import re
import secrets
import ssl
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from datetime import UTC, datetime
from typing import Any
from urllib.parse import quote

from fogactors.app.swarm.env import PASSWORDS
from tests.swarm.hosts import REGISTRY, Engine
from tests.swarm.images import LOAD_IMAGE, LOAD_MODULES, ROOT
from tests.swarm.shell import DOCKER, SwarmFailed, run, wait_for
from tests.swarm.testbed import Testbed
from tests.swarm.work import TRACE

NAME = "fog"
BROKERS = {"rabbitmq1": "manager1", "rabbitmq2": "manager2", "rabbitmq3": "manager3"}
"""Each broker's service, and the host that its label pins it to."""
TASK_QUEUES = tuple(
    f"tasks.{priority}{tier}"
    for tier in ("", ".medium", ".heavy")
    for priority in ("high_priority", "normal", "low_priority")
)
WORKERS = {name: f"worker{1 + TASK_QUEUES.index(name) // 3}" for name in TASK_QUEUES}
"""Each task queue, and the user of the executor whose tier it is of."""
VHOST = quote("/fog", safe="")
_MANAGEMENT = {"rabbitmq1": 15672, "rabbitmq2": 15673, "rabbitmq3": 15674}
_DEPLOY_S = 300
_TASKS = f"{LOAD_MODULES},fogactors.app.demo.work"
_ASK_S = 5
_ENDED = ("Failed", "Shutdown", "Complete", "Rejected", "Orphaned", "Remove")


class Stack:
    """The deployed stack. `tag` is that of the images; `tls`: clients, management and Redis speak TLS. What it reads
    comes from the brokers' management API and from the engines, never from fogactors itself."""

    def __init__(self, bed: Testbed, tag: str, *, tls: bool = False) -> None:
        self.bed = bed
        self.tag = tag
        self.tls = tls
        self.certs = bed.folder / "certs"
        self.cold_start_s = 0.0
        self._env = bed.folder / "stack.env"
        self.passwords: dict[str, str] = {}
        self.versions: dict[str, str] = {}

    @property
    def manager(self) -> Engine:
        """A manager that answers: any can be lost."""
        for name in BROKERS.values():
            engine = self.bed.hosts[name]
            if engine.is_on:
                return engine
        raise SwarmFailed("no manager is on")

    def make(self, target: str, *options: str, host: str = "", tag: str = "", timeout: float = _DEPLOY_S) -> str:
        """What `make TARGET` runs, on a manager: a command of `fogactors swarm`. Raises SwarmFailed."""
        engine = self.bed.hosts[host] if host else self.manager
        environment = {
            "DOCKER": DOCKER,
            "DOCKER_HOST": engine.socket,
            "FOG_REGISTRY": f"{REGISTRY}/",
            "FOG_VERSION": tag or self.tag,
            "FOG_TASKS_IMAGE": LOAD_IMAGE,
            "FOG_TASKS_MODULES": _TASKS,
            "FOG_TLS": "on" if self.tls else "off",
        }
        words = ("env", "-C", str(ROOT), sys.executable, "-m", "fogactors", "swarm", target, *options)
        return run(words, timeout=timeout, env=environment)

    def prepare(self) -> None:
        """Labels, passwords and, for TLS, certificates."""
        # A task that Swarm has replaced is kept with its output, which has the traces of what it ran.
        self.manager.docker("swarm", "update", "--task-history-limit", "100")
        self.make("label")
        self.make("secrets", "--env", str(self._env))
        if self.tls:
            self.make("certs", "--certs", str(self.certs))
        self._read_passwords()

    def _read_passwords(self) -> None:
        values = dict(line.split("=", 1) for line in self._env.read_text().splitlines() if re.match("[A-Z]", line))
        self.passwords = {key.removesuffix("_password"): values[name] for name, key in PASSWORDS.items()}

    def pull(self, tag: str = "") -> None:
        """Have every host's images on it, so that what is measured later is not the network."""

        def pull(engine: Engine) -> None:
            names = ["fogactors-rabbitmq", "fogactors-redis"] if engine.name in BROKERS.values() else []
            for name in (*names, "fogactors", LOAD_IMAGE):
                engine.docker("pull", "--quiet", f"{REGISTRY}/{name}:{tag or self.tag}", timeout=600)

        with ThreadPoolExecutor(2) as pool:
            list(pool.map(pull, self.bed.hosts.engines.values()))

    def deploy(self, tag: str = "") -> None:
        """Returns when docker has taken it, not when it is up. `tag`: of other images than before."""
        self.tag = tag or self.tag
        self.make("deploy", "--env", str(self._env), "--certs", str(self.certs), "--wait", "0")

    def update(self, tag: str) -> str:
        """Bring all services to the images with another tag; what the command said."""
        said = self.make("update", "--env", str(self._env), "--certs", str(self.certs), tag=tag, timeout=900)
        self.tag = tag
        return said

    def renew(self, *names: str) -> None:
        """New passwords for these variables, and an update that brings them."""
        self.make("secrets", "--env", str(self._env), *(word for name in names for word in ("--renew", name)))
        self._read_passwords()
        self.update(self.tag)

    # What can be seen of it.

    def api(self, path: str, broker: str | None = None, *, method: str = "GET", body: str | None = None) -> Any:
        """The management API of one broker, or of the first that answers. Raises SwarmFailed."""
        for name in (broker,) if broker else tuple(BROKERS):
            engine = self.bed.hosts[BROKERS[name]]
            connection = self._connection(engine.address, _MANAGEMENT[name])
            try:
                login = base64.b64encode(f"admin:{self.passwords['admin']}".encode()).decode()
                headers = {"Authorization": f"Basic {login}", "Content-Type": "application/json"}
                connection.request(method, f"/api{path}", body, headers)
                response = connection.getresponse()
                answer = response.read()
                if response.status < 300:
                    return json.loads(answer or b"null")
            except (OSError, http.client.HTTPException):
                continue
            finally:
                connection.close()
        raise SwarmFailed(f"no broker answers /api{path}")

    def _connection(self, address: str, port: int) -> http.client.HTTPConnection:
        if not self.tls:
            return http.client.HTTPConnection(address, port, timeout=_ASK_S)
        context = ssl.create_default_context(cafile=str(self.certs / "ca.crt"))
        context.check_hostname = False  # it is for the names in the stack's network, and an address of a host is asked
        return http.client.HTTPSConnection(address, port, timeout=_ASK_S, context=context)

    def problems(self, *, consumers: bool = True) -> list[str]:
        """What is missing for a whole cluster: three members in the view of each, all replicas, and of each task queue
        a consumer of the executor whose tier it is of: one that only helps may hide one that did not come back."""
        found: list[str] = []
        for broker in BROKERS:
            try:
                nodes = {node["name"] for node in self.api("/nodes", broker) if node.get("running")}
            except SwarmFailed as error:
                found.append(f"{broker}: {error}")
                continue
            if nodes != {f"rabbit@{name}" for name in BROKERS}:
                found.append(f"{broker} sees {', '.join(sorted(nodes))}")
        if found:
            return found
        queues = {queue["name"]: queue for queue in self.api(f"/queues/{VHOST}")}
        consume = self.api(f"/consumers/{VHOST}") if consumers else []
        users = {(each["queue"]["name"], (each["channel_details"] or {}).get("user")) for each in consume}
        found += [f"there is no queue {name}" for name in TASK_QUEUES if name not in queues]
        for name, queue in queues.items():
            if queue.get("type") == "quorum":
                members, online = len(queue.get("members", ())), len(queue.get("online", ()))
                if (members, online) != (3, 3) or not queue.get("leader"):
                    found.append(f"{name}: {members} members, {online} of them online")
            if consumers and name in WORKERS and (name, WORKERS[name]) not in users:
                found.append(f"{name} has no consumer of {WORKERS[name]}")
        return found

    def wait_whole(self, timeout: float) -> None:
        """Raises SwarmFailed with what is missing after so many seconds."""
        problems = ["nobody looked"]

        def whole() -> bool:
            try:
                problems[:] = self.problems()
            except (SwarmFailed, KeyError) as error:
                problems[:] = [str(error)]
            return not problems

        try:
            wait_for("the whole cluster", whole, timeout=timeout, every=0.5)
        except SwarmFailed as error:
            raise SwarmFailed(f"{error}: {'; '.join(problems[:6])}\n{self._evidence()}") from None

    def ask_versions(self) -> dict[str, str]:
        """What the servers and the engines say that they are."""
        [redis] = [line.split(":")[1] for line in self.redis("info", "server").split() if line.startswith("redis_v")]
        engine = self.manager.docker("version", "--format", "{{.Server.Version}}").strip()
        return {"rabbitmq": self.api("/overview")["rabbitmq_version"], "redis": redis, "docker": engine}

    def exchanges(self) -> set[str]:
        return {exchange["name"] for exchange in self.api(f"/exchanges/{VHOST}")}

    def hosts_of(self, service: str) -> list[str]:
        """Where its tasks run, as Swarm says."""
        form = "{{.Node}} {{.CurrentState}}"
        words = ("service", "ps", "--filter", "desired-state=running", "--format", form, f"{NAME}_{service}")
        lines = [line.split() for line in self.manager.docker(*words).splitlines()]
        return [host for host, state, *_ in lines if state == "Running"]

    def states_of(self, service: str) -> list[str]:
        """Of those of its tasks that Swarm has not seen end: `Running 5 seconds ago`."""
        words = ("service", "ps", "--format", "{{.CurrentState}}", f"{NAME}_{service}")
        return [line for line in self.manager.docker(*words).splitlines() if not line.startswith(_ENDED)]

    def wait_settled(self, timeout: float) -> None:
        """Until every task that should run does, and every other has ended. A host that was away is told what is to
        end there once its engine has found the swarm again: a broker there serves for half a minute before."""
        form = "{{.DesiredState}} {{.CurrentState}} {{.Name}}"

        def settled() -> bool:
            try:
                lines = self.manager.docker("stack", "ps", "--format", form, NAME).splitlines()
            except SwarmFailed:  # it may be without a leader
                return False
            tasks = [line.split()[:2] for line in lines]
            return all(state == wanted if wanted == "Running" else state in _ENDED for wanted, state in tasks)

        wait_for("Swarm to have done what it wants", settled, timeout=timeout)

    def images(self) -> list[str]:
        return self.manager.docker("stack", "services", "--format", "{{.Image}}", NAME).split()

    def runs(self, tag: str) -> bool:
        """Whether every service has a task that should run and does, on an image with this tag. One that waits for the
        old to end is not listed yet."""
        form = "{{.Image}} {{.CurrentState}}"
        words = ("stack", "ps", "--filter", "desired-state=running", "--format", form, NAME)
        tasks = [line.split() for line in self.manager.docker(*words).splitlines()]
        there = len(tasks) == len(self.images())
        return there and all(image.endswith(f":{tag}") and state == "Running" for image, state, *_ in tasks)

    def services(self) -> str:
        """One line for each task that should run, with what it says of itself."""
        form = "{{.Name}} {{.Node}} {{.CurrentState}} {{.Error}}"
        return self.manager.docker("stack", "ps", "--filter", "desired-state=running", "--format", form, NAME)

    def logs(self, service: str, lines: int = 40) -> str:
        command = ("service", "logs", "--raw", "--tail", str(lines), f"{NAME}_{service}")
        return run((DOCKER, "--host", self.manager.socket, *command), timeout=30)

    def _evidence(self) -> str:
        """What the stack says of itself, for a test that failed."""
        parts = [self.services()]
        for service in (*BROKERS, "redis", "fog-node-1", "dlq-reaper"):
            with suppress(SwarmFailed):
                parts.append(f"== {service}\n{self.logs(service, 20)}")
        return "\n".join(parts)

    def container(self, service: str, host: str) -> str:
        """The id of the service's running container on a host. Raises SwarmFailed where there is none."""
        label = f"label=com.docker.swarm.service.name={NAME}_{service}"
        found = self.bed.hosts[host].docker("ps", "--quiet", "--filter", label).split()
        if not found:
            raise SwarmFailed(f"{service} does not run on {host}")
        return found[0]

    def wipe(self, broker: str) -> None:
        """The files of a broker's volume are gone. It must not run, nor be started meanwhile."""
        engine = self.bed.hosts[BROKERS[broker]]
        data = engine.volume(f"{NAME}_{broker}-data")
        entries = list(data.iterdir())
        if not entries:
            raise SwarmFailed(f"{broker} has no data in {data.name}")
        for entry in entries:
            # A tree takes a while to remove, which is no part of the fault.
            entry.rename(data.with_name(f"gone-{secrets.token_hex(4)}"))
        (data / "mnesia").mkdir()
        for folder in (data, data / "mnesia"):
            os.chown(folder, 999, 999)

    def scale(self, replicas: int, *services: str) -> None:
        counts = (f"{NAME}_{service}={replicas}" for service in services)
        self.manager.docker("service", "scale", "--detach", *counts)

    def redis(self, *command: str) -> str:
        """A command to Redis as its administrator. Raises SwarmFailed, also for an error as the answer: it may load."""
        engine = self.bed.hosts["manager1"]
        login = ("--user", "redis", "--pass", self.passwords["redis"], "--no-auth-warning")
        program = ("sh", "-c", 'exec redis-cli -e ${REDIS_CLI_OPTIONS:-} "$@"', "sh", *login, *command)
        return engine.docker("exec", self.container("redis", "manager1"), *program, timeout=15).strip()

    def in_broker(self, *command: str) -> str:
        """A program in the container of rabbitmq1. Raises SwarmFailed."""
        host = BROKERS["rabbitmq1"]
        return self.bed.hosts[host].docker("exec", self.container("rabbitmq1", host), *command, timeout=30)

    def said(self, service: str, since: float) -> list[str]:
        """What a service has printed since then (seconds since the epoch)."""
        at = datetime.fromtimestamp(since, UTC).isoformat()
        command = ("service", "logs", "--raw", "--since", at, f"{NAME}_{service}")
        # It fails while a task waits for its place, and waits for ever for the log of a task that was lost with its
        # host; it has printed what there is by then.
        program = ("sh", "-c", 'timeout 20 "$@" 2>&1 || true', "sh", DOCKER, "--host", self.manager.socket, *command)
        return run(program, timeout=30).splitlines()

    def events(self, service: str, since: float) -> list[dict[str, Any]]:
        """What a role of ours has logged since then."""
        found: list[dict[str, Any]] = []
        for line in self.said(service, since):
            with suppress(ValueError):
                found.append(dict(json.loads(line)))
        return [each for each in found if "event" in each]

    def heard_down(self, node: str, since: float) -> dict[str, float]:
        """How the other brokers noticed that a node is down, and the seconds until the last of them did."""
        pattern = re.compile(rf"(\S+ \S+) \[\w+\] \S+ node '?rabbit@{node}'? down: (\w+)")
        heard: dict[str, float] = {}
        for broker in BROKERS:
            if broker != node:
                lines = map(pattern.match, self.said(broker, since))
                for line in [match for match in lines if match][:1]:
                    after = datetime.fromisoformat(line[1]).timestamp() - since
                    heard[line[2]] = max(heard.get(line[2], 0.0), round(after, 2))
        return heard

    def traces(self, load: str) -> Iterator[tuple[int, float]]:
        """Each run of a task of this load, number and time, from what the engines keep of the executors' output."""
        start = f'{{"log":"{TRACE} {load} '
        for engine in self.bed.hosts.engines.values():
            for path in engine.logs():
                with path.open(encoding="utf-8", errors="replace") as lines:
                    for line in lines:
                        if line.startswith(start) and line.endswith("}\n"):
                            said = json.loads(line)
                            number = int(said["log"].split()[2])
                            yield number, datetime.fromisoformat(said["time"]).timestamp()

"""The stack on the hosts: swarm/stack.yml as it is, deployed as an operator would, and looked at from outside."""

import base64
import http.client
import json
import os
import secrets
import shutil
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any
from urllib.parse import quote

from tests.swarm.hosts import REGISTRY, Engine
from tests.swarm.images import LOAD_IMAGE, LOAD_MODULES, ROOT
from tests.swarm.shell import DOCKER, SwarmFailed, run, wait_for
from tests.swarm.testbed import Testbed

NAME = "fog"
BROKERS = {"rabbitmq1": "manager1", "rabbitmq2": "manager2", "rabbitmq3": "manager3"}
"""Each broker's service, and the host that its label pins it to."""
TASK_QUEUES = tuple(
    f"tasks.{priority}{tier}"
    for tier in ("", ".medium", ".heavy")
    for priority in ("high_priority", "normal", "low_priority")
)
_LABELS = {
    "manager1": ("manager-master=true",),
    "manager2": ("manager-rep1=true",),
    "manager3": ("manager-rep2=true",),
    "worker1": ("worker1=true", "fog=1"),
    "worker2": ("worker2=true", "fog=3"),
}
_SECRETS = ("erlang_cookie", "admin", "operator", "sentinel", "worker1", "worker2", "worker3", "reaper", "metrics")
_SECRETS = (*_SECRETS, "submitter", "redis")
_MANAGEMENT = {"rabbitmq1": 15672, "rabbitmq2": 15673, "rabbitmq3": 15674}
_DEPLOY_S = 180
_ASK_S = 5
WHERE = {
    "FOGACTORS_BUS__URL": "amqp://rabbitmq1,rabbitmq2,rabbitmq3/%2Ffog",
    "FOGACTORS_COORD__URL": "redis://redis:6379/0",
}


class Stack:
    """The deployed stack. `tag` is that of the images. What it reads comes from the brokers' management API and from
    the engines, never from fogactors itself."""

    def __init__(self, bed: Testbed, tag: str) -> None:
        self.bed = bed
        self.tag = tag
        self.cold_start_s = 0.0
        self.passwords = {name: secrets.token_urlsafe(24) for name in _SECRETS}

    @property
    def manager(self) -> Engine:
        """A manager that answers: any can be lost."""
        for name in BROKERS.values():
            engine = self.bed.hosts[name]
            if engine.is_on:
                return engine
        raise SwarmFailed("no manager is on")

    def prepare(self) -> None:
        """Labels and secrets, as `make label` and `make secrets` set them."""
        for host, labels in _LABELS.items():
            words = [word for label in labels for word in ("--label-add", label)]
            self.manager.docker("node", "update", *words, host)
        for name, value in self.passwords.items():
            secret = f"fog_{name}" if name == "erlang_cookie" else f"fog_{name}_password"
            self.manager.docker("secret", "create", secret, "-", stdin=value)

    def pull(self) -> None:
        """Have every host's images on it, so that what is measured later is not the network."""
        for host, engine in self.bed.hosts.engines.items():
            names = ["fogactors-rabbitmq", "fogactors-redis"] if host in BROKERS.values() else []
            for name in (*names, "fogactors", LOAD_IMAGE):
                engine.docker("pull", "--quiet", f"{REGISTRY}/{name}:{self.tag}", timeout=300)

    def deploy(self, *overrides: str, **variables: str) -> None:
        """`docker stack deploy` of swarm/stack.yml and, before it is merged, of these files of swarm/."""
        files = [word for name in ("stack.yml", *overrides) for word in ("--compose-file", f"swarm/{name}")]
        command = (DOCKER, "--host", self.manager.socket, "stack", "deploy", *files, NAME)
        environment = {
            "FOG_REGISTRY": f"{REGISTRY}/",
            "FOG_VERSION": self.tag,
            "FOG_TASKS_IMAGE": LOAD_IMAGE,
            "FOG_TASKS_MODULES": LOAD_MODULES,
            **variables,
        }
        run(("env", "-C", str(ROOT), *command), timeout=_DEPLOY_S, env=environment)

    # What can be seen of it.

    def api(self, path: str, broker: str | None = None) -> Any:
        """The management API of one broker, or of the first that answers. Raises SwarmFailed."""
        for name in (broker,) if broker else tuple(BROKERS):
            engine = self.bed.hosts[BROKERS[name]]
            connection = http.client.HTTPConnection(engine.address, _MANAGEMENT[name], timeout=_ASK_S)
            try:
                login = base64.b64encode(f"admin:{self.passwords['admin']}".encode()).decode()
                connection.request("GET", f"/api{path}", headers={"Authorization": f"Basic {login}"})
                response = connection.getresponse()
                body = response.read()
                if response.status == 200:
                    return json.loads(body)
            except (OSError, http.client.HTTPException):
                continue
            finally:
                connection.close()
        raise SwarmFailed(f"no broker answers /api{path}")

    def problems(self, *, consumers: bool = True) -> list[str]:
        """What is missing for a whole cluster: three members in the view of each, all replicas, consumers."""
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
        queues = {queue["name"]: queue for queue in self.api(f"/queues/{quote('/fog', safe='')}")}
        found += [f"there is no queue {name}" for name in TASK_QUEUES if name not in queues]
        for name, queue in queues.items():
            if queue.get("type") == "quorum":
                members, online = len(queue.get("members", ())), len(queue.get("online", ()))
                if (members, online) != (3, 3) or not queue.get("leader"):
                    found.append(f"{name}: {members} members, {online} of them online")
            if consumers and name in TASK_QUEUES and not queue.get("consumers"):
                found.append(f"{name} has no consumer")
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
        """The files of a broker's volume are gone. It must have been killed a moment ago and not run again yet."""
        engine = self.bed.hosts[BROKERS[broker]]
        data = engine.volume(f"{NAME}_{broker}-data")
        entries = list(data.iterdir())
        if not entries:
            raise SwarmFailed(f"{broker} has no data in {data.name}")
        for entry in entries:
            # Renamed first, at once: a tree takes a while to remove, and Swarm starts the broker again meanwhile.
            gone = entry.rename(data.with_name(f"gone-{secrets.token_hex(4)}"))
            shutil.rmtree(gone) if gone.is_dir() else gone.unlink()
        (data / "mnesia").mkdir()
        for folder in (data, data / "mnesia"):
            os.chown(folder, 999, 999)

    def scale(self, service: str, replicas: int) -> None:
        self.manager.docker("service", "scale", "--detach", f"{NAME}_{service}={replicas}")

    def redis(self, *command: str) -> str:
        """A command to Redis as its administrator."""
        engine = self.bed.hosts["manager1"]
        login = ("--user", "redis", "--pass", self.passwords["redis"], "--no-auth-warning")
        return engine.docker(
            "exec", self.container("redis", "manager1"), "redis-cli", *login, *command, timeout=15
        ).strip()


class LoadRun:
    """The load in a container on worker1, on the stack's network; `with LoadRun(stack, folder, rate=500) as load`."""

    def __init__(self, stack: Stack, folder: Path, *, rate: float, host: str = "worker1") -> None:
        self._stack = stack
        self._engine = stack.bed.hosts[host]
        self.folder = folder
        self._rate = rate
        self._id = ""

    def __enter__(self) -> "LoadRun":
        self.folder.mkdir(parents=True)
        self.folder.chmod(0o777)
        environment: Mapping[str, str] = {
            **WHERE,
            "FOGACTORS_NODE__USER": "submitter",
            "FOGACTORS_USERS__SUBMITTER__PASSWORD": self._stack.passwords["submitter"],
        }
        variables = [word for name, value in environment.items() for word in ("--env", f"{name}={value}")]
        place = ("--network", "fog-network", "--volume", f"{self.folder}:/ledger", "--entrypoint", "python")
        image = f"{REGISTRY}/{LOAD_IMAGE}:{self._stack.tag}"
        command = ("-m", "tests.swarm.load", "/ledger", "--rate", str(self._rate))
        options = ("--detach", "--init", "--no-healthcheck", *place, *variables)
        self._id = self._engine.docker("run", *options, image, *command, timeout=120).strip()
        return self

    def __exit__(self, *exc: object) -> None:
        with suppress(SwarmFailed):  # its host may be off, and everything ends with the testbed
            self._engine.docker("rm", "--force", "--volumes", self._id, timeout=30)

    def status(self) -> dict[str, Any]:
        """How it goes; empty before it does."""
        try:
            return json.loads((self.folder / "status.json").read_text(encoding="utf-8"))
        except FileNotFoundError:
            return {}

    def wait_confirmed(self, more: int, timeout: float) -> None:
        """Wait until so many more tasks are confirmed than now."""
        wanted = self.status().get("confirmed", 0) + more

        def there() -> bool:
            self._check_alive()
            return self.status().get("confirmed", 0) >= wanted

        wait_for(f"{more} more confirmed tasks ({self.status()})", there, timeout=timeout)

    def finish(self, timeout: float = 240) -> dict[str, Any]:
        """Stop publishing, wait until all is accounted for; the report. Raises SwarmFailed."""
        (self.folder / "stop").touch()

        def reported() -> bool:
            self._check_alive()
            return (self.folder / "report.json").exists()

        wait_for("the load's report", reported, timeout=timeout)
        return json.loads((self.folder / "report.json").read_text(encoding="utf-8"))

    def _check_alive(self) -> None:
        done = (self.folder / "report.json").exists()
        state = self._engine.docker("inspect", "--format", "{{.State.Running}}", self._id).strip()
        if state != "true" and not done:
            log = run(("sh", "-c", f"{DOCKER} --host {self._engine.socket} logs --tail 30 {self._id} 2>&1"))
            raise SwarmFailed(f"the load ended before its time:\n{log}")

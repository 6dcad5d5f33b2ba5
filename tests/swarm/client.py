"""Clients of the stack: containers on its network, as its submitter."""

import json
from contextlib import suppress
from pathlib import Path
from typing import Any

from tests.swarm.hosts import REGISTRY
from tests.swarm.images import LOAD_IMAGE
from tests.swarm.shell import DOCKER, SwarmFailed, run, wait_for
from tests.swarm.stack import Stack


def client_options(stack: Stack) -> list[str]:
    """Of `docker run`: where the servers are, and who we are."""
    environment = {
        "FOGACTORS_BUS__URL": "amqp://rabbitmq1,rabbitmq2,rabbitmq3/%2Ffog",
        "FOGACTORS_COORD__URL": "redis://redis:6379/0",
        "FOGACTORS_NODE__USER": "submitter",
        "FOGACTORS_USERS__SUBMITTER__PASSWORD": stack.passwords["submitter"],
    }
    words = ["--network", "fog-network"]
    if stack.tls:
        environment |= {"FOGACTORS_TLS__ENABLED": "true", "FOGACTORS_TLS__CA_FILE": "/ca.crt"}
        words += ["--volume", f"{stack.certs / 'ca.crt'}:/ca.crt:ro"]
    return [*words, *(word for name, value in environment.items() for word in ("--env", f"{name}={value}"))]


def run_client(stack: Stack, *command: str, host: str = "worker1", timeout: float) -> str:
    """What a command of fogactors prints, in a container that ends with it. Raises SwarmFailed."""
    image = f"{REGISTRY}/{LOAD_IMAGE}:{stack.tag}"
    options = ("--rm", "--init", "--no-healthcheck", *client_options(stack))
    return stack.bed.hosts[host].docker("run", *options, image, *command, timeout=timeout)


class LoadRun:
    """The load in a container on worker1, on the stack's network; `with LoadRun(stack, folder, rate=500) as load`."""

    def __init__(self, stack: Stack, folder: Path, *, rate: float, again: bool = False, host: str = "worker1") -> None:
        self._stack = stack
        self._engine = stack.bed.hosts[host]
        self.folder = folder
        self._rate = rate
        self._again = ("--again",) if again else ()
        self._id = ""

    def __enter__(self) -> "LoadRun":
        self.folder.mkdir(parents=True)
        self.folder.chmod(0o777)
        inside = f"/loads/{self.folder.name}"
        place = ("--volume", f"{self.folder}:{inside}", "--entrypoint", "python")
        command = ("-m", "tests.swarm.load", inside, "--rate", str(self._rate), *self._again)
        options = ("--detach", "--init", "--no-healthcheck", *place, *client_options(self._stack))
        image = f"{REGISTRY}/{LOAD_IMAGE}:{self._stack.tag}"
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

    def finish(self, timeout: float = 900) -> dict[str, Any]:
        """Stop publishing, wait until all is accounted for, which with a backlog takes minutes; the report. Raises
        SwarmFailed."""
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

"""The RabbitMQ server as a process: a session of its own, ended by nobody but its sentinel's stop and the plan.

It is an object and not an actor, so that it outlives the actors that look after it: an error in one of them must not
stop a broker that is well.
"""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Mapping
from contextlib import suppress
from subprocess import DEVNULL

import anyio
from anyio.abc import Process

from fogactors.cluster.config import ClusterConfig
from fogactors.cluster.data import DataError, private_file

__all__ = ["ServerProcess", "environment", "place_cookie"]

KILLED_S = 10.0


def environment(config: ClusterConfig, inherited: Mapping[str, str]) -> dict[str, str]:
    """Of the server and of the tools: the node's name, its folder, and where the cookie is."""
    ours = {
        "RABBITMQ_NODENAME": config.node,
        "RABBITMQ_MNESIA_BASE": str(config.data_dir),
        # Without it the start script stays as a parent of the Erlang machine; the process that we know is to be the
        # server itself.
        "RABBITMQ_ALLOW_INPUT": "true",
        "ERL_EPMD_PORT": str(config.epmd_port),
    }
    if config.cookie_file is not None:
        ours["HOME"] = str(config.data_dir)
    secrets = ("FOGACTORS_",)  # passwords of the sentinel are nobody else's business
    return {key: value for key, value in inherited.items() if not key.startswith(secrets)} | ours


def place_cookie(config: ClusterConfig) -> None:
    """Where Erlang looks for it, readable for its owner alone, or it is refused. Raises `DataError`."""
    if config.cookie_file is None:
        return
    cookie = config.data_dir / ".erlang.cookie"
    fresh = cookie.with_name(".erlang.cookie.new")
    try:
        config.data_dir.mkdir(parents=True, exist_ok=True)
        text = config.cookie_file.read_text(encoding="ascii").strip()
        private_file(fresh, text)
        fresh.rename(cookie)
    except (OSError, UnicodeError) as error:
        raise DataError(f"[cluster] cookie_file {config.cookie_file} cannot be put to use: {error}") from error


class ServerProcess:
    """At most one server at a time. `started_at` is by `time.monotonic`; `starts` counts."""

    def __init__(self, config: ClusterConfig, environment: Mapping[str, str]) -> None:
        self._config = config
        self._environment = environment
        self._process: Process | None = None
        self.started_at = 0.0
        self.starts = 0

    @property
    def running(self) -> bool:
        return self._process is not None and self._process.returncode is None

    @property
    def pid(self) -> int | None:
        return self._process.pid if self._process is not None else None

    @property
    def returncode(self) -> int | None:
        """Of the last that ended."""
        return self._process.returncode if self._process is not None else None

    async def start(self, *, join: str | None = None) -> None:
        """Does nothing while one runs. `join`: become a member of this node's cluster while it boots, before a client
        finds its ports open; only a blank node does. Raises `OSError`."""
        if self.running:
            return
        arguments = "-noinput"
        if join is not None:
            # Peer discovery with a list that the sentinel has made: it is what joins before anything listens.
            arguments += f" -rabbit cluster_nodes {{['{join}','{self._config.node}'],disc}}"
        known = self._environment.get("RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS", "")
        self.started_at = time.monotonic()
        self.starts += 1
        self._process = await anyio.open_process(
            [*self._config.command, self._config.server],
            stdin=DEVNULL,
            stdout=None,
            stderr=None,
            env={**self._environment, "RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS": f"{known} {arguments}".strip()},
            start_new_session=True,  # Ctrl-C and the death of our session are not its business
        )

    async def wait(self) -> int | None:
        """Until it has ended; at once when there is none."""
        return await self._process.wait() if self._process is not None else None

    async def stop(self, timeout: float) -> bool:
        """Ask it to end; kill it when it has not after `timeout` seconds. Whether it ended in order."""
        process = self._process
        if process is None or process.returncode is not None:
            return True
        with suppress(ProcessLookupError):
            process.terminate()
        with anyio.move_on_after(timeout):
            await process.wait()
            return True
        await self.kill()
        return False

    async def kill(self) -> None:
        process = self._process
        if process is None or process.returncode is not None:
            return
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        with anyio.move_on_after(KILLED_S, shield=True):
            await process.wait()

"""The docker client as a process: each call has a deadline, and what goes wrong is one line.

The client and not the engine's API: it is on the machine already, knows its contexts and how to log in at a registry,
and `docker stack deploy` exists nowhere else.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from typing import IO, Any, Final

from fogactors.errors import FogError

__all__ = ["CALL_S", "Docker", "DockerFailed"]

CALL_S: Final = 60.0
"""For what an engine answers at once: also a slow machine does within this time."""
_SHOWN: Final = 300


class DockerFailed(FogError):
    """The docker client failed."""


@dataclass(frozen=True, slots=True)
class Docker:
    """`program`: the client, by name or path. `environment`: instead of that of this process."""

    program: str = "docker"
    environment: Mapping[str, str] = field(default_factory=lambda: dict(os.environ), repr=False)

    def run(
        self,
        *words: str,
        stdin: bytes | IO[bytes] | None = None,
        stdout: IO[bytes] | None = None,
        extra: Mapping[str, str] | None = None,
        timeout: float = CALL_S,
    ) -> str:
        """What the client printed; nothing with `stdout`, a file that takes it instead. `extra`: more variables of the
        environment. Raises `DockerFailed`, whose text holds neither `stdin` nor `extra`."""
        shown = f"docker {' '.join(words[:3])}"
        try:
            process = subprocess.Popen(  # noqa: S603 - the docker client, whose words are ours
                [self.program, *words],
                stdin=subprocess.PIPE if isinstance(stdin, bytes) else stdin or subprocess.DEVNULL,
                stdout=subprocess.PIPE if stdout is None else stdout,
                stderr=subprocess.PIPE,
                env={**self.environment, **(extra or {})},
                start_new_session=True,  # what it starts is ended with it
            )
        except FileNotFoundError:
            text = f"there is no program {self.program!r}; install Docker Engine 20.10 or newer with its client"
            raise DockerFailed(text) from None
        except OSError as error:
            raise DockerFailed(f"{self.program} cannot be run: {error.strerror}") from None
        try:
            out, err = process.communicate(stdin if isinstance(stdin, bytes) else None, timeout=timeout)
        except subprocess.TimeoutExpired:
            raise DockerFailed(f"{shown}: no answer within {timeout:g} s; is the engine busy or hung?") from None
        finally:
            if process.poll() is None:
                with process, suppress(ProcessLookupError):  # which closes the pipes, and waits
                    os.killpg(process.pid, signal.SIGKILL)
        if process.returncode != 0:
            raise DockerFailed(f"{shown} ended with {process.returncode}: {_reason(err)}")
        return (out or b"").decode(errors="replace")

    def rows(self, *words: str, timeout: float = CALL_S) -> list[dict[str, Any]]:
        """Of a listing, each row as the client's own JSON. Raises `DockerFailed`."""
        text = self.run(*words, "--format", "{{json .}}", timeout=timeout)
        return [_json(line, words) for line in text.splitlines() if line.strip()]

    def inspect(self, kind: str, *names: str) -> list[dict[str, Any]]:
        """`kind`: `node`, `service`, `task` ...; all of the names must be there. Raises `DockerFailed`."""
        return _json(self.run("inspect", "--type", kind, *names), ("inspect",)) if names else []

    def inspect_kind(self, kind: str, *names: str) -> list[dict[str, Any]]:
        """As `inspect`, for what `docker inspect --type` does not know: `config`, `secret`. Raises `DockerFailed`."""
        return _json(self.run(kind, "inspect", *names), (kind, "inspect")) if names else []

    def attach(self, *words: str) -> int:
        """Run it with our own terminal, for as long as it likes; its exit code. Raises `DockerFailed`."""
        try:
            with subprocess.Popen([self.program, *words], env=self.environment) as process:  # noqa: S603 - as in `run`
                return process.wait()
        except OSError as error:
            raise DockerFailed(f"{self.program} cannot be run: {error.strerror}") from None

    def names(self, kind: str, *words: str) -> frozenset[str]:
        """The names of all secrets, services ... Raises `DockerFailed`."""
        return frozenset(self.run(kind, "ls", *words, "--format", "{{.Name}}").split())


def _json(text: str, words: tuple[str, ...]) -> Any:
    try:
        return json.loads(text)
    except ValueError:
        shown = text.strip()[:_SHOWN]
        raise DockerFailed(f"docker {' '.join(words[:3])}: expected JSON, got {shown!r}") from None


def _reason(err: bytes | None) -> str:
    """The last line says why; those before it say what went well."""
    lines = [line.strip() for line in (err or b"").decode(errors="replace").splitlines() if line.strip()]
    return (lines[-1] if lines else "it said nothing")[:_SHOWN]

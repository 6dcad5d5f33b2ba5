"""Programs of a user as processes of their own: what they print goes to a file, and none outlives its test."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from textwrap import dedent

ROOT = Path(__file__).parents[3]
DEADLINE_S = 30.0


class Program:
    def __init__(self, process: subprocess.Popen[bytes], out: Path) -> None:
        self.process = process
        self._out = out

    @property
    def said(self) -> str:
        return self._out.read_text()

    @property
    def lines(self) -> list[str]:
        return self.said.splitlines()

    def until(self, text: str) -> None:
        """Wait until it has printed this."""
        deadline = time.monotonic() + DEADLINE_S
        while text not in self.said:
            assert self.process.poll() is None, f"it has ended with {self.process.returncode}, and said:\n{self.said}"
            assert time.monotonic() < deadline, f"{text!r} not within {DEADLINE_S:g} s; it said:\n{self.said}"
            time.sleep(0.02)

    def signal(self, number: signal.Signals) -> None:
        """Sent once it blocks in a call that signals stop: a handler may have begun before its main thread got there,
        and until then SIGTERM ends it as it ends any program."""
        deadline = time.monotonic() + DEADLINE_S
        while not self._catches(signal.SIGTERM):
            assert self.process.poll() is None, f"it has ended with {self.process.returncode}, and said:\n{self.said}"
            assert time.monotonic() < deadline, f"it never waited for signals; it said:\n{self.said}"
            time.sleep(0.01)
        self.process.send_signal(number)

    def _catches(self, number: signal.Signals) -> bool:
        """As the kernel says; where it does not (no /proc), it is taken for granted."""
        try:
            status = Path(f"/proc/{self.process.pid}/status").read_text()
        except FileNotFoundError:
            return True
        caught = next((line.split()[1] for line in status.splitlines() if line.startswith("SigCgt:")), "0")
        return bool(int(caught, 16) >> (number - 1) & 1)

    def end(self, timeout: float = DEADLINE_S) -> int:
        """Its exit code."""
        try:
            return self.process.wait(timeout)
        except subprocess.TimeoutExpired:
            raise AssertionError(f"it did not end within {timeout:g} s, and said:\n{self.said}") from None


class Programs:
    """Starts them in a folder of the test's own."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._started: list[Program] = []

    def start(self, text: str, *words: str, **environment: str) -> Program:
        """`text`: of the program. Its output and its errors are one."""
        number = len(self._started)
        path, out = self.folder / f"program{number}.py", self.folder / f"program{number}.out"
        path.write_text(dedent(text))
        inherited = {key: value for key, value in os.environ.items() if not key.startswith("RABBITMQ_")}
        with out.open("wb") as to:
            process = subprocess.Popen(
                [sys.executable, "-u", "-W", "error", str(path), *words],
                cwd=self.folder,
                env={**inherited, "PYTHONPATH": str(ROOT), **environment},
                stdin=subprocess.DEVNULL,
                stdout=to,
                stderr=subprocess.STDOUT,
                start_new_session=True,  # Ctrl-C is for the tests, which then clean up
            )
        program = Program(process, out)
        self._started.append(program)
        return program

    def clean_up(self) -> None:
        for program in self._started:
            if program.process.poll() is None:
                program.process.kill()
            program.process.wait()

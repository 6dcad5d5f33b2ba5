"""Every code block of the README and of docs/ does what it shows.

`python` blocks run as scripts; in `console` blocks each `$ fogactors` command prints what follows it (`...` stands for
anything); `toml` blocks are valid actors.toml; the `make` targets of `sh` blocks exist. `text` blocks are only shown,
and `python-pika` blocks run in tests/integration/test_foreign.py, against a real broker.
"""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from fogactors.app.settings import load
from tests.integration import test_foreign

ROOT = Path(__file__).parent.parent
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]
BLOCK = re.compile(r"^```([\w-]*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)

BLOCKS = [
    pytest.param(kind, text, id=f"{page.name}:{source[: at.start()].count(chr(10)) + 1}")
    for page in PAGES
    for source in [page.read_text()]
    for at in BLOCK.finditer(source)
    for kind, text in [at.groups()]
]


def run(command: list[str], folder: Path) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "COLUMNS": "100", "PYTHONPATH": str(ROOT)}
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=60, check=False)


@pytest.mark.parametrize(("kind", "text"), BLOCKS)
def test_block(kind, text, tmp_path):
    match kind:
        case "python":
            script = tmp_path / "block.py"
            script.write_text(text)
            done = run([sys.executable, "-W", "error", str(script)], tmp_path)
            assert done.returncode == 0, done.stderr
        case "console":
            for command, expected in re.findall(r"^\$ (.*)\n((?:(?!\$ ).*\n)*)", text, re.MULTILINE):
                words = shlex.split(command)
                assert words[0] == "fogactors", command
                done = run([sys.executable, "-m", *words], tmp_path)
                printed = "\n".join(line.rstrip() for line in (done.stdout + done.stderr).splitlines())
                pattern = ".*".join(re.escape(part) for part in expected.strip().split("..."))
                assert re.fullmatch(pattern, printed.strip(), re.DOTALL), f"{command} printed:\n{printed}"
        case "toml":
            path = tmp_path / "actors.toml"
            path.write_text(text)
            load(path, {}, default_ok=False)
        case "sh":
            for line in text.splitlines():
                words = shlex.split(line, comments=True)
                if words and words[0] == "make":
                    assert run(["make", "-n", *words[1:]], ROOT).returncode == 0, line
                elif words:
                    assert words[0] in {"git", "cd", ".venv/bin/python"}, f"nothing checks {line!r}"
        case "python-pika":  # needs a broker
            assert text in test_foreign.SCRIPT, "tests/integration/test_foreign.py does not run it"
        case _:
            assert kind == "text", f"a block of kind {kind!r} is not checked by anything"


def test_links_lead_somewhere():
    for page in PAGES:
        for target in re.findall(r"\]\(([^)#:]+)\)", page.read_text()):
            assert (page.parent / target).exists(), f"{page.name} links to {target}"


def test_every_promise_names_tests_that_exist():
    promises = [line for line in (ROOT / "docs/semantics.md").read_text().splitlines() if line.startswith("- ")]
    assert promises
    for promise in promises:
        tests = re.findall(r"`(tests/[\w/.]+)::(\w+)`", promise)
        assert tests, f"no test holds: {promise}"
        for path, name in tests:
            assert re.search(rf"^(async )?def {name}\(", (ROOT / path).read_text(), re.MULTILINE), f"{path}::{name}"

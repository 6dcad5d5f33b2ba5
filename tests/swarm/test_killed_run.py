"""A run that is killed leaves no process behind, and the next one removes its files."""

import json
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.services import ServiceUnavailable, skip_or_fail
from tests.services.processes import ProcessId
from tests.swarm.shell import require, wait_for
from tests.swarm.testbed import sweep

pytestmark = [pytest.mark.swarm, pytest.mark.slow]
REPOSITORY = Path(__file__).parents[2]
START = """
import sys, time
from pathlib import Path
from tests.swarm.testbed import Testbed
bed = Testbed(Path(sys.argv[1]))
bed.start()
print("up", flush=True)
time.sleep(600)
"""


def test_a_killed_run_leaves_no_process_and_the_next_one_removes_its_files(tmp_path: Path) -> None:
    try:
        require()
    except ServiceUnavailable as error:
        skip_or_fail(error)
    fresh = tmp_path / "swarm"
    script = [sys.executable, "-c", START, str(fresh)]
    with subprocess.Popen(script, stdout=subprocess.PIPE, text=True, cwd=REPOSITORY) as program:
        assert program.stdout is not None
        assert program.stdout.readline() == "up\n"
        program.send_signal(signal.SIGKILL)
    trees = [ProcessId(*each) for each in json.loads((fresh / "run/trees.json").read_text())]
    wait_for("the end of the trees", lambda: not any(tree.alive() for tree in trees), timeout=20)
    sweep(fresh / "run")
    assert not (fresh / "run").exists()

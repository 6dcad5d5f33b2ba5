"""`/livez` and `/readyz` as somebody from outside sees them, on a real loop."""

import json
import threading
import time
import urllib.error
import urllib.request

import anyio
import anyio.to_thread
import pytest

from fogactors.errors import ConfigError
from fogactors.observe.probe import ProbeServer, probing
from fogactors.roles.health import Health
from fogactors.testing.kit import eventually

pytestmark = pytest.mark.asyncio


class Probed:
    def __init__(self, **health):
        self.health = Health(**health)

    def __enter__(self):
        self.server = ProbeServer("127.0.0.1", 0, self.health)
        return self

    def __exit__(self, *error):
        self.server.close()

    def get(self, path):
        """From the thread that calls: status and body."""
        host, port = self.server.address
        try:
            with urllib.request.urlopen(f"http://{host}:{port}{path}", timeout=5) as answer:
                return answer.status, json.loads(answer.read())
        except urllib.error.HTTPError as error:
            with error:
                body = error.read()
            return error.code, json.loads(body) if error.code != 404 else None

    async def ask(self, path):
        return await anyio.to_thread.run_sync(self.get, path)

    async def until(self, path, status, **facts):
        with anyio.fail_after(5):
            while True:
                found, answer = await self.ask(path)
                if found == status and facts.items() <= answer["facts"].items():
                    return answer["facts"]
                await anyio.sleep(0.01)  # there is no event to wait for


async def test_a_process_lives_from_its_first_moment_and_is_ready_when_all_is_up():
    with Probed() as probed:
        assert await probed.ask("/livez") == (200, {"ok": True, "facts": {"loop": "ok"}})
        starting = {"loop": "ok", "program": "starting"}
        assert await probed.ask("/readyz") == (503, {"ok": False, "facts": starting})
        probed.health.program = "ok"
        assert (await probed.ask("/readyz"))[0] == 200
        assert (await probed.ask("/nonsense"))[0] == 404


async def test_a_role_adds_facts_of_its_own_and_takes_them_back():
    with Probed() as probed:
        probed.health.program = "ok"
        probed.health.live("server", lambda: "it does not start")
        assert await probed.until("/livez", 503) == {"loop": "ok", "server": "it does not start"}
        assert (await probed.until("/readyz", 503))["server"] == "it does not start"  # who is dead is not ready
        probed.health.live("server", lambda: None)
        await probed.until("/livez", 200)
        probed.health.ready("broker", lambda: "not connected")
        assert (await probed.until("/readyz", 503, broker="not connected"))["broker"] == "not connected"
        assert (await probed.ask("/livez"))[0] == 200  # a broker's bad day is no reason to restart who waits for it


async def test_a_fact_that_raises_is_not_well_and_hides_no_other():
    with Probed() as probed:
        probed.health.program = "ok"
        probed.health.ready("a", lambda: {}["missing"])
        probed.health.ready("b", lambda: None)
        facts = await probed.until("/readyz", 503, b="ok")
        assert (facts["a"], facts["b"]) == ("KeyError: 'missing'", "ok")


async def test_a_loop_that_hangs_is_told_of_while_it_hangs_and_not_before_its_time():
    with Probed(dead_s=1.0) as probed:
        seen = {}

        def watch():
            began = time.monotonic()
            while time.monotonic() - began < 4.0:
                status, body = probed.get("/livez")
                seen.setdefault(status, (time.monotonic() - began, body["facts"]["loop"]))
                time.sleep(0.05)

        watcher = threading.Thread(target=watch)
        watcher.start()
        time.sleep(3.0)  # noqa: ASYNC251 - that is the point
        await anyio.to_thread.run_sync(watcher.join)
        assert seen[200][0] < 0.5
        assert 0.4 < seen[503][0] < 2.5
        assert "it has not turned for " in seen[503][1]
        await probed.until("/livez", 200)


async def test_a_client_that_says_nothing_keeps_nobody_else_waiting():
    with Probed() as probed:
        async with await anyio.connect_tcp(*probed.server.address):
            with anyio.fail_after(2):
                assert (await probed.ask("/livez"))[0] == 200


async def test_a_port_that_is_taken_is_one_line():
    with (
        Probed() as probed,
        pytest.raises(ConfigError, match=r"^\[probe\] host = '127.0.0.1', port = \d+: cannot be"),
        probing(*probed.server.address),
    ):
        pass


async def test_no_thread_and_no_port_stay_behind():
    with Probed() as probed:
        address = probed.server.address
    with pytest.raises(OSError, match="connect"):
        await anyio.connect_tcp(*address)
    await eventually(lambda: not any(t.name == "fogactors probe" for t in threading.enumerate()), "the thread ends")


async def test_port_0_is_none():
    with probing("127.0.0.1", 0):
        assert not any(thread.name == "fogactors probe" for thread in threading.enumerate())

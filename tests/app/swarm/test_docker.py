"""The way to the docker client: deadlines, and errors of one line that hold no secret."""

from __future__ import annotations

import time

import pytest

from fogactors.app.swarm.docker import Docker, DockerFailed


def test_what_it_prints_and_what_it_is_given(client):
    client.on("secret create", "id\n")
    assert Docker().run("secret", "create", "x", "-", stdin=b"hush", extra={"FOG_X": "1"}) == "id\n"
    (call,) = client.calls()
    assert (call.words, call.stdin, call.environment) == (["secret", "create", "x", "-"], "hush", {"FOG_X": "1"})


def test_a_failure_is_its_last_line_without_what_was_given(client):
    client.on("secret create", err="Using default\nError: no such thing\n\n", code=3)
    with pytest.raises(DockerFailed) as error:
        Docker().run("secret", "create", "name", "-", stdin=b"hush")
    assert str(error.value) == "docker secret create name ended with 3: Error: no such thing"


def test_no_client_says_what_to_install():
    with pytest.raises(DockerFailed, match=r"there is no program 'no-such-docker'; install Docker Engine 20\.10"):
        Docker("no-such-docker").run("version")


def test_one_that_hangs_is_ended_with_what_it_started(tmp_path):
    program = tmp_path / "docker"
    program.write_text("#!/bin/sh\nsleep 60 & echo $! >child; wait\n".replace("child", str(tmp_path / "child")))
    program.chmod(0o755)
    begun = time.monotonic()
    with pytest.raises(DockerFailed, match=r"docker info: no answer within 1 s; is the engine busy or hung\?"):
        Docker(str(program)).run("info", timeout=1.0)
    assert time.monotonic() - begun < 10
    child, deadline = int((tmp_path / "child").read_text()), time.monotonic() + 10
    while _runs(child):  # the kernel takes a moment to end one that is killed
        assert time.monotonic() < deadline
        time.sleep(0.01)


def _runs(pid: int) -> bool:
    try:
        with open(f"/proc/{pid}/stat") as stat:  # noqa: PTH123 - a process, not a file
            return stat.read().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def test_listings_are_rows_of_json(client):
    client.on("node ls", '{"ID": "a"}\n{"ID": "b"}\n')
    client.on("service ls", "no json")
    assert Docker().rows("node", "ls") == [{"ID": "a"}, {"ID": "b"}]
    with pytest.raises(DockerFailed, match="docker service ls: expected JSON, got 'no json'"):
        Docker().rows("service", "ls")

"""What a data directory says of its node, and what is ever taken out of it."""

from __future__ import annotations

import pytest

from fogactors.cluster.config import ClusterConfig, node_name
from fogactors.cluster.data import DataDir
from fogactors.cluster.server import environment, place_cookie
from fogactors.errors import SpecError

NODE = "rabbit@a"


def filled(base, *names):
    for name in names:
        (base / name).mkdir(parents=True)
        (base / name / "something").write_text("of value")


def test_no_folder_is_blank(tmp_path):
    assert DataDir(tmp_path / "new", NODE).state() == "blank"


def test_a_folder_of_another_node_is_not_ours(tmp_path):
    filled(tmp_path, "rabbit@ab", "rabbit@b")

    assert DataDir(tmp_path, NODE).state() == "blank"


def test_data_is_kept_unless_it_was_about_to_join(tmp_path):
    filled(tmp_path, NODE)
    data = DataDir(tmp_path, NODE)
    assert data.state() == "kept"

    data.mark("joining")
    assert data.state() == "blank"
    data.unmark("joining")
    assert data.state() == "kept"


def test_a_mark_outlives_its_writer(tmp_path):
    DataDir(tmp_path, NODE).mark("growing")

    assert DataDir(tmp_path, NODE).marked("growing")
    assert not DataDir(tmp_path, NODE).marked("joining")


def test_what_is_put_aside_can_be_had_back(tmp_path):
    filled(tmp_path, NODE, f"{NODE}-plugins-expand", "rabbit@ab")
    data = DataDir(tmp_path, NODE)

    data.put_aside()

    assert data.state() == "blank"
    assert (tmp_path / "fog-aside" / NODE / "something").read_text() == "of value"
    assert (tmp_path / "rabbit@ab" / "something").exists()


def test_the_incarnation_goes_with_the_data(tmp_path):
    filled(tmp_path, NODE)
    data = DataDir(tmp_path, NODE)
    assert data.incarnation() == 0

    data.begin(7)
    assert DataDir(tmp_path, NODE).incarnation() == 7
    data.begin(8)
    assert data.incarnation() == 8
    assert DataDir(tmp_path, "rabbit@ab").incarnation() == 0

    data.put_aside()
    assert data.incarnation() == 0
    assert DataDir(tmp_path / "fog-aside", NODE).incarnation() == 8

    data.begin(9)
    data.mark("joining")
    data.clear_joining()
    assert data.incarnation() == 0


@pytest.mark.parametrize("text", ["", "seven", "-1", "\x00\x00"])
def test_an_incarnation_that_cannot_be_read_is_none(tmp_path, text):
    data = DataDir(tmp_path, NODE)
    data.begin(7)
    (tmp_path / f"{NODE}.incarnation").write_text(text)
    assert data.incarnation() == 0


def test_without_its_mark_nothing_is_cleared(tmp_path):
    filled(tmp_path, NODE, "rabbit@ab")
    data = DataDir(tmp_path, NODE)

    data.clear_joining()
    assert data.state() == "kept"

    data.mark("joining")
    data.clear_joining()
    assert not (tmp_path / NODE).exists()
    assert (tmp_path / "rabbit@ab" / "something").exists()


def test_the_cookie_is_for_its_owner_alone(tmp_path):
    (tmp_path / "secret").write_text("monster\n")
    config = ClusterConfig(node=NODE, nodes=(NODE,), data_dir=tmp_path / "data", cookie_file=tmp_path / "secret")

    place_cookie(config)
    place_cookie(config)  # a second start finds one that it may not write to

    cookie = tmp_path / "data" / ".erlang.cookie"
    assert cookie.read_text() == "monster"
    assert cookie.stat().st_mode & 0o777 == 0o400
    assert environment(config, {})["HOME"] == str(tmp_path / "data")


def test_passwords_of_the_sentinel_do_not_reach_the_server(tmp_path):
    config = ClusterConfig(node=NODE, nodes=(NODE,), data_dir=tmp_path)

    found = environment(config, {"FOGACTORS_USERS__ADMIN__PASSWORD": "x", "PATH": "/bin"})

    assert found["PATH"] == "/bin"
    assert not [name for name in found if name.startswith("FOGACTORS_")]


def test_names():
    assert [node_name(name) for name in ("rabbitmq1", "fog1@localhost")] == ["rabbit@rabbitmq1", "fog1@localhost"]


def test_a_node_that_is_none_of_the_cluster(tmp_path):
    with pytest.raises(SpecError, match="this node is rabbit@x, which is none of"):
        ClusterConfig(node="rabbit@x", nodes=(NODE,), data_dir=tmp_path)

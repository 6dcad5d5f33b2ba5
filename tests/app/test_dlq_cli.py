"""How dead letters are shown, and what is refused before anything is asked: no service needed."""

import json
import re
from datetime import timedelta

import pytest
from msgspec.structs import replace

from fogactors.app.cli.dlq import edit, printing
from fogactors.app.cli.dlq.options import select
from fogactors.app.cli.dlq.printing import JsonArray, LetterTable, print_letter, printable
from fogactors.app.dlq import task_of
from fogactors.app.dlq_reader import PastEvent
from fogactors.errors import ConfigError
from fogactors.messages import ErrorInfo
from fogactors.tasks.replay import entry_of
from fogactors.wire import encode
from tests.app.dlq_support import NOW, letter_of

NO_FILTERS = dict.fromkeys(("reason", "task", "queue", "older_than", "newer_than"))


def entry(id_="a-1", **fields):
    return entry_of(letter_of(id_, **fields), 7)


def shown(capsys, letter, history=None, **changes):
    print_letter(replace(entry_of(letter, 7), **changes), letter, history, NOW)
    return capsys.readouterr().out


# -- choosing


@pytest.mark.parametrize(("text", "seconds"), [("30s", 30), ("5m", 300), ("2h", 7200), ("3d", 259_200), ("1.5m", 90)])
def test_ages(text, seconds):
    assert select("list", None, False, (NO_FILTERS | {"older_than": text})).older_than_s == seconds


@pytest.mark.parametrize("text", ["5", "m", "-5m", "5 m", "5y", "1e3s"])
def test_what_is_no_age_is_refused(text):
    with pytest.raises(ConfigError, match=re.escape(repr(text))):
        select("list", None, False, (NO_FILTERS | {"older_than": text}))


@pytest.mark.parametrize(
    ("ids", "everything", "reason"),
    [(None, False, None), (None, False, []), (["a"], True, None), (["a"], False, ["failed"]), (None, True, ["failed"])],
)
def test_exactly_one_way_to_choose(ids, everything, reason):
    with pytest.raises(ConfigError, match="--all"):
        select("replay", ids, everything, (NO_FILTERS | {"reason": reason}))


def test_several_reasons_are_any_of_them():
    chosen = select("list", None, False, (NO_FILTERS | {"reason": ["failed", "expired"]}))
    assert chosen.reasons == {"failed", "expired"}
    with pytest.raises(ConfigError, match=r"--reason must be one of failed, .*; got 'bored'"):
        select("list", None, False, (NO_FILTERS | {"reason": ["failed", "bored"]}))


# -- the list


def test_a_table_in_a_pipe_is_not_cut_and_has_one_line_for_each(capsys):
    table = LetterTable(NOW)
    table.add([entry(), entry("b", error=ErrorInfo(type="OSError", message="x" * 200), name=None, origin=None)])
    table.end()
    lines = capsys.readouterr().out.splitlines()
    assert [line.split() for line in lines] == [
        ["id", "state", "reason", "task", "queue", "attempts", "age", "error"],
        ["a-1", "parked", "failed", "shop.add", "tasks.normal", "3", "60s", "ValueError:", "no", "luck"],
        ["b", "parked", "failed", "-", "-", "3", "60s", "OSError:", "x" * 200],
    ]


def test_on_a_terminal_the_error_is_cut_to_the_line(capsys, monkeypatch):
    monkeypatch.setattr(printing.sys.stdout, "isatty", lambda: True, raising=False)
    monkeypatch.setenv("COLUMNS", "90")
    table = LetterTable(NOW)
    table.add([entry(error=ErrorInfo(type="OSError", message="x" * 200))])
    _, line = capsys.readouterr().out.splitlines()
    assert len(line) == 90
    assert line.endswith("x…")


def test_json_is_one_array_with_a_letter_on_each_line(capsys):
    array = JsonArray()
    array.add([entry("a"), entry("b")])
    array.add([entry("c")])
    array.end()
    out = capsys.readouterr().out
    assert [(row["id"], row["state"], row["generation"]) for row in json.loads(out)] == [
        ("a", "parked", 0),
        ("b", "parked", 0),
        ("c", "parked", 0),
    ]
    assert len(out.splitlines()) == 5


def test_json_of_nothing_is_an_empty_array(capsys):
    JsonArray().end()
    assert json.loads(capsys.readouterr().out) == []


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0, "0s"), (119, "119s"), (120, "2m"), (7199, "119m"), (7200, "2h"), (200_000, "2d"), (-5, "0s")],
)
def test_an_age_is_short(seconds, text):
    assert printing.age(NOW - timedelta(seconds=seconds), NOW) == text


@pytest.mark.parametrize("text", ["\x1b[2J", "a\nb", "\x9b31m", "\u202eevil", "\ud800"])
def test_nothing_reaches_the_terminal_that_it_would_obey(text):
    assert printable(text).isprintable()


# -- one letter


def test_a_task_is_shown_with_all_that_is_known_and_readable_arguments(capsys):
    out = shown(capsys, letter_of("a-1", worker="edge1/light"), generation=2, revision=1)
    for text in (
        "edge1/light",
        "tasks.normal",
        "2030-01-01 11:59:00 UTC, 60s ago",
        "2, edited once",
        '"a": 1',
        "  line 1",
    ):
        assert text in out


def test_a_state_says_since_when_and_by_whom(capsys):
    out = shown(capsys, letter_of("a-1"), state="replayed", since=NOW, by="dlq-reaper")
    assert "replayed 2030-01-01 12:00:00 UTC by dlq-reaper" in out


def test_history_has_a_line_for_each(capsys):
    out = shown(capsys, letter_of("a-1"), history=[PastEvent(NOW, "replayed", 0, "by fogactors dlq")])
    assert "2030-01-01 12:00:00 UTC  generation 0  replayed  by fogactors dlq" in out


@pytest.mark.parametrize(
    ("body", "text"),
    [
        (b"", "(empty)"),
        (b"plain text", "plain text"),
        (b"\xff\x00A", "000000  ff 00 41"),
        (b"\x1b[2Jx", "\\x1b[2Jx"),
        (b"\xff" * 5_000, "... and 3976 more"),
        (b"y" * 70_000, "... and 4464 more"),
    ],
)
def test_a_body_that_is_no_task_is_text_or_bytes_and_bounded(capsys, body, text):
    out = shown(capsys, letter_of("a-1", body=body, task_id=None))
    assert text in out
    assert "\x1b" not in out
    assert len(out) < 70_000


def test_messagepack_is_readable(capsys):
    body = encode(task_of(letter_of("a-1")), "application/msgpack")
    assert '"b": 2' in shown(capsys, letter_of("a-1", body=body, content_type="application/msgpack"))


# -- the editor


@pytest.fixture
def editor(tmp_path, monkeypatch):
    """Lets a shell script be the editor."""

    def use(script):
        path = tmp_path / "editor.sh"
        path.write_text(script)
        monkeypatch.setenv("VISUAL", f"sh {path}")

    return use


def test_the_editor_gets_pretty_json_and_gives_what_it_made_of_it(editor, tmp_path):
    editor(f'cp "$1" {tmp_path}/seen; echo \'{{"a": 9}}\' > "$1"')
    assert edit._in_editor(task_of(letter_of("a"))) == b'{"a": 9}\n'
    assert (tmp_path / "seen").read_text() == '{\n  "a": 1,\n  "b": 2\n}'


@pytest.mark.parametrize("script", ["true", 'echo "{}" > "$1"; exit 1'])
def test_an_editor_that_changes_nothing_or_fails_changes_nothing(editor, script, capsys):
    editor(script)
    with pytest.raises(edit.typer.Abort):
        edit._in_editor(task_of(letter_of("a")))
    assert capsys.readouterr().err == "fogactors: nothing was changed\n"


def test_an_editor_that_is_not_there_is_named(monkeypatch):
    monkeypatch.setenv("VISUAL", "no-such-editor -w")
    with pytest.raises(ConfigError, match="'no-such-editor' cannot be run"):
        edit._in_editor(task_of(letter_of("a")))


def test_named_arguments_change_and_the_others_stay():
    assert json.loads(edit._merged(task_of(letter_of("a")), edit._values(["b=7", "c=text"]))) == {
        "a": 1,
        "b": 7,
        "c": "text",
    }


def test_arguments_that_are_no_object_are_all_to_be_given():
    with pytest.raises(ConfigError, match="--args"):
        edit._merged(task_of(letter_of("a", args=b"[1]")), {"b": 1})

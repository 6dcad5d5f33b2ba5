"""What is true of all commands alike."""

from __future__ import annotations

import re

import typer.main

from fogactors.app.cli import app

NO_DATA = {"run", "up", "demo"}
"""They run until they are stopped, and show what happens; `demo` writes its results to a file of JSON lines."""
OWN_FORMAT = {"topology export", "dlq export", "access redis-acl", "swarm logs"}
"""What they print is JSON already, or in the format of another program."""


def leaves(command, prefix=""):
    if not hasattr(command, "list_commands"):
        yield prefix, command
        return
    context = typer.Context(command)
    for name in command.list_commands(context):
        yield from leaves(command.get_command(context, name), f"{prefix} {name}".strip())


def test_every_command_that_prints_data_prints_it_as_json_too():
    commands = dict(leaves(typer.main.get_command(app)))
    assert set(commands) >= NO_DATA | OWN_FORMAT
    lacking = {
        name
        for name, command in commands.items()
        if name not in NO_DATA | OWN_FORMAT and not any("--json" in option.opts for option in command.params)
    }
    assert lacking == set()


def test_no_help_has_words_in_brackets_which_would_be_taken_for_markup():
    for name, command in leaves(typer.main.get_command(app)):
        texts = [command.help, *(getattr(parameter, "help", None) for parameter in command.params)]
        assert not [text for text in texts if text and re.search(r"\[[a-z]", text)], name


def test_every_command_says_what_it_does():
    assert [name for name, command in leaves(typer.main.get_command(app)) if not command.help] == []

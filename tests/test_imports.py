"""The import rule of the house: rooms import one way, and each library has the rooms it may be used in.

Imports are read from the source, so one inside a function or under TYPE_CHECKING counts as well.
"""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PACKAGE = ROOT / "fogactors"

MAY_IMPORT = {
    "errors": set(),
    "messages": {"errors"},
    "core": {"errors"},
    "wire": {"messages", "errors"},
    "bus": {"core", "wire", "messages", "errors"},
    "coord": {"core", "wire", "messages", "errors"},
    "tasks": {"core", "bus", "coord", "wire", "messages", "errors"},
    "messaging": {"core", "tasks", "bus", "coord", "wire", "messages", "errors"},
    "cluster": {"core", "coord", "wire", "messages", "errors"},
    "roles": {"core", "messaging", "cluster", "tasks", "bus", "coord", "wire", "messages", "errors"},
    "observe": {"core", "roles", "messaging", "cluster", "tasks", "bus", "coord", "wire", "messages", "errors"},
    "app": {"core", "observe", "roles", "messaging", "cluster", "tasks", "bus", "coord", "wire", "messages", "errors"},
}
LIBRARIES = {
    "aio_pika": {"bus"},
    "aiormq": {"bus"},
    "httpx": {"bus"},
    "redis": {"coord"},
    "uvloop": {"app/boot.py"},
    "rich": {"observe", "app/cli"},
    "prometheus_client": {"observe"},
    "typer": {"app/cli"},
    "psutil": {"tasks", "observe", "roles"},
    "trio": {"testing"},
    "yaml": {"app/swarm"},
    "hypothesis": set(),
}


def imports(path: Path) -> set[str]:
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            found.add(node.module or "")
            found |= {f"{node.module}.{alias.name}" for alias in node.names}
    return found


def room(path: Path) -> str:
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


SOURCES = sorted(path for path in PACKAGE.rglob("*.py") if path.parent != PACKAGE or room(path) in MAY_IMPORT)


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(ROOT)))
def test_a_room_imports_only_what_lies_below_it(path):
    own = room(path)
    if own == "testing":  # the kit is on top of everything
        return
    for name in imports(path):
        parts = name.split(".")
        if parts[0] != "fogactors" or len(parts) == 1:
            continue
        # `from fogactors import x` lists both the package and its parts; rooms are its second word.
        if parts[1] in MAY_IMPORT or parts[1] == "testing":
            assert parts[1] == own or parts[1] in MAY_IMPORT[own], f"{own} must not import {name}"


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(ROOT)))
def test_a_library_is_used_only_in_its_rooms(path):
    where = str(path.relative_to(PACKAGE))
    for name in imports(path):
        allowed = LIBRARIES.get(name.split(".")[0])
        if allowed is not None:
            assert any(where == each or where.startswith(f"{each}/") for each in allowed), f"{where} imports {name}"


def test_core_knows_anyio_and_the_standard_library_only():
    import sys

    for path in (PACKAGE / "core").glob("*.py"):
        for name in imports(path):
            top = name.split(".")[0]
            assert top in {"fogactors", "anyio"} or top in sys.stdlib_module_names, f"{path.name} imports {name}"


def test_every_room_is_in_the_rule():
    rooms = {path.name.removesuffix(".py") for path in PACKAGE.iterdir() if not path.name.startswith(("_", "py."))}
    assert rooms - {"testing"} <= set(MAY_IMPORT)


def test_no_file_is_over_400_lines():
    long = {str(p.relative_to(ROOT)): n for p in PACKAGE.rglob("*.py") if (n := len(p.read_text().splitlines())) > 400}
    assert not long

"""Reads a tree of frozen dataclasses from a TOML file, the environment and secret files. Knows none of their keys.

The root's fields are tables: a dataclass is `[table]`, a dataclass within it `[table.<field>]`, and a tuple of
dataclasses is `[table.<name>]`, any number of them, in order; what names there may be says the type of its `name`, and
one with a dot is written in quotes, `[table."a.b"]`. msgspec checks types and ranges; the messages are ours,
because its own name Python types and a JSON path, and whoever edits a file wants its table, its key and the nearest
name that exists.
"""

from __future__ import annotations

import difflib
import json
import re
import tomllib
from collections import deque
from collections.abc import Iterable, Mapping
from dataclasses import MISSING, dataclass, fields, is_dataclass
from functools import cache
from pathlib import Path
from typing import Any, Final, NamedTuple, cast, get_args, get_origin, get_type_hints

import msgspec
from msgspec import inspect

from fogactors.errors import ConfigError

__all__ = ["ENV_PREFIX", "YEAR_S", "dotted", "env_name", "load_tree", "masked", "wrong"]

ENV_PREFIX: Final = "FOGACTORS_"
YEAR_S: Final = 31_536_000.0
_IGNORED_ENV: Final = "FOGACTORS_TEST_"
_ROW_NAME: Final = re.compile(r"[a-z][a-z0-9]*(_[a-z0-9]+)*")
_ROW_WORDS: Final = "lower-case letters, digits and single _"
_NO_WORD: Final = re.compile(r"[^A-Za-z0-9_]")


class _Given(NamedTuple):
    """A value as it was given. `text`: all are strings (environment). `secret`: not to be repeated in a message."""

    value: object
    source: str
    text: bool = False
    secret: bool = False


@dataclass(frozen=True, slots=True)
class _Table:
    """`rows`: row name to default values; a plain table has one row named ``."""

    type: Any
    named: bool
    rows: Mapping[str, object]

    @property
    def hints(self) -> dict[str, Any]:
        left_out = {"name"} if self.named else self.nested
        return {key: hint for key, hint in _hints_of(self.type).items() if key not in left_out}

    def row_problem(self, row: str) -> str:
        """Empty for a good name."""
        info = inspect.type_info(_hints_of(self.type)["name"])
        if not isinstance(info, inspect.Metadata):
            return "" if _ROW_NAME.fullmatch(row) else f"expected {_ROW_WORDS}"
        try:
            msgspec.convert(row, _hints_of(self.type)["name"])
        except msgspec.ValidationError:
            return f"expected {_expected(info, row, text=False)}"
        return ""

    @property
    def needed(self) -> list[str]:
        """The keys that have no default of their own."""
        required = {each.name for each in fields(self.type) if each.default is MISSING}
        return [key for key in self.hints if key in required]

    @property
    def nested(self) -> dict[str, Any]:
        """The fields that are tables of their own, behind a dot."""
        return {key: hint for key, hint in _hints_of(self.type).items() if is_dataclass(hint)}


@cache  # Python evaluates them anew each time, and a file may have hundreds of queues
def _hints_of(kind: Any) -> dict[str, Any]:
    return get_type_hints(kind, include_extras=True)


def wrong(source: str, key: str, text: str) -> ConfigError:
    """The one form of every message: source, table, key, what is wrong. `key` is dotted, or a table's whose name is in
    quotes."""
    table, _, last = ("", "", key) if key.endswith('"') else key.rpartition(".")
    return ConfigError(f"{source}: [{table}] {last}: {text}" if table else f"{source}: [{last}]: {text}")


def env_name(key: str) -> str:
    """The variable that sets a dotted key: `executor.drain_s` is `FOGACTORS_EXECUTOR__DRAIN_S`, and of a name in quotes
    every other sign is a `_`: `queues."audit.events".max_length` is `FOGACTORS_QUEUES__AUDIT_EVENTS__MAX_LENGTH`."""
    parts = key.split('"')
    parts[1::2] = [_NO_WORD.sub("_", name) for name in parts[1::2]]
    return ENV_PREFIX + "".join(parts).replace(".", "__").upper()


def dotted(table: str, row: str, key: str) -> str:
    """`executor.drain_s`, `tiers.light.cpu`, `queues."audit.events".max_length`."""
    return ".".join(part for part in (table, f'"{row}"' if _NO_WORD.search(row) else row, key) if part)


def load_tree(root: type, path: Path | None, env: Mapping[str, str]) -> tuple[dict[str, Any], dict[str, str]]:
    """The root's arguments, and the source of each dotted key: `default`, the path, or the variable.

    Raises `ConfigError`.
    """
    tables = _tables(root)
    given: dict[str, _Given] = {}
    if path is not None:
        source = str(path)
        tables, given = _from_document(tables, _parse(path), source)
    hints = {
        dotted(name, row, key): hint
        for name, table in tables.items()
        for row in table.rows
        for key, hint in table.hints.items()
    }
    given |= _from_env(hints, env)
    values = {key: _convert(key, hints[key], each) for key, each in given.items()}
    provenance = {key: given[key].source if key in given else "default" for key in hints}
    arguments = {name: _build(name, tables, values, str(path)) for name in tables if "." not in name}
    return arguments, provenance


def _tables(root: type) -> dict[str, _Table]:
    defaults = root()
    tables: dict[str, _Table] = {}
    for name, hint in get_type_hints(root).items():
        if get_origin(hint) is tuple:
            rows = {row.name: row for row in getattr(defaults, name)}
            tables[name] = _Table(get_args(hint)[0], True, rows)
        elif isinstance(hint, type):
            _add_table(tables, name, hint, getattr(defaults, name))
    return tables


def _add_table(tables: dict[str, _Table], name: str, kind: Any, default: object) -> None:
    table = tables[name] = _Table(kind, False, {"": default})
    for key, nested in table.nested.items():
        _add_table(tables, f"{name}.{key}", nested, getattr(default, key))


# -- the file


def _parse(path: Path) -> dict[str, Any]:
    try:
        text = path.read_bytes().decode("utf-8-sig")
    except FileNotFoundError:
        raise ConfigError(f"{path}: there is no such file") from None
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read: {error.strerror}") from None
    except UnicodeDecodeError as error:
        line = error.object.count(b"\n", 0, error.start) + 1
        raise ConfigError(f"{path}: line {line}: not UTF-8") from None
    try:
        return tomllib.loads(text)
    except ValueError as error:  # TOMLDecodeError, or Python's refusal of an integer with thousands of digits
        what, line = str(error), text.count("\n") + 1
        if at := re.search(r" \(at (?:line (\d+), column \d+|end of document)\)$", what):
            what, line = what[: at.start()], int(at[1] or line)
        raise ConfigError(f"{path}: line {line}: malformed TOML: {what}") from None


def _from_document(
    tables: dict[str, _Table], document: dict[str, Any], source: str
) -> tuple[dict[str, _Table], dict[str, _Given]]:
    tables, given = dict(tables), dict[str, _Given]()
    every_key = [f"[{name}] {key}" for name, table in tables.items() for key in table.hints]
    pending = deque(document.items())
    while pending:
        name, content = pending.popleft()
        if name not in tables:
            raise _unknown(source, name, content, tables, every_key)
        table = tables[name]
        keys = _table(content, source, name)
        rows = keys if table.named else {"": keys}
        if table.named:
            if not rows and table.rows:
                raise wrong(source, name, f"expected at least one table, e.g. [{name}.{next(iter(table.rows))}]")
            # What the file names takes the place of the default rows: half a list of one's own would surprise.
            tables[name] = _Table(table.type, True, dict.fromkeys(rows))
        for row, values in rows.items():
            if table.named and (problem := table.row_problem(row)):
                raise wrong(source, name, f"{_shown(row)} is no name; {problem}")
            prefix = dotted(name, row, "")
            for key, value in _table(values, source, prefix).items():
                if key in table.nested:
                    pending.append((f"{name}.{key}", value))
                    continue
                if table.nested and isinstance(value, dict):
                    raise _unknown(source, f"{name}.{key}", {}, [f"{name}.{each}" for each in table.nested], [])
                if key not in table.hints:
                    hint = _hint(key, table.hints, every_key)
                    raise ConfigError(f"{source}: [{prefix}] {_word(key)}: unknown key{hint}")
                given[f"{prefix}.{key}"] = _Given(value, source)
    return tables, given


def _table(content: object, source: str, name: str) -> dict[str, Any]:
    if not isinstance(content, dict):
        raise ConfigError(f"{source}: [{name}]: expected a table, got {_shown(content)}")
    return cast("dict[str, Any]", content)


def _unknown(source: str, name: str, content: object, tables: Iterable[str], keys: list[str]) -> ConfigError:
    if isinstance(content, dict):
        hint = _hint(f"[{name}]", [f"[{each}]" for each in tables])
        return ConfigError(f"{source}: [{_word(name)}]: unknown table{hint}")
    return ConfigError(f"{source}: {_word(name)}: a key outside a table{_hint(name, (), keys)}")


# -- the environment


def _from_env(hints: Mapping[str, Any], env: Mapping[str, str]) -> dict[str, _Given]:
    variables = {env_name(key): key for key in hints}
    given: dict[str, _Given] = {}
    for name in sorted(env):
        if not name.startswith(ENV_PREFIX) or "__" not in name or name.startswith(_IGNORED_ENV):
            continue
        if name in variables:
            given[variables[name]] = _Given(env[name], name, text=True)
            continue
        direct = name.removesuffix("_FILE")
        if direct not in variables:
            raise ConfigError(f"{name}: unknown setting{_hint(name, variables)}")
        if direct in env:
            raise ConfigError(f"{name}: {direct} is set as well; set one of them")
        given[variables[direct]] = _Given(_secret(name, env[name]), name, text=True, secret=True)
    return given


def _secret(name: str, path: str) -> str:
    try:
        text = Path(path).read_bytes().decode()
    except OSError as error:
        raise ConfigError(f"{name}: cannot read {path}: {error.strerror}") from None
    except UnicodeDecodeError:
        raise ConfigError(f"{name}: cannot read {path}: not UTF-8") from None
    return text.removesuffix("\n").removesuffix("\r")


# -- values


def _convert(key: str, hint: Any, given: _Given) -> Any:
    value = given.value
    info = inspect.type_info(hint)
    if given.text and isinstance(info, inspect.VarTupleType):
        value = [part.strip() for part in str(value).split(",") if part.strip()]
    try:
        return msgspec.convert(value, hint, strict=not given.text)
    except msgspec.ValidationError:
        got = "" if given.secret or key.endswith(".password") else f", got {_shown(given.value)}"
        raise wrong(given.source, key, f"expected {_expected(info, value, given.text)}{got}") from None


def _expected(info: inspect.Type, value: object, text: bool) -> str:
    """A type in words: `a number` for what is none, `a number > 0` for one out of range."""
    match info:
        case inspect.Metadata():
            return cast("dict[str, str]", info.extra_json_schema)["description"]
        case inspect.LiteralType():
            return f"one of {', '.join(str(value) for value in info.values if value != '')}"
        case inspect.VarTupleType():
            return "a list of text"
        case inspect.BoolType():
            return "true or false"
        case inspect.IntType():
            words, unbounded = "a whole number", int
        case inspect.FloatType():
            words, unbounded = "a number", float
        case _:
            return "text"
    try:
        msgspec.convert(value, unbounded, strict=not text)
    except msgspec.ValidationError:
        return words
    limits = ((">", info.gt), (">=", info.ge), ("<", info.lt), ("<=", info.le))
    return f"{words} {' and '.join(f'{sign} {limit:.10g}' for sign, limit in limits if limit is not None)}"


def _build(name: str, tables: Mapping[str, _Table], values: Mapping[str, Any], source: str) -> Any:
    table, built = tables[name], list[Any]()
    for row, default in table.rows.items():
        arguments: dict[str, Any] = {"name": row} if table.named else {}
        for key in table.hints:
            full = dotted(name, row, key)
            if full in values:
                arguments[key] = values[full]
            elif default is not None:
                arguments[key] = getattr(default, key)
            elif key in table.needed:
                raise wrong(source, full, f"missing; each table of [{name}] states {', '.join(table.needed)}")
        arguments |= {key: _build(f"{name}.{key}", tables, values, source) for key in table.nested}
        built.append(table.type(**arguments))
    return tuple(built) if table.named else built[0]


def _shown(value: object) -> str:
    """A value in a message: short, on one line, as TOML writes it, without passwords."""
    match value:
        case dict():
            return "a table"
        case list():
            return "a list"
        case str():
            text = _quoted(masked(value))
        case _:
            text = masked(value)
    return text if len(text) <= 60 else f"{text[:57]}..."


def _quoted(text: str) -> str:
    return json.dumps(text, ensure_ascii=not text.isprintable())


def _word(name: str) -> str:
    """A name from the file, which TOML lets hold anything, so that a message stays one line."""
    return name if name.isprintable() else _quoted(name)


def _hint(name: str, here: Iterable[str], elsewhere: Iterable[str] = ()) -> str:
    """The nearest name in the same place, else that key in another table, else all that there are."""
    here = list(here)
    if near := difflib.get_close_matches(name, here, n=1):
        return f"; did you mean {near[0]}?"
    keys = {each.rpartition(" ")[2]: each for each in elsewhere}
    if near := difflib.get_close_matches(name, keys, n=1, cutoff=0.8):
        return f"; did you mean {keys[near[0]]}?"
    return f"; known: {', '.join(here)}" if here else ""


# Greedy up to the last @, because a password may hold one; it rather hides too much than too little.
_PASSWORD = re.compile(r"((?:://|^)[^:@/\s]*:(?!//)).*(@)", re.DOTALL)
_PARAMETER = re.compile(r"([?&](?:password|passwd|secret|token)=)[^&#\s]*", re.IGNORECASE)


def masked(value: object) -> str:
    """A value as text to print: text as it is, other values as in TOML, and any password of a URL as `***`."""
    if isinstance(value, str):
        return _PARAMETER.sub(r"\1***", _PASSWORD.sub(r"\1***\2", value))
    if isinstance(value, tuple | list):
        return f"[{', '.join(_quoted(masked(each)) for each in cast('tuple[object, ...]', value))}]"
    return str(value).lower() if isinstance(value, bool) else str(value)

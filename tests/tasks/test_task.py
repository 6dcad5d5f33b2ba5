"""`@task`, the registry, and arguments on the wire."""

from __future__ import annotations

import dataclasses
import datetime as dt
import functools
import inspect
import json
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal, TypeVar

import msgspec
import pytest

from fogactors.errors import (
    ConfigError,
    TaskArgumentError,
    TaskDefinitionError,
    TaskResultError,
    UnknownTask,
    WireError,
)
from fogactors.tasks import task as task_module
from fogactors.tasks.retry import RetryPolicy
from fogactors.tasks.task import Needs, Registry, TaskDef

T = TypeVar("T")
task = functools.partial(task_module.task, registry=Registry())


def define(fn: Callable[..., Any], **settings: Any) -> TaskDef[..., Any]:
    return task_module.task(registry=Registry(), **settings)(fn)


@dataclasses.dataclass
class Box:
    width: int
    inner: Box | None = None


@task(name="resize", priority="high", cpu=2.0, memory_mb=256, time_limit=30, retry=3, deadline_s=60)
async def resize(source: Path, width: int = 640, *, keep: bool = False) -> Path:
    """Make it smaller."""
    return source.with_suffix(f".{width}{keep}")


@task()
def add(a: int, b: int = 2) -> int:
    return a + b


@task()
def total(later: Later) -> int:
    return later.n


@task()
def first(a: int, b: int = 5, /, c: int = 6) -> list[int]:
    return [a, b, c]


class Later(msgspec.Struct):
    n: int


def call(definition: TaskDef[..., Any], *args: Any, **kwargs: Any) -> Any:
    """Over the wire and back, as an executor does it."""
    given, named = definition.decode_args(definition.encode_args(*args, **kwargs))
    return definition.decode_result(definition.encode_result(definition.fn(*given, **named)))


# -- definition


def test_a_task_is_still_the_function() -> None:
    assert add(1) == 3
    assert resize.__doc__ == "Make it smaller."
    assert str(inspect.signature(add)) == "(a: 'int', b: 'int' = 2) -> 'int'"


@pytest.mark.anyio
@pytest.mark.parametrize("anyio_backend", ["asyncio"])
async def test_an_async_task_is_awaited() -> None:
    assert await resize(Path("a.png"), keep=True) == Path("a.640True")


def test_settings() -> None:
    assert (resize.name, resize.mode, resize.module) == ("resize", "async", __name__)
    assert (resize.priority, resize.needs) == ("high", Needs(cpu=2.0, memory_mb=256))
    assert (resize.time_limit, resize.deadline_s, resize.retry.attempts) == (30, 60, 4)


def test_settings_left_out() -> None:
    @task_module.task
    def plain() -> None: ...

    assert plain.name == f"{__name__}.test_settings_left_out.<locals>.plain"
    assert task_module.default_registry.get(plain.name) is plain
    assert (plain.mode, plain.priority, plain.needs) == ("thread", "normal", Needs())
    assert (plain.time_limit, plain.deadline_s, plain.retry) == (None, None, RetryPolicy())


def module_level(n: int) -> int:
    return n


@pytest.mark.parametrize(
    ("settings", "mode", "cpu"),
    [
        ({"cpu": True}, "process", None),
        ({"process": True}, "process", None),
        ({"process": True, "cpu": 2}, "process", 2),
        ({"cpu": 1.0}, "thread", 1.0),
        ({"cpu": 1}, "thread", 1),
    ],
    ids=str,
)
def test_cpu_true_is_a_process_and_a_number_is_cores(settings: dict[str, Any], mode: str, cpu: float | None) -> None:
    definition = define(module_level, **settings)
    assert (definition.mode, definition.needs.cpu) == (mode, cpu)


@pytest.mark.parametrize(
    "wrong",
    [
        {"priority": "urgent"},
        {"cpu": 0},
        {"memory_mb": -1},
        {"time_limit": 0},
        {"deadline_s": float("inf")},
        {"delay_s": -1},
        {"delay_s": 1e12},
        {"deadline_s": 1e12},
        {"not_before": dt.datetime(2030, 1, 1)},
        {"retry": -1},
    ],
    ids=str,
)
def test_a_wrong_setting_is_refused_with_the_task_and_the_setting(wrong: dict[str, Any]) -> None:
    setting = "attempts" if "retry" in wrong else next(iter(wrong))
    with pytest.raises(TaskDefinitionError, match=f"task resize: .*{setting}"):
        resize.options(**wrong)


def test_options_make_a_copy() -> None:
    start = dt.datetime(2030, 1, 1, tzinfo=dt.UTC)
    changed = resize.options(priority="low", tier="heavy", time_limit=None, retry=None, not_before=start)
    assert (changed.priority, changed.needs) == ("low", Needs("heavy", 2.0, 256))
    assert (changed.time_limit, changed.retry.attempts, changed.not_before) == (None, 1, start)
    assert (changed.deadline_s, changed.name) == (60, "resize")
    assert (resize.priority, resize.time_limit, resize.not_before) == ("high", 30, None)
    with pytest.raises(TaskDefinitionError, match="not_before and delay_s"):
        changed.options(delay_s=1)
    assert changed.options(not_before=None, delay_s=1).delay_s == 1
    assert (changed.options(idempotency_key="order-7").idempotency_key, changed.idempotency_key) == ("order-7", None)


async def coroutine() -> None: ...


def generator() -> Any:
    yield 1


async def async_generator() -> Any:
    yield 1


def variable(*args: int) -> None: ...


def named(**kwargs: int) -> None: ...


def foreign(where: socket.socket) -> None: ...


def foreign_inside(where: dict[str, list[socket.socket]]) -> None: ...


def foreign_result() -> socket.socket: ...


def two_ways(where: Path | str) -> None: ...


def from_main() -> None: ...


from_main.__module__ = "__main__"


@pytest.mark.parametrize(
    ("fn", "process", "why"),
    [
        (coroutine, True, "async function cannot run in a worker process"),
        (from_main, True, "cannot import from the script"),
        (lambda: None, True, "top level of a module"),
        (functools.partial(module_level), False, "takes a function, not partial"),
        (generator, False, "generator"),
        (async_generator, False, "generator"),
        (variable, False, r"\*args"),
        (named, False, r"\*\*kwargs"),
        (foreign, False, "parameter 'where': socket has no JSON form"),
        (foreign_inside, False, "parameter 'where': socket has no JSON form"),
        (foreign_result, False, "the result: socket has no JSON form"),
        (two_ways, False, "parameter 'where': Type unions"),
    ],
)
def test_what_cannot_be_a_task_is_refused(fn: Callable[..., Any], process: bool, why: str) -> None:
    with pytest.raises(TaskDefinitionError, match=why):
        define(fn, process=process)


@pytest.mark.parametrize("name", ["two words", "x" * 201, "é" * 101])
def test_a_name_that_does_not_fit_a_routing_key_is_refused(name: str) -> None:
    with pytest.raises(TaskDefinitionError, match="200 bytes"):
        define(module_level, name=name)


# -- arguments


def test_arguments_are_json_by_parameter_name_without_defaults() -> None:
    assert json.loads(bytes(resize.encode_args(Path("a/b"), keep=True))) == {"source": "a/b", "keep": True}
    assert json.loads(bytes(add.encode_args(1, b=3))) == {"a": 1, "b": 3}


def test_arguments_come_back_typed() -> None:
    args, kwargs = resize.decode_args(b'{"source": "a/b", "width": 3}')
    assert (args, kwargs) == ((), {"source": Path("a/b"), "width": 3})


@pytest.mark.parametrize(
    ("args", "kwargs", "result"),
    [((1,), {}, [1, 5, 6]), ((1, 2), {"c": 3}, [1, 2, 3]), ((1,), {"c": 3}, [1, 5, 3])],
)
def test_positional_only_parameters(args: tuple[int, ...], kwargs: dict[str, int], result: list[int]) -> None:
    assert call(first, *args, **kwargs) == result


def test_annotations_may_name_what_comes_later() -> None:
    assert call(total, Later(4)) == 4
    with pytest.raises(TaskArgumentError, match=r"argument 'later' at n: Expected `int`, got `str`"):
        total.decode_args(b'{"later": {"n": "x"}}')


def test_a_name_that_never_comes_is_said_at_the_first_use() -> None:
    def broken(x: Nowhere) -> None: ...  # noqa: F821

    with pytest.raises(TaskDefinitionError, match="'Nowhere', which its module does not define"):
        define(broken).encode_args(1)


@pytest.mark.parametrize(
    ("hint", "value"),
    [
        (Any, {"a": [1, None]}),
        (object, "x"),
        (Box, Box(1, Box(2))),
        (Path | None, Path("x")),
        (list[Path], [Path("x"), Path("y")]),
        (dict[str, tuple[int, str]], {"a": (1, "b")}),
        (bytes, b"\x00\xff"),
        (dt.datetime, dt.datetime(2030, 1, 1, tzinfo=dt.UTC)),
        (Literal["a", "b"], "a"),
    ],
    ids=str,
)
def test_types_that_pass_both_ways(hint: Any, value: object) -> None:
    def same(value: Any) -> Any:
        return value

    same.__annotations__ = {"value": hint, "return": hint}
    assert call(define(same), value) == value


def test_without_annotations_everything_passes() -> None:
    def same(value, other=None):  # type: ignore[no-untyped-def]
        return [value, other]

    assert call(define(same), {"a": 1}, other="x") == [{"a": 1}, "x"]


@pytest.mark.parametrize(
    ("args", "kwargs", "why"),
    [
        (("one",), {}, "argument 'a': Expected `int`, got `str`"),
        ((None,), {}, "argument 'a': Expected `int`, got `null`"),
        ((), {}, "'a'"),
        ((1,), {"z": 1}, "'z'"),
        ((1, 2, 3), {}, "Extra positional"),
        ((object(),), {}, "object has no JSON form"),
    ],
)
def test_wrong_arguments_are_refused_at_submit(args: Any, kwargs: Any, why: str) -> None:
    with pytest.raises(TaskArgumentError, match=why) as caught:
        add.encode_args(*args, **kwargs)
    assert str(caught.value).startswith(f"task {add.name}: ")


@pytest.mark.parametrize(
    ("raw", "why"),
    [
        (b'{"a": "one"}', "argument 'a': Expected `int`, got `str`"),
        (b"{}", "missing argument `a`"),
        (b'{"a": 1, "z": 2}', "unknown argument `z`"),
        (b"[1]", "Expected `object`, got `array`"),
        (b'{"a": ', "not JSON"),
        (b"\xff", "not JSON"),
        (b"", "not JSON"),
    ],
)
def test_wrong_arguments_are_refused_at_the_executor(raw: bytes, why: str) -> None:
    with pytest.raises(TaskArgumentError, match=why) as caught:
        add.decode_args(raw)
    assert str(caught.value).startswith(f"task {add.name}: ")


@pytest.mark.parametrize("raw", [b'{"source": 5}', b'{"source": null}'])
def test_a_path_must_be_text(raw: bytes) -> None:
    with pytest.raises(TaskArgumentError, match="argument 'source': Expected"):
        resize.decode_args(raw)


def test_arguments_that_never_end() -> None:
    def take(value: Any) -> None: ...

    endless: list[Any] = []
    endless.append(endless)
    with pytest.raises(TaskArgumentError, match="hold themselves"):
        define(take).encode_args(endless)
    with pytest.raises(TaskArgumentError, match="nested too deeply"):
        define(take).decode_args(b'{"value": ' + b"[" * 100_000)


def test_a_result_that_is_not_what_was_promised() -> None:
    with pytest.raises(TaskResultError, match=r"task .*add: its result cannot be sent: socket has no JSON form"):
        add.encode_result(socket.socket.__new__(socket.socket))
    with pytest.raises(WireError, match="Expected `int`, got `str`"):
        add.decode_result(b'"three"')


# -- the registry


def test_a_name_belongs_to_one_function() -> None:
    registry = Registry()
    one = task_module.task(name="n", registry=registry)(module_level)
    again = task_module.task(name="n", registry=registry)(module_level)
    assert registry.get("n") is again is not one
    with pytest.raises(TaskDefinitionError, match=r"module_level has this name already; give .*generator_free"):

        @task_module.task(name="n", registry=registry)
        def generator_free() -> None: ...

    assert registry.names() == ("n",)


@pytest.mark.parametrize(
    ("asked", "hint"),
    [("app.shrnik", "did you mean app.shrink?"), ("shrink", "did you mean app.shrink?"), ("zzz", "'zzz'; name its")],
)
def test_an_unknown_task_is_told_its_neighbours(asked: str, hint: str) -> None:
    registry = Registry()
    task_module.task(name="app.shrink", registry=registry)(module_level)
    with pytest.raises(UnknownTask, match="--import") as caught:
        registry.get(asked)
    assert hint in str(caught.value)


@pytest.mark.parametrize(
    ("source", "why"),
    [
        ("import nothing_of_this_name", "ModuleNotFoundError"),
        ("1 / 0", "ZeroDivisionError: division by zero"),
        ("raise SystemExit(1)", "SystemExit: 1"),
        ("def", "SyntaxError"),
    ],
)
def test_a_task_module_that_cannot_be_imported(
    source: str, why: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "broken_module.py").write_text(source)
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(ConfigError, match=rf"task module 'broken_module': {why}"):
        Registry().import_modules(["broken_module"])

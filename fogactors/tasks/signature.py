"""A task's signature as a codec: arguments to one JSON object by parameter name, and back, with their types checked.

The object is a msgspec struct made from the signature, so a call costs one encode and one decode in C. A parameter
that was not given is not written: its default is the one of the code that runs the task, and bodies stay short.
"""

from __future__ import annotations

import inspect
import re
import typing
from pathlib import PurePath
from typing import TYPE_CHECKING, Any, Final, cast

import msgspec
from msgspec import UNSET, Raw, Struct, UnsetType, defstruct

from fogactors.errors import TaskArgumentError, TaskDefinitionError, TaskResultError, WireError

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["Signature"]

_AT_ARGUMENT: Final = re.compile(
    r"^(?P<reason>.*) - at (?:key in )?`\$\.(?P<argument>[^.\[`]+)(?P<inner>[^`]*)`$", re.DOTALL
)
_ENCODE_ERRORS: Final = (TypeError, ValueError, OverflowError, RecursionError)
# ValueError covers msgspec's own errors and lone surrogates, RecursionError a list that holds itself.


class Signature:
    """The codec of one function. Built lazily: annotations may name what the module defines further down.

    `name` is the task's, for messages. Raises `TaskDefinitionError` for what can be refused at once, from `__init__`
    or from the first use.
    """

    __slots__ = ("_args", "_defaults", "_encoder", "_fn", "_name", "_parameters", "_positional", "_result", "_struct")

    def __init__(self, name: str, fn: Callable[..., Any]) -> None:
        self._name = name
        self._fn = fn
        self._parameters = inspect.signature(fn).parameters
        for parameter in self._parameters.values():
            if parameter.kind in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD):
                raise TaskDefinitionError(
                    f"task {name}: parameter {parameter} cannot be typed on the wire; name each parameter"
                )
        self._positional = tuple(p.name for p in self._parameters.values() if p.kind is p.POSITIONAL_ONLY)
        self._defaults = {p.name: p.default for p in self._parameters.values() if p.default is not p.empty}
        self._encoder = msgspec.json.Encoder(enc_hook=_to_wire)
        self._struct: type[Struct] | None = None
        self._args: msgspec.json.Decoder[Any] = msgspec.json.Decoder()
        self._result: msgspec.json.Decoder[Any] = msgspec.json.Decoder()
        try:
            self._build()
        except NameError:
            return  # a name further down the module; `_ready` tries again

    # -- arguments

    def encode_args(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Raw:
        """The arguments of one call as a JSON object. Raises `TaskArgumentError`."""
        struct = self._struct or self._ready()
        try:
            raw = self._encoder.encode(struct(*args, **kwargs))
            # The way there and back, because the encoder does not look at the types: the submitter should hear of
            # a wrong one, not the dead letters.
            self._args.decode(raw)
        except _ENCODE_ERRORS as error:
            raise self._refused(error) from error
        return Raw(raw)

    def decode_args(self, raw: Raw | bytes) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """Positional and named arguments to call the function with. Raises `TaskArgumentError`."""
        if self._struct is None:
            self._ready()
        try:
            given = self._args.decode(raw)
        except _ENCODE_ERRORS as error:
            raise self._refused(error) from error
        values = msgspec.structs.asdict(given)
        if self._defaults:
            values = {name: value for name, value in values.items() if value is not UNSET}
        if not self._positional:
            return (), values
        return tuple(values.pop(name) if name in values else self._defaults[name] for name in self._positional), values

    def _refused(self, error: Exception) -> TaskArgumentError:
        reason = str(error)
        if isinstance(error, RecursionError):
            reason = "the arguments are nested too deeply, or hold themselves"
        elif type(error) is msgspec.DecodeError:
            reason = f"the arguments are not JSON: {reason}"
        elif found := _AT_ARGUMENT.match(reason):
            inner = f" at {found['inner'].lstrip('.')}" if found["inner"] else ""
            reason = f"argument {found['argument']!r}{inner}: {found['reason']}"
        else:
            reason = reason.replace("Object missing required field", "missing argument")
            reason = reason.replace("Object contains unknown field", "unknown argument")
        return TaskArgumentError(f"task {self._name}: {reason}")

    # -- the result

    def encode_result(self, value: Any) -> Raw:
        """What the function returned, as JSON. Raises `TaskResultError` when it has no JSON form."""
        try:
            return Raw(self._encoder.encode(value))
        except _ENCODE_ERRORS as error:
            reason = "it is nested too deeply, or holds itself" if isinstance(error, RecursionError) else str(error)
            raise TaskResultError(f"task {self._name}: its result cannot be sent: {reason}") from error

    def decode_result(self, raw: Raw | bytes) -> Any:
        """The result as the return annotation says. Raises `WireError` when it is something else."""
        if self._struct is None:
            self._ready()
        try:
            return self._result.decode(raw)
        except msgspec.MsgspecError as error:
            raise WireError(f"task {self._name}: its result is not what its annotation says: {error}") from error

    # -- building

    def _ready(self) -> type[Struct]:
        try:
            return self._build()
        except NameError as error:
            raise TaskDefinitionError(
                f"task {self._name}: its annotations name {error.name!r}, which its module does not define"
            ) from error

    def _build(self) -> type[Struct]:
        hints = typing.get_type_hints(self._fn, include_extras=True)
        types = {name: self._wire_type(f"parameter {name!r}", hints.get(name, Any)) for name in self._parameters}
        self._result = _decoder(self._wire_type("the result", hints.get("return", Any)))
        named_only = [p.name for p in self._parameters.values() if p.kind is p.KEYWORD_ONLY]
        base = defstruct(
            "NamedOnly", [self._field(n, types.pop(n)) for n in named_only], kw_only=True, forbid_unknown_fields=True
        )
        struct = defstruct(self._fn.__name__, [self._field(n, t) for n, t in types.items()], bases=(base,))
        self._args = _decoder(struct)
        self._struct = struct
        return struct

    def _field(self, name: str, wire_type: Any) -> Any:
        return (name, wire_type | UnsetType, UNSET) if name in self._defaults else (name, wire_type)

    def _wire_type(self, what: str, hint: Any) -> Any:
        if hint in (object, typing.NoReturn, typing.Never):
            return Any
        try:
            foreign = _foreign_type(msgspec.inspect.type_info(hint))
        except (TypeError, ValueError) as error:
            raise TaskDefinitionError(f"task {self._name}: {what}: {error}") from error
        if foreign is not None:
            raise TaskDefinitionError(
                f"task {self._name}: {what}: {foreign.__qualname__} has no JSON form; "
                "use built-in types, dataclasses, msgspec structs or pathlib.Path"
            )
        return hint


# -- types that msgspec leaves to hooks -------------------------------------------------------------------------------


def _to_wire(value: Any) -> Any:
    if isinstance(value, PurePath):
        return str(value)
    raise TypeError(f"{type(value).__qualname__} has no JSON form")


def _from_wire(kind: type[Any], value: Any) -> Any:
    if not isinstance(value, str):
        raise ValueError(f"Expected `{kind.__name__}`, got `{type(value).__name__}`")
    return kind(value)


def _decoder(kind: Any) -> msgspec.json.Decoder[Any]:
    return msgspec.json.Decoder(kind, dec_hook=_from_wire)


def _foreign_type(node: object, seen: set[int] | None = None) -> type[Any] | None:
    """The first type inside a msgspec type description that has no JSON form."""
    seen = set() if seen is None else seen
    if isinstance(node, msgspec.inspect.CustomType):
        kind = cast("type[Any]", node.cls)
        return None if issubclass(kind, PurePath) else kind
    if isinstance(node, tuple):
        parts = cast("tuple[object, ...]", node)
    elif isinstance(node, msgspec.inspect.Type | msgspec.inspect.Field) and id(node) not in seen:
        seen.add(id(node))  # a struct may hold itself
        parts = msgspec.structs.astuple(node)
    else:
        return None
    return next((found for part in parts if (found := _foreign_type(part, seen))), None)

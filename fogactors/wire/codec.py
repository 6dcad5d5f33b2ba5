"""Messages to bytes and back: JSON by default, MessagePack where the content type says so.

`Raw` fields (`args`, `value`, `data`) hold raw JSON in memory whatever the wire format is, so that their user
decodes them with one decoder; the MessagePack half transcodes them. In MessagePack times are the timestamp
extension and `bytes` are bytes; in JSON they are RFC 3339 and base64.
"""

from __future__ import annotations

from datetime import UTC, datetime
from functools import cache
from typing import Any, Final, TypeVar, get_args, get_origin

import msgspec
from msgspec import Raw, Struct

from fogactors.errors import WireError
from fogactors.messages import schema_of

__all__ = ["JSON", "MSGPACK", "amend", "decode", "encode"]

JSON: Final = "application/json"
MSGPACK: Final = "application/msgpack"

_BAD_INPUT: Final = (msgspec.MsgspecError, UnicodeError, RecursionError)
# UnicodeError: msgspec lets it through for bad UTF-8; RecursionError: for nesting without end. Both are the
# peer's doing.
_BAD_VALUE: Final = (*_BAD_INPUT, TypeError, ValueError, OverflowError)

M = TypeVar("M", bound=Struct)


class _Head(Struct):
    """What is looked at only to explain a body that did not decode."""

    schema: str = ""


class _Plan:
    """What is known of a message type before the first message: its decoders and which fields need care."""

    __slots__ = ("from_json", "from_msgpack", "label", "name", "raws", "schema", "times")

    def __init__(self, message_type: type[Struct]) -> None:
        fields = msgspec.structs.fields(message_type)
        self.label = message_type.__name__
        self.from_json: msgspec.json.Decoder[Any] = msgspec.json.Decoder(message_type)
        self.from_msgpack: msgspec.msgpack.Decoder[Any] = msgspec.msgpack.Decoder(message_type)
        self.raws: tuple[tuple[str, Any], ...] = tuple((f.name, f.default) for f in fields if _mentions(f.type, Raw))
        self.times = tuple(f.name for f in fields if _mentions(f.type, datetime))
        # Parts of messages (`ErrorInfo`, `TierLoad`) name no schema: the message around them does.
        self.schema = schema_of(message_type) if any(f.name == "schema" for f in fields) else ""
        self.name = self.schema.partition("/")[0]

    def check_schema(self, found: str) -> None:
        """Raises `WireError` unless `found` is this type's name with a version of at least 1."""
        name, _, version = found.partition("/")
        if name != self.name:
            raise WireError(
                f"{self.label}: the body is a {name[:40]!r}, expected schema {self.schema!r} - at `$.schema`"
            )
        if not (version.isascii() and version.isdecimal() and version.strip("0")):
            raise WireError(f"{self.label}: the schema {found[:40]!r} names no version - at `$.schema`")


def _mentions(annotation: Any, wanted: type) -> bool:
    """Whether a field's type is `wanted`, or a union or `Annotated` of it (a list of it does not count)."""
    if annotation is wanted:
        return True
    return get_origin(annotation) is not list and any(_mentions(each, wanted) for each in get_args(annotation))


@cache
def _plan(message_type: type[Struct]) -> _Plan:
    return _Plan(message_type)


def encode(message: Struct, content_type: str = JSON) -> bytes:
    """The bytes of a message. Raises `WireError` for an unknown content type or what the format cannot hold,
    a time without an offset among it: its reader would refuse it."""
    plan = _plan(type(message))
    try:
        message = _in_utc(message, plan)
        if content_type == JSON:
            return msgspec.json.encode(message)
        if content_type == MSGPACK:
            return msgspec.msgpack.encode(_raws_to_msgpack(message, plan))
    except _BAD_VALUE as error:
        raise WireError(f"{plan.label}: cannot be encoded as {content_type}: {_one_line(error)}") from error
    raise WireError(_unknown(plan.label, content_type))


def decode(body: bytes | bytearray | memoryview, type: type[M], content_type: str = JSON) -> M:  # noqa: A002
    """The message in a body, as `type`; unknown fields are ignored, any version of the schema is accepted.

    An empty content type means JSON: other languages' clients and RabbitMQ's own UI leave it out. Raises
    `WireError`, which says what is wrong and where.
    """
    plan = _plan(type)
    try:
        # The literal compare is the hot path; everything else may cost a little more.
        fast = content_type == JSON
        message: Any = plan.from_json.decode(body) if fast else _decode_other(body, plan, content_type)
    except _BAD_INPUT as error:
        raise WireError(_explain(body, plan, content_type, error)) from error
    if plan.schema and message.schema != plan.schema:
        plan.check_schema(message.schema)
    return message


def _decode_other(body: bytes | bytearray | memoryview, plan: _Plan, content_type: str) -> Any:
    kind = _media_type(content_type)
    if kind == JSON:
        return plan.from_json.decode(body)
    if kind == MSGPACK:
        return _raws_to_json(plan.from_msgpack.decode(body), plan)
    raise WireError(_unknown(plan.label, content_type))


def _media_type(content_type: str) -> str:
    return content_type.partition(";")[0].strip().lower() or JSON


def _in_utc(message: M, plan: _Plan) -> M:
    changed: dict[str, datetime] = {}
    for name in plan.times:
        at: datetime | None = getattr(message, name)
        if at is None or at.tzinfo is UTC:
            continue
        if at.utcoffset() is None:
            raise ValueError(f"a time without an offset - at `$.{name}`")
        changed[name] = at.astimezone(UTC)
    return msgspec.structs.replace(message, **changed) if changed else message


def _raws_to_msgpack(message: M, plan: _Plan) -> M:
    changed: dict[str, Raw] = {}
    for name, default in plan.raws:
        raw: Raw | None = getattr(message, name)
        if raw is None or raw is default:  # a default is left out by its identity, so it must stay the same object
            continue
        changed[name] = Raw(msgspec.msgpack.encode(msgspec.json.decode(raw)))
    return msgspec.structs.replace(message, **changed) if changed else message


def _raws_to_json(message: M, plan: _Plan) -> M:
    for name, default in plan.raws:
        raw: Raw | None = getattr(message, name)
        if raw is None or raw is default:
            continue
        try:
            setattr(message, name, Raw(msgspec.json.encode(msgspec.msgpack.decode(raw))))
        except _BAD_VALUE as error:
            raise WireError(f"{plan.label}: {_one_line(error)} - at `$.{name}`") from error
    return message


def _explain(body: bytes | bytearray | memoryview, plan: _Plan, content_type: str, error: BaseException) -> str:
    """One line of what is wrong. A body of another schema says so, instead of naming the first field it
    lacks."""
    if isinstance(error, msgspec.ValidationError) and plan.schema:
        decoder = msgspec.msgpack if _media_type(content_type) == MSGPACK else msgspec.json
        try:
            found = decoder.decode(body, type=_Head).schema
        except _BAD_INPUT:
            found = ""
        if found:
            try:
                plan.check_schema(found)
            except WireError as other:
                return str(other)
    return f"{plan.label}: {_one_line(error)}"


def _one_line(error: BaseException) -> str:
    return " ".join(str(error).split())


def _unknown(label: str, content_type: str) -> str:
    return f"{label}: unknown content type {content_type!r}; known are {JSON} and {MSGPACK}"


def amend(body: bytes, changes: dict[str, Any], content_type: str = JSON) -> bytes:
    """The same message with some fields changed and every other byte of it kept: a republish by an old version must not
    lose the fields of a newer one. Raises `WireError`."""
    codec: Any = msgspec.msgpack if _media_type(content_type) == MSGPACK else msgspec.json
    try:
        fields: dict[str, Raw] = codec.decode(body, type=dict[str, Raw])
    except _BAD_INPUT as error:
        raise WireError(f"cannot be amended: {_one_line(error)}") from error
    for name, value in changes.items():
        if isinstance(value, datetime):
            value = value.astimezone(UTC)
        fields[name] = Raw(codec.encode(value))
    return codec.encode(fields)

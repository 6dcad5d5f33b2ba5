"""What a service is: a plain or an `async` function, with the types of its request and its answer.

* One parameter takes the whole request, decoded as its annotation says: `def area(shape: Rectangle) -> float`.
* Several, or keyword-only ones, take the fields of the request by their names: `def add(a: int, b: int) -> int`.

Types are checked by msgspec on the way in; without an annotation the request is what JSON makes of it.
"""

from __future__ import annotations

import inspect
import typing
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Any, Final, cast

import msgspec
from msgspec import UNSET, Raw, UnsetType, defstruct

from fogactors.errors import ConfigError, WireError
from fogactors.messaging.threads import Place

__all__ = ["BAD_VALUE", "Handler", "to_json"]

BAD_VALUE: Final = (TypeError, ValueError, OverflowError, RecursionError)
"""What encoding or decoding a value that does not fit raises (msgspec's errors are ValueErrors)."""


def _plain_text(value: Any) -> str:
    """A `TaskHandle` is text, and so it goes into an event, a request, a task."""
    if isinstance(value, str):
        return str.__str__(value)
    raise TypeError(f"Encoding objects of type {type(value).__name__} is unsupported")


to_json: Final = msgspec.json.Encoder(enc_hook=_plain_text).encode
"""What an application sends, as JSON: whatever msgspec encodes, and text of other classes than `str`. Raises
`BAD_VALUE`."""


class Handler:
    """One function behind a service. `is_async`: whether it runs in the event loop; a plain one runs in a thread.

    Raises `ConfigError` for a function that can be no service.
    """

    def __init__(self, fn: Callable[..., Any]) -> None:
        self.name = getattr(fn, "__qualname__", repr(fn))
        called: Any = fn
        while isinstance(called, partial):
            called = cast("partial[Any]", called).func
        if not inspect.isroutine(called):
            called = getattr(called, "__call__", called)  # noqa: B004 - an object that is callable
        self.is_async = inspect.iscoroutinefunction(called)
        self._fn = fn
        try:
            parameters = list(inspect.signature(fn).parameters.values())
            hints = typing.get_type_hints(called)
            self._by_name = len(parameters) > 1 or any(each.kind is each.KEYWORD_ONLY for each in parameters)
            self._decoder = msgspec.json.Decoder(self._struct(parameters, hints))
        except (TypeError, ValueError, NameError) as error:
            raise ConfigError(f"{self.name} cannot be a service: {error}") from error

    def _struct(self, parameters: list[inspect.Parameter], hints: dict[str, Any]) -> Any:
        for each in parameters:
            if each.kind in (each.VAR_POSITIONAL, each.VAR_KEYWORD, each.POSITIONAL_ONLY) and self._by_name:
                raise TypeError(f"parameter {each} cannot be filled by name; name each parameter")
        if not parameters or parameters[0].kind in (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD):
            raise TypeError("it takes no request; give it one parameter, or one for each field")
        if not self._by_name:
            return hints.get(parameters[0].name, Any)
        fields: list[Any] = []
        for each in parameters:
            hint = hints.get(each.name, Any)
            given = each.default is each.empty
            fields.append((each.name, hint) if given else (each.name, hint | UnsetType, UNSET))
        return defstruct("Request", fields, kw_only=True, forbid_unknown_fields=True)

    def decode(self, args: Raw | bytes) -> Callable[[], Any]:
        """The call to make for a request. Raises `WireError` for one that does not fit, in one line."""
        try:
            request = self._decoder.decode(args)
        except BAD_VALUE as error:
            raise WireError(f"the request does not fit {self.name}: {error}") from error
        if not self._by_name:
            return partial(self._fn, request)
        fields = msgspec.structs.asdict(cast("msgspec.Struct", request))
        return partial(self._fn, **{name: value for name, value in fields.items() if value is not UNSET})

    async def run(self, call: Callable[[], Any], place: Place | None) -> Any:
        """Make it: in a thread that has this place, or in the loop. A thread that runs when this is cancelled runs on,
        and nobody waits for it; it keeps its place until it ends."""
        return await (cast("Awaitable[Any]", call()) if place is None else place.run(call))

"""What happened, and waiting for it: tests wait for an event with a deadline, and never sleep for luck."""

from __future__ import annotations

from collections.abc import Callable
from types import TracebackType
from typing import Any, TypeVar

import anyio

from fogactors.core import ActorSystem, Events

__all__ = ["EventRecorder"]

E = TypeVar("E")


class EventRecorder:
    """Collects every event of a system, in order.

        async with ActorSystem() as system:
            recorder = EventRecorder(system)
            root = await system.start(tree)
            ...
            await recorder.wait_for(ActorStarted, path="root/link", incarnation=2, timeout=1)
            assert not recorder.of(ChildStuck)

    It may be used as a context manager, which ends the subscription.
    """

    def __init__(self, source: ActorSystem | Events) -> None:
        self.events: list[object] = []
        self._changed = anyio.Event()
        self._unsubscribe = (source.events if isinstance(source, ActorSystem) else source).subscribe(self._record)

    def __enter__(self) -> EventRecorder:
        return self

    def __exit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, tb: TracebackType | None
    ) -> None:
        self._unsubscribe()

    def of(self, kind: type[E], path: str | None = None) -> list[E]:
        """The events of this type, and of this path if one is given, in order."""
        return [
            event
            for event in self.events
            if isinstance(event, kind) and (path is None or getattr(event, "path", None) == path)
        ]

    def clear(self) -> None:
        """Forget what was recorded, so that `wait_for` waits for what is still to come."""
        self.events.clear()

    async def wait_for(
        self,
        kind: type[E],
        *,
        path: str | None = None,
        count: int = 1,
        timeout: float = 5.0,
        where: Callable[[E], bool] | None = None,
        **facts: Any,
    ) -> E:
        """The `count`-th event of this type whose fields equal `facts` and for which `where` holds, whether it came
        already or still comes. Raises `AssertionError` after `timeout` seconds and says what was seen instead."""
        with anyio.move_on_after(timeout):
            while True:
                fitting = (event for event in self.of(kind, path) if _fits(event, facts))
                matches = [event for event in fitting if where is None or where(event)]
                if len(matches) >= count:
                    return matches[count - 1]
                if self._changed.is_set():
                    self._changed = anyio.Event()
                await self._changed.wait()
        given = {"path": path, **facts} if path is not None else facts
        wanted = ", ".join(f"{name}={value!r}" for name, value in given.items())
        seen = "\n".join(f"  {event}" for event in self.events) or "  nothing"
        raise AssertionError(f"no {kind.__name__}({wanted}) x {count} within {timeout:g} s; seen:\n{seen}")

    def _record(self, event: object) -> None:
        self.events.append(event)
        self._changed.set()


def _fits(event: object, facts: dict[str, Any]) -> bool:
    # A fact that the event has no field for is a misspelt test, so the AttributeError is let through.
    return all(getattr(event, name) == value for name, value in facts.items())

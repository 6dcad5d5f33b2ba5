"""What a system under test has given up on."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, overload

import anyio

from fogactors.bus import MemoryBroker
from fogactors.messages import DeadLetter, Reason
from fogactors.tasks.deadletter import DEAD_LETTER_TYPE
from fogactors.tasks.task import TaskDef
from fogactors.wire import decode
from fogactors.wire.topology import PARKED

__all__ = ["DeadLetters"]


class DeadLetters(Sequence[DeadLetter]):
    """The dead letters as they are now, oldest first; each look at it is a new one.

        [letter] = system.dead_letters
        letter = await system.dead_letters.wait_for(task=charge, reason="failed")

    It reads the stream where the reaper has parked them. A letter that an operator has edited counts once, as it is
    now; a replay that failed too is a letter of its own, with the next `generation`. What was replayed or purged stays:
    it has been given up on.
    """

    def __init__(self, broker: MemoryBroker) -> None:
        self._broker = broker

    def __len__(self) -> int:
        return len(self._all())

    @overload
    def __getitem__(self, index: int) -> DeadLetter: ...
    @overload
    def __getitem__(self, index: slice) -> list[DeadLetter]: ...
    def __getitem__(self, index: int | slice) -> DeadLetter | list[DeadLetter]:
        return self._all()[index]

    def __repr__(self) -> str:
        # What a failed assertion prints. Not the bodies: payloads are never logged.
        return f"<dead letters: {', '.join(map(_brief, self._all())) or 'none'}>"

    async def wait_for(
        self,
        *,
        task: TaskDef[..., Any] | str | None = None,
        task_id: str | None = None,
        reason: Reason | None = None,
        count: int = 1,
        timeout: float = 5.0,
    ) -> DeadLetter:
        """The `count`-th letter of this task (or name), id and reason, whether it lies there already or still comes.
        Raises `AssertionError` after `timeout` seconds and says what lies there instead."""
        name = task.name if isinstance(task, TaskDef) else task
        wanted = {"name": name, "task_id": task_id, "reason": reason}
        facts = {key: value for key, value in wanted.items() if value is not None}
        with anyio.move_on_after(timeout):
            while True:
                stirred = self._broker.stirred()
                fitting = [each for each in self if all(getattr(each, key) == facts[key] for key in facts)]
                if len(fitting) >= count:
                    return fitting[count - 1]
                await stirred.wait()
        what = ", ".join(f"{key}={value!r}" for key, value in facts.items())
        raise AssertionError(f"no dead letter({what}) x {count} within {timeout:g} s; there are: {self!r}")

    def _all(self) -> list[DeadLetter]:
        letters: dict[tuple[str, int], DeadLetter] = {}
        for message in self._broker.read(PARKED):
            if message.type != DEAD_LETTER_TYPE:
                continue  # what became of one
            letter = decode(message.body, DeadLetter, message.content_type)
            known = letters.get((letter.id, letter.generation))
            if known is None or letter.revision > known.revision:
                letters[letter.id, letter.generation] = letter
        return list(letters.values())


def _brief(letter: DeadLetter) -> str:
    error = "" if letter.error is None else f" ({letter.error.type}: {letter.error.message})"
    return f"{letter.name or letter.id} {letter.reason}{error}"

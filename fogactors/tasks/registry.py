"""Where an executor finds a task by the name on the wire."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from fogactors.errors import ConfigError, TaskDefinitionError, UnknownTask

if TYPE_CHECKING:
    from collections.abc import Iterable

    from fogactors.tasks.task import TaskDef

__all__ = ["Registry", "default_registry"]


class Registry:
    """Tasks by name. One for each process is enough, and `@task` uses `default_registry`; a test may have its own."""

    def __init__(self) -> None:
        self._tasks: dict[str, TaskDef[..., Any]] = {}

    def add(self, definition: TaskDef[..., Any]) -> None:
        """Register a task. The same function again replaces the old one, so that a module can be reloaded.

        Raises `TaskDefinitionError` when another function has the name.
        """
        known = self._tasks.get(definition.name)
        if known is not None and (known.module, known.qualname) != (definition.module, definition.qualname):
            raise TaskDefinitionError(
                f"task {definition.name}: {known.module}.{known.qualname} has this name already; "
                f"give {definition.module}.{definition.qualname} another one with @task(name=...)"
            )
        self._tasks[definition.name] = definition

    def get(self, name: str) -> TaskDef[..., Any]:
        """Raises `UnknownTask`, with the names that are nearest."""
        try:
            return self._tasks[name]
        except KeyError:
            raise self._unknown(name) from None

    def definitions(self) -> tuple[TaskDef[..., Any], ...]:
        """By name."""
        return tuple(self._tasks[name] for name in self.names())

    def names(self) -> tuple[str, ...]:
        """Sorted."""
        return tuple(sorted(self._tasks))

    def import_modules(self, names: Iterable[str]) -> None:
        """Import the modules that define tasks. Raises `ConfigError` naming the module and what went wrong in it."""
        for name in names:
            try:
                import_module(name)
            except (Exception, SystemExit) as error:  # a script without a main guard ends itself
                reason = f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
                raise ConfigError(f"cannot import the task module {name!r}: {reason}") from error

    def _unknown(self, name: str) -> UnknownTask:
        from difflib import get_close_matches  # for a message only, and worker processes start without it

        # By the function's own name: forgetting the module is the likeliest slip, and names of one module are all
        # alike.
        short = {known: known.rpartition(".")[2] for known in self.names()}
        alike = get_close_matches(name.rpartition(".")[2], short.values(), n=3)
        near = [known for word in alike for known in short if short[known] == word] or get_close_matches(name, short)
        hint = f" (did you mean {' or '.join(near[:3])}?)" if near else ""
        return UnknownTask(f"no task is named {name!r}{hint}; name its module with --import or in [tasks] modules")


default_registry = Registry()
"""The one that `@task` uses."""

"""`fogactors probe`, with all options; without them `fogactors.app.probe` is faster."""

from __future__ import annotations

from typing import Annotated

import typer

from fogactors.app.cli.common import Json, load_settings, print_json
from fogactors.app.probe import QUESTIONS, TIMEOUT_S, ask, lines
from fogactors.errors import ConfigError

__all__ = ["probe"]


def probe(
    question: Annotated[str, typer.Argument(metavar="livez|readyz", help="Whether it lives, or can work.")],
    timeout: Annotated[float, typer.Option("--timeout", metavar="SECONDS", help="How long to wait.")] = TIMEOUT_S,
    json: Json = False,
) -> None:
    """Ask the process that answers on the port of actors.toml (table probe) whether all is well; exit code 1 says that
    it is not."""
    if question not in QUESTIONS:
        raise ConfigError(f"there is no probe {question!r}; there are: {', '.join(QUESTIONS)}")
    settings = load_settings().probe
    if settings.port == 0:
        raise ConfigError("[probe] port is 0, so no process answers probes; set it, e.g. FOGACTORS_PROBE__PORT=9101")
    answer = ask(question, settings.host, settings.port, timeout)
    if json:
        print_json(answer)
    else:
        print("\n".join(lines(answer)))
    raise typer.Exit(0 if answer["ok"] else 1)

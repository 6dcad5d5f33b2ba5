"""`fogactors swarm doctor`: whether this swarm can carry the stack, asked before a deploy."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated

import typer

from fogactors.app.cli.common import Json, print_json
from fogactors.app.cli.swarm.shared import EnvFile, StackFile, StackName, docker, say
from fogactors.app.swarm.docker import Docker, DockerFailed
from fogactors.app.swarm.doctor import Finding, Need, examine, needs_of
from fogactors.app.swarm.env import PASSWORDS, read_env, values_of, warnings
from fogactors.app.swarm.hosts import HostFacts, ask_hosts
from fogactors.app.swarm.nodes import SwarmNode, nodes
from fogactors.app.swarm.stack import read_stack

__all__ = ["doctor"]


def doctor(
    env: EnvFile = Path(".env"),
    file: StackFile = Path("swarm/stack.yml"),
    stack: StackName = "fog",
    hosts: Annotated[
        bool, typer.Option("--hosts/--no-hosts", help="Ask each host for its disk and ports, by a job on it.")
    ] = True,
    json: Json = False,
) -> None:
    """Check the swarm before a deploy: managers, labels, engines, CPU, memory, disk, ports, passwords. Exits 1 when
    there is an error."""
    client = docker()
    values = values_of(read_env(env), os.environ)
    read = read_stack(file, values)
    needs = needs_of(read)
    found = nodes(client)
    running = client.names("service", "--filter", f"label=com.docker.stack.namespace={stack}")
    answers = _answers(client, found, needs, values) if hosts else None
    findings = examine(found, needs, answers, {name.removeprefix(f"{stack}_") for name in running})
    lacking = [name for name in PASSWORDS if name not in values]
    if lacking:
        text = f"{', '.join(lacking)} missing; `make up` adds them, or `make secrets` now"
        findings.append(Finding("warning", str(env), text))
    findings += [Finding("warning", str(env), text) for text in warnings(values)]
    errors = sum(each.level == "error" for each in findings)
    if json:
        print_json({"ok": not errors, "findings": findings, "nodes": found, "hosts": answers})
    else:
        for each in findings:
            print(f"{each.level}: {each.about}: {each.text}")
        counts = f"{errors or 'no'} errors, {len(findings) - errors or 'no'} warnings"
        print(f"{len(found)} nodes, {len(needs)} services: {counts}")
    raise typer.Exit(1 if errors else 0)


def _answers(client: Docker, found: list[SwarmNode], needs: list[Need], values: dict[str, str]) -> dict[str, HostFacts]:
    image = f"{values.get('FOG_REGISTRY', '')}fogactors:{values.get('FOG_VERSION', 'latest')}"
    ports = sorted({port for need in needs for port in need.ports})
    try:
        return ask_hosts(client, image, [node.name for node in found if node.ready], ports)
    except DockerFailed as error:
        say(f"the hosts could not be asked: {error}")
        return {}

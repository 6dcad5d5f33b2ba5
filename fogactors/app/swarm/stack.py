"""swarm/stack.yml and its overrides, read: what they need, and files with some of the services only.

The files themselves stay docker's: it fills in the variables and merges the overrides. What is read here is what an
operator's commands must know, so that no list of services, ports or secrets is kept twice.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import yaml

from fogactors.errors import ConfigError

__all__ = ["OVERRIDES", "Stack", "read_stack", "switched_on"]

OVERRIDES: Final[Mapping[str, str]] = {"FOG_TLS": "tls.yml", "FOG_NETWORK_ENCRYPTED": "encrypted.yml"}
"""Variable that adds a file, when it is on."""
_ON: Final = {"on": True, "true": True, "yes": True, "1": True, "off": False, "false": False, "no": False, "0": False}
_SLOT: Final = ".Task.Slot"
_UNITS: Final = {"": 1, "b": 1, "k": 1 << 10, "m": 1 << 20, "g": 1 << 30}


@dataclass(frozen=True, slots=True)
class Stack:
    """`files`: for docker, in order. `documents`: what is in them."""

    files: tuple[Path, ...]
    documents: tuple[dict[str, Any], ...]

    @property
    def services(self) -> dict[str, dict[str, Any]]:
        """Of the first file; overrides change services and add none."""
        return _table(self.documents[0], "services")

    @property
    def scalable(self) -> list[str]:
        """Services of which there may be several: their hostnames say so."""
        return [name for name, service in self.services.items() if _SLOT in str(service.get("hostname", ""))]

    @property
    def brokers(self) -> list[str]:
        """Services that are nodes of the broker's cluster: those with its cookie."""
        return [name for name in self.services if "erlang_cookie" in self._secrets_of(name)]

    @property
    def stores(self) -> list[str]:
        """Services that are the coordination store: those with the password of Redis' own user."""
        return [name for name in self.services if "redis_password" in self._secrets_of(name)]

    @property
    def secrets(self) -> list[str]:
        """Keys of the secrets that the files name."""
        return list(dict.fromkeys(key for each in self.documents for key in _table(each, "secrets")))

    @property
    def ports(self) -> dict[str, list[int]]:
        """Service to the ports that its host must have free."""
        return {
            name: found
            for name, service in self.services.items()
            if (found := [int(port["published"]) for port in service.get("ports") or ()])
        }

    def hostname(self, service: str) -> str:
        return str(self.services[service].get("hostname", service))

    def constraint(self, service: str) -> str:
        """Where it may run, e.g. `node.labels.fog == 1`; empty: anywhere."""
        return " and ".join(self._deploy(service).get("placement", {}).get("constraints") or ())

    def memory_mb(self, service: str) -> int:
        """Its limit in MiB; 0: none."""
        limit = str(self._deploy(service).get("resources", {}).get("limits", {}).get("memory", "0")).lower()
        parsed = re.fullmatch(r"([0-9.]+)([bkmg]?)b?", limit)
        return int(float(parsed[1]) * _UNITS[parsed[2]]) >> 20 if parsed else 0

    def config_hashes(self) -> dict[str, str]:
        """Variable that the files expand to eight hexadecimal digits, which change with the content of that file alone:
        what does not use it is not restarted. Raises `ConfigError`."""
        found: dict[str, str] = {}
        for document in self.documents:  # a later file's entry takes the place of an earlier one, as docker merges them
            for key, config in _table(document, "configs").items():
                if "file" in config:
                    found[f"FOG_CONFIG_{key.upper()}"] = self._hash(self._path(config))
        return found

    def only(self, services: Collection[str], folder: Path) -> list[Path]:
        """The files with these services alone, written to `folder`: docker leaves out nothing that it is not given, so
        that a stack can be changed one service at a time."""
        written: list[Path] = []
        for number, document in enumerate(self.documents):
            kept = {name: each for name, each in _table(document, "services").items() if name in services}
            # x-...: anchors, which are resolved by now. Paths are relative to the first file, which is elsewhere now.
            part: dict[str, Any] = {key: each for key, each in document.items() if not key.startswith("x-")} | {
                "services": kept
            }
            if "configs" in part:
                part["configs"] = {key: self._absolute(each) for key, each in _table(part, "configs").items()}
            path = folder / f"{number}.json"  # which is YAML
            path.write_text(json.dumps(part))
            written.append(path)
        return written

    def _absolute(self, config: dict[str, Any]) -> dict[str, Any]:
        return {**config, "file": str(self._path(config))} if "file" in config else config

    def _path(self, config: Mapping[str, Any]) -> Path:
        return (self.files[0].parent / config["file"]).resolve()

    def _hash(self, path: Path) -> str:
        try:
            return hashlib.sha256(path.read_bytes()).hexdigest()[:8]
        except OSError as error:
            raise ConfigError(f"{path}: {error.strerror or error}; {self.files[0]} names it") from None

    def _deploy(self, service: str) -> dict[str, Any]:
        return _table(self.services[service], "deploy")

    def _secrets_of(self, service: str) -> list[str]:
        found = self.services[service].get("secrets") or ()
        return [each if isinstance(each, str) else each["source"] for each in found]


def _table(document: Mapping[str, Any], key: str) -> dict[str, Any]:
    return document.get(key) or {}


def switched_on(values: Mapping[str, str], name: str) -> bool:
    """Whether a switch is on; off when nobody says. Raises `ConfigError`."""
    value = values.get(name, "off")
    if value.lower() not in _ON:
        raise ConfigError(f"{name}: expected on or off, got {value!r}")
    return _ON[value.lower()]


def read_stack(file: Path, values: Mapping[str, str]) -> Stack:
    """`file` and those of the overrides beside it that `values` switch on. Raises `ConfigError`."""
    files = (file, *(file.parent / name for variable, name in OVERRIDES.items() if switched_on(values, variable)))
    documents: list[dict[str, Any]] = []
    for path in files:
        try:
            found: Any = yaml.safe_load(path.read_text())
        except OSError as error:
            why = error.strerror or error
            raise ConfigError(f"{path}: {why}; run this in a clone of the repository, or name the file") from None
        except (yaml.YAMLError, UnicodeDecodeError) as error:
            raise ConfigError(f"{path}: no YAML: {' '.join(str(error).split())[:200]}") from None
        if not isinstance(found, dict):
            raise ConfigError(f"{path}: no stack file: expected a table with services")
        documents.append(found)  # pyright: ignore[reportUnknownArgumentType] - checked to be a dict
    return Stack(files, tuple(documents))

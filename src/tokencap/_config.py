"""Configuration without code: `tokencap.toml`, `[tool.tokencap]` in `pyproject.toml`, `TOKENCAP_*` variables.

A variable wins over the file, and an argument in code over both. Everything that is wrong is a
`ConfigurationError` that says where it is: file, line and key, or the variable.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping
from dataclasses import replace
from difflib import get_close_matches
from pathlib import Path as FilePath
from typing import Any, NamedTuple

from ._fields import POLICY, TOP
from ._read import Reader, read_variable
from ._toml import Path, is_about_us, lines_of, parse
from .errors import ConfigurationError
from .policy import Policy, Provider

__all__ = ["Settings", "configuration", "policy_of"]

log = logging.getLogger("tokencap")

_FILE = "TOKENCAP_CONFIG"
_NAMES = ("tokencap.toml", "pyproject.toml")
_TOOL = ("tool", "tokencap")


class Settings(NamedTuple):
    """What was configured. None: nothing was said."""

    policy: Policy | None = None
    identifiers: Mapping[str, str] | None = None
    backend: str | None = None
    providers: tuple[Provider | str, ...] | None = None
    wait: float | None = None
    on_backend_error: str | None = None
    ledger: bool | None = None
    otel: bool | None = None
    quiet: bool | None = None
    sources: tuple[str, ...] = ()
    """The file and the variables it comes from."""
    places: Mapping[str, str] = {}
    """Where each of them was said."""

    def sources_of(self, arguments: Mapping[str, object]) -> tuple[str, ...]:
        """Return those of the sources that say anything which no argument says. None: it was not given."""
        given = {name for name, argument in arguments.items() if argument is not None}
        if "policy" in given:
            given |= {"limit", "strict", *POLICY}
        # Each is a variable, or begins with the name of the file.
        left = [f"{place}:" for name, place in self.places.items() if name not in given]
        return tuple([one for one in self.sources if any(place.startswith(f"{one}:") for place in left)])

    def at(self, name: str, error: Exception) -> ConfigurationError:
        """Return an error about a setting, with where it was said."""
        return ConfigurationError(f"{self.places.get(name, name)}: {error}")


def policy_of(path: str | os.PathLike[str]) -> Policy:
    """Return the policy that a file describes."""
    found = _File.read(FilePath(path))
    policy = _policy(found.values, found.places) if found is not None else None
    if policy is None:
        raise ConfigurationError(f"{os.fspath(path)}: there is no policy in it, neither [policy] nor limit =")
    return policy


def configuration() -> Settings:
    """Return what the file in this directory (or the one TOKENCAP_CONFIG names) and the variables say."""
    found = _find()
    values: dict[str, Any] = dict(found.values) if found else {}
    places: dict[str, str] = dict(found.places) if found else {}
    sources = [found.name] if found else []
    overrides: dict[str, Any] = {}
    for fields, target in ((TOP, values), (POLICY, overrides)):
        for name, field in fields.items():
            text = os.environ.get(field.variable, "") if field.variable else ""
            if text:
                value = read_variable(field.variable, field.kind, text)
                target[name] = {**values.get(name, {}), **value} if name == "identifiers" else value
                places[name] = field.variable
                sources.append(field.variable)
    _warn_of_unknown()
    policy = _policy(values, places)
    if overrides:
        try:
            policy = replace(policy or Policy.tracking(), **overrides)
        except ConfigurationError as error:
            raise ConfigurationError(f"{', '.join(places[name] for name in overrides)}: {error}") from None
    plain = {name: values[name] for name in values if name not in ("policy", "limit", "strict")}
    return Settings(policy, sources=tuple(sources), places=places, **plain)


def _policy(values: Mapping[str, Any], places: Mapping[str, str]) -> Policy | None:
    """Return the policy of these values, whichever way it is said."""
    if "policy" in values and "limit" in values:
        raise ConfigurationError(
            f"{places['limit']}: there is a policy too ({places['policy']}); limit is short for another one, "
            "put it into the policy"
        )
    if values.get("strict") and "limit" not in values:
        raise ConfigurationError(f"{places['strict']}: it goes with limit; in a policy a dimension says it")
    if "limit" in values:
        return Policy.blocking(values["limit"], values.get("strict", False))
    policy: Policy | None = values.get("policy")
    return policy


class _File(NamedTuple):
    """What one file says."""

    name: str
    values: Mapping[str, Any]
    places: Mapping[str, str]

    @classmethod
    def read(cls, path: FilePath) -> _File | None:
        """Return what a file says; None for a pyproject.toml that says nothing."""
        name = str(path)
        try:
            text = path.read_text(encoding="utf-8-sig")
        except (OSError, UnicodeDecodeError) as error:
            raise ConfigurationError(f"{name} cannot be read: {error}") from None
        root: Path = _TOOL if path.name == "pyproject.toml" else ()
        if root and not is_about_us(text):
            return None
        table: Any = parse(text, name)
        for step in root:
            table = table.get(str(step)) if isinstance(table, dict) else None
        if table is None:
            return None
        reader = Reader(name, lines_of(text))
        values = reader.table(TOP, table, root)
        return cls(name, values, {key: reader.place((*root, key)) for key in values})


def _find() -> _File | None:
    stated = os.environ.get(_FILE)
    if stated:
        try:
            return _File.read(FilePath(stated))
        except ConfigurationError as error:
            raise ConfigurationError(f"{_FILE}: {error}") from None
    for name in _NAMES:
        if os.path.isfile(name):
            found = _File.read(FilePath(name))
            if found is not None:
                return found
    return None


def _warn_of_unknown() -> None:
    known = [_FILE, *(field.variable for field in (*TOP.values(), *POLICY.values()) if field.variable)]
    for variable in os.environ:
        if variable.startswith("TOKENCAP_") and variable not in known:
            close = get_close_matches(variable, known, 1)
            meant = f"; did you mean {close[0]}?" if close else ""
            log.warning("the variable %s means nothing to tokencap%s", variable, meant)

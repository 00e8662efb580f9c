"""Values of a configuration, checked against the table of fields and turned into what the code takes."""

from __future__ import annotations

import importlib
import logging
import re
from collections.abc import Mapping, Sequence
from datetime import timedelta
from difflib import get_close_matches
from typing import TYPE_CHECKING, Any, Callable

from . import _fields
from ._fields import LITELLM, LONGEST_WAIT, REQUIRED, TABLES, Field, Table
from ._toml import Path, line_of, spelled
from .errors import ConfigurationError
from .policy import Action, ActionKind, DimensionPolicy, Policy, Provider, Threshold, as_member, check_count

if TYPE_CHECKING:
    from .status import StatusResponse

__all__ = ["Reader", "log_status", "read_variable"]

log = logging.getLogger("tokencap")

_MAKERS: Mapping[str, Callable[..., Any]] = {
    "policy": Policy,
    "dimension": DimensionPolicy,
    "threshold": Threshold,
    "action": Action,
}
_FLAGS = {
    "true": True,
    "1": True,
    "yes": True,
    "on": True,
    "false": False,
    "0": False,
    "no": False,
    "off": False,
}
_UNITS = {"s": 1, "m": 60, "h": 3_600, "d": 86_400}


def log_status(status: StatusResponse) -> None:
    """Log the budgets: what a WARN action does that names no function."""
    for name, state in status.dimensions.items():
        if not state.unlimited:
            log.warning(
                "%s: %d of %d tokens used (%.0f%%)",
                name,
                state.used,
                state.limit,
                state.pct_used * 100,
                extra={
                    "dimension": name,
                    "identifier": state.key.identifier,
                    "used": state.used,
                    "limit": state.limit,
                },
            )


class Reader:
    """Reads the tables of one file; everything that is wrong is said with file, line and key."""

    def __init__(self, name: str, lines: dict[Path, int]) -> None:
        self._name = name
        self._lines = lines

    def place(self, path: Path) -> str:
        """Return where a value is, as an error says it."""
        line = line_of(self._lines, path)
        return f"{self._name}:{line}: {spelled(path)}" if line else f"{self._name}: {spelled(path)}"

    def table(self, fields: Mapping[str, Field], value: Any, path: Path) -> dict[str, Any]:
        """Return the values of a table, by key."""
        if not isinstance(value, Mapping):
            raise self._error(path, f"it is {value!r}; it must be a table")
        for key in value:
            if key not in fields:
                close = get_close_matches(key, fields, 1)
                meant = f"did you mean {close[0]!r}?" if close else f"known are {', '.join(fields)}"
                raise self._error((*path, key), f"there is no such key; {meant}")
        return {key: self._read(fields[key].kind, one, (*path, key)) for key, one in value.items()}

    def _error(self, path: Path, message: object) -> ConfigurationError:
        return ConfigurationError(f"{self.place(path)}: {message}")

    def _read(self, kind: str | tuple[str, ...] | Table, value: Any, path: Path) -> Any:
        if isinstance(kind, Table):
            return self._tables(kind, value, path)
        try:
            return _checked(kind, value)
        except ConfigurationError as error:
            raise self._error(path, error) from error.__cause__

    def _tables(self, kind: Table, value: Any, path: Path) -> Any:
        if kind.many == "list":
            if not isinstance(value, list):
                raise self._error(path, f"it is {value!r}; it must be a list")
            return [self._made(kind.name, one, (*path, number)) for number, one in enumerate(value)]
        if kind.many == "names":
            if not isinstance(value, Mapping):
                raise self._error(path, f"it is {value!r}; it must be a table")
            return {name: self._made(kind.name, one, (*path, name)) for name, one in value.items()}
        return self._made(kind.name, value, path)

    def _made(self, name: str, value: Any, path: Path) -> Any:
        """Make what a table describes."""
        if name == "action" and isinstance(value, str):
            value = {"kind": value}
        values = self.table(TABLES[name], value, path)
        missing = [key for key in REQUIRED.get(name, ()) if key not in values]
        if missing:
            raise self._error(path, f"{' and '.join(map(repr, missing))} must be said")
        if name == "action" and values["kind"] == ActionKind.WARN.value:
            values.setdefault("callback", log_status)
        try:
            return _MAKERS[name](**values)
        except ConfigurationError as error:
            # The messages of the policy begin with the name of what is wrong.
            about = next((key for key in values if str(error).startswith(key)), None)
            raise self._error(path if about is None else (*path, about), error) from None


def _checked(kind: str | tuple[str, ...], value: Any) -> Any:
    """Return a plain value if it is of its kind."""
    if isinstance(kind, tuple):
        if value not in kind:
            raise ConfigurationError(f"it is {value!r}; accepted are {', '.join(map(repr, kind))}")
        return value
    if kind == _fields.TOKENS:
        return check_count(value, "it")
    if kind == _fields.SECONDS:
        return _number(value)
    if kind == _fields.FLAG:
        return _typed(value, bool, "true or false")
    if kind == _fields.TEXT:
        return _typed(value, str, "a non-empty text")
    if kind == _fields.PAIRS:
        return _texts(value)
    if kind == _fields.PROVIDERS:
        if not isinstance(value, Sequence) or isinstance(value, str) or not value:
            raise ConfigurationError(f"it is {value!r}; it must be a list like ['openai']")
        return tuple(
            one if one == LITELLM else as_member(Provider, one, "one of it", LITELLM) for one in value
        )
    if kind == _fields.SPAN:
        return _span(value)
    if kind == _fields.FUNCTION or (kind == _fields.LIMIT and isinstance(value, str)):
        return _imported(value)
    # What the policy itself has rules for: a limit, a share, models.
    return value


def _typed(value: Any, kind: type, what: str) -> Any:
    if not isinstance(value, kind) or value == "":
        raise ConfigurationError(f"it is {value!r}; it must be {what}")
    return value


def _number(value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 <= value <= LONGEST_WAIT:
        raise ConfigurationError(
            f"it is {value!r}; it must be a number of seconds, at least 0 and at most a day"
        )
    return float(value)


def _span(value: Any) -> timedelta:
    if isinstance(value, str) and re.fullmatch(_fields.SPANS, value):
        return timedelta(seconds=int(value[:-1]) * _UNITS[value[-1]])
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise ConfigurationError(f"it is {value!r}; it must be a length of time like '30m', '1h' or '7d'")
    return timedelta(seconds=value)


def _texts(value: Any) -> dict[str, str]:
    if not isinstance(value, Mapping) or not value:
        raise ConfigurationError(f"it is {value!r}; it must be a table of texts")
    for name, one in value.items():
        if not isinstance(one, str) or not one:
            raise ConfigurationError(f"{name!r} is {one!r}; it must be a non-empty text")
    return dict(value)


def _imported(value: Any) -> Callable[..., Any]:
    module, _, name = value.partition(":") if isinstance(value, str) else ("", "", "")
    if not module or not name:
        raise ConfigurationError(f"it is {value!r}; a function is named like 'package.module:name'")
    try:
        found: Any = importlib.import_module(module)
        for part in name.split("."):
            found = getattr(found, part)
    except Exception as error:
        raise ConfigurationError(f"{value!r} cannot be imported: {error}") from error
    if not callable(found):
        raise ConfigurationError(f"{value!r} is no function but {found!r}")
    function: Callable[..., Any] = found
    return function


def _pairs(variable: str, text: str) -> dict[str, str]:
    pairs = [[side.strip() for side in part.partition("=")] for part in text.split(",")]
    if not all(name and one for name, _, one in pairs):
        raise ConfigurationError(
            f"{variable}: it is {text!r}; it must be like 'tenant=acme', with commas between several"
        )
    return {name: one for name, _, one in pairs}


def read_variable(variable: str, kind: str | tuple[str, ...] | Table, text: str) -> Any:
    """Return the value of an environment variable."""
    if kind == _fields.PAIRS:
        return _pairs(variable, text)
    value: Any = text
    try:
        if kind == _fields.TOKENS:
            value = int(text)
        elif kind == _fields.SECONDS:
            value = float(text)
        elif kind == _fields.FLAG:
            value = _FLAGS.get(text.lower(), text)
        elif kind == _fields.PROVIDERS:
            value = [part.strip() for part in text.split(",")]
    except ValueError:
        value = text
    assert not isinstance(kind, Table)
    try:
        return _checked(kind, value)
    except ConfigurationError as error:
        raise ConfigurationError(f"{variable}: {error}") from None

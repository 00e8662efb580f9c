"""TOML with the line of every key, so that whoever wrote a wrong one is told where it is. Pure."""

from __future__ import annotations

import re
from importlib import import_module
from typing import Any, Callable, Union

from .errors import ConfigurationError

__all__ = ["Path", "is_about_us", "line_of", "lines_of", "parse", "spelled"]

Path = tuple[Union[str, int], ...]
"""The way to a value: `("policy", "dimensions", "tenant", "thresholds", 0)`."""

_BLANK = re.compile(r"(?:\s|#[^\n]*)*")
_KEY = re.compile(r"""\s*(?:([A-Za-z0-9_-]+)|"((?:[^"\\\n]|\\.)*)"|'([^'\n]*)')[ \t]*""")
_STRING = re.compile(
    r"\"\"\"(?:[^\\]|\\.)*?\"{3,5}|'''.*?'{3,5}" r"""|"(?:[^"\\\n]|\\.)*"|'[^'\n]*'""", re.DOTALL
)
_OURS = re.compile(r"""^[ \t]*\[*[ \t]*["']?tool["']?[ \t]*(?:\.[ \t]*["']?tokencap\b|[\]=])""", re.MULTILINE)
_SCALAR = re.compile(r"[^,\]}#\n]*")


def parse(text: str, name: str) -> dict[str, Any]:
    """Return what a TOML file holds. Raises `ConfigurationError` with its name and the line."""
    loads = _loads(name)
    try:
        table: dict[str, Any] = loads(text)
    except ValueError as error:
        found = re.search(r"line (\d+)", str(error))
        # What ends too early has no line in the parser's words.
        line = found[1] if found else text.rstrip().count("\n") + 1
        raise ConfigurationError(f"{name}:{line}: this is not TOML: {error}") from None
    return table


def is_about_us(text: str) -> bool:
    """Return False for a pyproject.toml that cannot have `[tool.tokencap]`, however that is spelled.

    Most are about other tools, or name tokencap among what they depend on, and Python before 3.11 cannot
    read them by itself.
    """
    return "tokencap" in text and _OURS.search(text) is not None


def _loads(name: str) -> Callable[[str], Any]:
    for module in ("tomllib", "tomli"):
        try:
            loads: Callable[[str], Any] = import_module(module).loads
        except ImportError:
            continue
        return loads
    raise ConfigurationError(
        f'{name} is TOML, which Python before 3.11 cannot read by itself; pip install "tokencap[config]"'
    )


def spelled(path: Path) -> str:
    """Return how a path is written: `policy.dimensions.tenant.thresholds[0]`."""
    text = ""
    for step in path:
        if isinstance(step, int):
            text += f"[{step}]"
        else:
            word = step if re.fullmatch(r"[A-Za-z0-9_-]+", step) else repr(step)
            text += f".{word}" if text else word
    return text


def line_of(lines: dict[Path, int], path: Path) -> int | None:
    """Return the line of the value at `path`, or of the nearest one around it."""
    for length in range(len(path), 0, -1):
        if path[:length] in lines:
            return lines[path[:length]]
    return None


def lines_of(text: str) -> dict[Path, int]:
    """Return the line of every key and every item of a list, in a text that is TOML."""
    return _Scanner(text).lines


class _Scanner:
    """Finds keys, brackets and strings, and knows nothing else of TOML."""

    def __init__(self, text: str) -> None:
        self.lines: dict[Path, int] = {}
        self._text = text
        self._at = 0
        self._lists: dict[Path, int] = {}
        table: Path = ()
        while self._blank() < len(text):
            if text[self._at] == "[":
                table = self._header()
            else:
                self._pair(table)

    def _blank(self) -> int:
        found = _BLANK.match(self._text, self._at)
        assert found is not None
        self._at = found.end()
        return self._at

    def _note(self, path: Path) -> None:
        self.lines.setdefault(path, self._text.count("\n", 0, self._at) + 1)

    def _names(self) -> tuple[str, ...]:
        names: list[str] = []
        while True:
            found = _KEY.match(self._text, self._at)
            if found is None:
                raise ConfigurationError("a key was expected")
            self._at = found.end()
            names.append(next(part for part in found.groups() if part is not None))
            if self._text[self._at : self._at + 1] != ".":
                return tuple(names)
            self._at += 1

    def _header(self) -> Path:
        many = self._text.startswith("[[", self._at)
        self._at += 2 if many else 1
        names = self._names()
        path: Path = ()
        for number, name in enumerate(names):
            path = (*path, name)
            self._note(path)
            if many and number == len(names) - 1:
                self._lists[path] = self._lists.get(path, -1) + 1
            if path in self._lists:
                path = (*path, self._lists[path])
                self._note(path)
        self._at += 2 if many else 1
        return path

    def _pair(self, table: Path) -> None:
        path = table
        for name in self._names():
            path = (*path, name)
            self._note(path)
        self._at += 1
        self._value(path)

    def _value(self, path: Path) -> None:
        mark = self._text[self._blank() : self._at + 1]
        if mark == "[":
            self._at += 1
            number = 0
            while self._text[self._blank()] != "]":
                self._note((*path, number))
                self._value((*path, number))
                number += 1
                self._comma()
            self._at += 1
        elif mark == "{":
            self._at += 1
            while self._text[self._blank()] != "}":
                self._pair(path)
                self._comma()
            self._at += 1
        else:
            found = (_STRING if mark in "\"'" else _SCALAR).match(self._text, self._at)
            assert found is not None
            self._at = found.end()

    def _comma(self) -> None:
        if self._text[self._blank()] == ",":
            self._at += 1

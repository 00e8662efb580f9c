"""Where the budgets are: the store that is named or configured, opened for the command.

A URL may hold a password and is never printed.
"""

from __future__ import annotations

import contextlib
import sqlite3
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from .._toml import is_about_us, parse
from ..backends.protocol import Backend, LedgerBackend
from ..backends.urls import open_url
from ..errors import TokencapError
from .text import clean

__all__ = [
    "CONFIG",
    "DEFAULT",
    "ELSEWHERE",
    "VARIABLE",
    "NoStoreError",
    "absolute",
    "check_file",
    "configured",
    "opened",
    "path_of",
    "settled",
]

VARIABLE = "TOKENCAP_BACKEND"
CONFIG = "TOKENCAP_CONFIG"
DEFAULT = "tokencap.db"
ELSEWHERE = f"say where it is with --backend PATH_OR_URL or in {VARIABLE}"
_SAY = ELSEWHERE[0].upper() + ELSEWHERE[1:]
_TOOL = ("tool", "tokencap")


class NoStoreError(TokencapError):
    """There is no store where one was expected; the message says what to do."""


def settled(given: str | None, environ: Mapping[str, str]) -> str:
    """Return the text that names the store: the option, else what is configured, else the default."""
    text = given or environ.get(VARIABLE)
    if text:
        return text
    found = configured(environ)
    backend = found[1].get("backend") if found is not None else None
    return backend if isinstance(backend, str) else DEFAULT


def configured(environ: Mapping[str, str]) -> tuple[Path, Mapping[str, Any]] | None:
    """Return the file that configures this directory, and what is in it as TOML.

    No more than that: a policy may name functions, and to look at a store is no reason to import an app.
    """
    stated = environ.get(CONFIG)
    for path in map(Path, [stated] if stated else ["tokencap.toml", "pyproject.toml"]):
        try:
            text = path.read_text(encoding="utf-8-sig")
        except (OSError, UnicodeDecodeError):
            continue
        root = _TOOL if path.name == "pyproject.toml" else ()
        table: Any = parse(text, str(path)) if not root or is_about_us(text) else None
        for step in root:
            table = table.get(step) if isinstance(table, dict) else None
        if isinstance(table, dict):
            return path, table
    return None


def absolute(text: str) -> str:
    """Return the name of the same store for processes in other directories."""
    path = path_of(open_url(text))
    return text if path is None else f"sqlite:{path.absolute()}"


def path_of(backend: Backend) -> Path | None:
    """Return the file of a store; None when it is in none."""
    kind, _, path = backend.name.partition(":")
    return Path(path) if kind == "sqlite" else None


@contextlib.contextmanager
def opened(text: str) -> Iterator[LedgerBackend]:
    """Open a store that is there already, and close it.

    Raises NoStoreError where there is none, and never makes one.
    """
    backend = open_url(text)
    path = path_of(backend)
    if path is not None:
        check_file(path)
    if backend.name == "memory" or not isinstance(backend, LedgerBackend):
        raise NoStoreError(
            f"a store of the kind {clean(text)!r} lives and ends in the process that has it: "
            "there is nothing to read from outside"
        )
    try:
        yield backend
    finally:
        backend.close()


def check_file(path: Path) -> None:
    """Raise NoStoreError for a file that is not there or is no store."""
    if path.is_dir():
        raise NoStoreError(f"{path} is a folder, not a store. {_SAY}")
    if not path.exists():
        raise NoStoreError(
            f"there is no store at {path.absolute()}. It is made by the first guarded call of an app; "
            f"if yours runs somewhere else: {ELSEWHERE}"
        )
    try:
        # Without making anything: another program's file must not get our tables.
        with contextlib.closing(
            sqlite3.connect(f"{path.absolute().as_uri()}?mode=ro", uri=True)
        ) as connection:
            names = {name for (name,) in connection.execute("SELECT name FROM sqlite_master")}
    except sqlite3.DatabaseError as error:
        if "locked" in str(error) or "readonly" in str(error):
            return  # whoever opens it says so
        raise NoStoreError(f"{path} cannot be read as a store ({error}). {_SAY}") from None
    if not names & {"counters", "budgets"}:
        raise NoStoreError(f"{path} is a SQLite file without the tables of tokencap. {_SAY}")

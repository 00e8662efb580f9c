"""Where the budgets are: the store that `--backend` and `TOKENCAP_BACKEND` name, opened for the command.

A store is named by one text: the path of a SQLite file, or the URL of a Redis, whose `#prefix` is the
`prefix` of its `RedisBackend`. A URL may hold a password and is never printed.
"""

from __future__ import annotations

import contextlib
import os
import re
import sqlite3
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from ..errors import ConfigurationError, TokencapError

if TYPE_CHECKING:
    from ..backends.protocol import LedgerBackend

__all__ = ["DEFAULT", "VARIABLE", "NoStoreError", "backend_of", "is_url", "opened", "settled", "shown"]

VARIABLE = "TOKENCAP_BACKEND"
DEFAULT = "tokencap.db"
_URL = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://")
_SCHEMES = ("redis", "rediss", "unix", "redis+sentinel", "rediss+sentinel", "redis+cluster", "rediss+cluster")


class NoStoreError(TokencapError):
    """There is no store where one was expected; the message says what to do."""


def settled(given: str | None, environ: Mapping[str, str]) -> str:
    """Return the text that names the store: the option, else the variable, else the default."""
    text = given or environ.get(VARIABLE) or DEFAULT
    # `sqlite:PATH` is how a configuration may say it.
    return re.sub(r"^sqlite:(//)?", "", text)


def is_url(text: str) -> bool:
    """Tell the URL of a server from the path of a file."""
    return _URL.match(text) is not None


def shown(text: str) -> str:
    """Return how the store is called in messages: nothing of a URL but its scheme."""
    return f"{text.partition('://')[0]}://..." if is_url(text) else text


def backend_of(text: str) -> LedgerBackend:
    """Return the store that `text` names; a file is made when it is first used.

    Raises ConfigurationError when the text names none.
    """
    if not is_url(text):
        from ..backends.sqlite import SQLiteBackend

        return SQLiteBackend(os.path.expanduser(text))
    scheme = text.partition("://")[0].lower()
    if scheme not in _SCHEMES:
        raise ConfigurationError(
            f"{scheme}:// is no store that tokencap knows: give the path of a SQLite file or a redis:// URL"
        )
    from ..backends.redis import RedisBackend

    url, _, prefix = text.partition("#")
    return RedisBackend(url, prefix=prefix or "tokencap")


@contextlib.contextmanager
def opened(text: str) -> Iterator[LedgerBackend]:
    """Open a store that is there already, and close it.

    Raises NoStoreError where there is none, and never makes one.
    """
    if not is_url(text):
        _check_file(Path(text).expanduser())
    backend = backend_of(text)
    try:
        yield backend
    finally:
        backend.close()


def _check_file(path: Path) -> None:
    elsewhere = f"Say where it is with --backend PATH_OR_URL or in {VARIABLE}"
    if path.is_dir():
        raise NoStoreError(f"{path} is a folder, not a store. {elsewhere}")
    if not path.exists():
        raise NoStoreError(
            f"there is no store at {path.absolute()}. It is made by the first guarded call of an app; "
            f"if yours runs somewhere else: {elsewhere[0].lower()}{elsewhere[1:]}"
        )
    try:
        # Without making anything: another program's file must not get our tables.
        with contextlib.closing(
            sqlite3.connect(f"{path.absolute().as_uri()}?mode=ro", uri=True)
        ) as connection:
            names = {name for (name,) in connection.execute("SELECT name FROM sqlite_master")}
    except sqlite3.DatabaseError as error:
        if "locked" in str(error):
            return
        raise NoStoreError(f"{path} cannot be read as a store ({error}). {elsewhere}") from None
    if not names & {"counters", "budgets"}:
        raise NoStoreError(f"{path} is a SQLite file without the tables of tokencap. {elsewhere}")

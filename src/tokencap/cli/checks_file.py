"""What `tokencap doctor` looks at in the file of a SQLite store."""

from __future__ import annotations

import contextlib
import os
import shutil
import sqlite3
from collections.abc import Iterator
from pathlib import Path

from ..backends._sqlite_schema import VERSION
from .findings import Finding, note, well, wrong
from .store import ELSEWHERE, NoStoreError, check_file
from .text import clean

__all__ = ["is_current", "look_at"]

_MEGABYTE = 1_000_000
_LONG_LOG = 100 * _MEGABYTE
_LITTLE_ROOM = 100 * _MEGABYTE
_PATIENCE = 2.0


def look_at(path: Path) -> Iterator[Finding]:
    """Look at a store's file, and change nothing."""
    area, shown, folder = "store", clean(str(path)), path.absolute().parent
    if not os.access(folder, os.W_OK):
        yield wrong(
            area,
            f"the folder {clean(str(folder))} cannot be written by this user: SQLite keeps its log beside "
            "the file",
            "give the user of the app the right to write there",
        )
    free = shutil.disk_usage(folder).free
    if free < _LITTLE_ROOM:
        yield wrong(area, f"the disk of {shown} has {free // _MEGABYTE} MB left", "make room")
    if not path.exists():
        yield note(
            area,
            f"there is no store at {shown} yet",
            f"nothing, if no app ran: the first guarded call makes it; else {ELSEWHERE}",
        )
        return
    try:
        check_file(path)
    except NoStoreError as error:
        yield wrong(area, str(error), "name another file")
        return
    if not os.access(path, os.W_OK):
        yield wrong(
            area, f"{shown} cannot be written by this user", "give the user of the app the right to write it"
        )
        return
    try:
        yield from _tables(path, shown)
    except sqlite3.Error as error:
        if "malformed" in str(error):
            yield _damaged(path, shown, str(error))
        else:
            yield wrong(area, f"{shown} cannot be read: {error}", "see that its folder is on a local disk")


def _tables(path: Path, shown: str) -> Iterator[Finding]:
    area = "store"
    with contextlib.closing(_connect(path, "ro")) as connection:
        version, mode = _made(connection)
        problems = [text for (text,) in connection.execute("PRAGMA integrity_check(3)") if text != "ok"]
    if problems:
        yield _damaged(path, shown, problems[0])
        return
    if version > VERSION:
        yield wrong(
            area,
            f"{shown} was written by a newer tokencap (schema {version}, this one knows {VERSION})",
            "pip install --upgrade tokencap",
        )
        return
    if version < VERSION:
        yield note(
            area,
            f"{shown} is of an older tokencap (schema {version} of {VERSION})",
            "upgrade all apps that use it: the first call of this version changes the file for good",
        )
    size = path.stat().st_size
    busy = _is_locked(path)
    if busy:
        yield wrong(
            area,
            f"sqlite:{shown} has been locked against writing for {_PATIENCE:g} s ({busy})",
            "find the process that holds it (lsof, fuser): calls wait for it, and fail in the end",
        )
    else:
        yield well(
            area,
            f"sqlite:{shown} is whole and can be written (schema {version}, {mode.upper()}, "
            f"{max(1, size // 1000):,} kB)",
        )
    if mode != "wal":
        yield note(
            area,
            f"{shown} is in {clean(mode)} mode, in which readers stand in the way of calls",
            "nothing: the next guarded call puts it back into WAL mode; find out who changed it",
        )
    with contextlib.suppress(OSError):
        log = os.stat(f"{path}-wal").st_size
        if log > _LONG_LOG:
            yield note(
                area,
                f"its write-ahead log has grown to {log // _MEGABYTE} MB",
                "end what reads it without a pause, then: "
                f"sqlite3 {path.name} 'PRAGMA wal_checkpoint(TRUNCATE)'",
            )


def _damaged(path: Path, shown: str, how: str) -> Finding:
    return wrong(
        "store",
        f"{shown} is damaged: {how}",
        f"stop the apps, keep a copy, and save what is left: sqlite3 {path.name} .recover | sqlite3 new.db",
    )


def is_current(path: Path) -> bool:
    """Tell whether to open a file as a store would leave it as it is."""
    with contextlib.closing(_connect(path, "ro")) as connection:
        return _made(connection) == (VERSION, "wal")


def _made(connection: sqlite3.Connection) -> tuple[int, str]:
    (version,) = connection.execute("PRAGMA user_version").fetchone()
    (mode,) = connection.execute("PRAGMA journal_mode").fetchone()
    return int(version), str(mode)


def _connect(path: Path, mode: str) -> sqlite3.Connection:
    uri = f"{path.absolute().as_uri()}?mode={mode}"
    return sqlite3.connect(uri, timeout=_PATIENCE, isolation_level=None, uri=True)


def _is_locked(path: Path) -> str:
    """Return why nothing can be written for a while; nothing is."""
    with contextlib.closing(_connect(path, "rw")) as connection:
        try:
            connection.execute("BEGIN IMMEDIATE")
            connection.execute("ROLLBACK")
        except sqlite3.OperationalError as error:
            return str(error)
    return ""

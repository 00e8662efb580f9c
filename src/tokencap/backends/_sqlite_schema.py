"""The tables of a SQLite store, and how older files become this.

One row per counter and one per key of a reservation in flight, and no index on what changes: a
reserve and a settle each dirty two pages.
"""

from __future__ import annotations

import secrets
import sqlite3
from collections.abc import Callable

from ..budget import UNLIMITED

__all__ = ["VERSION", "UnusableFileError", "prepare"]


class UnusableFileError(Exception):
    """The file works, but not for this; the message follows the name of the store."""


# life: counts the resets. override: the limit stored with set_limit. configured: the limit the last
# reserve came with, for answers to a settle. The names come last: a long one fills pages of its own,
# which a change of the numbers then leaves alone.
_COUNTERS = f"""
CREATE TABLE counters (
    key INTEGER PRIMARY KEY,
    used INTEGER NOT NULL DEFAULT 0,
    reserved INTEGER NOT NULL DEFAULT 0,
    calls INTEGER NOT NULL DEFAULT 0,
    expired INTEGER NOT NULL DEFAULT 0,
    life INTEGER NOT NULL DEFAULT 1,
    override INTEGER,
    configured INTEGER NOT NULL DEFAULT {UNLIMITED},
    dimension TEXT NOT NULL,
    identifier TEXT NOT NULL,
    UNIQUE (dimension, identifier)
)
"""

# As above, with what a period needs. period: the text of it, '' for ever. window_at: see
# `Turn.window`. last_life:
# the life of the window before, whose late settlements go to previous; 0: none.
_COUNTERS_IN_WINDOWS = f"""
CREATE TABLE counters_in_windows (
    key INTEGER PRIMARY KEY,
    used INTEGER NOT NULL DEFAULT 0,
    reserved INTEGER NOT NULL DEFAULT 0,
    calls INTEGER NOT NULL DEFAULT 0,
    expired INTEGER NOT NULL DEFAULT 0,
    life INTEGER NOT NULL DEFAULT 1,
    override INTEGER,
    configured INTEGER NOT NULL DEFAULT {UNLIMITED},
    period TEXT NOT NULL DEFAULT '',
    window_at INTEGER NOT NULL DEFAULT 0,
    last_life INTEGER NOT NULL DEFAULT 0,
    previous INTEGER NOT NULL DEFAULT 0,
    granted INTEGER NOT NULL DEFAULT 0,
    dimension TEXT NOT NULL,
    identifier TEXT NOT NULL,
    UNIQUE (dimension, identifier)
)
"""

# The steps of rolling windows; what they hold is part of their counter.
_SLOTS = """
CREATE TABLE slots (
    key INTEGER NOT NULL,
    slot INTEGER NOT NULL,
    used INTEGER NOT NULL DEFAULT 0,
    expired INTEGER NOT NULL DEFAULT 0,
    granted INTEGER NOT NULL DEFAULT 0,
    PRIMARY KEY (key, slot)
) WITHOUT ROWID
"""

# n: the position of the hold in its reservation. expires_at: seconds since the epoch.
_HOLDS = """
CREATE TABLE holds (
    id TEXT NOT NULL,
    n INTEGER NOT NULL,
    key INTEGER NOT NULL,
    life INTEGER NOT NULL,
    amount INTEGER NOT NULL,
    charge INTEGER NOT NULL,
    expires_at REAL NOT NULL,
    PRIMARY KEY (id, n)
) WITHOUT ROWID
"""

# charge: what an expired reservation was charged; NULL: a settlement booked for a lost store.
_ENDED = """
CREATE TABLE ended (
    id TEXT NOT NULL PRIMARY KEY,
    charge INTEGER,
    at REAL NOT NULL
) WITHOUT ROWID
"""

_MARKS = """
CREATE TABLE marks (
    key INTEGER NOT NULL,
    life INTEGER NOT NULL,
    at_pct REAL NOT NULL,
    PRIMARY KEY (key, life, at_pct)
) WITHOUT ROWID
"""

# One row per call. at: microseconds since the epoch, made unique. n: see `_sqlite_ledger`. ms: how long it
# took. 0 and 1 take no room in a row, nor do names: about 40 bytes a call.
_CALLS = """
CREATE TABLE calls (
    at INTEGER PRIMARY KEY,
    n INTEGER NOT NULL,
    label INTEGER NOT NULL,
    ending INTEGER NOT NULL,
    estimated INTEGER NOT NULL,
    input INTEGER NOT NULL,
    output INTEGER NOT NULL,
    cached INTEGER NOT NULL,
    written INTEGER NOT NULL,
    reasoning INTEGER NOT NULL,
    estimate INTEGER NOT NULL,
    ms INTEGER NOT NULL
)
"""

# What calls have in common, once for every day on which it was used.
_LABELS = """
CREATE TABLE labels (
    id INTEGER PRIMARY KEY,
    day INTEGER NOT NULL,
    text TEXT NOT NULL,
    UNIQUE (day, text)
)
"""

# at: microseconds since the epoch, made unique. tokens: NULL for a reset, and for a limit as configured.
_CHANGES = """
CREATE TABLE changes (
    at INTEGER PRIMARY KEY,
    key INTEGER NOT NULL,
    action TEXT NOT NULL,
    tokens INTEGER,
    user TEXT NOT NULL,
    host TEXT NOT NULL,
    limit_before INTEGER NOT NULL,
    limit_after INTEGER NOT NULL,
    used_before INTEGER NOT NULL,
    used_after INTEGER NOT NULL
)
"""

# Of every budget that has some, as the process that came to use it last said: see `Ahead`.
_THRESHOLDS = "CREATE TABLE thresholds (key INTEGER PRIMARY KEY, text TEXT NOT NULL)"

_STORE = "CREATE TABLE store (id TEXT NOT NULL)"


def _count_reservations(cursor: sqlite3.Cursor) -> None:
    """From nothing, or from plain sums (`budgets`, `fired_thresholds`), whose counts are kept."""
    for table in (_COUNTERS, _HOLDS, _ENDED, _MARKS, _STORE):
        cursor.execute(table)
    cursor.execute("INSERT INTO store VALUES (?)", (secrets.token_hex(8),))
    tables = {name for (name,) in cursor.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}
    if "budgets" in tables:
        # The limit there was only a copy of the configured one, so it must not become an override.
        cursor.execute(
            "INSERT INTO counters (dimension, identifier, used)"
            " SELECT key_dimension, key_identifier, max(coalesce(used_tokens, 0), 0) FROM budgets"
        )
        cursor.execute("DROP TABLE budgets")
    if "fired_thresholds" in tables:
        cursor.execute(
            "INSERT OR IGNORE INTO counters (dimension, identifier)"
            " SELECT key_dimension, key_identifier FROM fired_thresholds"
        )
        cursor.execute(
            "INSERT INTO marks SELECT key, life, at_pct FROM fired_thresholds"
            " JOIN counters ON dimension = key_dimension AND identifier = key_identifier"
        )
        cursor.execute("DROP TABLE fired_thresholds")


def _keep_a_ledger(cursor: sqlite3.Cursor) -> None:
    """From counters alone."""
    cursor.execute(_CALLS)
    cursor.execute(_LABELS)
    # about: the label of the call, 0 for none. entry: the row that says that the call expired.
    cursor.execute("ALTER TABLE holds ADD COLUMN about INTEGER NOT NULL DEFAULT 0")
    cursor.execute("ALTER TABLE ended ADD COLUMN entry INTEGER")


def _count_in_windows(cursor: sqlite3.Cursor) -> None:
    """From counters that run for ever. Columns come before the names, so the table is made anew."""
    cursor.execute(_SLOTS)
    cursor.execute(_COUNTERS_IN_WINDOWS)
    kept = "key, used, reserved, calls, expired, life, override, configured, dimension, identifier"
    cursor.execute(f"INSERT INTO counters_in_windows ({kept}) SELECT {kept} FROM counters")  # noqa: S608
    cursor.execute("DROP TABLE counters")
    cursor.execute("ALTER TABLE counters_in_windows RENAME TO counters")


def _note_changes(cursor: sqlite3.Cursor) -> None:
    """From limits that changed, nobody knew by whom."""
    cursor.execute(_CHANGES)


def _know_thresholds(cursor: sqlite3.Cursor) -> None:
    """From budgets of which only their processes knew what comes next."""
    cursor.execute(_THRESHOLDS)


_MIGRATIONS: tuple[Callable[[sqlite3.Cursor], None], ...] = (
    _count_reservations,
    _keep_a_ledger,
    _count_in_windows,
    _note_changes,
    _know_thresholds,
)
"""The n-th brings a file of `user_version` n to n + 1."""

VERSION = len(_MIGRATIONS)
"""The `PRAGMA user_version` of a file with these tables."""


def prepare(cursor: sqlite3.Cursor) -> str:
    """Bring the file up to date and return the id of its store.

    The id is random and made with the tables: a file that was replaced has another one.
    Raises UnusableFileError when the file is newer than this code.
    """
    if _version(cursor) != VERSION:
        cursor.execute("BEGIN IMMEDIATE")
        # Another process may have been faster.
        for migrate in _MIGRATIONS[_version(cursor) :]:
            migrate(cursor)
        cursor.execute(f"PRAGMA user_version = {VERSION}")
        cursor.execute("COMMIT")
    (store,) = cursor.execute("SELECT id FROM store").fetchone()
    return str(store)


def _version(cursor: sqlite3.Cursor) -> int:
    (version,) = cursor.execute("PRAGMA user_version").fetchone()
    if version > VERSION:
        raise UnusableFileError(
            f"was written by a newer tokencap (schema {version}, this one knows {VERSION}): upgrade tokencap"
        )
    return int(version)

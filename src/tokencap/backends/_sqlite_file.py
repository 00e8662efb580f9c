"""The file under a SQLite store: made, opened, recognised, and its failures put into words."""

from __future__ import annotations

import contextlib
import os
import pathlib
import re
import secrets
import sqlite3
from collections.abc import Iterator
from typing import NamedTuple

from ..errors import ConfigurationError
from ._sqlite_schema import UnusableFileError, prepare

try:
    import fcntl
except ImportError:  # Windows, where an open file cannot be deleted either
    fcntl = None  # type: ignore[assignment]

__all__ = [
    "FileBusyError",
    "Identity",
    "Opened",
    "check_path",
    "check_sqlite",
    "checkpoint",
    "is_busy",
    "open_file",
    "say",
]

Identity = tuple[int, int]
"""Device and inode: the same path may lead to another file later."""

# Small pages, because every commit writes and checksums whole pages. No effect on a file that has some.
_PAGE_SIZE = 512

# The first with INSERT ... ON CONFLICT.
_OLDEST_SQLITE = (3, 24)

# In pages of the write-ahead log: when `checkpoint` stops the others for a moment, so that the log can
# start over, and when SQLite does it by itself, because processes die before they come to it.
_LONG_LOG = 10_000
_TOO_LONG_LOG = 64_000
_BARRIER_ATTEMPTS = 1000

_MOUNTS = "/proc/self/mountinfo"
"""What is mounted where in this process's view, on Linux."""


class FileBusyError(Exception):
    """Somebody else has the file for a moment."""


class Opened(NamedTuple):
    """A file in use."""

    connection: sqlite3.Connection
    cursor: sqlite3.Cursor
    identity: Identity
    wal: Identity | None
    store: str

    def close(self) -> None:
        """Let go of the file, now: a child forked later must not inherit it."""
        _close(self.cursor)


def check_sqlite() -> None:
    """Raise ConfigurationError where this Python's SQLite is too old for our statements."""
    if sqlite3.sqlite_version_info < _OLDEST_SQLITE:
        raise ConfigurationError(
            f"SQLiteBackend needs SQLite 3.24 or later, and this Python has {sqlite3.sqlite_version}"
        )


def check_path(path: str) -> str:
    """Return `path`, absolute: a later change of directory must not lead to another file."""
    # SQLite's own spelling of a URI and ours of a store: a file of such a name would be another store.
    if not isinstance(path, str) or not path or "\0" in path or path.startswith(("file:", "sqlite:")):
        raise ConfigurationError(f"path is the name of a file, not {path!r}")
    if path == ":memory:":
        raise ConfigurationError("path is the name of a file; for budgets in memory use MemoryBackend()")
    path = os.path.abspath(path)
    if os.path.isdir(path):
        raise ConfigurationError(f"path is the name of a file, and {path} is a folder")
    if not os.path.isdir(os.path.dirname(path)):
        raise ConfigurationError(f"the folder {os.path.dirname(path)} does not exist")
    return path


def identify(path: str) -> Identity | None:
    """Return what `path` leads to now; None when there is nothing."""
    try:
        found = os.stat(path)
    except FileNotFoundError:
        return None
    return found.st_dev, found.st_ino


def _close(cursor: sqlite3.Cursor) -> None:
    # Another thread or a traceback may still have the cursor, which keeps a statement that failed: with
    # that the connection would only seem closed.
    cursor.close()
    cursor.connection.close()


def is_busy(error: BaseException) -> bool:
    """Tell a lock held by somebody else from a real failure."""
    if isinstance(error, sqlite3.OperationalError):
        # The second: too many processes opened the file at the same moment.
        return str(error).startswith(("database is locked", "locking protocol"))
    return isinstance(error, FileBusyError)


def open_file(path: str, synchronous: str, stale_wal: Identity | None = None) -> Opened:
    """Open the store at `path`, making it if need be; never waits for a lock.

    `stale_wal` is the write-ahead log of the file that was at `path` before. Raises FileBusyError,
    sqlite3.Error, OSError, or UnusableFileError for a file of a newer version.
    """
    path = os.path.realpath(path)
    identity = identify(path)
    if identity is None or (stale_wal is not None and identify(path + "-wal") == stale_wal):
        identity = _clear(path, stale_wal)
    if not os.access(path, os.W_OK):
        # SQLite would open it all the same and make a log with the same mode, which would still be
        # read-only when the file is not any more.
        raise UnusableFileError("is read-only")
    if _mounted(path):
        raise UnusableFileError(
            "is mounted without its folder, so that its log lies where nobody else sees it: mount the folder"
        )
    connection = sqlite3.connect(path, timeout=0, isolation_level=None, check_same_thread=False)
    cursor = connection.cursor()
    try:
        cursor.execute(f"PRAGMA page_size = {_PAGE_SIZE}")
        (mode,) = cursor.execute("PRAGMA journal_mode = WAL").fetchone()
        if mode != "wal":
            raise UnusableFileError("is on a file system without SQLite's write-ahead log")
        cursor.execute(f"PRAGMA synchronous = {synchronous}")
        cursor.execute(f"PRAGMA wal_autocheckpoint = {_TOO_LONG_LOG}")
        store = prepare(cursor)
        if identify(path) != identity:
            raise FileBusyError("replaced while it was opened")
        return Opened(connection, cursor, identity, identify(path + "-wal"), store)
    except BaseException:
        _close(cursor)
        raise


def _mounted(path: str) -> bool:
    """Return whether the file at `path` is a mount of its own, apart from its folder."""
    spelled = re.sub(rb"[ \t\n\\]", lambda sign: b"\\%03o" % ord(sign[0]), os.fsencode(path))
    try:
        with open(_MOUNTS, "rb") as mounts:
            return any(mount.split(b" ", 5)[4] == spelled for mount in mounts)
    except OSError:
        return False


def checkpoint(connection: sqlite3.Connection, path: str) -> None:
    """Copy the write-ahead log into the file. Raises sqlite3.Error."""
    _, pages, _ = connection.execute("PRAGMA wal_checkpoint(PASSIVE)").fetchone()
    if pages < _LONG_LOG:
        return
    # The log starts over only when all of it has been copied and nobody added to it meanwhile.
    uri = pathlib.Path(path).as_uri() + "?mode=rw"
    with contextlib.closing(sqlite3.connect(uri, timeout=0, isolation_level=None, uri=True)) as barrier:
        if _begin_soon(barrier):
            connection.execute("PRAGMA wal_checkpoint(PASSIVE)").fetchone()
            barrier.execute("ROLLBACK")


def _begin_soon(connection: sqlite3.Connection) -> bool:
    """Take the write lock from processes that never pause; True if that worked."""
    for _ in range(_BARRIER_ATTEMPTS):
        try:
            connection.execute("BEGIN IMMEDIATE")
        except sqlite3.OperationalError as error:
            if not is_busy(error):
                raise
        else:
            return True
    return False


def _clear(path: str, stale_wal: Identity | None) -> Identity:
    """Make an empty file at `path` if there is none; take away the log of the one before.

    SQLite would play an old log into the new file, or attach to shared memory that other
    processes still use for the old one.
    """
    with _only_process(os.path.dirname(path)):
        if identify(path) is None or (stale_wal is not None and identify(path + "-wal") == stale_wal):
            for leftover in (path + "-wal", path + "-shm"):
                with contextlib.suppress(FileNotFoundError):
                    os.unlink(leftover)
        if identify(path) is None:
            # Made aside and moved: closing a descriptor of a file that SQLite may already have open
            # in this process would drop SQLite's locks on it.
            aside = f"{path}.{secrets.token_hex(8)}"
            os.close(os.open(aside, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600))
            os.rename(aside, path)
        identity = identify(path)
        if identity is None:
            raise FileBusyError("deleted while it was made")
        return identity


@contextlib.contextmanager
def _only_process(folder: str) -> Iterator[None]:
    """Be alone, among processes too, while files of a store are made or removed in `folder`."""
    if fcntl is None:
        yield
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise FileBusyError("another process is making a store here") from error
        yield
    finally:
        os.close(descriptor)


_WORDS = (
    ("file is not a database", "is not a SQLite database"),
    ("malformed", "is damaged"),
    ("readonly", "is read-only"),
    ("Permission denied", "cannot be made: this user may not write in its folder"),
    ("is full", "cannot grow: the disk is full"),
    ("unable to open", "cannot be opened"),
    ("disk I/O error", "cannot be read or written"),
)


def say(error: BaseException) -> str:
    """Put a failure into words that follow the name of the store."""
    text = str(error)
    if isinstance(error, UnusableFileError):
        return text
    for part, words in _WORDS:
        if part in text:
            return words if words.endswith(text) else f"{words} ({text})"
    return f"failed: {text}"

"""What is SQLite's own: the file, its locks, its failures, its past versions."""

from __future__ import annotations

import asyncio
import contextlib
import multiprocessing
import os
import signal
import sqlite3
import stat
import subprocess
import sys
import tempfile
import textwrap
import threading
import time
import uuid

import pytest

from forked import forks
from tokencap._periods import calendar
from tokencap.backends import _sqlite_file
from tokencap.backends.sqlite import SQLiteBackend
from tokencap.budget import UNLIMITED, Asked, BudgetKey, BudgetState, Held, Hold, Mark, Reservation
from tokencap.errors import BackendError, ConfigurationError

KEY = BudgetKey("tenant", "acme")
HOLD = Hold(KEY, 1000, None, 1, 1)
PATIENCE = 1.0
"""Seconds that a busy machine may take for what takes no time."""


@pytest.fixture
def path(tmp_path):
    return tmp_path / "tokencap.db"


@pytest.fixture
def backend(path):
    backend = SQLiteBackend(path, timeout=0.15)
    yield backend
    backend.close()


def spend(backend, tokens=1):
    return backend.settle(backend.reserve(uuid.uuid4().hex, [HOLD], 1, 30.0).reservation, tokens)


def used(backend):
    return backend.get_states([(KEY, 1000)])[0].used


@contextlib.contextmanager
def plain(path):
    """A connection that is not ours."""
    connection = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
    try:
        yield connection
    finally:
        connection.close()


def commits(path):
    """How many transactions are in the write-ahead log: the frames that end one."""
    log = path.with_name(f"{path.name}-wal").read_bytes()
    size, salts = int.from_bytes(log[8:12], "big"), log[16:24]
    frames = [log[at : at + 24] for at in range(32, len(log), 24 + size)]
    return sum(frame[8:16] == salts and frame[4:8] != bytes(4) for frame in frames)


@contextlib.contextmanager
def locked(path):
    """Somebody else writes, and takes his time."""
    with plain(path) as other:
        other.execute("BEGIN IMMEDIATE")
        yield other


def failing(backend, words):
    """Every verb raises BackendError with these words, with its cause, in time."""
    started = time.monotonic()
    for verb in (
        lambda: spend(backend),
        lambda: backend.renew(["x"], 1.0),
        lambda: backend.pass_marks([Mark(KEY, 0.5, 1000)]),
        lambda: backend.set_limit(KEY, 5),
        lambda: backend.reset(KEY),
    ):
        with pytest.raises(BackendError, match=words) as caught:
            verb()
        assert caught.value.__cause__ is not None
        assert str(caught.value).startswith("sqlite:")
    assert time.monotonic() - started < 5 * (0.15 + PATIENCE)


def test_a_file_that_is_mounted_without_its_folder_is_refused(tmp_path, monkeypatch):
    path = tmp_path / "on its own.db"
    path.touch()
    mounts = tmp_path / "mountinfo"
    mounts.write_text(
        f"23 98 0:21 / {tmp_path} rw,nosuid - ext4 /dev/sda1 rw\n"
        f"24 23 8:1 /srv/own.db {str(path).replace(' ', chr(92) + '040')} rw - ext4 /dev/sda1 rw\n"
    )
    monkeypatch.setattr(_sqlite_file, "_MOUNTS", str(mounts))
    with pytest.raises(BackendError, match="mount the folder"):
        spend(SQLiteBackend(path))
    spend(SQLiteBackend(tmp_path / "beside.db"))


class TestArguments:
    def test_a_python_with_an_old_sqlite_is_told_which_it_needs(self, path, monkeypatch):
        monkeypatch.setattr(sqlite3, "sqlite_version_info", (3, 7, 17))
        monkeypatch.setattr(sqlite3, "sqlite_version", "3.7.17")
        with pytest.raises(ConfigurationError, match=r"needs SQLite 3\.24 or later, .* 3\.7\.17"):
            SQLiteBackend(path)

    @pytest.mark.parametrize(
        "path", ["", "a\0b", b"bytes", ":memory:", ".", "file:a.db?mode=ro", "sqlite:a.db"]
    )
    def test_a_path_that_cannot_work_is_refused(self, path):
        with pytest.raises(ConfigurationError):
            SQLiteBackend(path)

    def test_a_folder_that_is_not_there_is_named(self, tmp_path):
        with pytest.raises(ConfigurationError, match="nowhere does not exist"):
            SQLiteBackend(tmp_path / "nowhere" / "tokencap.db")

    @pytest.mark.parametrize("synchronous", ["OFF", "normal", None, 1])
    def test_an_unsafe_mode_is_refused(self, path, synchronous):
        with pytest.raises(ConfigurationError, match="FULL"):
            SQLiteBackend(path, synchronous=synchronous)

    @pytest.mark.parametrize("timeout", [0, -1, float("nan"), float("inf"), "2", None, True])
    def test_a_timeout_that_cannot_work_is_refused(self, path, timeout):
        with pytest.raises(ConfigurationError, match="timeout"):
            SQLiteBackend(path, timeout=timeout)

    def test_the_name_is_the_path_as_given(self, tmp_path, monkeypatch):
        monkeypatch.chdir(tmp_path)
        assert SQLiteBackend("here.db").name == "sqlite:here.db"

    def test_a_change_of_directory_does_not_change_the_file(self, tmp_path, monkeypatch):
        monkeypatch.chdir(tmp_path)
        backend = SQLiteBackend("here.db")
        (tmp_path / "elsewhere").mkdir()
        monkeypatch.chdir(tmp_path / "elsewhere")
        spend(backend)
        backend.close()
        assert (tmp_path / "here.db").exists()


class TestTheFile:
    def test_it_is_made_when_it_is_needed(self, backend, path):
        assert not path.exists()
        spend(backend)
        assert path.exists()

    def test_only_its_owner_reads_it(self, backend, path):
        spend(backend)
        for suffix in ("", "-wal", "-shm"):
            assert stat.S_IMODE(os.stat(f"{path}{suffix}").st_mode) == 0o600

    def test_nothing_else_is_left_in_the_folder(self, backend, path):
        spend(backend)
        backend.close()
        assert os.listdir(path.parent) == [path.name]

    def test_it_is_in_wal_mode(self, backend, path):
        spend(backend)
        with plain(path) as other:
            assert other.execute("PRAGMA journal_mode").fetchone() == ("wal",)

    @pytest.mark.parametrize(("synchronous", "number"), [("NORMAL", 1), ("FULL", 2)])
    def test_it_is_as_durable_as_asked(self, path, synchronous, number):
        backend = SQLiteBackend(path, synchronous=synchronous)
        spend(backend)
        assert backend._opened.connection.execute("PRAGMA synchronous").fetchone() == (number,)
        backend.close()

    def test_a_symbolic_link_is_followed(self, tmp_path, path):
        path.symlink_to(tmp_path / "real.db")
        backend = SQLiteBackend(path)
        spend(backend)
        backend.close()
        assert path.is_symlink()
        assert (tmp_path / "real.db").stat().st_size > 0

    @pytest.mark.parametrize("keys", [1, 2])
    def test_one_reserve_and_one_settle_are_two_commits(self, keys, backend, path):
        holds = [Hold(BudgetKey("tenant", str(n)), 1000, 1.0, 10, 10) for n in range(keys)]

        def spend_once(id):
            backend.settle(backend.reserve(id, holds, 10, 60.0).reservation, 5)

        spend_once("first")
        before = commits(path)
        spend_once("second")
        assert commits(path) == before + 2

    def test_the_log_does_not_grow_for_ever(self, backend, path):
        for _ in range(10_000):
            spend(backend)
        assert os.stat(f"{path}-wal").st_size < 10_000_000


FIRST_SCHEMA = """
CREATE TABLE budgets (key_dimension TEXT, key_identifier TEXT, limit_tokens INTEGER,
    used_tokens INTEGER, updated_at TEXT, PRIMARY KEY (key_dimension, key_identifier));
CREATE TABLE fired_thresholds (key_dimension TEXT, key_identifier TEXT, at_pct REAL, fired_at TEXT,
    PRIMARY KEY (key_dimension, key_identifier, at_pct));
INSERT INTO budgets VALUES ('tenant', 'acme', 500, 123, '2025-01-01'), ('session', 's', 500, 7, NULL);
INSERT INTO fired_thresholds VALUES ('tenant', 'acme', 0.5, '2025-01-01'), ('tenant', 'new', 0.8, NULL);
"""


SECOND_SCHEMA = f"""
CREATE TABLE counters (key INTEGER PRIMARY KEY, used INTEGER NOT NULL DEFAULT 0,
    reserved INTEGER NOT NULL DEFAULT 0, calls INTEGER NOT NULL DEFAULT 0, expired INTEGER NOT NULL DEFAULT 0,
    life INTEGER NOT NULL DEFAULT 1, override INTEGER, configured INTEGER NOT NULL DEFAULT {UNLIMITED},
    dimension TEXT NOT NULL, identifier TEXT NOT NULL, UNIQUE (dimension, identifier));
CREATE TABLE holds (id TEXT NOT NULL, n INTEGER NOT NULL, key INTEGER NOT NULL, life INTEGER NOT NULL,
    amount INTEGER NOT NULL, charge INTEGER NOT NULL, expires_at REAL NOT NULL,
    PRIMARY KEY (id, n)) WITHOUT ROWID;
CREATE TABLE ended (id TEXT NOT NULL PRIMARY KEY, charge INTEGER, at REAL NOT NULL) WITHOUT ROWID;
CREATE TABLE marks (key INTEGER NOT NULL, life INTEGER NOT NULL, at_pct REAL NOT NULL,
    PRIMARY KEY (key, life, at_pct)) WITHOUT ROWID;
CREATE TABLE store (id TEXT NOT NULL);
INSERT INTO store VALUES ('{"ab" * 8}');
INSERT INTO counters VALUES (7, 33, 20, 1, 3, 4, 500, 600, '{KEY.dimension}', '{KEY.identifier}');
INSERT INTO holds VALUES ('call-1', 0, 7, 4, 20, 10, 1e12);
INSERT INTO marks VALUES (7, 4, 0.5);
PRAGMA user_version = 1;
"""


def start_together(path, barrier, results):
    backend = SQLiteBackend(path)
    barrier.wait()
    try:
        spend(backend, 10)
        results.put("done")
    except BaseException as error:
        results.put(repr(error))
        raise
    finally:
        backend.close()


class TestVersions:
    def test_the_counts_of_the_first_schema_are_kept(self, backend, path):
        with plain(path) as other:
            other.executescript(FIRST_SCHEMA)
        session = BudgetKey("session", "s")
        assert backend.get_states([(KEY, 1000), (session, 1000)]) == (
            BudgetState(KEY, 1000, 123),
            BudgetState(session, 1000, 7),
        )

    def test_the_marks_of_the_first_schema_are_kept(self, backend, path):
        with plain(path) as other:
            other.executescript(FIRST_SCHEMA)
        new = Mark(BudgetKey("tenant", "new"), 0.8, 1000)
        assert backend.pass_marks([Mark(KEY, 0.5, 1000), Mark(KEY, 0.8, 1000), new]) == (
            Mark(KEY, 0.8, 1000),
        )

    def test_a_file_whose_counters_run_for_ever_is_kept_as_it_is(self, backend, path):
        with plain(path) as other:
            other.executescript(SECOND_SCHEMA)
        assert backend.get_states([(KEY, 1000)]) == (BudgetState(KEY, 500, 33, 20, 1, 3),)
        assert backend.pass_marks([Mark(KEY, 0.5, 1000)]) == ()
        held = Reservation("call-1", (Held(KEY, f"{'ab' * 8}:4", 20),), 10)
        assert backend.renew(["call-1"], 1e12) == set()
        assert backend.settle(held, 7).states == (BudgetState(KEY, 500, 40, 0, 0, 3),)
        day = calendar("day")
        assert backend.get_states([Asked(KEY, 1000, day)])[0][1:4] == (500, 0, 0)
        assert backend.get_states([Asked(KEY, 1000, day)])[0].previous_used == 40

    def test_the_file_is_migrated_once(self, backend, path):
        with plain(path) as other:
            other.executescript(FIRST_SCHEMA)
        spend(backend, 10)
        backend.close()
        assert used(backend) == 133

    def test_a_newer_file_is_left_alone(self, backend, path):
        spend(backend)
        backend.close()
        with plain(path) as other:
            other.execute("PRAGMA user_version = 99")
        with pytest.raises(BackendError, match=r"tokencap\.db was written by a newer tokencap.*upgrade"):
            spend(backend)
        with plain(path) as other:
            assert other.execute("PRAGMA user_version").fetchone() == (99,)

    @pytest.mark.parametrize("first_schema", [False, True])
    def test_processes_that_start_together_all_succeed(self, path, first_schema):
        if first_schema:
            with plain(path) as other:
                other.executescript(FIRST_SCHEMA)
        context = multiprocessing.get_context("fork" if hasattr(os, "fork") else "spawn")
        barrier, results = context.Barrier(3), context.Queue()
        processes = [context.Process(target=start_together, args=(path, barrier, results)) for _ in range(3)]
        for process in processes:
            process.start()
        assert [results.get(timeout=20) for _ in processes] == ["done"] * 3
        for process in processes:
            process.join()
        backend = SQLiteBackend(path)
        assert used(backend) == 30 + 123 * first_schema
        backend.close()

    def test_threads_that_start_together_all_succeed(self, path):
        backends = [SQLiteBackend(path) for _ in range(8)]
        barrier = threading.Barrier(8)
        errors = []

        def start(backend):
            barrier.wait()
            try:
                spend(backend, 10)
            except BackendError as error:
                errors.append(error)

        threads = [threading.Thread(target=start, args=(backend,)) for backend in backends]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert errors == []
        assert used(backends[0]) == 80
        for backend in backends:
            backend.close()


class TestALockedFile:
    def test_a_call_waits_for_the_lock(self, backend, path):
        spend(backend)
        with locked(path) as other:
            timer = threading.Timer(0.05, other.execute, ["ROLLBACK"])
            timer.start()
            spend(backend)
            timer.join()
        assert used(backend) == 2

    def test_a_call_waits_no_longer_than_the_timeout(self, backend, path):
        spend(backend)
        with locked(path):
            failing(backend, "kept locked by another process for more than 0.15 s")
        spend(backend)

    def test_a_file_that_is_locked_when_it_is_opened(self, backend, path):
        with plain(path) as other:
            other.execute("CREATE TABLE t (x)")
        with locked(path):
            failing(backend, "kept locked")
        spend(backend)

    def test_states_are_readable_meanwhile(self, backend, path):
        spend(backend)
        with locked(path):
            assert used(backend) == 1

    def test_other_threads_read_while_one_waits(self, backend, path):
        spend(backend)
        backend.timeout = 60.0
        with locked(path) as other:
            waiting = threading.Thread(target=spend, args=(backend,))
            waiting.start()
            time.sleep(0.05)
            assert used(backend) == 1
            assert waiting.is_alive()
            other.execute("ROLLBACK")
            waiting.join()
        assert used(backend) == 2

    def test_the_event_loop_goes_on(self, backend, path):
        spend(backend)
        backend.timeout = 1.0
        flavour = backend.as_async()

        async def main():
            with locked(path):
                step = asyncio.create_task(flavour.reserve("x", [HOLD], 1, 30.0))
                gaps = []
                while not step.done():
                    before = time.perf_counter()
                    await asyncio.sleep(0.001)
                    gaps.append(time.perf_counter() - before)
                with pytest.raises(BackendError, match="locked"):
                    await step
            await flavour.aclose()
            return gaps

        gaps = asyncio.run(main())
        assert len(gaps) > 10
        assert max(gaps) < 0.7

    def test_many_waiting_tasks_all_fail_in_time(self, backend, path):
        spend(backend)
        flavour = backend.as_async()

        async def main():
            with locked(path):
                steps = [flavour.reserve(str(n), [HOLD], 1, 30.0) for n in range(50)]
                results = await asyncio.gather(*steps, return_exceptions=True)
            await flavour.aclose()
            return results

        started = time.monotonic()
        assert all(isinstance(result, BackendError) for result in asyncio.run(main()))
        # One after the other they would take 25 times the time-out.
        assert time.monotonic() - started < 0.15 + 2 * PATIENCE

    def test_a_cancelled_task_leaves_no_step_half_done(self, backend, path):
        spend(backend)
        flavour = backend.as_async()

        async def main():
            with locked(path) as other:
                step = asyncio.create_task(flavour.reserve("x", [HOLD], 1, 30.0))
                await asyncio.sleep(0.02)
                step.cancel()
                with pytest.raises(asyncio.CancelledError):
                    await step
                other.execute("ROLLBACK")
            for _ in range(100):
                if backend.get_states([(KEY, 1000)])[0].calls:
                    return True
                await asyncio.sleep(0.01)
            return False

        assert asyncio.run(main())

    def test_outside_asyncio_a_step_waits_where_it_is(self, backend, path):
        spend(backend)

        def drive(step):
            with pytest.raises(StopIteration) as stop:
                step.send(None)
            return stop.value.value

        with locked(path) as other:
            timer = threading.Timer(0.05, other.execute, ["ROLLBACK"])
            timer.start()
            assert drive(backend.as_async().reserve("x", [HOLD], 1, 30.0)).reservation
            timer.join()


class TestAFileThatGoesAway:
    def test_a_deleted_file_is_made_again(self, backend, path):
        spend(backend)
        for name in os.listdir(path.parent):
            os.unlink(path.parent / name)
        spend(backend, 5)
        assert used(backend) == 5
        with plain(path) as other:
            assert other.execute("SELECT used FROM counters").fetchone() == (5,)

    def test_without_its_log_too(self, backend, path):
        spend(backend)
        path.unlink()
        spend(backend, 5)
        assert used(backend) == 5
        backend.close()
        assert used(backend) == 5

    def test_other_handles_follow(self, backend, path):
        other = SQLiteBackend(path)
        spend(backend)
        spend(other)
        path.unlink()
        for handle in (backend, other, backend, other):
            spend(handle, 5)
        assert used(backend) == used(other) == 20
        other.close()
        backend.close()
        assert used(backend) == 20

    def test_a_call_in_flight_is_booked_in_the_new_file_once(self, backend, path):
        reservation = backend.reserve("x", [HOLD], 1, 30.0).reservation
        path.unlink()
        backend.settle(reservation, 7)
        backend.settle(reservation, 7)
        assert backend.get_states([(KEY, 1000)]) == (BudgetState(KEY, 1000, 7),)

    def test_a_replaced_file_does_not_get_the_log_of_the_old_one(self, backend, path, tmp_path):
        other = SQLiteBackend(tmp_path / "other.db")
        spend(other, 500)
        other.close()
        for _ in range(50):
            spend(backend)
        os.replace(tmp_path / "other.db", path)
        assert used(backend) == 500
        spend(backend, 5)
        backend.close()
        with plain(path) as connection:
            assert connection.execute("PRAGMA integrity_check").fetchone() == ("ok",)
        assert used(backend) == 505

    def test_a_deleted_folder_is_an_error_until_it_is_back(self, tmp_path):
        folder = tmp_path / "folder"
        folder.mkdir()
        backend = SQLiteBackend(folder / "tokencap.db", timeout=0.15)
        spend(backend)
        for name in os.listdir(folder):
            os.unlink(folder / name)
        folder.rmdir()
        failing(backend, "No such file or directory")
        folder.mkdir()
        spend(backend)
        assert used(backend) == 1
        backend.close()


class TestAFileThatCannotBeUsed:
    def test_something_else(self, backend, path):
        path.write_bytes(b"not a database, but long enough to be one" * 50)
        failing(backend, "is not a SQLite database")
        assert path.read_bytes().startswith(b"not a database")
        path.unlink()
        spend(backend)

    def test_a_folder(self, backend, path):
        path.mkdir()
        failing(backend, "cannot be opened")
        path.rmdir()
        spend(backend)

    def test_a_full_disk(self, backend):
        spend(backend)
        connection = backend._opened.connection
        (pages,) = connection.execute("PRAGMA page_count").fetchone()
        connection.execute(f"PRAGMA max_page_count = {pages}")
        with pytest.raises(BackendError, match="disk is full"):
            for n in range(500):
                backend.reserve(f"{n}", [HOLD], 1, 30.0)
        assert backend.get_states([(KEY, 1000)])[0].calls == n
        spend(backend)

    @forks
    def test_a_read_only_one(self):
        code = """
            import os, sys
            from tokencap.backends.sqlite import SQLiteBackend
            from tokencap.errors import BackendError
            from tokencap.budget import *
            folder = sys.argv[1]
            if os.geteuid() == 0:  # root may write everything
                os.chown(folder, 65534, 65534)
                os.setuid(65534)
            os.chdir(folder)
            backend = SQLiteBackend("tokencap.db", timeout=0.15)
            hold = Hold(BudgetKey("tenant", "acme"), 1000, None, 1, 1)
            backend.reserve("1", [hold], 1, 30.0)
            backend.close()
            os.chmod("tokencap.db", 0o400)
            try:
                backend.reserve("2", [hold], 1, 30.0)
            except BackendError as error:
                print(error)
            os.chmod("tokencap.db", 0o600)
            print(bool(backend.reserve("3", [hold], 1, 30.0).reservation))
            backend.close()
        """
        # Not tmp_path: its parents are closed to other users.
        with tempfile.TemporaryDirectory() as folder:
            done = subprocess.run(
                [sys.executable, "-W", "error", "-c", textwrap.dedent(code), folder],
                capture_output=True,
                text=True,
                check=False,
                timeout=20,
            )
        assert (done.stdout, done.stderr) == ("sqlite:tokencap.db is read-only\nTrue\n", "")


@forks
class TestProcesses:
    def test_a_child_opens_the_file_itself(self, backend):
        spend(backend)
        child = os.fork()
        if child == 0:
            status = 1
            try:
                spend(backend, 10)
                # A child that ends like any other program must not take the log away from its parent.
                backend.close()
                status = 0
            finally:
                os._exit(status)
        spend(backend, 100)
        assert os.waitpid(child, 0)[1] == 0
        spend(backend, 1000)
        assert used(backend) == 1111

    def test_a_child_inherits_nothing_from_a_thread_that_waits_for_the_file(self, path):
        backend = SQLiteBackend(path, timeout=30.0)
        spend(backend)

        def logs():
            log = os.stat(f"{path}-wal")
            found = []
            for descriptor in range(256):
                with contextlib.suppress(OSError):
                    found.append(os.path.samestat(os.fstat(descriptor), log))
            return sum(found)

        with plain(path) as other:
            other.execute("BEGIN IMMEDIATE")
            assert logs() == 2
            waiting = threading.Thread(target=spend, args=(backend,))
            waiting.start()
            for _ in range(10):
                time.sleep(0.005)
                backend.before_fork()
                try:
                    assert logs() == 1
                finally:
                    backend.after_fork_in_parent()
            other.execute("ROLLBACK")
            waiting.join()
        assert used(backend) == 2
        backend.close()

    def test_a_fork_that_nobody_announced_is_survived(self, backend, path):
        """As by an embedding that calls fork() in C and runs only the hook in the child."""
        spend(backend)
        inherited = backend._opened
        backend._lock.acquire()
        backend.after_fork_in_child()
        spend(backend, 10)
        assert used(backend) == 11
        assert inherited.connection.execute("SELECT used FROM counters").fetchone() == (11,)
        inherited.connection.close()

    def test_a_killed_process_loses_nothing_it_was_told(self, path):
        told = 0
        for round_ in range(20):
            read, write = os.pipe()
            child = os.fork()
            if child == 0:
                backend = SQLiteBackend(path)
                while True:
                    grant = backend.reserve(uuid.uuid4().hex, [HOLD], 1, 0.05)
                    backend.settle(grant.reservation, 1)
                    os.write(write, b".")
            os.close(write)
            os.read(read, 1)
            time.sleep(0.002 * (round_ % 5))
            os.kill(child, signal.SIGKILL)
            os.waitpid(child, 0)
            told += 1
            while chunk := os.read(read, 65536):
                told += len(chunk)
            os.close(read)
        time.sleep(0.06)
        backend = SQLiteBackend(path)
        (state,) = backend.get_states([(KEY, 1000)])
        assert (state.reserved, state.calls) == (0, 0)
        # Between a commit and the word of it there is room for one call a round.
        assert told <= state.used - state.expired <= told + 20
        assert state.expired <= 20
        backend.close()
        with plain(path) as other:
            assert other.execute("PRAGMA integrity_check").fetchone() == ("ok",)


class TestHousekeeping:
    def test_a_correction_is_possible_for_a_day(self, path):
        now = [1000.0]
        backend = SQLiteBackend(path, clock=lambda: now[0])
        late = [backend.reserve(str(n), [HOLD], 1, 10.0).reservation for n in range(2)]
        now[0] += 20
        assert used(backend) == 2
        backend.settle(late[0], 5)
        assert used(backend) == 6
        now[0] += 25 * 3600
        backend.reserve("again", [HOLD], 1, 10.0)
        now[0] += 20
        assert used(backend) == 7
        backend.settle(late[1], 5)
        assert used(backend) == 7
        backend.close()

    def test_what_was_booked_for_another_store_is_remembered_for_a_day(self, path):
        now = [1000.0]
        backend = SQLiteBackend(path, clock=lambda: now[0])
        for hour in range(100):
            now[0] += 3600
            for _ in range(2):
                backend.settle(Reservation(f"elsewhere-{hour}", (Held(KEY, "", 0),), 0), 1)
        assert used(backend) == 100
        with plain(path) as other:
            assert other.execute("SELECT count(*) FROM ended").fetchone()[0] <= 25
        backend.close()

    def test_the_dead_are_found_by_ordinary_calls_within_about_a_second(self, path):
        now = [1000.0]
        backend = SQLiteBackend(path, clock=lambda: now[0])
        backend.reserve("dead", [HOLD], 1, 10.0)
        now[0] += 11
        assert backend.reserve("live", [HOLD], 1, 10.0).states == (BudgetState(KEY, 1000, 1, 0, 0, 1),)
        backend.close()

    def test_a_finalizer_that_runs_inside_a_verb_is_sent_away(self, path):
        """A garbage collection may run any code at any time, in the thread that holds the lock."""
        errors = []

        def clock():
            try:
                backend.renew(["x"], 1.0)
            except BackendError as error:
                errors.append(str(error))
            return 1000.0

        backend = SQLiteBackend(path, clock=time.time)
        spend(backend)
        backend._books._clock = clock
        spend(backend)
        assert "in use by this very thread" in errors[0]
        assert used(backend) == 2
        backend.close()

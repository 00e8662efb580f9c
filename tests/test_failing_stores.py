"""A store that fails: calls stop or go on as was asked, replies are never lost, the books end up right."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import openai
import pytest

from backends.redis_servers import Server, fresh_prefix, until
from forked import fork
from ordeal import ORDEALS, TIMEOUT, Case, begins_broken, forgets, in_its_own_process
from tokencap import BackendError, BudgetKey, Guard, Policy
from tokencap._loopback import LoopbackProvider
from tokencap.backends.memory import MemoryBackend
from tokencap.backends.redis import RedisBackend
from tokencap.backends.sqlite import SQLiteBackend

needs_redis = pytest.mark.service
# A reply at once and a stream, in a thread and in an event loop: `ordeal` as a script goes through all four.
SHAPES = ["sync", "async-stream"]


class Holder:
    """Another process, that locks a SQLite file when it is told to."""

    _CODE = """
import sqlite3, sys
for line in sys.stdin:
    verb, path = line.rstrip("\\n").split(" ", 1)
    if verb == "lock":
        other = sqlite3.connect(path, timeout=10, isolation_level=None)
        other.execute("BEGIN EXCLUSIVE")
    else:
        other.close()
    print(flush=True)
"""

    def __init__(self) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-c", self._CODE], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )

    def tell(self, verb: str, path: Path) -> None:
        assert self._process.stdin
        assert self._process.stdout
        self._process.stdin.write(f"{verb} {path}\n")
        self._process.stdin.flush()
        assert self._process.stdout.readline() == "\n"

    @contextmanager
    def locked(self, path: Path) -> Iterator[None]:
        self.tell("lock", path)
        try:
            yield
        finally:
            self.tell("unlock", path)

    def close(self) -> None:
        self._process.communicate()


@pytest.fixture(scope="module")
def holder() -> Iterator[Holder]:
    holder = Holder()
    yield holder
    holder.close()


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    """A server that these tests may ill-treat; it remembers everything when it is started again."""
    # With "everysec" it may answer before it writes, while the disk is busy, and lose that when it is killed.
    server = Server("--appendonly", "yes", "--appendfsync", "no")
    yield server
    server.remove()


@contextmanager
def down(server: Server) -> Iterator[None]:
    server.stop()
    try:
        yield
    finally:
        server.start()


@contextmanager
def stopped(server: Server) -> Iterator[None]:
    with server.stopped():
        yield


@contextmanager
def out_of_memory(server: Server) -> Iterator[None]:
    server.admin("CONFIG", "SET", "maxmemory", "1")
    try:
        yield
    finally:
        server.admin("CONFIG", "SET", "maxmemory", "0")


@contextmanager
def demoted(server: Server) -> Iterator[None]:
    server.admin("REPLICAOF", "127.0.0.1", 1)
    try:
        yield
    finally:
        server.admin("REPLICAOF", "NO", "ONE")


@needs_redis
@pytest.mark.parametrize("failure", [down, stopped, out_of_memory, demoted])
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("ordeal", ORDEALS)
def test_redis_that_is(
    server: Server, failure: Any, shape: str, ordeal: Any, loopback: LoopbackProvider
) -> None:
    backend = RedisBackend(server.url, prefix=fresh_prefix(), timeout=TIMEOUT)
    ordeal(Case(backend, shape, loopback), lambda: failure(server))
    backend.close()


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("ordeal", ORDEALS)
def test_a_sqlite_file_that_another_process_keeps_locked(
    holder: Holder, shape: str, ordeal: Any, loopback: LoopbackProvider, tmp_path: Path
) -> None:
    path = tmp_path / "tokencap.db"
    backend = SQLiteBackend(path, timeout=TIMEOUT)
    ordeal(Case(backend, shape, loopback), lambda: holder.locked(path))
    backend.close()


def flushed(server: Server) -> None:
    server.admin("FLUSHALL")


def emptied_by_a_restart(server: Server) -> None:
    flushed(server)
    server.restart()


@needs_redis
@pytest.mark.parametrize("loss", [flushed, emptied_by_a_restart])
@pytest.mark.parametrize("shape", SHAPES)
def test_redis_that_loses_everything_in_mid_call(
    server: Server, loss: Any, shape: str, loopback: LoopbackProvider
) -> None:
    # Not in an event loop's own time: a server that starts takes as long as it takes.
    backend = RedisBackend(server.url, prefix=fresh_prefix(), timeout=5.0)
    forgets(Case(backend, shape, loopback), lambda: loss(server))
    backend.close()


@pytest.mark.parametrize("shape", SHAPES)
def test_a_sqlite_file_that_is_deleted_in_mid_call(
    shape: str, loopback: LoopbackProvider, tmp_path: Path
) -> None:
    path = tmp_path / "tokencap.db"
    backend = SQLiteBackend(path, timeout=TIMEOUT)
    forgets(Case(backend, shape, loopback), path.unlink)
    backend.close()


@pytest.mark.parametrize("shape", SHAPES)
def test_a_file_that_is_no_database(shape: str, loopback: LoopbackProvider, tmp_path: Path) -> None:
    path = tmp_path / "tokencap.db"
    path.write_text("Dear diary, today I spent some tokens. " * 100)
    backend = SQLiteBackend(path, timeout=TIMEOUT)
    begins_broken(Case(backend, shape, loopback), path.unlink)
    backend.close()


@needs_redis
@pytest.mark.parametrize("shape", SHAPES)
def test_a_redis_that_is_started_late(shape: str, loopback: LoopbackProvider) -> None:
    late = Server()
    try:
        late.stop()
        backend = RedisBackend(late.url, prefix=fresh_prefix(), timeout=TIMEOUT)
        begins_broken(Case(backend, shape, loopback), late.start)
        backend.close()
    finally:
        late.remove()


def test_a_guard_with_many_open_calls_does_not_wait_for_a_dead_store_once_for_each(
    loopback: LoopbackProvider,
) -> None:
    class Dying(MemoryBackend):
        dead = False
        asked = 0

        def settle(self, *args: Any) -> Any:
            self.asked += threading.current_thread() is threading.main_thread()
            if self.dead:
                raise BackendError("memory: dead")
            return super().settle(*args)

    backend = Dying()
    guard = Guard(Policy.blocking(10_000), {"session": "s"}, backend, lease_seconds=60.0)
    with guard.wrap(openai.OpenAI(max_retries=0)) as client:
        streams: list[Any] = [
            client.chat.completions.create(
                model="gpt-4o", messages=[{"role": "user", "content": "hello"}], stream=True
            )
            for _ in range(20)
        ]
        backend.dead = True
        guard.teardown()
        assert backend.asked <= 2  # for the first, and for all that were kept
        backend.dead = False
        budget = [(BudgetKey("session", "s"), 10_000)]
        until(lambda: not backend.get_states(budget)[0].calls, seconds=30)
        (state,) = backend.get_states(budget)
        assert state.reserved == 0
        assert state.used > 0
        for stream in streams:
            stream.close()


DISKS = ["read_only", "disk_full"]


@pytest.fixture(scope="module")
def disks(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """What is said of each failure of a disk; the processes wait at the same time."""
    folder = str(tmp_path_factory.mktemp("disks"))
    pipes = {}
    for failure in DISKS:
        heard, said = os.pipe()

        def go(failure: str = failure, said: int = said) -> None:
            # Not into a file, which cannot grow there.
            sys.stdout = sys.stderr = os.fdopen(said, "w", buffering=1)
            in_its_own_process(failure, folder)
            print("passed")

        child = fork(go)
        os.close(said)
        pipes[failure] = child, heard
    told = {}
    for failure, (child, heard) in pipes.items():
        with os.fdopen(heard) as pipe:
            told[failure] = pipe.read()
        os.waitpid(child, 0)
    return told


@pytest.mark.skipif(sys.platform == "win32", reason="made of what only posix has")
@pytest.mark.parametrize("failure", DISKS)
def test_a_sqlite_file_on_a_disk_that_is(failure: str, disks: dict[str, str]) -> None:
    assert disks[failure] == "passed\n"

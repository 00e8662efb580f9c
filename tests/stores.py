"""The table of stores. A new backend is one function and one line here; every suite picks it up."""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Any, Callable

import pytest

from backends.redis_servers import PATIENCE, fresh_prefix, open_redis, shared_cluster, shared_server
from tokencap.backends.memory import MemoryBackend
from tokencap.backends.protocol import Backend
from tokencap.backends.sqlite import SQLiteBackend


class Store:
    """A fresh store. `handle()` opens it, as often as wanted; `opener` is picklable when `shared`."""

    def __init__(self, opener: Callable[..., Backend], *, shared: bool) -> None:
        self.opener = opener
        self.shared = shared
        self._handles: list[Backend] = []

    def handle(self, **kwargs: Any) -> Backend:
        self._handles.append(self.opener(**kwargs))
        return self._handles[-1]

    def close(self) -> None:
        for handle in self._handles:
            handle.close()


def memory(folder: Path, **kwargs: Any) -> Store:
    backend = MemoryBackend(**kwargs)
    return Store(lambda: backend, shared=False)


def sqlite(folder: Path, **kwargs: Any) -> Store:
    opener = functools.partial(SQLiteBackend, str(folder / "tokencap.db"), **{"timeout": PATIENCE, **kwargs})
    return Store(opener, shared=True)


def redis(folder: Path, **kwargs: Any) -> Store:
    opener = functools.partial(open_redis, shared_server().url, fresh_prefix(), **kwargs)
    return Store(opener, shared=True)


def redis_cluster(folder: Path, **kwargs: Any) -> Store:
    opener = functools.partial(open_redis, shared_cluster().url, fresh_prefix(), **kwargs)
    return Store(opener, shared=True)


# name -> a function that takes an empty folder and returns a fresh store.
STORES: dict[str, Callable[..., Store]] = {
    "memory": memory,
    "sqlite": sqlite,
    "redis": redis,
    "redis-cluster": redis_cluster,
}

SERVICES = [
    pytest.param("redis", marks=pytest.mark.service),
    pytest.param("redis-cluster", marks=pytest.mark.service),
]

BACKENDS = [pytest.param("memory"), pytest.param("sqlite"), *SERVICES]

# Those that take `clock=`, a function that returns seconds.
CLOCKED = [pytest.param("memory"), pytest.param("sqlite"), *SERVICES]

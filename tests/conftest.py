"""The table of stores. A new backend is one function and one line here; every suite picks it up."""

from __future__ import annotations

import asyncio
import functools
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Callable

import pytest

import tokencap
from backends.redis_servers import fresh_prefix, open_redis, shared_cluster, shared_server
from tokencap._loopback import LoopbackProvider
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
    return Store(functools.partial(SQLiteBackend, str(folder / "tokencap.db"), **kwargs), shared=True)


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


class Driven:
    """The async flavour of a backend, with the face of the sync one: each verb runs in one event loop."""

    def __init__(self, backend: Backend) -> None:
        self._backend = backend
        self._async = backend.as_async()
        self._loop = asyncio.new_event_loop()

    def __getattr__(self, name: str) -> Any:
        if name not in ("reserve", "settle", "pass_marks", "get_states"):
            return getattr(self._backend, name)
        verb = getattr(self._async, name)
        return lambda *args, **kwargs: self._loop.run_until_complete(verb(*args, **kwargs))

    def finish(self) -> None:
        self._loop.run_until_complete(self._async.aclose())
        self._loop.close()


@pytest.fixture(autouse=True)
def fresh_process(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Process-wide state ends with its test, and the default `tokencap.db` lands in the test's folder."""
    monkeypatch.chdir(tmp_path)
    yield
    tokencap.unpatch()
    tokencap.teardown()


@pytest.fixture(scope="session")
def _server() -> Iterator[LoopbackProvider]:
    with LoopbackProvider() as provider:
        yield provider


@pytest.fixture
def loopback(_server: LoopbackProvider, monkeypatch: pytest.MonkeyPatch) -> LoopbackProvider:
    """A provider with empty books, where SDK clients made without arguments go."""
    _server.clear()
    for name, value in _server.environ.items():
        monkeypatch.setenv(name, value)
    return _server


@pytest.fixture(params=BACKENDS)
def store_name(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture
def store(store_name: str, tmp_path: Path) -> Iterator[Store]:
    """One fresh store."""
    store = STORES[store_name](tmp_path)
    yield store
    store.close()


@pytest.fixture
def other_store(store_name: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Store]:
    """Another store of the same kind, that knows nothing of the first."""
    store = STORES[store_name](tmp_path_factory.mktemp("other"))
    yield store
    store.close()


@pytest.fixture(params=["sync", "async"])
def backend(request: pytest.FixtureRequest, store: Store) -> Iterator[Any]:
    """A handle on `store`, in both flavours."""
    backend = store.handle()
    if request.param == "sync":
        yield backend
        return
    driven = Driven(backend)
    yield driven
    driven.finish()

"""What every suite starts from: a clean process, a loopback provider, one fresh store of each kind."""

from __future__ import annotations

import asyncio
import collections
import contextlib
import gc
import os
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import hypothesis
import pytest

import tokencap
from stores import BACKENDS, STORES, Store
from tokencap._loopback import LoopbackProvider
from tokencap.backends.protocol import Backend

pytest_plugins = ["parallel"]

with contextlib.suppress(ImportError):
    # Before the thread that loads tiktoken's tables and a test come to import it at the same time.
    import requests  # noqa: F401

# How long an example takes says how busy the machine is.
hypothesis.settings.register_profile("tokencap", deadline=None)
hypothesis.settings.load_profile("tokencap")


class Driven:
    """The async flavour of a backend, with the face of the sync one: each verb runs in one event loop."""

    def __init__(self, backend: Backend) -> None:
        self._backend = backend
        self._async = backend.as_async()
        self._loop = asyncio.new_event_loop()

    def __getattr__(self, name: str) -> Any:
        if name not in ("reserve", "settle", "record", "pass_marks", "get_states"):
            return getattr(self._backend, name)
        verb = getattr(self._async, name)
        return lambda *args, **kwargs: self._loop.run_until_complete(verb(*args, **kwargs))

    def finish(self) -> None:
        self._loop.run_until_complete(self._async.aclose())
        self._loop.close()


FIRST = (
    # Some work and some wait: in turns, so that no core waits for long.
    "test_matrix",
    "test_cli_run",
    "test_redis_faults",
    "test_leases",
    "test_seams",
    "test_patch",
    "test_strict",
    "test_failing_stores",
    "test_accounting",
    "test_sigkills",
    "test_loopback_load",
    "test_redis_cluster",
    "test_cli_end_to_end",
    "test_charges",
    "test_contract",
    "test_spans",
    "test_readme",
    "test_coverage",
    "test_concurrency",
    "test_ledger_contract",
    "test_calendars",
    "test_sqlite",
    "test_asgi",
    "test_cli_watch",
    "test_sixth",
    "test_rolling",
    "test_children",
)
"""The files that take longest are begun first, so that no process is busy long after the others."""


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    order = {name: number for number, name in enumerate(FIRST)}
    items.sort(key=lambda item: order.get(item.path.stem, len(order)))


# What is loaded until the first test begins is there to stay: not to be looked through again and again.
gc.disable()
# Most of what the tests leave behind is schemas of the SDKs. What is to be collected in a test is asked for.
gc.set_threshold(20_000, 20, 20)


def pytest_collection_finish() -> None:
    set_aside()
    gc.enable()


def set_aside() -> None:
    """Collect what is garbage, and let later collections pass over what is left: modules, SDKs, schemas.

    A collection with all of that in view takes a tenth of a second, and hundreds of tests need one.
    """
    with warnings.catch_warnings():
        # A client that is dropped unclosed and its socket are finalized in any order.
        warnings.simplefilter("ignore", ResourceWarning)
        gc.collect()
    gc.freeze()


@pytest.fixture(scope="module", autouse=True)
def _garbage_ends_with_its_module() -> Iterator[None]:
    yield
    set_aside()


@pytest.fixture
def little_to_collect() -> None:
    """For tests that collect garbage again and again."""
    set_aside()


@pytest.fixture(scope="session", autouse=True)
def _nobody_is_trusted() -> Iterator[None]:
    """No test goes to the internet, and to read the certificates of the world takes each client 20 ms."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SSL_CERT_FILE", str(Path(__file__).with_name("nobody.pem")))
        patch.delenv("SSL_CERT_DIR", raising=False)
        yield


@pytest.fixture(scope="session")
def _empty_folders() -> list[Path]:
    return []


@pytest.fixture(autouse=True)
def fresh_process(
    request: pytest.FixtureRequest,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path_factory: pytest.TempPathFactory,
    _empty_folders: list[Path],
) -> Iterator[None]:
    """Process-wide state ends with its test, and the default `tokencap.db` lands in the test's folder.

    Tests that do not ask for it share one, until something is left in it.
    """
    shares = "tmp_path" not in request.fixturenames
    if not shares:
        home = request.getfixturevalue("tmp_path")
    else:
        home = _empty_folders.pop() if _empty_folders else tmp_path_factory.mktemp("home")
    monkeypatch.chdir(home)
    yield
    tokencap.unpatch()
    tokencap.teardown()
    if shares and not os.listdir(home):
        _empty_folders.append(home)


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


def pytest_terminal_summary(terminalreporter: Any) -> None:
    """Say how many variants of the call matrix were found exact, and how many a provider has."""
    reports = terminalreporter.stats.get("passed", ())
    cases = [tuple(value) for report in reports for name, value in report.user_properties if name == "exact"]
    if not cases:
        return
    variants = set(cases)
    by_provider = collections.Counter(provider for provider, _ in variants)
    parts = ", ".join(f"{provider} {count}" for provider, count in sorted(by_provider.items()))
    terminalreporter.section("call paths")
    terminalreporter.write_line(
        f"{len(variants)} variants exact ({parts}); {len(cases)} cases through wrap() and patch()"
    )

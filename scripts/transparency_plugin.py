"""A pytest plugin that runs an SDK's own test suite bare, under `patch()`, or with every client wrapped.

`scripts/transparency.py` loads it into the SDK's suite; what to do is in the environment:

- `TRANSPARENCY_SDK`: anthropic or openai, whose suite it is;
- `TRANSPARENCY_MODE`: bare, patch or wrap;
- `TRANSPARENCY_RESULTS`: the file that gets the outcome of every test, as JSON.

It also brings the server that the generated tests of the resources want: it answers every request with the
least JSON that fits the type the SDK is going to read it as.
"""

from __future__ import annotations

import importlib
import json
import os
import threading
import types
import typing
from datetime import date, datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest

SDK = os.environ["TRANSPARENCY_SDK"]
MODE = os.environ["TRANSPARENCY_MODE"]
SHAPE = "x-transparency-shape"


# -- answers in the shape of a type ------------------------------------------------------------------------


def sample(kind: Any, depth: int = 0) -> Any:
    """Return the least JSON that reads as this type."""
    origin, arguments = typing.get_origin(kind), typing.get_args(kind)
    if hasattr(kind, "__value__"):
        return sample(kind.__value__, depth)
    if origin is typing.Annotated or (origin is None and hasattr(kind, "__metadata__")):
        return sample(arguments[0], depth)
    if kind is None or kind is type(None):
        return None
    if origin is typing.Literal or getattr(origin, "_name", "") == "Literal":
        return arguments[0]
    if origin is typing.Union or origin is getattr(types, "UnionType", ()):
        wanted = [one for one in arguments if one is not type(None)]
        return None if len(wanted) < len(arguments) else sample(wanted[0], depth)
    target = origin or kind
    if not isinstance(target, type):
        return {} if kind is Any else "string"
    if hasattr(target, "model_fields"):
        return _model(kind if hasattr(kind, "model_fields") else target, depth)
    if typing.is_typeddict(target):
        hints = typing.get_type_hints(target)
        return {name: sample(hints[name], depth + 1) for name in getattr(target, "__required_keys__", ())}
    if issubclass(target, dict) or target.__name__ == "Mapping":
        return {}
    if issubclass(target, (list, tuple)) or target.__name__ in ("Sequence", "Iterable"):
        return [sample(arguments[0], depth + 1)] if arguments and depth < 6 else []
    for known, value in _SCALARS:
        if issubclass(target, known):
            return value
    return {} if target is object else "string"


_SCALARS: tuple[tuple[type, Any], ...] = (
    (bool, True),
    (int, 0),
    (float, 0.5),
    (str, "string"),
    (datetime, "2019-12-27T18:11:19.117Z"),
    (date, "2019-12-27"),
)


def _model(kind: Any, depth: int) -> dict[str, Any]:
    made = {}
    for name, field in kind.model_fields.items():
        if field.is_required() or (depth == 0 and name in ("data", "items")):
            made[field.alias or name] = sample(_not_none(field.annotation), depth + 1)
    return made


def _not_none(kind: Any) -> Any:
    """Return what a page lists, though it may say that it lists nothing."""
    arguments = [one for one in typing.get_args(kind) if one is not type(None)]
    if (
        type(None) in typing.get_args(kind)
        and len(arguments) == 1
        and typing.get_origin(arguments[0]) is list
    ):
        return arguments[0]
    return kind


class Shapes(ThreadingHTTPServer):
    """The server, and the types that were announced to it."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.kinds: list[tuple[Any, bool]] = []
        self._keys: dict[tuple[str, bool], str] = {}
        threading.Thread(target=self.serve_forever, daemon=True).start()

    def key(self, kind: Any, streaming: bool) -> str:
        """Return the name of a type in a request."""
        named = (repr(kind), streaming)
        if named not in self._keys:
            self.kinds.append((kind, streaming))
            self._keys[named] = str(len(self.kinds) - 1)
        return self._keys[named]


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    wbufsize = -1  # head and body in one packet, or the second waits for the first to be acknowledged
    server: Shapes

    def _answer(self) -> None:
        self.rfile.read(int(self.headers.get("content-length") or 0))
        key = self.headers.get(SHAPE)
        kind, streaming = self.server.kinds[int(key)] if key else (object, False)
        if streaming:
            self._send("text/event-stream", b"data: [DONE]\n\n")
        elif kind is type(None):
            self._send("", b"", 204)
        elif "JSONL" in repr(kind):
            self._send("application/x-jsonl", b"{}\n")
        elif "Binary" in repr(kind) or kind is bytes:
            self._send("application/binary", b"{}")
        elif kind is str:
            self._send("text/plain", b"string")
        else:
            self._send("application/json", json.dumps(sample(kind)).encode())

    def _send(self, kind: str, body: bytes, status: int = 200) -> None:
        self.send_response(status)
        if kind:
            self.send_header("content-type", kind)
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    do_GET = do_POST = do_PUT = do_PATCH = do_DELETE = _answer  # noqa: N815

    def log_message(self, format: str, *args: Any) -> None:
        """Say nothing."""


def announce_shapes(shapes: Shapes) -> None:
    """Have every request of a generated test say which type it is going to be read as."""
    base = importlib.import_module(f"{SDK}._base_client")

    def announcing(original: Any) -> Any:
        def request(self: Any, cast_to: Any, options: Any, *args: Any, **kwargs: Any) -> Any:
            if "tests/api_resources" in os.environ.get("PYTEST_CURRENT_TEST", ""):
                given = options.headers if isinstance(options.headers, dict) else {}
                key = shapes.key(cast_to, bool(kwargs.get("stream")))
                options.headers = {**given, SHAPE: key}
            return original(self, cast_to, options, *args, **kwargs)

        return request

    for name in ("SyncAPIClient", "AsyncAPIClient"):
        cls = getattr(base, name)
        cls.request = announcing(cls.request)


# -- guarded clients -----------------------------------------------------------------------------------------


class Wrapping:
    """Stands for a client class in the SDK's tests: calling it returns a wrapped client."""

    def __init__(self, cls: Any, seen: Seen) -> None:
        self.__dict__.update(_cls=cls, _seen=seen, __doc__=cls.__doc__)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return self._seen.wrap(self._cls(*args, **kwargs))

    def __getattribute__(self, name: str) -> Any:
        if name in ("_cls", "_seen", "__call__", "__mro_entries__", "__class__", "__dict__"):
            return object.__getattribute__(self, name)
        return getattr(object.__getattribute__(self, "_cls"), name)

    def __setattr__(self, name: str, value: Any) -> None:
        setattr(self._cls, name, value)

    def __delattr__(self, name: str) -> None:
        delattr(self._cls, name)

    def __mro_entries__(self, bases: Any) -> tuple[Any, ...]:
        return (self._cls,)

    def __instancecheck__(self, instance: object) -> bool:
        return isinstance(instance, self._cls)

    def __subclasscheck__(self, cls: type) -> bool:
        return issubclass(cls, self._cls)

    def __or__(self, other: Any) -> Any:
        return self._cls | other

    def __eq__(self, other: object) -> bool:
        return other is self._cls or (isinstance(other, Wrapping) and other._cls is self._cls)

    def __hash__(self) -> int:
        return hash(self._cls)


class Seen:
    """The Guard of this process and what went through it."""

    def __init__(self) -> None:
        import tokencap
        from tokencap.backends.memory import MemoryBackend

        self.clients = self.calls = self.tokens = 0
        policy = tokencap.Policy.blocking(10**15)
        self.guard = tokencap.init(policy, backend=MemoryBackend(), otel_enabled=False, quiet=True)
        self.guard.on_call(self._called)
        if MODE == "patch":
            self._count_installed()
            tokencap.patch(providers=[SDK], quiet=True)

    def _count_installed(self) -> None:
        from tokencap.clients.family import Family

        original = Family.install

        def install(family: Any, client: Any, owner: Any) -> None:
            self.clients += 1
            original(family, client, owner)

        Family.install = install  # type: ignore[method-assign]

    def _called(self, record: Any) -> None:
        self.calls += 1
        self.tokens += record.tokens

    def wrap(self, client: Any) -> Any:
        """Return the client, wrapped."""
        self.clients += 1
        return self.guard.wrap(client)

    def replace_classes(self, module: types.ModuleType) -> None:
        """Let every client class a module of tests has imported make wrapped clients."""
        base = importlib.import_module(f"{SDK}._base_client")
        bases = (base.SyncAPIClient, base.AsyncAPIClient)
        for name, value in list(vars(module).items()):
            if (
                isinstance(value, type)
                and issubclass(value, bases)
                and value.__module__.startswith(f"{SDK}.")
            ):
                setattr(module, name, Wrapping(value, self))


# -- pytest --------------------------------------------------------------------------------------------------

_outcomes: dict[str, list[str]] = {}
_totals = {"clients": 0, "calls": 0, "tokens": 0}
_seen: list[Seen] = []


def pytest_configure(config: pytest.Config) -> None:
    if hasattr(config, "workerinput"):
        announce_shapes(_shapes)
        if MODE != "bare":
            _seen.append(Seen())
            # The conftest of the suite was loaded before this; its fixtures make most of the clients.
            for plugin in config.pluginmanager.get_plugins():
                pytest_plugin_registered(plugin)


@pytest.hookimpl(trylast=True)
def pytest_plugin_registered(plugin: Any) -> None:
    if _seen and MODE == "wrap" and isinstance(plugin, types.ModuleType) and "conftest" in plugin.__name__:
        _seen[0].replace_classes(plugin)


@pytest.hookimpl(hookwrapper=True)
def pytest_pycollect_makemodule() -> Any:
    made = yield
    if _seen and MODE == "wrap":
        _seen[0].replace_classes(made.get_result().obj)


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    if report.when == "call" or report.outcome != "passed":
        kind = report.outcome if report.when == "call" or report.outcome == "skipped" else "error"
        if hasattr(report, "wasxfail"):
            kind = "xfailed" if report.outcome == "skipped" else "passed"
        why = "" if report.outcome == "passed" else str(report.longreprtext)[-1500:]
        if isinstance(report.longrepr, tuple):
            why = str(report.longrepr[2])
        _outcomes[report.nodeid] = [kind, why]


def pytest_testnodedown(node: Any) -> None:
    for name, count in getattr(node, "workeroutput", {}).get("transparency", {}).items():
        _totals[name] += count


@pytest.hookimpl(trylast=True)
def pytest_sessionfinish(session: pytest.Session) -> None:
    config = session.config
    if hasattr(config, "workerinput"):
        if _seen:
            seen = _seen[0]
            config.workeroutput["transparency"] = {name: getattr(seen, name) for name in _totals}
        return
    with open(os.environ["TRANSPARENCY_RESULTS"], "w") as file:
        json.dump({"outcomes": _outcomes, "guarded": _totals}, file)


_shapes = Shapes()
# Before the conftest of the suite reads it.
os.environ["TEST_API_BASE_URL"] = f"http://127.0.0.1:{_shapes.server_port}"

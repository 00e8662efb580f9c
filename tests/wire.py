"""The real SDKs on a provider in memory: one transport, every client over it, and the provider's books.

The transport serves the bytes of `tokencap._loopback.respond`, streamed as a socket would, and undoes
what the clients of platforms (Bedrock, Vertex ...) do to paths and bodies. It uses the HTTP library of
the SDK at hand, as older SDKs are made on httpx and newer ones on httpx2.

A test is written once for sync and async clients, as a coroutine over `done`, `each` and `entered`;
`drive` runs it without an event loop, where everything is done at once.
"""

from __future__ import annotations

import asyncio
import atexit
import base64
import contextlib
import functools
import gc
import importlib
import importlib.util
import inspect
import json
import os
import re
import struct
import time
import zlib
from collections.abc import AsyncIterator, Coroutine, Iterator, Mapping
from dataclasses import replace
from typing import Any, Callable, NamedTuple, Optional
from urllib.parse import unquote, urlsplit

import anthropic
import openai
from typing_extensions import Self

from tokencap import BudgetExceededError, Guard, Policy
from tokencap._loopback import Entry, Reply, Store, respond
from tokencap.telemetry.record import CallRecord

__all__ = [
    "CANNED",
    "HTTP_IN",
    "KINDS",
    "Books",
    "Kind",
    "Missing",
    "Wire",
    "at",
    "done",
    "drive",
    "each",
    "entered",
    "is_refusal",
    "listed",
    "plain",
    "reply_events",
    "reply_json",
    "require",
    "require_content",
    "sse",
    "step",
]

SDKS = {"anthropic": anthropic, "openai": openai}
HTTP_IN = {"anthropic": "anthropic._base_client", "openai": "openai._base_client"}
"""The module of each SDK that has the HTTP library it is made on."""
ANTHROPIC_URL = "http://wire"
OPENAI_URL = "http://wire/v1"


def http_library(sdk: str) -> Any:
    """Return httpx or httpx2, whichever this SDK is made on."""
    module = importlib.import_module(HTTP_IN[sdk])
    return getattr(module, "httpx2", None) or module.httpx


# -- the provider ------------------------------------------------------------------------------------------


class Request(NamedTuple):
    """A request as the provider saw it: the path of the first party, whatever platform it came through."""

    method: str
    path: str
    body: Any
    headers: Mapping[str, str]


Answer = Callable[["Request"], "Reply"]


class Wire:
    """A provider in memory. `requests` is all that reached it, `entries` is what it bills."""

    def __init__(self) -> None:
        self.store = Store()
        self.requests: list[Request] = []
        self.entries: list[Entry] = []
        self.down: Optional[str] = None  # noqa: UP045
        """The name of the transport's error that every request meets."""
        self.answers: dict[tuple[str, str], Answer] = dict(CANNED)
        """Replies for paths the loopback provider does not serve, or instead of it."""
        self.runs: dict[str, dict[str, Any]] = {}

    @property
    def tokens(self) -> int:
        """All tokens billed."""
        return sum(entry.tokens for entry in self.entries if entry.status == 200)

    @property
    def sent(self) -> list[Request]:
        """The requests that spend: all but the provider's own counting of a prompt."""
        return [request for request in self.requests if not re.search("count_?[tT]okens", request.path)]

    def client(self, kind: Kind | str, is_async: bool, **options: Any) -> Any:
        """Make a client of some kind on this wire. Raises `Missing` where the SDK has none."""
        if isinstance(kind, str):
            kind = KINDS[kind]
        return kind.make(self, is_async, {"max_retries": 0, **options})

    def http_client(self, sdk: str, is_async: bool, **options: Any) -> Any:
        """Make the HTTP client under an SDK client."""
        library = http_library(sdk)
        transport = _transport_class(library)(self)
        return (library.AsyncClient if is_async else library.Client)(transport=transport, **options)

    def receive(self, method: str, url: Any, headers: Mapping[str, str], body: bytes) -> tuple[int, Reply]:
        """Answer a request and open an entry for it; return its number in the books, and the reply."""
        path, body, framed = _first_party(str(url), body)
        bare = urlsplit(path).path
        payload = json.loads(body) if body[:1] == b"{" else body
        request = Request(method, bare, payload, headers)
        self.requests.append(request)
        answer = next(
            (a for (verb, form), a in self.answers.items() if verb == method and re.fullmatch(form, bare)),
            None,
        )
        if answer is None:
            reply = respond(method, path, headers, body, self.store)
        elif answer in CANNED.values():
            reply = answer(request, self)  # type: ignore[call-arg]
        else:
            reply = answer(request)
        if framed:
            reply = replace(reply, headers={**reply.headers, **_FRAMED}, chunks=_frames(reply.chunks))
        self.entries.append(reply.after(0))
        return len(self.entries) - 1, reply


def reply_json(
    payload: Any, path: str = "", status: int = 200, tokens: tuple[int, int] = (0, 0), **headers: str
) -> Reply:
    """Make a canned reply that bills `tokens` (input, output)."""
    return Reply(
        status,
        {"content-type": "application/json", **headers},
        [json.dumps(payload).encode()],
        Entry(path, "canned", *tokens, status=status),
    )


def reply_events(chunks: list[bytes], path: str = "", tokens: tuple[int, int] = (0, 0)) -> Reply:
    """Make a canned stream of these events that bills `tokens` (input, output)."""
    entry = Entry(path, "canned", *tokens, stream=True)
    progress = tuple(tokens[1] for _ in chunks)
    return Reply(200, {"content-type": "text/event-stream"}, chunks, entry, progress)


def sse(payload: Any, name: str = "") -> bytes:
    """Spell one server-sent event."""
    head = f"event: {name}\n" if name else ""
    return f"{head}data: {json.dumps(payload)}\n\n".encode()


# -- what the loopback provider does not serve -------------------------------------------------------------

RUN_TOKENS = (40, 9)
DECISION_TOKENS = (31, 2)


def _run(wire: Wire, run: dict[str, Any], status: str) -> dict[str, Any]:
    prompt, made = RUN_TOKENS
    tokens = {"prompt_tokens": prompt, "completion_tokens": made, "total_tokens": prompt + made}
    call = {"id": "call_1", "type": "function", "function": {"name": "look", "arguments": "{}"}}
    action = {"type": "submit_tool_outputs", "submit_tool_outputs": {"tool_calls": [call]}}
    run.update(
        status=status,
        usage=tokens if status in ("completed", "cancelled") else None,
        required_action=action if status == "requires_action" else None,
    )
    return run


def _billed(run: dict[str, Any]) -> tuple[int, int]:
    """Bill a run in the reply that first says it has ended."""
    if run["usage"] is None or run.get("_billed"):
        return (0, 0)
    run["_billed"] = True
    return RUN_TOKENS


def _shown(run: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in run.items() if not name.startswith("_")}


def _run_reply(request: Request, run: dict[str, Any]) -> Reply:
    tokens = _billed(run)
    if not (isinstance(request.body, dict) and request.body.get("stream")):
        return reply_json(_shown(run), request.path, tokens=tokens)
    started = {**_shown(run), "status": "queued", "usage": None, "required_action": None}
    events = [
        sse(started, "thread.run.created"),
        sse(_shown(run), f"thread.run.{run['status']}"),
        b"event: done\ndata: [DONE]\n\n",
    ]
    return reply_events(events, request.path, tokens)


def _create_run(request: Request, wire: Wire) -> Reply:
    body = request.body
    thread = request.path.split("/")[3] if not request.path.endswith("threads/runs") else "thread_1"
    name = f"run_{len(wire.runs) + 1}"
    run = {
        "id": name,
        "object": "thread.run",
        "created_at": 1,
        "thread_id": thread,
        "assistant_id": body["assistant_id"],
        "instructions": body.get("instructions") or "",
        "model": body.get("model") or "gpt-x",
        "parallel_tool_calls": True,
        "tools": [],
    }
    wire.runs[name] = run
    needs = "requires_action" if "[[action]]" in run["instructions"] else "completed"
    _run(wire, run, needs if body.get("stream") else "queued")
    run["_next"] = needs
    return _run_reply(request, run)


def _show_run(request: Request, wire: Wire) -> Reply:
    run = wire.runs[request.path.split("/")[5]]
    if run["status"] == "queued":
        _run(wire, run, run["_next"])
    reply = _run_reply(request, run)
    # The SDK's pollers wait as long as they are told.
    return replace(reply, headers={**reply.headers, "openai-poll-after-ms": "1"})


def _submit_to_run(request: Request, wire: Wire) -> Reply:
    run = wire.runs[request.path.split("/")[5]]
    run["_next"] = "completed"
    _run(wire, run, "completed" if request.body.get("stream") else "queued")
    return _run_reply(request, run)


def _cancel_run(request: Request, wire: Wire) -> Reply:
    run = wire.runs[request.path.split("/")[5]]
    return _run_reply(request, _run(wire, run, "cancelled"))


def _decide(request: Request, wire: Wire) -> Reply:
    prompt, made = DECISION_TOKENS
    usage = {
        "input_tokens": prompt,
        "input_tokens_details": {"cached_tokens": 0, "cache_write_tokens": 0},
        "output_tokens": made,
        "output_tokens_details": {"reasoning_tokens": 0},
        "total_tokens": prompt + made,
    }
    question = request.body["questions"][0]
    answers = [{"type": "predicate", "name": question["name"], "probability": 0.75}]
    if question["type"] == "choice":
        chances = [{"value": choice["value"], "probability": 0.5} for choice in question["choices"]]
        chosen = {"choice": chances[0]["value"], "confidence": 0.5, "probabilities": chances}
        answers = [{"type": "choice", "name": question["name"], **chosen}]
    payload = {
        "id": "dec_1",
        "object": "decision",
        "created_at": 1,
        "model": request.body["model"],
        "answers": answers,
        "usage": usage,
    }
    return reply_json(payload, request.path, tokens=DECISION_TOKENS)


def _complete(request: Request, wire: Wire) -> Reply:
    made = {"type": "completion", "completion": " an old reply", "stop_reason": "stop", "id": "compl_1"}
    payload = {**made, "model": request.body["model"]}
    if request.body.get("stream"):
        parts = [sse({**payload, "completion": part}, "completion") for part in (" an", " old", " reply")]
        return reply_events(parts, request.path, (5, 3))
    return reply_json(payload, request.path, tokens=(5, 3))


CANNED: dict[tuple[str, str], Any] = {
    ("POST", "/v1/threads/runs"): _create_run,
    ("POST", "/v1/threads/[^/]+/runs"): _create_run,
    ("GET", "/v1/threads/[^/]+/runs/[^/]+"): _show_run,
    ("POST", "/v1/threads/[^/]+/runs/[^/]+/submit_tool_outputs"): _submit_to_run,
    ("POST", "/v1/threads/[^/]+/runs/[^/]+/cancel"): _cancel_run,
    ("POST", "/v1/decisions"): _decide,
    ("POST", "/v1/complete"): _complete,
}


# -- the transport -----------------------------------------------------------------------------------------


@functools.cache
def _transport_class(library: Any) -> Any:
    class Body(library.SyncByteStream, library.AsyncByteStream):  # type: ignore[misc,name-defined]
        """A reply on its way: what the client has pulled is what the books say was sent."""

        def __init__(self, wire: Wire, number: int, reply: Reply) -> None:
            self.wire, self.number, self.reply = wire, number, reply
            # Read on by whoever iterates next: the SDK drains a connection after the last event.
            self.coming = self._chunks()

        def __iter__(self) -> Iterator[bytes]:
            for chunk in self.coming:
                time.sleep(self.reply.delay)
                yield chunk

        async def __aiter__(self) -> AsyncIterator[bytes]:
            for chunk in self.coming:
                await asyncio.sleep(self.reply.delay)
                yield chunk

        def _chunks(self) -> Iterator[bytes]:
            chunks = list(self.reply.chunks)
            for sent, chunk in enumerate(chunks):
                whole = sent + 1 == len(chunks) and not self.reply.cut
                self.wire.entries[self.number] = self.reply.entry if whole else self.reply.after(sent + 1)
                yield chunk
            if self.reply.cut:
                raise library.RemoteProtocolError("peer closed connection without sending complete body")

    class Transport(library.BaseTransport, library.AsyncBaseTransport):  # type: ignore[misc,name-defined]
        def __init__(self, wire: Wire) -> None:
            self.wire = wire

        def handle_request(self, request: Any) -> Any:
            number, reply = self._receive(request, request.read())
            time.sleep(self._silence(request, reply))
            return self._response(number, reply)

        async def handle_async_request(self, request: Any) -> Any:
            number, reply = self._receive(request, await request.aread())
            await asyncio.sleep(self._silence(request, reply))
            return self._response(number, reply)

        def _receive(self, request: Any, body: bytes) -> tuple[int, Reply]:
            if self.wire.down is not None:
                raise getattr(library, self.wire.down)("the wire is down", request=request)
            return self.wire.receive(request.method, request.url, dict(request.headers), body)

        def _silence(self, request: Any, reply: Reply) -> float:
            patience = request.extensions.get("timeout", {}).get("read")
            if patience is not None and patience < reply.hang:
                raise library.ReadTimeout("the provider says nothing", request=request)
            if reply.cut and not reply.entry.stream:
                raise library.RemoteProtocolError(
                    "Server disconnected without sending a response.", request=request
                )
            return reply.hang

        def _response(self, number: int, reply: Reply) -> Any:
            return library.Response(
                reply.status, headers=dict(reply.headers), stream=Body(self.wire, number, reply)
            )

    return Transport


_FRAMED = {"content-type": "application/vnd.amazon.eventstream"}


def _first_party(url: str, body: bytes) -> tuple[str, bytes, bool]:
    """Undo what a platform's client did; tell also whether it expects Bedrock's own framing of events."""
    parts = urlsplit(url)
    path = re.sub(r"^/anthropic(?=/v1/)", "", parts.path)
    model, stream, framed = "", False, False
    found = re.fullmatch(r"/model/([^/]+)/invoke(-with-response-stream)?", path)
    if found:
        model, framed = unquote(found[1]), bool(found[2])
        stream = framed
    else:
        found = re.search(r"/anthropic/models/([^/:]+):(r|streamR)awPredict$", path)
        if found:
            model, stream = unquote(found[1]), found[2] == "streamR"
    if path.endswith("/models/count-tokens:rawPredict"):
        return "/v1/messages/count_tokens", body, False
    if found:
        fields = {**json.loads(body), "model": model}
        if stream:
            fields["stream"] = True
        return "/v1/messages", json.dumps(fields).encode(), framed
    return path + (f"?{parts.query}" if parts.query else ""), body, False


def _frames(chunks: Any) -> list[bytes]:
    """Put server-sent events into the binary frames of AWS event streams."""
    frames = []
    for chunk in chunks:
        data = next(line[5:].strip() for line in chunk.decode().splitlines() if line.startswith("data:"))
        payload = json.dumps({"bytes": base64.b64encode(data.encode()).decode()}).encode()
        headers = b"".join(
            struct.pack("!B", len(name)) + name + b"\x07" + struct.pack("!H", len(value)) + value
            for name, value in (
                (b":event-type", b"chunk"),
                (b":content-type", b"application/json"),
                (b":message-type", b"event"),
            )
        )
        prelude = struct.pack("!II", 16 + len(headers) + len(payload), len(headers))
        head = prelude + struct.pack("!I", zlib.crc32(prelude)) + headers + payload
        frames.append(head + struct.pack("!I", zlib.crc32(head)))
    return frames


# -- the clients -------------------------------------------------------------------------------------------


class Missing(Exception):  # noqa: N818
    """What the SDK at hand, or an optional package of it, does not have."""


class Kind(NamedTuple):
    """A way to get a client: its class, and the arguments it wants."""

    name: str
    sdk: str
    sync: str
    asynchronous: str
    arguments: Mapping[str, Any]
    needs: tuple[str, ...] = ()
    """Packages without which such a client cannot be made."""
    streams_need: tuple[str, ...] = ()

    def make(self, wire: Wire, is_async: bool, options: Mapping[str, Any]) -> Any:
        name = self.asynchronous if is_async else self.sync
        if not name:
            raise Missing(f"{self.name} has no {'async' if is_async else 'sync'} form")
        require(self.needs, self.name)
        cls = getattr(SDKS[self.sdk], name, None)
        if cls is None:
            raise Missing(f"{self.sdk} {SDKS[self.sdk].__version__} has no {name}")
        if self.name.endswith("subclass"):
            cls = type("Own" + cls.__name__, (cls,), {})
        accepted = inspect.signature(cls.__init__).parameters
        absent = [name for name in self.arguments if name not in accepted]
        if absent:
            raise Missing(f"{name} of {self.sdk} {SDKS[self.sdk].__version__} takes no {absent[0]}=")
        return cls(**{**self.arguments, "http_client": wire.http_client(self.sdk, is_async), **options})

    def face(self, client: Any, is_async: bool) -> Any:
        """Return what a test calls methods on."""
        return client

    async def post(self, client: Any, path: str, body: Any, is_async: bool) -> Any:
        """Post to a path as the SDK itself would; return the reply as it is in JSON."""
        return await done(client.post(path, cast_to=object, body=body))


def require(packages: tuple[str, ...], what: str) -> None:
    """Raise `Missing` unless these packages are installed."""
    for package in packages:
        if not importable(package):
            raise Missing(f"{what} needs {package}, which is not installed")


@functools.cache
def importable(package: str) -> bool:
    try:
        return importlib.util.find_spec(package) is not None
    except ImportError:
        return False


def require_content(client: Any) -> None:
    """Raise `Missing` unless `client.post()` takes a body as bytes."""
    if "content" not in inspect.signature(client.post).parameters:
        raise Missing("client.post() of this SDK takes no content=")


_ANTHROPIC = {"base_url": ANTHROPIC_URL, "api_key": "none"}
_OPENAI = {"base_url": OPENAI_URL, "api_key": "none"}
_AZURE = {"azure_endpoint": "http://wire", "api_key": "none", "api_version": "2025-01-01"}
_AWS = {"base_url": ANTHROPIC_URL, "aws_region": "us-east-1"}

KINDS: dict[str, Any] = {
    kind.name: kind
    for kind in (
        Kind("anthropic", "anthropic", "Anthropic", "AsyncAnthropic", _ANTHROPIC),
        Kind("anthropic-alias", "anthropic", "Client", "AsyncClient", _ANTHROPIC),
        Kind("anthropic-subclass", "anthropic", "Anthropic", "AsyncAnthropic", _ANTHROPIC),
        Kind(
            "bedrock",
            "anthropic",
            "AnthropicBedrock",
            "AsyncAnthropicBedrock",
            {**_AWS, "api_key": "none"},
            streams_need=("botocore",),
        ),
        Kind(
            "bedrock-mantle",
            "anthropic",
            "AnthropicBedrockMantle",
            "AsyncAnthropicBedrockMantle",
            {**_AWS, "api_key": "none"},
        ),
        Kind(
            "vertex",
            "anthropic",
            "AnthropicVertex",
            "AsyncAnthropicVertex",
            {"base_url": "http://wire/v1", "region": "us-east5", "project_id": "p", "access_token": "none"},
        ),
        Kind(
            "foundry",
            "anthropic",
            "AnthropicFoundry",
            "AsyncAnthropicFoundry",
            {"base_url": "http://wire/anthropic/", "api_key": "none"},
        ),
        Kind("aws", "anthropic", "AnthropicAWS", "AsyncAnthropicAWS", {**_AWS, "skip_auth": True}),
        Kind(
            "google-cloud",
            "anthropic",
            "AnthropicGoogleCloud",
            "AsyncAnthropicGoogleCloud",
            {"base_url": ANTHROPIC_URL, "project": "p", "location": "l", "skip_auth": True},
        ),
        Kind("openai", "openai", "OpenAI", "AsyncOpenAI", _OPENAI),
        Kind("openai-alias", "openai", "Client", "AsyncClient", _OPENAI),
        Kind("openai-subclass", "openai", "OpenAI", "AsyncOpenAI", _OPENAI),
        Kind("azure", "openai", "AzureOpenAI", "AsyncAzureOpenAI", _AZURE),
        Kind(
            "azure-deployment",
            "openai",
            "AzureOpenAI",
            "AsyncAzureOpenAI",
            {**_AZURE, "azure_deployment": "gpt-x"},
        ),
        Kind("openai-bedrock", "openai", "BedrockOpenAI", "AsyncBedrockOpenAI", _OPENAI),
    )
}


# -- one test for sync and async ---------------------------------------------------------------------------


async def done(result: Any) -> Any:
    """Return what a client returned, awaited if it is a coroutine."""
    return await result if inspect.isawaitable(result) else result


async def each(source: Any) -> AsyncIterator[Any]:
    """Iterate over either kind of iterable."""
    if hasattr(source, "__aiter__"):
        async for item in source:
            yield item
    else:
        for item in source:
            yield item


async def listed(source: Any) -> list[Any]:
    """Return the items of either kind of iterable."""
    return [item async for item in each(source)]


@contextlib.asynccontextmanager
async def entered(manager: Any) -> AsyncIterator[Any]:
    """Enter either kind of context manager."""
    if hasattr(manager, "__aenter__"):
        async with manager as value:
            yield value
    else:
        with manager as value:
            yield value


async def step(stream: Any) -> Any:
    """Return the next item of either kind of iterator."""
    return await stream.__anext__() if hasattr(stream, "__anext__") else next(stream)


@functools.lru_cache(maxsize=1)
def one_loop() -> asyncio.AbstractEventLoop:
    """Return an event loop that stays, for thousands of tests that leave nothing in it."""
    loop = asyncio.new_event_loop()
    atexit.register(loop.close)
    return loop


def drive(
    coroutine: Coroutine[Any, Any, Any], is_async: bool, loop: asyncio.AbstractEventLoop | None = None
) -> Any:
    """Run a test: in an event loop for async clients, of its own by default; without one for the others."""
    if is_async:
        return asyncio.run(coroutine) if loop is None else loop.run_until_complete(coroutine)
    try:
        coroutine.send(None)
    except StopIteration as stop:
        return stop.value
    coroutine.close()
    raise AssertionError("a call of a sync client has awaited something")


def at(root: Any, dotted: str) -> Any:
    """Return an attribute of an attribute ... Raises `Missing` where the SDK has none."""
    for name in dotted.split("."):
        if not hasattr(root, name):
            raise Missing(f"{type(root).__module__}.{type(root).__qualname__} has no {name}")
        root = getattr(root, name)
    return root


_CLOCKS = frozenset({"created", "created_at", "completed_at"})


def plain(value: Any) -> Any:
    """Return a reply as a value that can be compared: types, fields, which of them were set; no clocks."""
    if hasattr(value, "model_fields_set") or hasattr(value, "__fields_set__"):
        dump = value.model_dump if hasattr(value, "model_dump") else value.dict
        set_fields = getattr(value, "model_fields_set", None) or value.__fields_set__
        return (
            type(value).__name__,
            _without_clocks(dump(warnings=False) if hasattr(value, "model_dump") else dump()),
            sorted(set_fields),
            _without_clocks(value.to_dict()) if hasattr(value, "to_dict") else None,
        )
    if isinstance(value, (list, tuple)):
        return [plain(item) for item in value]
    if isinstance(value, dict):
        return _without_clocks(value)
    if isinstance(value, (bytes, str)):
        text = value if isinstance(value, str) else value.decode("latin-1")
        return re.sub(r'("(?:created|created_at|completed_at)": ?)[0-9.]+', r"\1#", text)
    if isinstance(value, (int, float, bool)) or value is None:
        return value
    raise AssertionError(f"do not know how to compare a {type(value)}")


def _without_clocks(value: Any) -> Any:
    if isinstance(value, dict):
        return {k: _without_clocks(v) for k, v in value.items() if k not in _CLOCKS}
    return [_without_clocks(item) for item in value] if isinstance(value, list) else value


# -- the Guard and its books -------------------------------------------------------------------------------


class Books:
    """A Guard of one budget, and what it wrote down."""

    def __init__(self, backend: Any, policy: Policy | int = 10**9, guard: Guard | None = None) -> None:
        if isinstance(policy, int):
            policy = Policy.blocking(policy)
        self.guard = guard or Guard(policy, backend=backend, otel_enabled=False)
        self.records: list[CallRecord] = []
        self.guard.on_call(self.records.append)

    @property
    def state(self) -> Any:
        return next(iter(self.guard.get_status().dimensions.values()))

    @property
    def used(self) -> int:
        return int(self.state.used)

    @property
    def reserved(self) -> int:
        return int(self.state.reserved)

    @property
    def calls(self) -> list[CallRecord]:
        """The calls that were made: refused ones apart."""
        return [record for record in self.records if record.ending != "blocked"]

    @property
    def last(self) -> CallRecord:
        return self.records[-1]

    def use_up(self) -> None:
        """Spend the whole limit."""
        plan = self.guard.runtime.plan_here()
        limit = plan.budgets[0].limit
        self.guard.backend.settle(plan.unreserved(os.urandom(8).hex()), limit, ())

    def settled(self, seconds: float = 3.0) -> None:
        """Wait until nothing is held: dropped streams are settled by another thread."""
        gc.collect()
        end = time.monotonic() + seconds
        while self.reserved and time.monotonic() < end:
            time.sleep(0.005)
        assert self.reserved == 0

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.guard.teardown()


def is_refusal(error: BaseException) -> bool:
    """Whether this is our own error, as we raised it."""
    return type(error) is BudgetExceededError and error.__cause__ is None

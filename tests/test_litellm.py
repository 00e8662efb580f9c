"""LiteLLM's own HTTP, guarded: its two sending classes, and its list of errors that are handed on.

LiteLLM itself is run by `make test-frameworks`, on every route. Here its place is taken by a package of the
same shape, over the same kind of HTTP client and the real loopback provider.
"""

from __future__ import annotations

import asyncio
import importlib
import json
import re
import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import tokencap
from tokencap import (
    Action,
    ActionKind,
    BudgetExceededError,
    ConfigurationError,
    DimensionPolicy,
    Policy,
    Threshold,
)
from tokencap._loopback import LoopbackProvider
from wire import http_library

HTTP = http_library("openai")

HTTP_HANDLER = """
    from wire import http_library

    httpx = http_library("openai")

    class Timeout(Exception):
        status_code = 408

    class HTTPHandler:
        def __init__(self):
            self.client = httpx.Client(timeout=30)

        def post(self, url, data=None, json=None, headers=None, stream=False, timeout=30, content=None):
            body = content if content is not None else data
            try:
                request = self.client.build_request(
                    "POST", url, json=json, content=body, headers=headers, timeout=timeout
                )
                response = self.client.send(request, stream=stream)
                response.raise_for_status()
                return response
            except httpx.TimeoutException:
                raise Timeout("timed out")

        def get(self, url, headers=None):
            return self.client.get(url, headers=headers)

    class AsyncHTTPHandler:
        def __init__(self):
            self.client = httpx.AsyncClient(timeout=30)

        async def post(self, url, data=None, json=None, headers=None, stream=False, timeout=30, content=None):
            body = content if content is not None else data
            request = self.client.build_request("POST", url, json=json, content=body, headers=headers)
            response = await self.client.send(request, stream=stream)
            response.raise_for_status()
            return response

        async def get(self, url, headers=None):
            return await self.client.get(url, headers=headers)
"""
NAME = "litellm.llms.custom_httpx.http_handler"


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A package that can be imported as litellm, and is not yet."""
    home = tmp_path / "site"
    for folder in ("litellm", "litellm/llms", "litellm/llms/custom_httpx"):
        (home / folder).mkdir(parents=True)
        (home / folder / "__init__.py").touch()
    (home / "litellm/llms/custom_httpx/http_handler.py").write_text(textwrap.dedent(HTTP_HANDLER))
    (home / "litellm/exceptions.py").write_text("LITELLM_EXCEPTION_TYPES = [KeyError]\n")
    monkeypatch.syspath_prepend(str(home))
    yield
    for name in [name for name in sys.modules if name.split(".")[0] == "litellm"]:
        del sys.modules[name]


def handlers() -> Any:
    return importlib.import_module(NAME)


def used() -> int:
    return tokencap.get_status().dimensions["session"].used


def reserved() -> int:
    return tokencap.get_status().dimensions["session"].reserved


MESSAGES = {"model": "claude-sonnet-4-5", "max_tokens": 50, "messages": [{"role": "user", "content": "hi"}]}
CHAT = {"model": "gpt-4o", "messages": [{"role": "user", "content": "hi"}]}
RESPONSES = {"model": "gpt-5", "input": "hi"}
PATHS = {"/v1/messages": MESSAGES, "/v1/chat/completions": CHAT, "/v1/responses": RESPONSES}


@pytest.mark.usefixtures("package")
@pytest.mark.parametrize("first", ["patch", "import"])
@pytest.mark.parametrize("path", PATHS)
def test_what_its_handlers_post_is_counted_whichever_comes_first(
    path: str, first: str, loopback: LoopbackProvider
) -> None:
    if first == "import":
        handlers()
    tokencap.patch()
    sync, url = handlers().HTTPHandler(), loopback.url + path
    sync.post(url, json=PATHS[path])
    sync.post(url, data=json.dumps(PATHS[path]), headers={"content-type": "application/json"})
    sync.post(url, content=json.dumps(PATHS[path]).encode())

    async def post() -> None:
        handler = handlers().AsyncHTTPHandler()
        await handler.post(url, json=PATHS[path])
        await handler.client.aclose()

    asyncio.run(post())
    sync.client.close()
    assert (used(), loopback.calls) == (loopback.tokens, 4)
    assert used() > 0


@pytest.mark.usefixtures("package")
@pytest.mark.parametrize("path", PATHS)
def test_a_stream_is_counted_when_its_last_event_passes(path: str, loopback: LoopbackProvider) -> None:
    """Also for a reader who stops where the reason to stop is told, before the usage or the end of it."""
    last = re.compile('"type": ?"(?:message_delta|response.completed)"|"finish_reason": ?"stop"')
    asked = {**PATHS[path], "stream": True, "stream_options": {"include_usage": True}}
    tokencap.patch()
    sync = handlers().HTTPHandler()
    response = sync.post(loopback.url + path, json=asked, stream=True)
    assert any(last.search(line) for line in response.iter_lines())
    assert (used(), reserved()) == (loopback.tokens, 0)
    response.close()

    async def read() -> None:
        handler = handlers().AsyncHTTPHandler()
        reply = await handler.post(loopback.url + path, json=asked, stream=True)
        async for line in reply.aiter_lines():
            if last.search(line):
                break
        assert (used(), reserved()) == (loopback.tokens, 0)
        await reply.aclose()
        await handler.client.aclose()

    asyncio.run(read())
    sync.client.close()
    assert used() == loopback.tokens > 0


def served(*chunks: bytes, broken: bool = False) -> Any:
    """A handler whose provider streams these pieces, and maybe loses the connection after them."""

    class Body(HTTP.SyncByteStream):  # type: ignore[misc,name-defined]
        def __iter__(self) -> Iterator[bytes]:
            yield from chunks
            if broken:
                raise HTTP.ReadError("lost")

    events = {"content-type": "text/event-stream"}
    sync = handlers().HTTPHandler()
    sync.client.close()
    sync.client = HTTP.Client(
        transport=HTTP.MockTransport(lambda request: HTTP.Response(200, headers=events, stream=Body()))
    )
    return sync


FINISH = b'data: {"choices": [{"index": 0, "delta": {"content": "hi"}, "finish_reason": "stop"}]}\n\n'
USAGE = b'data: {"choices": [], "usage": {"prompt_tokens": 8, "completion_tokens": 1}}'


@pytest.mark.usefixtures("package")
def test_a_stream_that_says_that_nothing_follows_is_settled_there() -> None:
    tokencap.patch()
    response = served(FINISH, b"data: [DONE]\n\n").post("http://x/chat/completions", json=CHAT, stream=True)
    lines = response.iter_lines()
    assert "stop" in next(lines)
    assert (used() > 0, reserved()) == (True, 0)
    response.close()


@pytest.mark.usefixtures("package")
def test_a_last_event_without_an_end_of_line_counts() -> None:
    tokencap.patch()
    response = served(FINISH, USAGE).post("http://x/chat/completions", json=CHAT, stream=True)
    assert "".join(response.iter_text()) == (FINISH + USAGE).decode()
    assert (used(), reserved()) == (9, 0)


@pytest.mark.usefixtures("package")
def test_what_had_come_when_the_connection_was_lost_reaches_the_reader() -> None:
    tokencap.patch()
    response = served(FINISH, broken=True).post("http://x/chat/completions", json=CHAT, stream=True)
    read: list[str] = []
    with pytest.raises(HTTP.ReadError, match="lost"):
        read.extend(response.iter_text())
    assert "".join(read) == FINISH.decode()
    assert reserved() == 0


@pytest.mark.usefixtures("package")
def test_a_refused_call_is_not_sent_and_the_error_is_handed_on(loopback: LoopbackProvider) -> None:
    tokencap.patch(limit=1)
    sync = handlers().HTTPHandler()
    errors = importlib.import_module("litellm.exceptions").LITELLM_EXCEPTION_TYPES
    with pytest.raises(BudgetExceededError):
        sync.post(f"{loopback.url}/v1/messages", json=MESSAGES)

    async def post() -> None:
        with pytest.raises(BudgetExceededError):
            await handlers().AsyncHTTPHandler().post(f"{loopback.url}/v1/chat/completions", json=CHAT)

    asyncio.run(post())
    sync.client.close()
    assert loopback.calls == 0
    assert errors == [KeyError, BudgetExceededError]
    tokencap.unpatch()
    assert errors == [KeyError]


@pytest.mark.usefixtures("package")
@pytest.mark.parametrize("form", ["json", "data", "content"])
def test_a_degraded_call_has_the_cheaper_model_and_the_caller_keeps_his_body(
    form: str, loopback: LoopbackProvider
) -> None:
    action = Action(ActionKind.DEGRADE, degrade_to={"anthropic": "claude-haiku-4-5"})
    policy = Policy({"session": DimensionPolicy(limit=10**6, thresholds=[Threshold(0.000001, [action])])})
    tokencap.patch(policy=policy)
    sync = handlers().HTTPHandler()
    body = MESSAGES if form == "json" else json.dumps(MESSAGES)
    for _ in range(2):
        sync.post(f"{loopback.url}/v1/messages", **{form: body})
    sync.client.close()
    assert [entry.model for entry in loopback.journal] == ["claude-haiku-4-5"] * 2
    assert MESSAGES["model"] == "claude-sonnet-4-5"


@pytest.mark.usefixtures("package")
def test_a_model_that_is_in_the_path_is_changed_there() -> None:
    sent: list[Any] = []

    def answer(request: Any) -> Any:
        sent.append((request.url.path, request.url.query, json.loads(request.content)))
        usage = {"promptTokenCount": 7, "candidatesTokenCount": 5, "totalTokenCount": 12}
        return HTTP.Response(200, json={"candidates": [], "usageMetadata": usage})

    action = Action(ActionKind.DEGRADE, degrade_to={"gemini": "gemini-flash"})
    policy = Policy({"session": DimensionPolicy(limit=10**6, thresholds=[Threshold(0.00001, [action])])})
    tokencap.patch(policy=policy)
    sync = handlers().HTTPHandler()
    sync.client = HTTP.Client(transport=HTTP.MockTransport(answer))
    body = {"contents": [{"role": "user", "parts": [{"text": "hi"}]}]}
    for _ in range(2):
        sync.post("https://gemini.test/v1beta/models/gemini-pro:generateContent?alt=json", json=body)
    models = ["gemini-pro", "gemini-flash"]
    assert sent == [(f"/v1beta/models/{model}:generateContent", b"alt=json", body) for model in models]
    assert used() == 24


@pytest.mark.usefixtures("package")
def test_what_is_free_and_what_others_take_is_left_alone(loopback: LoopbackProvider) -> None:
    tokencap.patch()
    sync = handlers().HTTPHandler()
    sync.post(f"{loopback.url}/v1/messages/count_tokens", json=MESSAGES)
    sync.get(f"{loopback.url}/v1/models")
    sync.get(f"{loopback.url}/journal")
    sync.client.close()
    assert used() == 0


@pytest.mark.usefixtures("package")
def test_an_error_of_the_provider_costs_nothing_and_a_time_out_costs_the_prompt(
    loopback: LoopbackProvider,
) -> None:
    tokencap.patch()
    sync = handlers().HTTPHandler()
    asked = {**MESSAGES, "messages": [{"role": "user", "content": "hi [[status=500]]"}]}
    with pytest.raises(Exception, match="500"):
        sync.post(f"{loopback.url}/v1/messages", json=asked)
    assert used() == 0
    asked = {**MESSAGES, "messages": [{"role": "user", "content": "hi [[hang=5]]"}]}
    with pytest.raises(handlers().Timeout):
        sync.post(f"{loopback.url}/v1/messages", json=asked, timeout=0.3)
    sync.client.close()
    assert used() > 0


@pytest.mark.usefixtures("package")
def test_a_background_response_is_settled_by_the_get_that_finds_it_complete(
    loopback: LoopbackProvider,
) -> None:
    tokencap.patch()
    sync = handlers().HTTPHandler()
    asked = {"model": "gpt-5", "input": "hi [[polls=2]]", "background": True}
    name = sync.post(f"{loopback.url}/v1/responses", json=asked).json()["id"]
    assert used() == 0
    for _ in range(2):
        sync.get(f"{loopback.url}/v1/responses/{name}")
    sync.client.close()
    assert used() == loopback.tokens > 0


@pytest.mark.usefixtures("package")
def test_unpatch_leaves_nothing_behind(loopback: LoopbackProvider) -> None:
    before = list(sys.meta_path)
    tokencap.patch()
    module = handlers()
    guarded = module.HTTPHandler.post
    # The module looks as if nobody had been waiting for it.
    assert type(module.__spec__.loader).__name__ == type(module.__loader__).__name__ == "SourceFileLoader"
    tokencap.unpatch()
    assert sys.meta_path == before
    assert module.HTTPHandler.post is guarded.__wrapped__
    sync = module.HTTPHandler()
    sync.post(f"{loopback.url}/v1/messages", json=MESSAGES)
    sync.client.close()
    assert used() == 0
    tokencap.patch()
    tokencap.unpatch()
    assert sys.meta_path == before


@pytest.mark.usefixtures("package")
@pytest.mark.parametrize(
    ("providers", "printed", "seen"),
    [
        (None, "anthropic + openai + litellm", True),
        (["litellm"], "litellm", True),
        (["openai", "litellm"], "openai + litellm", True),
        (["openai"], "openai", False),
    ],
)
def test_it_is_patched_by_name_or_because_it_is_there(
    providers: Any, printed: str, seen: bool, loopback: LoopbackProvider, capsys: pytest.CaptureFixture[str]
) -> None:
    tokencap.patch(providers=providers)
    assert capsys.readouterr().out.splitlines()[0] == f"[tokencap] patched: {printed}"
    assert NAME not in sys.modules
    sync = handlers().HTTPHandler()
    sync.post(f"{loopback.url}/v1/messages", json=MESSAGES)
    sync.client.close()
    assert bool(used()) is seen


def test_it_has_to_be_installed_to_be_asked_for() -> None:
    with pytest.raises(ConfigurationError, match="litellm is not installed; pip install litellm"):
        tokencap.patch(providers=["litellm"])
    with pytest.raises(ConfigurationError, match=r"'lite'; accepted are 'anthropic', .*'litellm'$"):
        tokencap.patch(providers=["lite"])

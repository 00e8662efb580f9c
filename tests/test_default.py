"""The process-wide Guard: wrap, init, patch, get_status and teardown, on real clients and a real file."""

from __future__ import annotations

import asyncio
import io
import logging
import re
import sys
from pathlib import Path
from typing import Any

import anthropic
import openai
import pytest

import tokencap
from tokencap import BudgetExceededError, ConfigurationError, DimensionPolicy, Guard, Policy
from tokencap._loopback import LoopbackProvider
from tokencap.backends.memory import MemoryBackend
from tokencap.backends.sqlite import SQLiteBackend
from wire import http_library

pytestmark = pytest.mark.usefixtures("loopback")


@pytest.fixture(scope="module")
def http() -> Any:
    """One HTTP client for all: making one loads the certificates of the world."""
    with http_library("anthropic").Client() as client:
        yield client


@pytest.fixture
def claude(http: Any) -> anthropic.Anthropic:
    return anthropic.Anthropic(http_client=http, max_retries=0)


@pytest.fixture
def gpt(http: Any) -> openai.OpenAI:
    return openai.OpenAI(http_client=http, max_retries=0)


def ask(client: Any, text: str = "hello", **kwargs: Any) -> Any:
    messages: Any = [{"role": "user", "content": text}]
    if isinstance(client, anthropic.Anthropic):
        return client.messages.create(model="claude-sonnet-4-6", max_tokens=64, messages=messages, **kwargs)
    return client.chat.completions.create(model="gpt-4o", messages=messages, **kwargs)


def two_dimensions() -> Policy:
    return Policy({"tenant": DimensionPolicy(limit=1_000_000), "run": DimensionPolicy()})


# -- start-up lines --------------------------------------------------------------------------------------


def test_wrapping_without_a_limit_says_so(claude: Any, capsys: Any) -> None:
    client = tokencap.wrap(claude)
    printed = capsys.readouterr().out
    assert re.fullmatch(
        r"\[tokencap\] session started: session=[0-9a-f]{8} backend=sqlite:tokencap\.db \(no limit set\)\n",
        printed,
    )
    (state,) = client.get_status().dimensions.values()
    assert state.key.identifier.startswith(printed.split("session=")[1][:8])
    assert len(state.key.identifier) == 36


def test_wrapping_with_a_limit_says_it(claude: Any, capsys: Any) -> None:
    tokencap.wrap(claude, limit=50_000)
    assert re.fullmatch(
        r"\[tokencap\] session started: session=[0-9a-f]{8} backend=sqlite:tokencap\.db limit=50000 tokens\n",
        capsys.readouterr().out,
    )


@pytest.mark.parametrize(
    ("providers", "named"),
    [(None, "anthropic + openai"), (["anthropic"], "anthropic"), (["openai"], "openai")],
)
@pytest.mark.parametrize(("limit", "told"), [(50_000, "limit=50000 tokens"), (None, "(no limit set)")])
def test_patching_says_what_and_how_much(
    providers: Any, named: str, limit: Any, told: str, capsys: Any
) -> None:
    tokencap.patch(limit=limit, providers=providers)
    assert capsys.readouterr().out == (
        f"[tokencap] patched: {named}\n           backend=sqlite:tokencap.db {told}\n"
    )


def test_quiet_is_quiet(claude: Any, capsys: Any) -> None:
    tokencap.wrap(claude, quiet=True)
    tokencap.teardown()
    tokencap.patch(quiet=True)
    tokencap.unpatch()
    tokencap.teardown()
    tokencap.init(quiet=True)
    tokencap.wrap(claude)
    assert capsys.readouterr().out == ""


def test_the_lines_are_printed_once_a_session(claude: Any, gpt: Any, capsys: Any) -> None:
    for _ in range(2):
        tokencap.wrap(claude)
        tokencap.wrap(gpt)
        tokencap.patch()
        tokencap.unpatch()
        assert capsys.readouterr().out.count("\n") == 1
        tokencap.teardown()


def test_a_limit_that_never_blocks_is_said_at_start_up(claude: Any, capsys: Any) -> None:
    tokencap.wrap(claude, policy=Policy({"session": DimensionPolicy(limit=9)}))
    assert capsys.readouterr().out.endswith(" limit=9 tokens (no BLOCK action: never blocked)\n")


def test_every_dimension_is_announced(claude: Any, capsys: Any) -> None:
    tokencap.init(two_dimensions(), {"tenant": "acme", "run": "7"}, MemoryBackend())
    tokencap.wrap(claude)
    assert capsys.readouterr().out == (
        "[tokencap] session started: tenant=acme backend=memory "
        "limit=1000000 tokens (no BLOCK action: never blocked)\n"
        "[tokencap] session started: run=7 backend=memory (no limit set)\n"
    )
    tokencap.teardown()
    tokencap.init(two_dimensions(), {"tenant": "acme", "run": "7"}, MemoryBackend())
    tokencap.patch()
    assert capsys.readouterr().out == (
        "[tokencap] patched: anthropic + openai\n"
        "           backend=memory\n"
        "           tenant=acme limit=1000000 tokens (no BLOCK action: never blocked)\n"
        "           run=7 (no limit set)\n"
    )


HOSTILE = [
    "a\nb",
    "\x00",
    "🧨",
    "*",
    "x'; DROP TABLE budgets; --",
    "y" * 10_240,
    " ",
    "{}",
    "a:b",
    "\x1b[31m",
    "\ud800",
]


@pytest.mark.parametrize("identifier", HOSTILE, ids=lambda text: ascii(text)[:20])
def test_identifiers_of_any_content_keep_their_books_and_their_line(
    identifier: str, claude: Any, capsys: Any
) -> None:
    tokencap.init(identifiers={"session": identifier})
    client = tokencap.wrap(claude)
    ask(client)
    (state,) = client.get_status().dimensions.values()
    assert state.key.identifier == identifier
    assert state.used > 0
    printed = capsys.readouterr().out
    assert printed.count("\n") == 1
    assert "\x1b" not in printed
    assert len(printed) < 300


def test_no_terminal_is_too_poor_to_wrap_in_front_of(claude: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    poor = io.TextIOWrapper(io.BytesIO(), encoding="ascii")
    monkeypatch.setattr(sys, "stdout", poor)
    tokencap.init(identifiers={"session": "żółć"})
    tokencap.wrap(claude)
    poor.flush()
    assert b"session=\\u017c" in poor.buffer.getvalue()  # type: ignore[attr-defined]
    tokencap.teardown()
    poor.close()
    tokencap.wrap(claude)
    tokencap.teardown()
    monkeypatch.setattr(sys, "stdout", None)
    tokencap.wrap(claude)


# -- one Guard a process ---------------------------------------------------------------------------------


def test_wrapping_again_warns_and_reuses_the_guard(claude: Any, gpt: Any, loopback: Any, caplog: Any) -> None:
    first = tokencap.wrap(claude, limit=50_000)
    assert caplog.records == []
    second = tokencap.wrap(gpt, limit=7)
    (record,) = caplog.records
    assert record.levelno == logging.WARNING
    assert "tokencap.wrap(): a Guard is active" in record.message
    assert "tokencap.teardown()" in record.message
    ask(first)
    ask(second)
    for status in (first.get_status(), second.get_status(), tokencap.get_status()):
        (state,) = status.dimensions.values()
        assert (state.limit, state.used) == (50_000, loopback.tokens)


def test_init_before_wrap_and_patch_is_used_without_a_warning(
    claude: Any, caplog: Any, tmp_path: Path
) -> None:
    backend = SQLiteBackend(tmp_path / "mine.db")
    for take in (lambda: tokencap.wrap(claude), tokencap.patch):
        guard = tokencap.init(two_dimensions(), {"tenant": "acme"}, backend)
        take()
        assert tokencap.get_status().dimensions["tenant"].key.identifier == "acme"
        assert guard.identifiers["tenant"] == "acme"
        tokencap.unpatch()
        tokencap.teardown()
    assert caplog.records == []
    assert not (tmp_path / "tokencap.db").exists()


@pytest.mark.parametrize("argument", [{"limit": 7}, {"policy": Policy.blocking(7)}, {"wait": 3.0}])
def test_what_is_given_after_init_is_ignored_with_a_warning(
    claude: Any, caplog: Any, argument: dict[str, Any]
) -> None:
    tokencap.init(Policy.blocking(100))
    client = tokencap.wrap(claude, **argument)
    assert [record.getMessage().partition(": ")[0] for record in caplog.records] == ["tokencap.wrap()"]
    assert client.get_status().dimensions["session"].limit == 100


def test_init_over_an_active_guard_is_refused(claude: Any) -> None:
    guard = tokencap.init()
    with pytest.raises(ConfigurationError, match=r"tokencap\.teardown\(\)"):
        tokencap.init()
    guard.teardown()
    with tokencap.init():
        tokencap.wrap(claude)
        with pytest.raises(ConfigurationError, match="active already"):
            tokencap.init()
    tokencap.wrap(claude)


def test_a_guard_closed_by_itself_makes_way_for_the_next(claude: Any, caplog: Any) -> None:
    with tokencap.init(Policy.blocking(7)) as guard:
        assert tokencap.wrap(claude).get_status().dimensions["session"].limit == 7
    with pytest.raises(ConfigurationError, match="no Guard is active"):
        tokencap.get_status()
    client = tokencap.wrap(claude, limit=9)
    assert client.get_status().dimensions["session"].limit == 9
    assert guard.closed
    assert caplog.records == []


def test_a_client_of_a_closed_guard_spends_nothing(claude: Any, gpt: Any, loopback: LoopbackProvider) -> None:
    client, other = tokencap.wrap(claude), tokencap.wrap(gpt)
    copy = client.with_options(timeout=3)
    ask(client)
    before = loopback.calls
    tokencap.teardown()
    for use in (
        lambda: ask(client),
        lambda: ask(copy),
        lambda: ask(other, stream=True),
        lambda: client.messages.with_raw_response.create(model="m", max_tokens=9, messages=[]),
        client.get_status,
    ):
        with pytest.raises(ConfigurationError, match=r"closed by teardown\(\)") as caught:
            use()
        assert "unguarded" in str(caught.value)
    with pytest.raises(ConfigurationError, match="no Guard is active"):
        tokencap.get_status()
    assert loopback.calls == before
    assert isinstance(ask(claude), anthropic.types.Message)


def test_an_async_client_of_a_closed_guard_spends_nothing(loopback: LoopbackProvider) -> None:
    async def main() -> None:
        async with tokencap.wrap(openai.AsyncOpenAI()) as client:
            tokencap.teardown()
            with pytest.raises(ConfigurationError, match="teardown"):
                await client.responses.create(model="gpt-5", input="hi")

    asyncio.run(main())
    assert loopback.calls == 0


def test_teardown_is_idempotent_and_starts_afresh(claude: Any, capsys: Any) -> None:
    tokencap.teardown()
    first = tokencap.wrap(claude, limit=100).get_status().dimensions["session"].key
    tokencap.teardown()
    tokencap.teardown()
    second = tokencap.wrap(claude, limit=200).get_status().dimensions["session"]
    assert second.key != first
    assert second.limit == 200
    assert capsys.readouterr().out.count("session started") == 2


def test_teardown_may_be_waited_for_by_what_it_waits_for(gpt: Any) -> None:
    # The last call of a stream that was left is settled by teardown; its callback may look around.
    seen: list[Any] = []

    def callback(status: Any) -> None:
        import threading

        thread = threading.Thread(target=lambda: seen.append(tokencap.init(quiet=True)), daemon=True)
        thread.start()
        thread.join(5)

    warn = tokencap.Action(tokencap.ActionKind.WARN, callback=callback)
    policy = Policy({"session": DimensionPolicy(limit=10, thresholds=[tokencap.Threshold(0.1, [warn])])})
    stream = ask(tokencap.wrap(gpt, policy=policy, quiet=True), stream=True)
    tokencap.teardown()
    assert len(seen) == 1
    stream.close()


def test_what_one_session_spent_is_still_there_for_the_next(claude: Any, loopback: LoopbackProvider) -> None:
    for _ in range(2):
        tokencap.init(Policy.blocking(1_000), {"session": "my-run-id-123"}, quiet=True)
        ask(tokencap.wrap(claude))
        tokencap.teardown()
    tokencap.init(Policy.blocking(1_000), {"session": "my-run-id-123"})
    assert tokencap.get_status().dimensions["session"].used == loopback.tokens > 0


# -- who guards a client ---------------------------------------------------------------------------------


def test_the_wrapped_client_is_what_it_was_and_the_original_stays_unguarded(
    claude: Any, loopback: LoopbackProvider
) -> None:
    client = tokencap.wrap(claude, limit=50_000)
    assert type(client) is anthropic.Anthropic
    assert client is not claude
    assert (client.api_key, client.base_url) == (claude.api_key, claude.base_url)
    assert not hasattr(claude, "get_status")
    ask(claude)
    assert client.get_status().dimensions["session"].used == 0
    ask(client)
    assert client.get_status().dimensions["session"].used == loopback.tokens // 2


def test_wrapping_a_client_this_guard_guards_already_returns_it(claude: Any) -> None:
    client = tokencap.wrap(claude)
    assert tokencap.wrap(client) is client
    copy = client.copy()
    assert tokencap.wrap(copy) is copy


def test_a_second_guard_takes_over_on_its_own_copy(claude: Any, loopback: LoopbackProvider) -> None:
    one, two = (Guard(Policy.tracking(), backend=MemoryBackend()) for _ in range(2))
    first = one.wrap_anthropic(claude)
    second = two.wrap_anthropic(first)
    assert second is not first
    ask(second)
    assert two.get_status().dimensions["session"].used == loopback.tokens
    assert one.get_status().dimensions["session"].used == 0
    ask(first)
    assert one.get_status().dimensions["session"].used == loopback.tokens // 2
    one.teardown()
    ask(second)
    two.teardown()


def test_wrapping_under_a_patch_counts_once(http: Any, loopback: LoopbackProvider) -> None:
    tokencap.patch()
    client = openai.OpenAI(http_client=http)
    assert tokencap.wrap(client) is client
    with Guard(Policy.tracking(), backend=MemoryBackend()) as guard:
        mine = guard.wrap(client)
        ask(mine)
        assert guard.get_status().dimensions["session"].used == loopback.tokens
        assert tokencap.get_status().dimensions["session"].used == 0
        ask(client)
        ask(mine.with_options(timeout=9))
        assert guard.get_status().dimensions["session"].used == loopback.tokens * 2 // 3
        assert tokencap.get_status().dimensions["session"].used == loopback.tokens // 3


def test_several_guards_share_one_budget_over_one_backend(claude: Any, gpt: Any, loopback: Any) -> None:
    backend = SQLiteBackend("shared.db")
    ids = {"session": "acme:2026-03-27"}
    guards = [Guard(Policy.blocking(60), ids, backend) for _ in range(2)]
    a, b = guards[0].wrap_anthropic(claude), guards[1].wrap_openai(gpt)
    ask(a)
    ask(b)
    assert guards[0].get_status().dimensions == guards[1].get_status().dimensions
    with pytest.raises(BudgetExceededError):
        for _ in range(5):
            ask(a)
    with pytest.raises(BudgetExceededError):
        ask(b)
    assert guards[1].get_status().dimensions["session"].used == loopback.tokens
    for guard in guards:
        guard.teardown()


class Duck:
    """Looks like a client, and is none."""

    class Messages:
        def create(self) -> None:
            pass

    messages = Messages()


@pytest.mark.parametrize(
    ("thing", "said"),
    [
        (Duck(), "test_default.Duck"),
        (None, "NoneType"),
        ("anthropic", "str"),
        (anthropic.Anthropic, "it is a class: pass an instance, Anthropic()"),
        (openai, "module"),
    ],
)
def test_what_is_no_client_is_refused_and_nothing_is_started(thing: Any, said: str, capsys: Any) -> None:
    with pytest.raises(ConfigurationError) as caught:
        tokencap.wrap(thing)
    assert said in str(caught.value)
    assert "Anthropic, AsyncAnthropic" in str(caught.value)
    assert "OpenAI, AsyncOpenAI" in str(caught.value)
    with pytest.raises(ConfigurationError, match="no Guard is active"):
        tokencap.get_status()
    assert capsys.readouterr().out == ""


def test_wrapping_with_the_method_of_the_other_provider_is_refused(claude: Any, gpt: Any) -> None:
    with Guard(Policy.tracking(), backend=MemoryBackend()) as guard:
        with pytest.raises(ConfigurationError, match=r"a client of the openai SDK; use wrap_openai\(\)"):
            guard.wrap_anthropic(gpt)
        with pytest.raises(
            ConfigurationError, match=r"a client of the anthropic SDK; use wrap_anthropic\(\)"
        ):
            guard.wrap_openai(claude)


# -- bad input -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("limit", [0, -5, 1.5, True, "50000"])
def test_a_bad_limit_is_refused_and_nothing_is_started(limit: Any, claude: Any) -> None:
    for call in (lambda: tokencap.wrap(claude, limit=limit), lambda: tokencap.patch(limit=limit)):
        with pytest.raises(ConfigurationError, match="limit is"):
            call()
        with pytest.raises(ConfigurationError, match="no Guard is active"):
            tokencap.get_status()
    assert not hasattr(anthropic.Anthropic(), "get_status")


def test_limit_and_policy_together_are_refused(claude: Any) -> None:
    policy = Policy.tracking()
    for call in (tokencap.wrap, lambda *a, **k: tokencap.patch(**k)):
        with pytest.raises(ConfigurationError, match="mutually exclusive"):
            call(claude, limit=5, policy=policy)  # type: ignore[operator]


@pytest.mark.parametrize("policy", [50_000, {"session": 5}, "default", Policy, DimensionPolicy()])
def test_what_is_no_policy_is_refused(policy: Any, claude: Any) -> None:
    for call in (
        lambda: tokencap.wrap(claude, policy=policy),
        lambda: tokencap.init(policy),
        lambda: tokencap.patch(policy=policy),
        lambda: Guard(policy),
    ):
        with pytest.raises(ConfigurationError, match=r"must be a tokencap\.Policy"):
            call()


@pytest.mark.parametrize(
    ("identifiers", "said"),
    [
        ({"tenant": ""}, "the identifier of 'tenant' is ''"),
        ({"tenant": None}, "the identifier of 'tenant' is None"),
        ({"tenant": 7}, "the identifier of 'tenant' is 7"),
        ({"tenant": b"acme"}, "the identifier of 'tenant' is b'acme'"),
        ({"tenat": "acme"}, "names 'tenat', which the policy does not; its dimensions are 'tenant', 'run'"),
        ({7: "acme"}, "identifiers has the name 7"),
        (["acme"], "it must be a mapping like {'tenant': 'acme'}"),
        ("acme", "it must be a mapping"),
    ],
)
def test_bad_identifiers_are_refused(identifiers: Any, said: str) -> None:
    with pytest.raises(ConfigurationError, match=re.escape(said)):
        Guard(two_dimensions(), identifiers)


@pytest.mark.parametrize("backend", ["redis://localhost", object(), SQLiteBackend, 3])
def test_what_is_no_backend_is_refused(backend: Any) -> None:
    with pytest.raises(
        ConfigurationError, match=r"must have the methods of tokencap\.backends\.protocol\.Backend"
    ):
        Guard(Policy.tracking(), backend=backend)


@pytest.mark.parametrize(
    ("argument", "said"),
    [
        ({"ledger": "no"}, "ledger is 'no'; it must be True or False"),
        ({"otel_enabled": "false"}, "otel_enabled is 'false'; it must be True or False"),
        ({"otel": "tenant"}, "otel is 'tenant'; it must be a tokencap.Otel"),
    ],
)
def test_what_does_not_fit_is_said_at_once(argument: Any, said: str) -> None:
    with pytest.raises(ConfigurationError, match=re.escape(said)):
        Guard(Policy.tracking(), backend=MemoryBackend(), **argument)


@pytest.mark.parametrize("name", ["lease_seconds", "wait"])
@pytest.mark.parametrize("seconds", [-1, True, "5", None, float("inf"), float("nan"), 1e300])
def test_seconds_that_cannot_be_waited_are_refused(name: str, seconds: Any) -> None:
    arguments: Any = {name: seconds}
    with pytest.raises(ConfigurationError, match=f"{name} is"):
        Guard(Policy.tracking(), **arguments)


async def _hook(record: Any) -> None: ...


@pytest.mark.parametrize("hook", [None, "print", _hook])
def test_a_hook_that_cannot_be_called_is_refused(hook: Any) -> None:
    guard = Guard(Policy.tracking(), backend=MemoryBackend())
    with pytest.raises(ConfigurationError, match="a function that is not async"):
        guard.on_call(hook)
    guard.teardown()
    with pytest.raises(ConfigurationError, match="closed by teardown"):
        guard.on_call(print)


def test_an_identifier_left_out_is_a_budget_of_ones_own() -> None:
    one, two = (Guard(two_dimensions(), {"tenant": "acme"}, MemoryBackend()) for _ in range(2))
    assert one.identifiers["tenant"] == two.identifiers["tenant"]
    assert one.identifiers["run"] != two.identifiers["run"]
    assert len(one.identifiers["run"]) == 36


@pytest.mark.parametrize(
    "make",
    [
        lambda hello, reply: (m for m in [hello, reply]),
        lambda hello, reply: iter([hello]),
        lambda hello, reply: (hello, reply),
        lambda hello, reply: {"a": hello}.values(),
        lambda hello, reply: [reply, hello],
        lambda hello, reply: [{**hello, "content": iter([{"type": "text", "text": "hello"}])}],
        lambda hello, reply: None,
        lambda hello, reply: [],
        lambda hello, reply: 3,
        lambda hello, reply: [object()],
    ],
)
def test_messages_of_odd_types_behave_as_in_the_bare_sdk(
    make: Any, gpt: Any, loopback: LoopbackProvider
) -> None:
    from openai.types.chat import ChatCompletionMessage

    def outcome(client: Any) -> Any:
        messages = make(
            {"role": "user", "content": "hello"}, ChatCompletionMessage(role="assistant", content="yes")
        )
        try:
            return client.chat.completions.create(model="gpt-4o", messages=messages).usage
        except Exception as error:
            return type(error), str(error)

    client = tokencap.wrap(gpt, limit=100_000)
    assert outcome(client) == outcome(gpt)
    state = client.get_status().dimensions["session"]
    assert (2 * state.used, state.reserved) == (loopback.tokens, 0)


def test_the_arguments_of_the_caller_are_left_as_they_were(gpt: Any) -> None:
    messages: Any = [{"role": "user", "content": "hello"}]
    extra = {"metadata": {"a": "b"}}
    client = tokencap.wrap(gpt, limit=100_000)
    list(client.chat.completions.create(model="gpt-4o", messages=messages, stream=True, extra_body=extra))
    assert messages == [{"role": "user", "content": "hello"}]
    assert extra == {"metadata": {"a": "b"}}


def test_a_with_block_closes_its_guard(claude: Any) -> None:
    with Guard(Policy.tracking(), backend=MemoryBackend()) as guard:
        client = guard.wrap(claude)
        ask(client)
    with pytest.raises(ConfigurationError):
        ask(client)
    with pytest.raises(ConfigurationError):
        guard.wrap(claude)
    with pytest.raises(ConfigurationError), guard:
        pass
    guard.teardown()


def test_a_guard_closes_the_store_it_made_and_leaves_the_one_it_was_given(tmp_path: Path) -> None:
    backend = SQLiteBackend(tmp_path / "mine.db")
    guard = Guard(Policy.tracking(), backend=backend)
    guard.get_status()
    guard.teardown()
    assert backend._opened is not None
    own = Guard(Policy.tracking())
    own.get_status()
    own.teardown()
    assert isinstance(own.backend, SQLiteBackend)
    assert own.backend._opened is None
    backend.close()

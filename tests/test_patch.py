"""Under patch() every client that is made is guarded, whoever makes it and by whatever name; then none."""

from __future__ import annotations

import asyncio
import functools
import os
import subprocess
import sys
import textwrap
from pathlib import Path
from typing import Any

import anthropic
import openai
import pytest
from anthropic import Anthropic, AsyncAnthropic  # the names a framework took before patch() was called
from openai import AsyncOpenAI, OpenAI

import tokencap
from tokencap import BudgetExceededError, ConfigurationError, Policy
from tokencap._loopback import LoopbackProvider

HELLO: Any = [{"role": "user", "content": "hello"}]
SDKS = {
    "anthropic": ["Anthropic", "AsyncAnthropic", "Client", "AsyncClient"],
    "openai": ["OpenAI", "AsyncOpenAI", "Client", "AsyncClient"],
}


def ask(client: Any) -> Any:
    if isinstance(client, (Anthropic, AsyncAnthropic)):
        reply = client.messages.create(model="claude-sonnet-4-6", max_tokens=16, messages=HELLO)
    else:
        reply = client.chat.completions.create(model="gpt-4o", messages=HELLO)
    if not isinstance(client, (AsyncAnthropic, AsyncOpenAI)):
        return reply

    async def main() -> Any:
        try:
            return await reply
        finally:
            await client.close()

    return asyncio.run(main())


def used() -> int:
    return tokencap.get_status().dimensions["session"].used


class OwnOpenAI(OpenAI):
    """As a framework's adapter may be."""

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.name_of_mine = "adapter"


@pytest.mark.parametrize("make", [Anthropic, OpenAI, AsyncAnthropic, AsyncOpenAI, OwnOpenAI])
def test_names_imported_before_the_patch_make_guarded_clients(make: Any, loopback: LoopbackProvider) -> None:
    tokencap.patch(limit=50_000)
    client = make()
    ask(client)
    assert used() == loopback.tokens > 0
    assert type(client) is make
    assert isinstance(client, make.__mro__[1])


@pytest.mark.parametrize(("sdk", "name"), [(sdk, name) for sdk, names in SDKS.items() for name in names])
def test_aliases_are_guarded(sdk: str, name: str, loopback: LoopbackProvider) -> None:
    tokencap.patch()
    ask(getattr(sys.modules[sdk], name)())
    assert used() == loopback.tokens > 0


def test_azure_clients_are_guarded(loopback: LoopbackProvider) -> None:
    tokencap.patch()
    client = openai.AzureOpenAI(
        api_key="k", api_version="2024-10-21", azure_endpoint=loopback.url, max_retries=0
    )
    ask(client)
    assert used() == loopback.tokens > 0


def test_a_subclass_that_takes_its_own_arguments_is_guarded(loopback: LoopbackProvider) -> None:
    class Adapter(Anthropic):
        def __init__(self, tenant: str) -> None:
            self.tenant = tenant
            super().__init__()

    tokencap.patch()
    ask(Adapter("acme"))
    assert used() == loopback.tokens > 0


def test_copies_are_guarded_and_counted_once(loopback: LoopbackProvider) -> None:
    tokencap.patch()
    client = OpenAI()
    ask(client.with_options(timeout=9).copy().with_options(max_retries=0))
    assert used() == loopback.tokens > 0


def test_module_level_calls_are_guarded(loopback: LoopbackProvider, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(openai, "api_key", "k", raising=False)
    openai._reset_client()  # type: ignore[no-untyped-call]
    tokencap.patch()
    openai.chat.completions.create(model="gpt-4o", messages=HELLO)
    openai.responses.create(model="gpt-5", input="hello")
    assert used() == loopback.tokens > 0
    openai._load_client().close()  # type: ignore[no-untyped-call]
    openai._reset_client()  # type: ignore[no-untyped-call]


def test_a_client_made_before_the_patch_is_plain(loopback: LoopbackProvider) -> None:
    client = OpenAI()
    tokencap.patch()
    ask(client)
    assert used() == 0


def test_the_limit_stops_every_client(loopback: LoopbackProvider) -> None:
    tokencap.patch(limit=20)
    ask(OpenAI())
    assert used() > 20
    calls = loopback.calls
    for make in (Anthropic, OpenAI, AsyncOpenAI):
        with pytest.raises(BudgetExceededError):
            ask(make())
    assert loopback.calls == calls


@pytest.mark.parametrize("make", [Anthropic, AsyncAnthropic, OpenAI, AsyncOpenAI])
def test_a_refusal_is_no_transient_error_and_no_retry_repeats_it(
    make: Any, loopback: LoopbackProvider
) -> None:
    guard = tokencap.init(Policy.blocking(1))
    tokencap.patch()
    endings: list[str] = []
    guard.on_call(lambda record: endings.append(record.ending))
    with pytest.raises(BudgetExceededError) as refused:
        ask(make(max_retries=5))
    # What the retry logic of frameworks looks at, where it does not know an error's type.
    assert refused.value.status_code == 402
    assert (loopback.tokens, endings) == (0, ["blocked"])


def test_after_unpatch_every_client_is_plain(loopback: LoopbackProvider) -> None:
    originals = {
        base: base.__dict__["__init__"]
        for sdk in (anthropic, openai)
        for base in (sdk._base_client.SyncAPIClient, sdk._base_client.AsyncAPIClient)
    }
    tokencap.patch(limit=50_000)
    during = OpenAI()
    ask(during)
    spent = used()
    tokencap.unpatch()
    assert {base: base.__dict__["__init__"] for base in originals} == originals
    ask(during)
    ask(during.with_options(timeout=9))
    after = OpenAI()
    ask(after)
    assert "request" not in vars(after)
    assert used() == spent
    with pytest.raises(ConfigurationError, match="no longer guarded"):
        during.get_status()  # type: ignore[attr-defined]
    tokencap.unpatch()


def test_patching_again_guards_new_clients_only(loopback: LoopbackProvider) -> None:
    tokencap.patch()
    old = OpenAI()
    tokencap.unpatch()
    tokencap.patch()
    ask(old)
    assert used() == 0
    ask(OpenAI())
    assert used() == loopback.tokens // 2


def test_patching_twice_is_refused() -> None:
    tokencap.patch()
    with pytest.raises(
        ConfigurationError, match=r"patch\(\) is active already; call tokencap\.unpatch\(\) first"
    ):
        tokencap.patch()


def test_clients_follow_the_guard_of_the_moment_and_refuse_while_there_is_none(
    loopback: LoopbackProvider,
) -> None:
    tokencap.patch(limit=50_000)
    client, aclient = Anthropic(), AsyncAnthropic()
    ask(client)
    first = used()
    tokencap.teardown()
    calls = loopback.calls
    for one in (client, aclient, Anthropic()):
        with pytest.raises(ConfigurationError, match=r"no active Guard any more"):
            ask(one)
    assert loopback.calls == calls
    guard = tokencap.init(Policy.blocking(70_000))
    ask(client)
    assert (used(), tokencap.get_status().dimensions["session"].limit) == (loopback.tokens - first, 70_000)
    guard.teardown()
    with pytest.raises(ConfigurationError, match=r"no active Guard any more"):
        ask(client)


def test_a_patched_client_tells_the_status(loopback: LoopbackProvider) -> None:
    tokencap.patch(limit=50_000)
    client: Any = OpenAI()
    ask(client)
    assert client.get_status().dimensions == tokencap.get_status().dimensions


@pytest.mark.parametrize(
    ("providers", "guarded"),
    [
        (None, {"anthropic", "openai"}),
        (["anthropic"], {"anthropic"}),
        (("openai",), {"openai"}),
        ([tokencap.Provider.OPENAI], {"openai"}),
        ({"anthropic", tokencap.Provider.OPENAI}, {"anthropic", "openai"}),
        (["openai", "openai"], {"openai"}),
        (iter(["anthropic"]), {"anthropic"}),
    ],
)
def test_only_the_providers_named_are_patched(
    providers: Any, guarded: set[str], loopback: LoopbackProvider
) -> None:
    tokencap.patch(providers=providers)
    found = {
        name
        for name, client in (("anthropic", Anthropic()), ("openai", OpenAI()))
        if "request" in vars(client)
    }
    assert found == guarded


@pytest.mark.parametrize(
    ("providers", "said"),
    [
        ([], "providers is empty"),
        (["grok"], "'grok'; accepted are 'anthropic', 'openai'"),
        (["anthropic", None], "None; accepted are"),
        ("anthropic", r"it must be a list like \['anthropic'\]"),
        (b"openai", "it must be a list"),
        (3, "it must be a list"),
    ],
)
def test_bad_providers_are_refused_and_nothing_is_patched(providers: Any, said: str, loopback: Any) -> None:
    with pytest.raises(ConfigurationError, match=said):
        tokencap.patch(providers=providers)
    assert "request" not in vars(OpenAI())
    with pytest.raises(ConfigurationError, match="no Guard is active"):
        tokencap.get_status()
    tokencap.patch()


# -- other instrumentation -------------------------------------------------------------------------------


class Tracer:
    """Wraps `request` the way Logfire does: on a class or on an instance, holding what was there."""

    def __init__(self, target: Any) -> None:
        self.target, self.own = target, "request" in vars(target)
        self.original = target.request
        self.seen = 0
        tracer = self

        @functools.wraps(self.original)
        def request(*args: Any, **kwargs: Any) -> Any:
            tracer.seen += 1
            return tracer.original(*args, **kwargs)

        target.request = request

    def remove(self) -> None:
        self.target.request = self.original


@pytest.fixture
def clean_class() -> Any:
    before = vars(OpenAI).get("request")
    yield
    if before is None and "request" in vars(OpenAI):
        del OpenAI.request


@pytest.mark.usefixtures("clean_class")
@pytest.mark.parametrize("order", ["tracer, patch", "patch, tracer", "patch, client, tracer"])
def test_tracing_of_the_class_and_a_patch_see_every_call_once_in_any_order(
    order: str, loopback: LoopbackProvider
) -> None:
    client: Any = None
    tracer: Any = None
    for step in order.split(", "):
        if step == "tracer":
            tracer = Tracer(OpenAI)
        elif step == "patch":
            tokencap.patch()
        else:
            client = OpenAI()
    client = client or OpenAI()
    ask(client)
    list(client.chat.completions.create(model="gpt-4o", messages=HELLO, stream=True))
    assert (tracer.seen, used()) == (2, loopback.tokens)
    tracer.remove()
    ask(client)
    assert (tracer.seen, used()) == (2, loopback.tokens)
    tokencap.unpatch()
    spent = used()
    ask(client)
    assert (loopback.calls, used()) == (4, spent)


@pytest.mark.parametrize("guarding", ["wrap", "patch"])
def test_tracing_of_a_guarded_instance_sees_every_call_once(
    guarding: str, loopback: LoopbackProvider
) -> None:
    if guarding == "wrap":
        client: Any = tokencap.wrap(OpenAI())
    else:
        tokencap.patch()
        client = OpenAI()
    tracer = Tracer(client)
    ask(client)
    assert (tracer.seen, used()) == (1, loopback.tokens)
    tracer.remove()
    ask(client)
    assert (tracer.seen, used()) == (1, loopback.tokens)


def test_a_refused_call_passes_a_tracer_as_an_ordinary_error(loopback: LoopbackProvider) -> None:
    client = tokencap.wrap(OpenAI(), limit=1)
    tracer = Tracer(client)
    with pytest.raises(BudgetExceededError):
        ask(client)
    assert (tracer.seen, loopback.calls) == (1, 0)


def test_a_constructor_wrapped_since_keeps_working_after_unpatch(loopback: LoopbackProvider) -> None:
    base = openai._base_client.SyncAPIClient
    pristine = base.__init__
    made: list[Any] = []
    tokencap.patch()
    ours = base.__init__

    def theirs(self: Any, *args: Any, **kwargs: Any) -> None:
        ours(self, *args, **kwargs)
        made.append(self)

    base.__init__ = theirs  # type: ignore[method-assign]
    try:
        tokencap.unpatch()
        client = OpenAI()
        assert made == [client]
        assert "request" not in vars(client)
        ask(client)
    finally:
        base.__init__ = pristine  # type: ignore[method-assign]


# -- in a process of its own -----------------------------------------------------------------------------

ROOT = Path(__file__).parents[1]


def fresh(code: str, cwd: Path, **env: str) -> str:
    environ = {**os.environ, "PYTHONPATH": str(ROOT / "src"), **env}
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", textwrap.dedent(code)],
        capture_output=True,
        text=True,
        timeout=300,
        cwd=cwd,
        env=environ,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


LOADED = """
        import gc, sys; gc.disable()  # an SDK is loaded sooner
        def loaded():
            return sorted(name for name in sys.modules if name.startswith(("openai", "anthropic")))
"""


def test_guarding_first_thing_in_a_fresh_process_loads_no_part_of_an_sdk_that_making_a_client_does_not(
    loopback: LoopbackProvider, tmp_path: Path
) -> None:
    # Some parts take half a second to load.
    code = """
        import openai, anthropic
        clients = openai.OpenAI(), anthropic.Anthropic()
        print(bare := loaded())
        import tokencap; [tokencap.wrap(client, quiet=True) for client in clients]
        assert loaded() == bare
    """
    bare = fresh(LOADED + code, tmp_path, **loopback.environ)
    assert "'openai'" in bare
    assert "'openai.resources.chat.completions'" not in bare

    printed = fresh(
        LOADED
        + """
        import tokencap
        tokencap.patch(limit=50_000)
        import openai, anthropic
        clients = openai.OpenAI(), anthropic.Client()
        print(loaded())
        hi = [{"role": "user", "content": "hi"}]
        clients[0].chat.completions.create(model="gpt-4o", messages=hi)
        clients[1].messages.create(model="m", max_tokens=5, messages=hi)
        state = tokencap.get_status().dimensions["session"]
        print(f"session: {state.used:,} / {state.limit:,} tokens ({state.pct_used:.1%})")
        """,
        tmp_path,
        **loopback.environ,
    )
    spent = loopback.tokens
    assert printed == (
        "[tokencap] patched: anthropic + openai\n"
        "           backend=sqlite:tokencap.db limit=50000 tokens\n"
        f"{bare}"
        f"session: {spent} / 50,000 tokens ({spent / 50_000:.1%})\n"
    )
    assert (tmp_path / "tokencap.db").stat().st_mode & 0o777 == 0o600


BLOCKED = """
    import importlib.abc, sys
    class Blocked(importlib.abc.MetaPathFinder):
        def find_spec(self, name, path=None, target=None):
            if name.split(".")[0] in {blocked}:
                raise ModuleNotFoundError(f"No module named {{name!r}}", name=name)
    sys.meta_path.insert(0, Blocked())
    import tokencap
"""


def test_an_sdk_that_is_not_installed_is_named_with_its_extra(tmp_path: Path) -> None:
    code = (
        BLOCKED.format(blocked={"anthropic"})
        + """
    try:
        tokencap.patch(providers=["anthropic"])
    except tokencap.ConfigurationError as error:
        print(error)
    tokencap.patch()
    """
    )
    assert fresh(code, tmp_path).splitlines() == [
        'the anthropic SDK is not installed; pip install "tokencap[anthropic]"',
        "[tokencap] patched: openai",
        "           backend=sqlite:tokencap.db (no limit set)",
    ]


def test_without_any_sdk_there_is_nothing_to_patch(tmp_path: Path) -> None:
    code = (
        BLOCKED.format(blocked={"openai", "anthropic"})
        + """
    try:
        tokencap.patch()
    except tokencap.ConfigurationError as error:
        print(error)
    """
    )
    printed = fresh(code, tmp_path)
    assert "neither the anthropic nor the openai SDK is installed" in printed
    assert 'pip install "tokencap[anthropic]"' in printed

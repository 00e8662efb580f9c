"""Every endpoint row in every variant: counted to the token, once, unchanged, and stopped when refused."""

from __future__ import annotations

import functools
from typing import Any

import openai
import paths_cohere  # noqa: F401  adds its variants
import paths_gemini  # noqa: F401  adds its variants
import paths_mistral  # noqa: F401  adds its variants
import pytest
from paths import CHAT, MESSAGE, ROWS, VARIANTS, Variant

import tokencap
import wire as wires
from tokencap import BudgetExceededError, Policy, Provider
from tokencap.providers import PROVIDERS
from wire import Books, Missing, Wire, at, drive, is_refusal

pytestmark = pytest.mark.filterwarnings(
    # The SDKs say so of whole families of methods, which go on spending.
    "ignore::DeprecationWarning",
    # ... and the schema of a streamed, parsed reply is not the one pydantic has been told.
    "ignore:Pydantic serializer warnings",
    "ignore:The generate_images method is deprecated",
)

CASE_IDS = [f"{v.provider}-{v.name}".replace(" ", "_") for v in VARIANTS]


@pytest.fixture(params=["wrap", "patch"])
def guarding(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(params=["sync", "async"])
def is_async(request: pytest.FixtureRequest) -> bool:
    return bool(request.param == "async")


class Patched:
    """A Guard over every client made while it is active."""

    def __init__(self, backend: Any, provider: str = "") -> None:
        self.backend = backend
        # The first two are patched without being asked for.
        self.providers = None if provider in ("", "anthropic", "openai") else [provider]

    def __enter__(self) -> Books:
        guard = tokencap.init(Policy.blocking(10**9), backend=self.backend, otel_enabled=False, quiet=True)
        tokencap.patch(providers=self.providers)
        return Books(self.backend, guard=guard)

    def __exit__(self, *exc: object) -> None:
        tokencap.unpatch()
        tokencap.teardown()


def perform(variant: Variant, wire: Wire, is_async: bool, books: Books | None, wrapped: bool) -> Any:
    """Make the calls of a variant on a fresh client, guarded by `books` if given."""

    async def run() -> Any:
        client = wire.client(variant.kind, is_async)
        if books is not None and wrapped:
            client = books.guard.wrap(client)
        with tokencap.scope(tags={"variant": variant.name}):
            return wires.plain(await variant.run(kind.face(client, is_async)))

    kind = wires.KINDS[variant.kind]
    if "stream" in variant.name.split("response")[-1]:
        wires.require(kind.streams_need, f"streaming from {kind.name}")
    return drive(run(), is_async, wires.one_loop() if is_async else None)


@functools.cache
def unguarded(variant: Variant, is_async: bool) -> tuple[Any, Wire]:
    """What the caller sees without a Guard, and what the provider does."""
    wire = Wire()
    try:
        return perform(variant, wire, is_async, None, False), wire
    except TypeError as error:
        if "unexpected keyword argument 'stream'" in str(error):
            raise Missing("the method of this SDK does not stream") from error
        if "SchemaSerializer" in str(error):
            raise Missing("pydantic cannot dump what this SDK made of the reply") from error
        raise
    except AttributeError as error:
        if "'__discriminator__'" in str(error):
            raise Missing("this SDK is older than Python 3.14 and cannot read such a reply there") from error
        raise


@pytest.mark.parametrize("variant", VARIANTS, ids=CASE_IDS)
def test_a_call_is_counted_to_the_token_once_and_its_reply_is_untouched(
    variant: Variant, is_async: bool, guarding: str, backend: Any, record_property: Any
) -> None:
    try:
        expected, bare = unguarded(variant, is_async)
    except Missing as missing:
        pytest.skip(str(missing))

    wrapped = guarding == "wrap"
    with Books(backend) if wrapped else Patched(backend, variant.provider) as books:
        wire = Wire()
        seen = perform(variant, wire, is_async, books, wrapped)

        assert seen == expected
        assert len(books.calls) == variant.calls
        assert {record.provider for record in books.calls} == {variant.provider}
        assert all(record.tags == {"variant": variant.name} for record in books.calls)
        assert [request.path for request in wire.requests] == [request.path for request in bare.requests]
        if variant.exact:
            assert books.used == wire.tokens == bare.tokens
            assert not any(record.estimated for record in books.calls)
        else:
            assert books.used == sum(record.tokens for record in books.calls) > 0
            assert all(record.estimated and record.tokens >= record.estimate for record in books.calls)
        assert books.reserved == 0

        books.use_up()
        before = len(wire.sent)
        with pytest.raises(Exception) as refused:
            perform(variant, wire, is_async, books, wrapped)
        assert is_refusal(refused.value.__context__ if variant.masks else refused.value)
        free = ("moderations", "/models/gpt-5", "input_tokens", ":countTokens")
        assert [request for request in wire.sent[before:] if not request.path.endswith(free)] == []
        assert books.reserved == 0
    record_property("exact", (variant.provider, f"{variant.name} {'async' if is_async else 'sync'}"))


@pytest.mark.parametrize(("provider", "row"), ROWS)
def test_every_row_has_variants(provider: str, row: str) -> None:
    assert [v.name for v in VARIANTS if (v.provider, v.row) == (provider, row)], (
        f"{provider} {row} is in the table of endpoints and is run by no variant: add one to paths.py"
    )


def test_the_variants_are_many_and_distinct() -> None:
    names = [(v.provider, v.name) for v in VARIANTS]
    assert len(set(names)) == len(names)
    assert 2 * len(names) >= 100


# -- patch() only ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("way", ["plain", "stream", "raw", "embeddings"])
def test_module_level_calls_are_counted_under_patch(
    way: str, backend: Any, monkeypatch: Any, record_property: Any
) -> None:
    wire = Wire()
    for name, value in (("api_key", "none"), ("base_url", wires.OPENAI_URL + "/"), ("max_retries", 0)):
        monkeypatch.setattr(openai, name, value)
    monkeypatch.setattr(openai, "http_client", wire.http_client("openai", False))
    monkeypatch.setattr(openai, "api_type", "openai")

    def call() -> Any:
        openai._reset_client()  # type: ignore[attr-defined]
        chat = openai.chat.completions
        if way == "stream":
            return list(chat.create(**CHAT, stream=True))
        if way == "raw":
            return chat.with_raw_response.create(**CHAT).parse()
        if way == "embeddings":
            return openai.embeddings.create(model="text-embedding-x", input="hi", encoding_format="float")
        return chat.create(**CHAT)

    try:
        bare = wires.plain(call())
        wire.store = type(wire.store)()
        with Patched(backend) as books:
            before = wire.tokens
            assert wires.plain(call()) == bare
            assert books.used == wire.tokens - before
            assert (len(books.calls), books.reserved) == (1, 0)
            books.use_up()
            sent = len(wire.sent)
            with pytest.raises(BudgetExceededError):
                call()
            assert len(wire.sent) == sent
    finally:
        openai._reset_client()  # type: ignore[attr-defined]
    record_property("exact", ("openai", f"module level {way}"))


def test_module_level_client_made_before_patch_is_not_taken_over(backend: Any, monkeypatch: Any) -> None:
    """Documented: patch() guards the clients that are made from then on."""
    wire = Wire()
    client = wire.client("openai", False)
    with Patched(backend) as books:
        client.chat.completions.create(**CHAT)
        assert books.used == 0


def test_names_imported_before_patch_are_guarded_and_plain_again_after_it(backend: Any) -> None:
    from anthropic import Anthropic, Client

    wire = Wire()
    made = {}
    with Patched(backend) as books:
        for cls in (Anthropic, Client):
            made[cls] = cls(api_key="none", http_client=wire.http_client("anthropic", False))
            assert isinstance(made[cls], Anthropic)
            made[cls].messages.create(**MESSAGE)
        assert books.used == wire.tokens > 0
        used = books.used
        tokencap.unpatch()
        made[Anthropic].messages.create(**MESSAGE)
        Anthropic(api_key="none", http_client=wire.http_client("anthropic", False)).messages.create(**MESSAGE)
        assert books.used == used < wire.tokens


# -- what costs nothing ------------------------------------------------------------------------------------

FREE = [(provider.value, path) for provider in Provider for path in PROVIDERS[provider].FREE]
REPORTS_TOKENS = {"id": "x", "usage": {"input_tokens": 70, "output_tokens": 7, "total_tokens": 77}}


@pytest.mark.parametrize(("provider", "path"), FREE)
def test_free_paths_are_never_charged_and_never_refused(
    provider: str, path: str, is_async: bool, backend: Any
) -> None:
    wire = Wire()
    told: Any = {("POST", ".*" + path.replace("{}", "[^/]+")): lambda _: wires.reply_json(REPORTS_TOKENS)}
    wire.answers = {**told, **wire.answers}
    with Books(backend) as books:
        try:
            client = books.guard.wrap(wire.client(provider, is_async))
        except Missing as missing:
            pytest.skip(str(missing))
        books.use_up()
        used = books.used

        async def call() -> Any:
            url = path.replace("{}", "some")
            return await wires.KINDS[provider].post(client, url, {"model": "m"}, is_async)

        assert drive(call(), is_async) == REPORTS_TOKENS
        assert books.used == used
        assert books.calls == []


FREE_CALLS = {
    ("anthropic", "messages.count_tokens"): {"model": "claude-x", "messages": MESSAGE["messages"]},
    ("anthropic", "beta.messages.count_tokens"): {"model": "claude-x", "messages": MESSAGE["messages"]},
    ("anthropic", "models.list"): {},
    ("anthropic", "models.retrieve"): {"model_id": "claude-haiku-4-5"},
    ("openai", "models.list"): {},
    ("openai", "models.retrieve"): {"model": "gpt-5"},
    ("openai", "moderations.create"): {"input": "hello"},
    ("openai", "responses.input_tokens.count"): {"model": "gpt-x", "input": "hello"},
}


@pytest.mark.parametrize(("provider", "name"), FREE_CALLS)
def test_free_methods_work_with_the_budget_used_up(
    provider: str, name: str, is_async: bool, backend: Any
) -> None:
    arguments = FREE_CALLS[provider, name]

    async def call(client: Any) -> Any:
        result = at(client, name)(**arguments)
        return wires.plain(await (wires.listed(result) if name.endswith("list") else wires.done(result)))

    try:
        expected = drive(call(Wire().client(provider, is_async)), is_async)
    except Missing as missing:
        pytest.skip(str(missing))
    with Books(backend) as books:
        client = books.guard.wrap(Wire().client(provider, is_async))
        books.use_up()
        used = books.used
        assert drive(call(client), is_async) == expected
        assert (books.used, books.calls) == (used, [])

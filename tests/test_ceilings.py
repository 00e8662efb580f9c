"""Ceilings of a single call: a prompt that is too long is refused, an output cap that is too high lowered."""

from __future__ import annotations

from typing import Any

import pytest

from tokencap import BudgetExceededError, DimensionPolicy, Policy
from tokencap.backends.memory import MemoryBackend
from wire import Books, Wire, done, drive, listed

OPEN = {"session": DimensionPolicy()}
STRICT = {"session": DimensionPolicy(limit=100_000, strict=True)}
CALLS = {
    "messages": ("anthropic", lambda client: client.messages.create, "max_tokens"),
    "chat": ("openai", lambda client: client.chat.completions.create, "max_tokens"),
    "responses": ("openai", lambda client: client.responses.create, "max_output_tokens"),
}
EVERY_CALL = pytest.mark.parametrize("name", CALLS)
BOTH = pytest.mark.parametrize("is_async", [False, True], ids=["sync", "async"])


class Way:
    """A guarded client on a provider in memory, and one call of it."""

    def __init__(self, name: str, policy: Policy, is_async: bool = False) -> None:
        self.wire = Wire()
        self.books = Books(MemoryBackend(), policy)
        sdk, self._method, self.cap_field = CALLS[name]
        self._client = self.books.guard.wrap(self.wire.client(sdk, is_async))
        self._name, self._is_async = name, is_async

    def __call__(self, text: str = "hello", cap: int | None = None, **more: Any) -> Any:
        body: dict[str, Any] = {"model": "claude-x" if self._name == "messages" else "gpt-x"}
        if self._name == "responses":
            body["input"] = text
        else:
            body["messages"] = [{"role": "user", "content": text}]
        if cap is not None:
            body[self.cap_field] = cap
        body.update(more)

        async def call() -> Any:
            result = await done(self._method(self._client)(**body))
            return await listed(result) if more.get("stream") else result

        return drive(call(), self._is_async)

    @property
    def sent(self) -> Any:
        """The body of the last request."""
        return self.wire.sent[-1].body


@EVERY_CALL
@BOTH
@pytest.mark.parametrize("dimensions", [OPEN, STRICT], ids=["open", "strict"])
def test_a_cap_above_the_ceiling_is_lowered_and_one_below_is_left(
    name: str, is_async: bool, dimensions: Any
) -> None:
    way = Way(name, Policy(dimensions, max_output_tokens=50), is_async)
    with way.books:
        way("[[output=900]]", cap=400)
        assert way.sent[way.cap_field] == 50
        assert way.wire.entries[-1].output_tokens == 50
        way("[[output=900]]", cap=20)
        assert way.sent[way.cap_field] == 20
        assert way.books.used == way.wire.tokens


@pytest.mark.parametrize("name", ["chat", "responses"])
@pytest.mark.parametrize("stream", [False, True], ids=["plain", "stream"])
def test_the_ceiling_is_written_into_a_call_that_states_no_cap(name: str, stream: bool) -> None:
    way = Way(name, Policy(OPEN, max_output_tokens=50))
    with way.books:
        way("[[output=900]]", **({"stream": True} if stream else {}))
        assert way.wire.entries[-1].output_tokens == 50
        assert way.books.used == way.wire.tokens


def test_the_ceiling_is_for_all_choices_together() -> None:
    way = Way("chat", Policy(OPEN, max_output_tokens=50))
    with way.books:
        way("[[output=900]]", n=3)
        assert way.wire.entries[-1].output_tokens == 48


def test_without_a_ceiling_no_cap_is_touched() -> None:
    way = Way("chat", Policy(OPEN, max_prompt_tokens=1_000))
    with way.books:
        way("[[output=900]]")
        assert not {"max_tokens", "max_completion_tokens"} & set(way.sent)
        assert way.wire.entries[-1].output_tokens == 900


def test_a_ceiling_that_leaves_no_room_for_a_reply_refuses_the_call() -> None:
    way = Way("messages", Policy(OPEN, max_output_tokens=1_000))
    with way.books:
        with pytest.raises(BudgetExceededError, match="max_output_tokens=1,000 leaves too little room"):
            way(cap=9_000, thinking={"type": "enabled", "budget_tokens": 4_000})
        assert way.wire.requests == []


def test_embeddings_have_no_output_to_cap() -> None:
    way = Way("chat", Policy(OPEN, max_output_tokens=50))
    with way.books:
        client = way.books.guard.wrap(way.wire.client("openai", False))
        client.embeddings.create(model="text-embedding-3-small", input="hello")
        assert not {"max_tokens", "max_output_tokens"} & set(way.sent)


@EVERY_CALL
@BOTH
@pytest.mark.parametrize("dimensions", [OPEN, STRICT], ids=["open", "strict"])
def test_a_prompt_above_the_ceiling_is_refused_before_anything_is_reserved_or_sent(
    name: str, is_async: bool, dimensions: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    way = Way(name, Policy(dimensions, max_prompt_tokens=100), is_async)
    with way.books as books:
        way("short", cap=16)
        reserved: list[Any] = []
        monkeypatch.setattr(books.guard.runtime, "reserve", reserved.append)
        with pytest.raises(BudgetExceededError) as caught:
            way("a long story " * 200, cap=16)
        assert reserved == []
        assert len(way.wire.sent) == 1
        assert books.used == way.wire.tokens
        check = caught.value.check_result
        assert check.need > 100
        assert check.violated == []
        assert list(check.states) == ["session"]
        assert not caught.value.contended
        assert str(caught.value) == (
            f"the prompt takes about {check.need:,} tokens, and max_prompt_tokens is 100; "
            "the call was not sent"
        )
        assert books.last.ending == "blocked"


def test_a_prompt_that_only_its_bound_puts_above_the_ceiling_is_counted_and_sent() -> None:
    way = Way("chat", Policy(OPEN, max_prompt_tokens=100))
    with way.books as books:
        # 60 words of 5 letters: at most 360 tokens, about 60 to 90.
        way("hello " * 60)
        assert len(way.wire.sent) == 1
        assert books.last.estimate <= 100


@pytest.mark.parametrize("field", ["max_prompt_tokens", "max_output_tokens"])
@pytest.mark.parametrize("bad", [0, -1, 1.5, "100", True])
def test_a_ceiling_is_a_whole_number_of_tokens(field: str, bad: Any) -> None:
    with pytest.raises(ValueError, match=field):
        Policy(OPEN, **{field: bad})

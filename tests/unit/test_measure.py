"""Sizes of requests: whatever JSON a request may hold, it is measured and never in the way."""

from __future__ import annotations

from typing import Any

import pytest
from anthropic.types import RawContentBlockDeltaEvent
from hypothesis import given
from hypothesis import strategies as st
from openai.types.chat import ChatCompletionChunk
from openai.types.responses import ResponseTextDeltaEvent

from tokencap import Provider
from tokencap.providers import PROVIDERS
from tokencap.providers.anthropic import MessagesTally
from tokencap.providers.measure import IMAGE_BOUND, measure
from tokencap.providers.openai import ChatTally, ResponsesTally

SCHEMAS = [
    {"type": ["string", "null"]},
    {"type": "object", "properties": {"type": {"type": "string", "description": "of what kind"}}},
    {"type": None},
    {"type": 5},
    {"type": {"type": {"type": ["array"]}}},
]


@pytest.mark.parametrize("schema", SCHEMAS)
def test_a_schema_that_has_no_plain_type_is_measured_as_what_it_is(schema: Any) -> None:
    size = measure({"tools": [{"name": "look", "input_schema": schema}]})
    assert 0 < size.guess <= size.bound < IMAGE_BOUND


JSON: Any = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(
            st.sampled_from(["type", "role", "content", "text", "image_url", "source", "data", "file", "x"]),
            inner,
        )
    ),
    max_leaves=20,
)


@given(
    body=st.dictionaries(st.sampled_from(["model", "messages", "input", "tools", "prompt", "n", "x"]), JSON)
)
def test_no_request_is_too_odd_to_be_measured(body: dict[str, Any]) -> None:
    for provider in Provider:
        for row in PROVIDERS[provider].ENDPOINTS:
            size = row.dialect.size(body)
            assert size.bound >= 0
            assert size.guess >= 0
            row.dialect.output_cap(body)
            row.dialect.choices(body)
            row.dialect.unbounded(body)
            row.dialect.history(body)
            row.dialect.ask_usage(body)


@given(reply=JSON)
def test_no_reply_is_too_odd_to_be_read(reply: Any) -> None:
    for provider in Provider:
        for row in PROVIDERS[provider].ENDPOINTS:
            for read in ("reply", "event"):
                tally = row.dialect.tally()
                getattr(tally, read)(reply)
                assert tally.usage is None or tally.usage.total >= 0


@pytest.mark.parametrize(
    ("delta", "ending", "characters"),
    [
        ({"content": "word "}, None, 5),
        ({"content": "end"}, "stop", 3),
        ({"content": "", "reasoning_content": "hm, hm"}, None, 6),
        ({"content": None, "reasoning": "hm"}, None, 2),
        ({"content": "see ", "tool_calls": [{"index": 0, "function": {"arguments": "{}"}}]}, None, 6),
        ({"refusal": "no"}, None, 2),
        ({}, "length", 0),
    ],
)
def test_the_text_of_a_chunk_counts_alike_as_a_model_and_as_a_dict(
    delta: dict[str, Any], ending: str | None, characters: int
) -> None:
    choice = {"index": 0, "delta": delta, "finish_reason": ending}
    chunk = {"id": "c", "object": "chat.completion.chunk", "created": 1, "model": "m", "choices": [choice]}
    for payload in (chunk, ChatCompletionChunk.model_validate({**chunk, "usage": None})):
        tally = ChatTally()
        assert not tally.event(payload)
        assert (tally.characters, tally.awaited) == (characters, ending is not None)


TEXT_DELTA = {
    "type": "response.output_text.delta", "item_id": "i", "output_index": 0, "content_index": 0,
    "delta": "word ", "sequence_number": 1, "logprobs": [],
}  # fmt: skip


@pytest.mark.parametrize(
    ("tally_class", "model", "event", "characters"),
    [
        (ResponsesTally, ResponseTextDeltaEvent, TEXT_DELTA, 5),
        *(
            (
                MessagesTally,
                RawContentBlockDeltaEvent,
                {"type": "content_block_delta", "index": 0, "delta": delta},
                characters,
            )
            for delta, characters in (
                ({"type": "text_delta", "text": "word "}, 5),
                ({"type": "text_delta", "text": ""}, 0),
                ({"type": "thinking_delta", "thinking": "hm"}, 2),
                ({"type": "input_json_delta", "partial_json": '{"a'}, 3),
                ({"type": "signature_delta", "signature": "abc"}, 0),
            )
        ),
    ],
)
def test_the_text_of_an_event_counts_alike_as_a_model_and_as_a_dict(
    tally_class: Any, model: Any, event: dict[str, Any], characters: int
) -> None:
    for payload in (event, model.model_validate(event)):
        tally = tally_class()
        tally.awaited = True
        assert not tally.event(payload)
        assert tally.characters == characters
        if tally_class is MessagesTally:
            assert not tally.awaited


@pytest.mark.parametrize("absurd", [10**30, 2**53, -5, True, "7", float("nan"), float("inf"), None])
def test_what_no_model_can_have_counted_is_no_count(absurd: Any) -> None:
    tally = ChatTally()
    tally.reply({"usage": {"prompt_tokens": absurd, "completion_tokens": 2, "total_tokens": 2}})
    assert tally.usage is not None
    assert tally.usage.total == 2

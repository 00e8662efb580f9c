"""Sizes of requests: whatever JSON a request may hold, it is measured and never in the way."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tokencap import Provider
from tokencap.providers import PROVIDERS
from tokencap.providers.measure import IMAGE_BOUND, measure

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

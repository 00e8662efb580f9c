"""Tracing beside a Guard: whichever comes first, the same spans as without it, and exact counts.

Each library is another install, so `make test-instrumentation` runs this in an environment that has them all.
"""

from __future__ import annotations

import functools
import importlib.util
from typing import Any

import anthropic
import pytest

from forked import forks, in_a_fork
from needs import since

NEEDS = {
    "sdk": "opentelemetry.sdk",
    "logfire": "logfire",
    "langfuse": "langfuse",
    "openllmetry": "opentelemetry.instrumentation.openai",
}
ORDERS = ["before", "after", "wrap"]
LEAST_SPANS = {"sdk": 7, "logfire": 19, "langfuse": 12, "openllmetry": 19}
"""How many there are bare, so that a comparison of nothing with nothing does not pass."""


def needed(module: str) -> bool:
    try:
        return importlib.util.find_spec(module) is not None
    except ModuleNotFoundError:
        return False


@functools.cache
def seen(library: str, order: str) -> Any:
    from probe import look

    return in_a_fork(lambda: look(library, order))


@pytest.fixture(params=list(NEEDS))
def library(request: pytest.FixtureRequest) -> str:
    if not needed(NEEDS[request.param]):
        pytest.skip(f"{NEEDS[request.param]} is not installed")
    return str(request.param)


@forks
@pytest.mark.parametrize("order", ORDERS)
def test_spans_are_what_they_are_without_a_guard_and_counts_are_exact(library: str, order: str) -> None:
    if library == "sdk":
        since(anthropic, 2, "traces nothing by itself")
    bare, guarded = seen(library, "bare"), seen(library, order)
    assert len(bare["spans"]) >= LEAST_SPANS[library]
    assert [span["name"] for span in guarded["spans"]] == [span["name"] for span in bare["spans"]]
    assert guarded["spans"] == bare["spans"]
    assert guarded["used"] == guarded["billed"] == bare["billed"] > 0
    assert (guarded["reserved"], guarded["calls"]) == (0, guarded["requests"])
    # The streams that did not ask for usage were asked for it, and their spans do not show it.
    assert guarded["asked"] == bare["asked"] + 2

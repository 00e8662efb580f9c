"""The one meaning of each token count. Dialects translate; nothing after them asks who the provider was."""

from __future__ import annotations

from typing import NamedTuple

__all__ = ["TokenUsage"]


class TokenUsage(NamedTuple):
    """What a provider reported for one call."""

    input_tokens: int = 0
    """All of the prompt: cache reads, cache writes and server-side compaction included."""
    output_tokens: int = 0
    """All that was generated: reasoning, rejected predictions and compaction included."""
    cache_read_tokens: int = 0
    """The part of the input that was read from a cache."""
    cache_write_tokens: int = 0
    """The part of the input that was written to a cache."""
    reasoning_tokens: int = 0
    """The part of the output the caller does not see."""

    @property
    def total(self) -> int:
        """What a budget is charged: the same for a cached and an uncached run."""
        return self.input_tokens + self.output_tokens

"""Where the calls of the anthropic SDK are caught."""

from __future__ import annotations

from ..policy import Provider
from .stainless import Stainless

__all__ = ["FAMILY"]

FAMILY = Stainless(
    Provider.ANTHROPIC, "anthropic", "Anthropic, AsyncAnthropic, their Bedrock, Vertex, Foundry variants"
)

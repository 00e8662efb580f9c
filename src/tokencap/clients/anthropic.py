"""Where the calls of the anthropic SDK are caught."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ..policy import Provider
from .stainless import Stainless

__all__ = ["FAMILY"]


class _Anthropic(Stainless):
    def traces(self, client: Any) -> bool:
        # Since 2.x; a client may be told not to.
        options = getattr(client, "open_telemetry", None)
        return isinstance(options, Mapping) and bool((options.get("traces") or {}).get("enabled"))


FAMILY = _Anthropic(
    Provider.ANTHROPIC, "anthropic", "Anthropic, AsyncAnthropic, their Bedrock, Vertex, Foundry variants"
)

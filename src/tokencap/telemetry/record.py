"""The one record of a call that has ended, handed to every observer. Never prompt or reply text."""

from __future__ import annotations

from typing import Callable, NamedTuple

from ..usage import TokenUsage

__all__ = ["CallHook", "CallRecord"]


class CallRecord(NamedTuple):
    """What is known of a call once it has ended."""

    id: str
    provider: str
    endpoint: str
    model_asked: str
    model: str
    """The model that was sent, after DEGRADE."""
    usage: TokenUsage | None
    """What the provider reported, if it did."""
    tokens: int
    """What the budgets were charged."""
    held: int
    """What was held for it on the budget that held most."""
    estimate: int
    """Prompt tokens expected before the call."""
    estimated: bool
    """True when `tokens` is not all the provider's own report."""
    seconds: float
    ending: str


CallHook = Callable[[CallRecord], None]

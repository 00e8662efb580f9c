"""The one record of a call that has ended, handed to every observer. Never prompt or reply text."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Callable, NamedTuple

from ..policy import ActionKind
from ..usage import TokenUsage

__all__ = ["CallHook", "CallRecord", "WouldHave"]

_NONE: Mapping[str, str] = MappingProxyType({})


class WouldHave(NamedTuple):
    """An action that was not carried out, because its policy is only observed (`enforce=False`)."""

    kind: ActionKind
    dimension: str
    """Empty for what the policy says of every call."""
    at_pct: float | None
    """The threshold; None for a refusal that is not for want of tokens."""


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
    identifiers: Mapping[str, str] = _NONE
    """Whose budgets it counts on, by dimension."""
    tags: Mapping[str, str] = _NONE
    """What the scopes it was made in say of it."""
    would_have: tuple[WouldHave, ...] = ()
    """What an observed policy would have done about it."""


CallHook = Callable[[CallRecord], None]

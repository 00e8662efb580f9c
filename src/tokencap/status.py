"""What a person asks: how much is used, how much is left, what happens next. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timezone
from types import MappingProxyType
from typing import TYPE_CHECKING, NamedTuple

from .budget import BudgetState, share_ceil

if TYPE_CHECKING:
    from ._plan import Plan
    from .policy import ActionKind

__all__ = ["ChildStatus", "StatusResponse", "ThresholdInfo", "Totals", "build_status"]


@dataclass(frozen=True)
class ThresholdInfo:
    """A threshold that has not been reached yet."""

    dimension: str
    at_pct: float
    action_kinds: list[str]
    triggers_at_tokens: int
    """Settled tokens at which it is reached."""


@dataclass(frozen=True)
class ChildStatus:
    """What the children of one name have spent in this process, in tokens; closed ones included."""

    direct: int
    """By their own calls."""
    subtree: int
    """By theirs and by those of the children under them."""
    open: int
    """How many of them are not closed."""
    children: dict[str, ChildStatus] = field(default_factory=dict)


@dataclass(frozen=True)
class StatusResponse:
    """All budgets of a Guard at one moment."""

    timestamp: str
    """ISO 8601, UTC."""
    dimensions: dict[str, BudgetState]
    active_policy: str
    next_threshold: ThresholdInfo | None
    """The one with the fewest tokens to go; None when all are behind."""
    would_have: dict[str, int] = field(default_factory=dict)
    """By kind of action, how often it would have been due, had an observed policy been enforced."""
    direct: int = 0
    """Tokens of the calls this Guard made itself, in this process."""
    subtree: int = 0
    """The same, with the calls of its children."""
    children: dict[str, ChildStatus] = field(default_factory=dict)
    """By name."""


class Totals(NamedTuple):
    """What a Guard has spent in this process, in tokens, and what its children have."""

    direct: int = 0
    subtree: int = 0
    children: Mapping[str, ChildStatus] = MappingProxyType({})
    would_have: Mapping[ActionKind, int] = MappingProxyType({})
    """How often each action of what is only observed would have been due."""


_NOTHING = Totals()


def build_status(plan: Plan, states: Sequence[BudgetState], totals: Totals = _NOTHING) -> StatusResponse:
    """Return the status of a plan whose budgets are in these states."""
    ahead: list[tuple[int, int, ThresholdInfo]] = []
    for budget, state in zip(plan.budgets, states):
        for threshold in budget.thresholds:
            trigger = share_ceil(state.limit, threshold.at_pct)
            if state.used < trigger:
                kinds = [action.kind.value for action in threshold.actions]
                info = ThresholdInfo(state.key.dimension, threshold.at_pct, kinds, trigger)
                ahead.append((trigger - state.used, len(ahead), info))
    return StatusResponse(
        timestamp=datetime.now(timezone.utc).isoformat(),
        dimensions={state.key.dimension: state for state in states},
        active_policy=plan.name,
        next_threshold=min(ahead)[2] if ahead else None,
        would_have={kind.value: count for kind, count in totals.would_have.items()},
        direct=totals.direct,
        subtree=totals.subtree,
        children=dict(totals.children),
    )

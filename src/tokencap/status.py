"""What a person asks: how much is used, how much is left, what happens next. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timezone
from typing import TYPE_CHECKING

from .budget import BudgetState, share_ceil

if TYPE_CHECKING:
    from ._plan import Plan
    from .policy import ActionKind

__all__ = ["StatusResponse", "ThresholdInfo", "build_status"]


@dataclass(frozen=True)
class ThresholdInfo:
    """A threshold that has not been reached yet."""

    dimension: str
    at_pct: float
    action_kinds: list[str]
    triggers_at_tokens: int
    """Settled tokens at which it is reached."""


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


def build_status(
    plan: Plan, states: Sequence[BudgetState], would_have: Mapping[ActionKind, int] | None = None
) -> StatusResponse:
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
        would_have={kind.value: count for kind, count in dict(would_have or {}).items()},
    )

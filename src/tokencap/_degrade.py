"""Which cheaper model a call is sent to, if any. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from ._plan import Budget, Plan
from .budget import BudgetState, share_ceil
from .policy import ActionKind, Provider
from .providers import home_of

__all__ = ["Degrade", "cheaper", "degraded"]


class Degrade(NamedTuple):
    """A cheaper model for a call, and the threshold that asks for it."""

    model: str
    budget: Budget
    at_pct: float


def degraded(
    plan: Plan,
    states: Sequence[BudgetState],
    estimate: int,
    provider: Provider | str,
    model: str,
    *,
    watched: bool = False,
) -> Degrade | str | None:
    """Return the model to send instead of `model`, if a DEGRADE threshold is reached.

    It goes by what is enforced, or by what is only `watched`. The highest threshold reached decides. A text
    instead says why its `degrade_to` does not fit this call.
    """
    due: Degrade | str | None = None
    highest = 0.0
    for budget, state in zip(plan.budgets, states):
        for threshold in budget.thresholds if (budget.watched is not None) is watched else ():
            for action in threshold.actions:
                if action.kind is not ActionKind.DEGRADE or threshold.at_pct <= highest:
                    continue
                if state.used + state.reserved + estimate < share_ceil(state.limit, threshold.at_pct):
                    continue
                highest = threshold.at_pct
                target = cheaper(action.degrade_to, provider, model)
                if target is None:
                    due = (
                        f"degrade_to={action.degrade_to!r} names no model of {provider} for {model!r}; "
                        f"name one by provider: degrade_to={{'{provider}': '...'}}"
                    )
                else:
                    due = Degrade(target, budget, threshold.at_pct)
    return due


def cheaper(degrade_to: str | Mapping[str, str] | None, provider: Provider | str, model: str) -> str | None:
    """Return what `degrade_to` means for a call to `model`; None when it means nothing there.

    A bare name is used only where it is known to be understood: by the provider whose name it has, or in
    place of a model whose maker is the same (or as little known).
    """
    if isinstance(degrade_to, Mapping):
        return degrade_to.get(model) or degrade_to.get(str(provider))
    if degrade_to is None:
        return None
    home = home_of(degrade_to)
    return degrade_to if home is provider or home is home_of(model) else None

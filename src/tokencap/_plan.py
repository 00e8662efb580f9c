"""The Guard as one call sees it: keys, ceilings and marks, worked out once from the policy. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from .budget import (
    UNLIMITED,
    BudgetKey,
    BudgetState,
    CheckResult,
    Grant,
    Held,
    Hold,
    Mark,
    Reservation,
    share_ceil,
    share_floor,
)
from .policy import Action, ActionKind, DimensionPolicy, Provider, Threshold
from .providers import home_of

__all__ = ["Ask", "Budget", "Plan", "degraded", "may_decide", "refusal"]


class Budget(NamedTuple):
    """One dimension of a policy for one identifier."""

    key: BudgetKey
    limit: int
    block_at: float | None
    strict: bool
    thresholds: tuple[Threshold, ...]
    marks: tuple[Mark, ...]
    """The thresholds that do something once, when they are reached."""
    deciding: tuple[float, ...]
    """The shares at which something changes for a call by its count: DEGRADE, and BLOCK unless strict."""

    @classmethod
    def of(cls, key: BudgetKey, policy: DimensionPolicy, limit: int | None) -> Budget:
        """Return what `policy` means for a key whose limit is `limit`."""
        limit = UNLIMITED if limit is None else limit
        once = (ActionKind.WARN, ActionKind.WEBHOOK)
        marks = [
            Mark(key, t.at_pct, limit) for t in policy.thresholds if any(a.kind in once for a in t.actions)
        ]
        ascending = tuple(sorted(set(marks), key=lambda mark: mark.at_pct))
        # A strict budget goes by the bound and not by the count.
        deciding = {ActionKind.DEGRADE} if policy.strict else {ActionKind.DEGRADE, ActionKind.BLOCK}
        points = tuple(t.at_pct for t in policy.thresholds if any(a.kind in deciding for a in t.actions))
        return cls(key, limit, policy.block_at, policy.strict, tuple(policy.thresholds), ascending, points)

    def actions_at(self, at_pct: float) -> list[Action]:
        """Return the actions of every threshold at this share, in the order they run."""
        order = list(ActionKind)
        found = [action for t in self.thresholds if t.at_pct == at_pct for action in t.actions]
        return sorted(found, key=lambda action: order.index(action.kind))


class Ask(NamedTuple):
    """What a call asks of its budgets, in tokens."""

    need: int
    """What must fit into a budget."""
    amount: int
    """What it is expected to take, and so holds."""
    least: int = 0
    """What must fit into a strict budget: all it can take, with the smallest output worth making."""
    most: int = 0
    """What it holds there if there is room: all it can take."""


class Plan(NamedTuple):
    """Everything about a Guard that decides over a call."""

    name: str
    budgets: tuple[Budget, ...]
    marks: tuple[Mark, ...]
    """Every mark of every budget."""
    strict: bool
    """True when a budget must never be passed."""
    degrades: bool
    """True when a threshold may send calls to another model."""

    @classmethod
    def of(cls, name: str, budgets: Sequence[Budget]) -> Plan:
        """Return the plan of these budgets under the policy of this name."""
        return cls(
            name,
            tuple(budgets),
            marks=tuple(mark for budget in budgets for mark in budget.marks),
            strict=any(budget.strict for budget in budgets),
            degrades=any(
                action.kind is ActionKind.DEGRADE
                for budget in budgets
                for threshold in budget.thresholds
                for action in threshold.actions
            ),
        )

    @property
    def keys(self) -> tuple[BudgetKey, ...]:
        """What its calls count on."""
        return tuple([budget.key for budget in self.budgets])

    @property
    def identifiers(self) -> dict[str, str]:
        """Whose budgets these are, by dimension."""
        return dict(self.keys)

    def holds(self, ask: Ask) -> list[Hold]:
        """Return what a call asks of each key."""
        return [
            Hold(b.key, b.limit, b.block_at, ask.least, ask.most, True)
            if b.strict
            else Hold(b.key, b.limit, b.block_at, ask.need, ask.amount)
            for b in self.budgets
        ]

    def unreserved(self, id: str) -> Reservation:
        """Return a reservation of nothing, never made in a store: settling it books its tokens."""
        return Reservation(id, tuple(Held(budget.key, "", 0) for budget in self.budgets), 0)

    def budget_of(self, key: BudgetKey) -> Budget:
        """Return the budget of a key."""
        return next(budget for budget in self.budgets if budget.key == key)


def _taken(state: BudgetState) -> int:
    return state.used + state.reserved


def may_decide(plan: Plan, states: Sequence[BudgetState], bound: int) -> bool:
    """Return whether a prompt of up to `bound` tokens could reach a point that changes what happens to it."""
    for budget, state in zip(plan.budgets, states):
        for share in budget.deciding:
            room = share_ceil(state.limit, share) - state.used - state.reserved
            if 0 < room <= bound:
                return True
    return False


def refusal(plan: Plan, grant: Grant, ask: Ask, need: int) -> CheckResult:
    """Return the refusal of a call: which dimensions, and whether only calls in flight stood in its way."""
    by_key = {state.key: state for state in grant.states}
    contended = True
    for key in grant.refused:
        state, budget = by_key[key], plan.budget_of(key)
        top = share_floor(state.limit, 1.0 if budget.block_at is None else budget.block_at)
        wanted = ask.least if budget.strict else ask.need
        if state.used >= top or state.used + wanted > top:
            contended = False
    return CheckResult(
        allowed=False,
        states={state.key.dimension: state for state in grant.states},
        violated=[key.dimension for key in grant.refused],
        need=need,
        contended=contended,
    )


class Degrade(NamedTuple):
    """A cheaper model for a call, and the threshold that asks for it."""

    model: str
    budget: Budget
    at_pct: float


def degraded(
    plan: Plan, states: Sequence[BudgetState], estimate: int, provider: Provider | str, model: str
) -> Degrade | str | None:
    """Return the model to send instead of `model`, if a DEGRADE threshold is reached.

    The highest threshold reached decides. A text instead says why its `degrade_to` does not fit this call.
    """
    due: Degrade | str | None = None
    highest = 0.0
    for budget, state in zip(plan.budgets, states):
        for threshold in budget.thresholds:
            for action in threshold.actions:
                if action.kind is not ActionKind.DEGRADE or threshold.at_pct <= highest:
                    continue
                if _taken(state) + estimate < share_ceil(state.limit, threshold.at_pct):
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

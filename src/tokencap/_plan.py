"""The Guard as one call sees it: keys, ceilings and marks, worked out once from the policy. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from ._entry import Ahead
from ._periods import Period
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
from .policy import Action, ActionKind, DimensionPolicy, Threshold

__all__ = ["Ask", "Budget", "Ceilings", "Plan", "may_decide", "refusal"]


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
    watched: DimensionPolicy | None = None
    """What would hold if it was enforced, for a budget that is only observed."""
    period: Period | None = None
    ahead: str = ""
    """Its thresholds, for whoever looks at the store."""

    @classmethod
    def of(cls, key: BudgetKey, policy: DimensionPolicy, limit: int | None, enforce: bool = True) -> Budget:
        """Return what `policy` means for a key whose limit is `limit`."""
        if not enforce:
            return cls.of(key, DimensionPolicy(), limit)._replace(
                thresholds=tuple(policy.thresholds), watched=policy, period=policy.period
            )
        limit = UNLIMITED if limit is None else limit
        once = (ActionKind.WARN, ActionKind.WEBHOOK)
        marks = [
            Mark(key, t.at_pct, limit) for t in policy.thresholds if any(a.kind in once for a in t.actions)
        ]
        ascending = tuple(sorted(set(marks), key=lambda mark: mark.at_pct))
        # A strict budget goes by the bound and not by the count.
        deciding = {ActionKind.DEGRADE} if policy.strict else {ActionKind.DEGRADE, ActionKind.BLOCK}
        points = tuple(t.at_pct for t in policy.thresholds if any(a.kind in deciding for a in t.actions))
        return cls(
            key,
            limit,
            policy.block_at,
            policy.strict,
            tuple(policy.thresholds),
            ascending,
            points,
            period=policy.period,
            ahead=Ahead.spell(
                [Ahead(t.at_pct, tuple([a.kind.value for a in t.actions])) for t in policy.thresholds]
            ),
        )

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


class Ceilings(NamedTuple):
    """What no call may pass, in tokens; None: as much as it likes."""

    prompt: int | None = None
    output: int | None = None
    """All choices together."""
    least_output: int | None = None
    """The least that a choice may be clamped to; None: it depends on the call."""

    def within(self, outer: Ceilings) -> Ceilings:
        """Return what both of them leave."""
        return Ceilings(*[min(two, key=_or_most) for two in zip(self, outer)])


def _or_most(tokens: int | None) -> int:
    return UNLIMITED if tokens is None else tokens


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
    ceilings: Ceilings = Ceilings()
    watched: Ceilings = Ceilings()
    """The ceilings of what is only observed."""
    enforces: bool = True
    """False when everything is only observed."""
    observes: bool = False
    """True when something is only observed."""
    unusable: tuple[str, ...] = ()
    """Dimensions, only observed, whose enforcement would have refused the call for want of an identifier."""
    keys: tuple[BudgetKey, ...] = ()
    """What its calls count on."""

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
                if budget.watched is None
                for threshold in budget.thresholds
                for action in threshold.actions
            ),
            keys=tuple(budget.key for budget in budgets),
        )

    @property
    def identifiers(self) -> dict[str, str]:
        """Whose budgets these are, by dimension."""
        return dict(self.keys)

    def holds(self, ask: Ask) -> list[Hold]:
        """Return what a call asks of each key."""
        return [
            Hold(b.key, b.limit, b.block_at, ask.least, ask.most, True, b.period, b.ahead)
            if b.strict
            else Hold(b.key, b.limit, b.block_at, ask.need, ask.amount, False, b.period, b.ahead)
            for b in self.budgets
        ]

    def unreserved(self, id: str) -> Reservation:
        """Return a reservation of nothing, never made in a store: settling it books its tokens."""
        return Reservation(id, tuple(Held(b.key, "", 0, b.period) for b in self.budgets), 0)

    def budget_of(self, key: BudgetKey) -> Budget:
        """Return the budget of a key."""
        return next(budget for budget in self.budgets if budget.key == key)


def may_decide(plan: Plan, states: Sequence[BudgetState], bound: int) -> bool:
    """Return whether a prompt of up to `bound` tokens could reach a point that changes what happens to it."""
    for budget, state in zip(plan.budgets, states):
        for share in budget.deciding:
            room = share_ceil(state.limit, share) - state.used - state.reserved
            if 0 < room <= bound:
                return True
    return False


def refusal(plan: Plan, grant: Grant, ask: Ask, need: int, reply: int) -> CheckResult:
    """Return the refusal of a call: which dimensions, and whether only calls in flight stood in its way."""
    by_key = {state.key: state for state in grant.states}
    contended, blocked_at = True, {}
    for key in grant.refused:
        state, budget = by_key[key], plan.budget_of(key)
        top = share_floor(state.limit, 1.0 if budget.block_at is None else budget.block_at)
        wanted = ask.least if budget.strict else ask.need
        if state.used >= top or state.used + wanted > top:
            contended = False
        if budget.block_at is not None and budget.block_at < 1.0:
            blocked_at[key.dimension] = budget.block_at
    return CheckResult(
        allowed=False,
        states={state.key.dimension: state for state in grant.states},
        violated=[key.dimension for key in grant.refused],
        need=need,
        reply=reply,
        contended=contended,
        blocked_at=blocked_at,
    )

"""What a policy that is only observed would have done. It changes nothing."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

from ._degrade import Degrade, degraded
from ._output import output_of
from .budget import BudgetState, share_ceil, share_floor
from .policy import ActionKind
from .telemetry.record import WouldHave

if TYPE_CHECKING:
    from ._session import CallSession

__all__ = ["before_call", "note", "passed"]

_ONCE = (ActionKind.WARN, ActionKind.WEBHOOK)


def before_call(session: CallSession, states: Sequence[BudgetState], bound: int, estimate: int) -> None:
    """Note whether the call that is about to be sent would have been refused or degraded."""
    plan, dialect, body = session.plan, session.endpoint.dialect, session.body
    found = [WouldHave(ActionKind.BLOCK, name, None) for name in plan.unusable]
    most = plan.watched.prompt
    if most is not None and estimate > most:
        found.append(WouldHave(ActionKind.BLOCK, "", None))
    for budget, state in zip(plan.budgets, states):
        watched = budget.watched
        if watched is None or watched.block_at is None:
            continue
        need, unbounded = estimate, False
        if watched.strict:
            prompt_ratio, output_ratio = session.runtime.learned.overruns(session.model)
            output = output_of(session, dialect.output_cap(body), output_ratio)
            need = math.ceil(bound * prompt_ratio) + output.of(output.least)
            unbounded = dialect.unbounded(body) is not None
        top, taken = share_floor(state.limit, watched.block_at), state.used
        if not session.runtime.wait:
            taken += state.reserved
        if unbounded or taken >= top or taken + need > top:
            found.append(WouldHave(ActionKind.BLOCK, budget.key.dimension, watched.block_at))
    # A call that is refused is not degraded.
    if not found and session.endpoint.generates and dialect.takes_model(body):
        due = degraded(plan, states, estimate, session.provider, session.model, watched=True)
        if isinstance(due, Degrade):
            found.append(WouldHave(ActionKind.DEGRADE, due.budget.key.dimension, due.at_pct))
    note(session, found)


def passed(session: CallSession, states: Sequence[BudgetState], tokens: int) -> None:
    """Note the thresholds that these tokens carried a budget over, by its state after them."""
    found = [
        WouldHave(action.kind, budget.key.dimension, threshold.at_pct)
        for budget, state in zip(session.plan.budgets, states)
        if budget.watched is not None
        for threshold in budget.watched.thresholds
        if state.used - tokens < share_ceil(state.limit, threshold.at_pct) <= state.used
        for action in threshold.actions
        if action.kind in _ONCE
    ]
    note(session, found)


def note(session: CallSession, found: Sequence[WouldHave]) -> None:
    """Keep these for the record of the call, count them, and say each of them once."""
    session.would_have += tuple(found)
    for one in found:
        session.runtime.branch.count_would_have(one.kind)
        where = "the policy" if not one.dimension else f"{one.dimension}={_identifier(session, one)}"
        at = "" if one.at_pct is None else f" at {one.at_pct:.0%}"
        session.runtime.warn_once(f"observe only: {one.kind} of {where}{at} would have been due")


def _identifier(session: CallSession, one: WouldHave) -> str:
    return session.plan.identifiers.get(one.dimension, "(nobody)")

"""What happens at a threshold that is passed: one function per kind of action.

BLOCK and DEGRADE are not here: they decide over every call before it is sent (see `_plan`).
"""

from __future__ import annotations

import asyncio
import contextvars
import inspect
import logging
import threading
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Callable, NamedTuple

from ._flow import Flow, Step
from .budget import BudgetState, CheckResult, Mark, Settlement
from .policy import Action, ActionKind
from .status import StatusResponse

if TYPE_CHECKING:
    from ._plan import Plan
    from ._runtime import Runtime

__all__ = ["BEFORE_CALL", "HANDLERS", "Moment", "fire_passed", "fire_refused"]

log = logging.getLogger("tokencap.actions")

BEFORE_CALL = frozenset({ActionKind.DEGRADE, ActionKind.BLOCK})
"""The kinds that decide over a call before it is sent."""


class Moment(NamedTuple):
    """A threshold at the moment it is passed."""

    runtime: Runtime
    mark: Mark
    state: BudgetState
    status: StatusResponse


Handler = Callable[[Action, Moment], Flow[None]]
HANDLERS: dict[ActionKind, Handler] = {}


def handles(kind: ActionKind) -> Callable[[Handler], Handler]:
    """Register the function that carries out a kind of action."""

    def register(handler: Handler) -> Handler:
        HANDLERS[kind] = handler
        return handler

    return register


@handles(ActionKind.WARN)
def warn(action: Action, moment: Moment) -> Flow[None]:
    """Call the user's function in the caller's thread; what it raises is logged and goes no further."""
    yield Step(_call, _acall, (action.callback, moment.status))


@handles(ActionKind.WEBHOOK)
def webhook(action: Action, moment: Moment) -> Flow[None]:
    """Queue a delivery."""
    state = moment.state
    assert action.webhook_url is not None
    moment.runtime.webhooks.post(
        action.webhook_url,
        {
            "event": "threshold_reached",
            "dimension": state.key.dimension,
            "identifier": state.key.identifier,
            "at_pct": moment.mark.at_pct,
            "limit": state.limit,
            "used": state.used,
            "remaining": state.remaining,
            "pct_used": state.pct_used,
            "policy": moment.status.active_policy,
            "timestamp": moment.status.timestamp,
        },
        action.webhook_secret,
    )
    return
    yield  # a flow without steps is still a generator


def _call(callback: Callable[[Any], Any], status: StatusResponse) -> None:
    try:
        result = callback(status)
        if inspect.isawaitable(result):
            _finish(result)
    except Exception:
        _log_failure()


async def _acall(callback: Callable[[Any], Any], status: StatusResponse) -> None:
    try:
        result = callback(status)
        if inspect.isawaitable(result):
            await result
    except Exception:
        _log_failure()


def _finish(awaitable: Any) -> None:
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        asyncio.run(_awaited(awaitable))
        return
    if asyncio.isfuture(awaitable):
        return  # the loop that is running is at it
    # A blocking call inside of a running loop, as in a notebook: that loop cannot be waited for here.
    context = contextvars.copy_context()
    thread = threading.Thread(target=context.run, args=(_run_logged, awaitable), name="tokencap-callback")
    thread.start()
    thread.join()


def _run_logged(awaitable: Any) -> None:
    try:
        asyncio.run(_awaited(awaitable))
    except Exception:
        _log_failure()


async def _awaited(result: Any) -> Any:
    return await result


def _log_failure() -> None:
    log.exception("a WARN callback failed; the call it was fired by is not affected")


def fire_passed(runtime: Runtime, plan: Plan, settlement: Settlement) -> Flow[None]:
    """Carry out what is due at the marks a settlement passed, in ascending order."""
    if settlement.passed:
        yield from _fire(runtime, plan, settlement.passed, settlement.states)


def fire_refused(runtime: Runtime, plan: Plan, check: CheckResult) -> Flow[None]:
    """Carry out what else is due at the thresholds whose BLOCK refused a call, once."""
    marks = [
        mark
        for budget in plan.budgets
        if budget.key.dimension in check.violated
        for mark in budget.marks
        if mark.at_pct == budget.block_at
    ]
    if marks:
        passed = yield from runtime.pass_marks(marks)
        yield from _fire(runtime, plan, passed, list(check.states.values()))


def _fire(runtime: Runtime, plan: Plan, passed: Sequence[Mark], states: Sequence[BudgetState]) -> Flow[None]:
    if not passed:
        return
    status = runtime.status(plan, states)
    by_key = {state.key: state for state in states}
    for mark in sorted(passed, key=lambda mark: mark.at_pct):
        for action in plan.budget_of(mark.key).actions_at(mark.at_pct):
            if action.kind not in BEFORE_CALL:
                runtime.note_fired(action.kind, mark.key.dimension)
                yield from HANDLERS[action.kind](action, Moment(runtime, mark, by_key[mark.key], status))

"""Whether a call may be made: what it asks of its budgets, and what becomes of a refusal.

Cheap first: a bound of the prompt that costs microseconds. Only a call that the bound cannot clear of
every threshold has its prompt counted.
"""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple, NoReturn

from . import _actions
from ._flow import Flow, Step
from ._observe import before_call
from ._output import Output, ceiling_of, output_of
from ._plan import Ask, may_decide, refusal
from ._waiting import POLL_SECONDS, inside_open_call
from .budget import BudgetKey, BudgetState, CheckResult, Grant, Reservation, share_floor
from .errors import BudgetExceededError
from .policy import ActionKind

if TYPE_CHECKING:
    from ._session import CallSession

__all__ = ["Admission", "admit"]


class Admission(NamedTuple):
    """A call that may be made."""

    reservation: Reservation
    states: tuple[BudgetState, ...]
    estimate: int
    """Tokens of the prompt, as far as they were worth finding out."""
    bound: int
    """Tokens the prompt cannot pass, as far as is known."""
    output_cap: int | None
    """The cap the provider has to enforce, per choice; None where none was agreed on."""


def admit(session: CallSession) -> Flow[Admission]:
    """Reserve for a call; raise `BudgetExceededError` when it is refused."""
    if session.runtime.keeper.work:
        yield from session.runtime.keeper.drain()
    runtime, dialect, body = session.runtime, session.endpoint.dialect, session.body
    size = dialect.size(body)
    history = dialect.history(body) if dialect.history_fields else None
    past = runtime.learned.history_size(history)
    cap, ceiling = dialect.output_cap(body), ceiling_of(session)
    if ceiling is not None:
        cap = ceiling if cap is None else min(cap, ceiling)
    expected = runtime.learned.expected_output(session.model, cap)
    if expected:
        expected *= dialect.choices(body)
    bid = _Bid(session, size.bound + past, min(size.guess, size.bound) + past, expected, past)
    if session.plan.strict:
        reason = dialect.unbounded(body)
        if history is not None and not past:
            reason = f"the history {history!r}, which this Guard has not seen"
        if reason is not None:
            dimensions = [budget.key.dimension for budget in session.plan.budgets if budget.strict]
            reason = f"a strict budget cannot bound {reason}"
            yield from _refuse_outright(session, bid.bound, reason, dimensions)
        prompt_ratio, output_ratio = runtime.learned.overruns(session.model)
        bid.bound = bid.need = math.ceil(bid.bound * prompt_ratio)
        bid.output = output_of(session, cap, output_ratio)
    if ceiling is not None:
        bid.cap = cap
        if ceiling < dialect.least_output(body):
            reason = f"max_output_tokens={session.plan.ceilings.output:,} leaves too little room for a reply"
            yield from _refuse_outright(session, bid.estimate, reason)
    most = session.plan.ceilings.prompt
    if most is not None and bid.bound > most:
        counted = yield from session.count(past)
        bid.need = bid.estimate = min(bid.bound, counted or bid.estimate)
        if bid.need > most:
            reason = f"the prompt takes about {bid.need:,} tokens, and max_prompt_tokens is {most:,}"
            yield from _refuse_outright(session, bid.need, reason)
    wanted = runtime.queue.waited_for(session.plan.keys)
    if wanted and not inside_open_call():
        # Whoever waits for one of its budgets already goes first.
        return (yield from _in_turn(session, bid, wanted))
    answer = yield from bid.offer()
    if isinstance(answer, Admission):
        return answer
    if answer.contended and runtime.wait and not inside_open_call():
        return (yield from _in_turn(session, bid, _full(answer)))
    return (yield from _refuse(session, answer))


class _Bid:
    """What one call offers to its budgets, and how often it has to."""

    def __init__(self, session: CallSession, bound: int, estimate: int, expected: int, past: int) -> None:
        self.session = session
        self.bound = bound
        self.estimate = estimate
        self.need = bound
        """The bound until the prompt has been counted, then the count."""
        self.output: Output | None = None
        """None unless a budget is strict."""
        self.cap: int | None = None
        """The output cap of each choice under the policy's ceiling; None without one."""
        self._expected = expected
        self._past = past

    def _ask(self) -> Ask:
        amount, output = self.estimate + self._expected, self.output
        if output is None:
            return Ask(self.need, amount)
        least, most = self.bound + output.of(output.least), self.bound + output.of(output.cap)
        return Ask(self.need, amount, least, max(least, most))

    def offer(self) -> Flow[Admission | CheckResult]:
        """Try to reserve, first by the bound; return what came of it."""
        session, runtime, plan = self.session, self.session.runtime, self.session.plan
        about = runtime.label_of(session)
        grant: Grant = yield runtime.reserve(session.id, plan.holds(self._ask()), self.estimate, about)
        if self.need == self.bound and self._undecided(grant):
            counted = yield from session.count(self._past)
            self.need = self.estimate = min(self.bound, counted or self.estimate)
            if grant.reservation is None and self.need < self.bound:
                grant = yield runtime.reserve(session.id, plan.holds(self._ask()), self.estimate, about)
        if grant.reservation is not None:
            if plan.observes:
                before_call(session, grant.states, self.bound, self.estimate)
            return Admission(grant.reservation, grant.states, self.estimate, self.bound, self._agreed(grant))
        output = self.output
        reply = 0 if output is None else output.of(output.least)
        need = self.estimate if output is None else self.bound + reply
        return refusal(plan, grant, self._ask(), need, reply)

    def _undecided(self, grant: Grant) -> bool:
        """Return whether a count of the prompt may change what happens to the call."""
        plan = self.session.plan
        if grant.reservation is not None:
            return may_decide(plan, grant.states, self.bound)
        # No count is small enough for a budget that is used up, and it would cost a round trip.
        states = {state.key: state for state in grant.states}
        return all(
            states[budget.key].used < share_floor(states[budget.key].limit, budget.block_at or 1.0)
            for budget in map(plan.budget_of, grant.refused)
        ) and not all(plan.budget_of(key).strict for key in grant.refused)

    def _agreed(self, grant: Grant) -> int | None:
        """Return the output cap that what was granted pays for."""
        output = self.output
        if output is None or grant.reservation is None:
            return self.cap
        budgets = self.session.plan.budgets
        held = min(hold.amount for hold, budget in zip(grant.reservation.holds, budgets) if budget.strict)
        room = (held - self.bound) // output.choices
        return min(output.cap, math.floor(room / output.ratio))


def _full(check: CheckResult) -> list[BudgetKey]:
    """Return the budgets that refused a call."""
    return [check.states[dimension].key for dimension in check.violated]


def _in_turn(session: CallSession, bid: _Bid, wanted: Sequence[BudgetKey]) -> Flow[Admission]:
    """Wait for the holds of other calls, first come, first served, for at most `wait` seconds."""
    queue = session.runtime.queue
    deadline = time.monotonic() + session.runtime.wait
    ticket = queue.join(session.plan.keys, wanted)
    try:
        while True:
            left = deadline - time.monotonic()
            if left <= 0 or queue.is_first(ticket):
                answer = yield from bid.offer()
                if isinstance(answer, Admission):
                    return answer
                if left <= 0 or not answer.contended:
                    yield from _refuse(session, answer)
                queue.wait_for(ticket, _full(answer))
            pause = min(left, POLL_SECONDS) if queue.is_first(ticket) else left
            yield Step(ticket.sleep, ticket.asleep, (pause,), cancellable=True)
    finally:
        queue.leave(ticket)


def _refuse(session: CallSession, check: CheckResult) -> Flow[NoReturn]:
    runtime = session.runtime
    for dimension in check.violated:
        runtime.note_fired(ActionKind.BLOCK, dimension)
    yield from session.note_blocked(check.need)
    if not check.contended:
        yield from _actions.fire_refused(runtime, session.plan, check)
    raise BudgetExceededError(check)


def _refuse_outright(
    session: CallSession, need: int, reason: str, dimensions: Sequence[str] = ()
) -> Flow[NoReturn]:
    """Refuse a call for something else than want of tokens, before anything is reserved."""
    states = yield from session.runtime.states(session.plan)
    yield from session.note_blocked(need)
    raise BudgetExceededError(
        CheckResult(
            allowed=False,
            states={state.key.dimension: state for state in states},
            violated=list(dimensions),
            need=need,
            reason=reason,
        )
    )

"""How much a call may write: what it says itself, what the policy lets it, what a strict budget holds."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from ._session import CallSession

__all__ = ["Output", "ceiling_of", "output_of"]

_LEAST = 256
_UNSTATED = 4_096
"""Tokens a choice, for a call under a strict budget of which nobody says how much it may write."""


class Output(NamedTuple):
    """What a strict budget needs to know of a call's output, in tokens per choice."""

    choices: int
    cap: int
    least: int
    ratio: float
    """How far this model has gone over its cap so far; 1.0 for a provider that keeps to it."""

    def of(self, cap: int) -> int:
        """Return what to hold for outputs of this cap."""
        return self.choices * math.ceil(cap * self.ratio)


def ceiling_of(session: CallSession) -> int | None:
    """Return the tokens a choice that the policy's ceiling leaves; None where there is none to be kept."""
    most, endpoint = session.plan.ceilings.output, session.endpoint
    if most is None or not endpoint.generates or not endpoint.dialect.cap_fields:
        return None
    return most // endpoint.dialect.choices(session.body)


def output_of(session: CallSession, cap: int | None, ratio: float) -> Output:
    """Return the output of a call of this cap under a strict budget, and the least it may be clamped to."""
    runtime, dialect, body = session.runtime, session.endpoint.dialect, session.body
    unstated = dialect.output_cap(body) is None
    if cap is None:
        cap = _UNSTATED
    if not dialect.cap_fields:
        return Output(dialect.choices(body), cap, cap, ratio)
    least = session.plan.ceilings.least_output
    if least is None:
        mean = runtime.learned.expected_output(session.model, None)
        least = -(-cap // 2)
        # Nobody asked for the cap of a call that states none, so less of it is no loss.
        if mean or unstated:
            least = min(least, max(_LEAST, 2 * mean))
    least = min(cap, max(least, dialect.least_output(body)))
    return Output(dialect.choices(body), cap, least, ratio)

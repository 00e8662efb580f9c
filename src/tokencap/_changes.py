"""What is changed in the request of an admitted call: a cheaper model, a lower output cap."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ._admission import Admission
from ._degrade import Degrade, degraded

if TYPE_CHECKING:
    from ._session import CallSession

__all__ = ["changes_of"]


def changes_of(session: CallSession, admission: Admission) -> dict[str, Any]:
    """Return the request fields to change."""
    dialect, cap = session.endpoint.dialect, admission.output_cap
    changes: dict[str, Any] = {}
    if session.plan.degrades and session.endpoint.generates and dialect.takes_model(session.body):
        changes = _degrade(session, admission)
    if cap is not None and cap != dialect.output_cap(session.body):
        changes.update(dialect.cap_output(session.body, cap))
    return changes


def _degrade(session: CallSession, admission: Admission) -> dict[str, Any]:
    runtime, estimate = session.runtime, admission.estimate
    due = degraded(session.plan, admission.states, estimate, session.provider, session.model)
    if isinstance(due, Degrade):
        runtime.note_degraded(due)
        if due.model != session.model:
            session.model = due.model
            return {"model": due.model}
    elif due is not None:
        runtime.warn_once(due)
    return {}

"""OpenTelemetry metrics, when `opentelemetry-api` is installed; nothing at all otherwise."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from .._version import __version__
from ..budget import BudgetState
from ..policy import ActionKind

if TYPE_CHECKING:
    from .record import CallRecord

__all__ = ["Metrics", "metrics"]


def metrics() -> Metrics | None:
    """Return the instruments of this process; None when the API is not installed."""
    try:
        from opentelemetry import metrics as api
    except ImportError:
        return None
    return Metrics(api.get_meter("tokencap", __version__))


class Metrics:
    """`tokencap.tokens.used`, `.tokens.remaining`, `.budget.pct_used`, `.policy.action_fired`."""

    def __init__(self, meter: Any) -> None:
        self._used = meter.create_counter("tokencap.tokens.used", unit="{token}")
        self._fired = meter.create_counter("tokencap.policy.action_fired", unit="{action}")
        gauge = getattr(meter, "create_gauge", None)  # absent before opentelemetry-api 1.23
        self._remaining = gauge("tokencap.tokens.remaining", unit="{token}") if gauge else None
        self._pct_used = gauge("tokencap.budget.pct_used", unit="1") if gauge else None

    def call_ended(self, record: CallRecord) -> None:
        """Count the tokens of a call on each of its dimensions."""
        for dimension in record.identifiers:
            self._used.add(
                record.tokens,
                {"provider": record.provider, "model": record.model, "dimension": dimension},
            )

    def states(self, states: Sequence[BudgetState]) -> None:
        """Set the gauges of these budgets."""
        if self._remaining is None or self._pct_used is None:
            return
        for state in states:
            if not state.unlimited:
                labels = {"dimension": state.key.dimension, "identifier": state.key.identifier}
                self._remaining.set(state.remaining, labels)
                self._pct_used.set(state.pct_used, labels)

    def fired(self, kind: ActionKind, dimension: str) -> None:
        """Count an action."""
        self._fired.add(1, {"action_kind": kind.value, "dimension": dimension})

"""OpenTelemetry, when `opentelemetry-api` is installed; nothing at all otherwise."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ..errors import ConfigurationError

if TYPE_CHECKING:
    from ..budget import BudgetState
    from ..policy import ActionKind
    from ._otel_metrics import Metrics
    from ._otel_spans import CallSpan, Spans
    from .record import CallRecord

__all__ = ["Observer", "Otel", "observer"]


@dataclass(frozen=True)
class Otel:
    """What is told to OpenTelemetry beyond the defaults.

    The gauges of a dimension show its tightest budget. `identifiers` names the dimensions whose budgets
    have a series each, labelled with the identifier; name none that has thousands of them, or whose
    identifiers are nobody else's business. `inference_usage=True` adds a histogram for each kind of token
    (`gen_ai.client.inference.usage.input_tokens` and so on) to the one for all, `gen_ai.client.token.usage`.
    `spans=False` makes no spans, also where the SDK makes none. The providers are those of
    the process unless others are given.
    """

    identifiers: Collection[str] = ()
    inference_usage: bool = False
    spans: bool = True
    meter_provider: Any = None
    tracer_provider: Any = None

    def __post_init__(self) -> None:
        if isinstance(self.identifiers, str) or not all(isinstance(name, str) for name in self.identifiers):
            raise ConfigurationError(
                f"identifiers is {self.identifiers!r}; it must be names of dimensions, like ['tenant']"
            )


class Observer:
    """The instruments and the tracer of one Guard."""

    def __init__(self, metrics: Metrics, spans: Spans | None) -> None:
        self._metrics = metrics
        self._spans = spans

    @property
    def collected(self) -> bool:
        """False while nobody collects what is told of calls."""
        return self._metrics.collected

    def begin(self, session: Any) -> CallSpan | None:
        """Return a new span for a call, if it is to have one."""
        return None if self._spans is None else self._spans.begin(session)

    def call_ended(self, record: CallRecord) -> None:
        """Count a call."""
        self._metrics.call_ended(record)

    def states(self, states: Sequence[BudgetState]) -> None:
        """Show these budgets on the gauges from now on."""
        self._metrics.states(states)

    def fired(self, kind: ActionKind, dimension: str) -> None:
        """Count an action, and note it on the span that is current."""
        self._metrics.fired(kind, dimension)
        if self._spans is not None:
            self._spans.fired(kind, dimension)

    def close(self) -> None:
        """Show nothing on the gauges any more."""
        self._metrics.close()


def observer(options: Otel | None) -> Observer | None:
    """Return what tells OpenTelemetry; None when its API is not installed."""
    options = options or Otel()
    try:
        from ._otel_metrics import Metrics
        from ._otel_spans import Spans
    except ImportError:
        return None
    spans = Spans(options.tracer_provider) if options.spans else None
    metrics = Metrics(options.meter_provider, frozenset(options.identifiers), options.inference_usage)
    return Observer(metrics, spans)

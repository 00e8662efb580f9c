"""The metrics of OpenTelemetry. Imported only where its API is installed."""

from __future__ import annotations

import weakref
from collections.abc import Iterable, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any, Callable

from opentelemetry import metrics as api

from .._version import __version__
from ..budget import BudgetKey, BudgetState
from .names import operation_of, provider_name

if TYPE_CHECKING:
    from ..policy import ActionKind
    from .record import CallRecord

__all__ = ["Metrics"]

_MOST_BUDGETS = 10_000
# Named after the attributes `gen_ai.usage.*` of a span.
_KINDS = (
    ("input_tokens", "input_tokens", "Input tokens of a call, cached ones included"),
    ("output_tokens", "output_tokens", "Output tokens of a call, reasoning included"),
    ("cache_read_tokens", "cache_read.input_tokens", "Input tokens that were read from a cache"),
    ("cache_write_tokens", "cache_creation.input_tokens", "Input tokens that were written to a cache"),
    ("reasoning_tokens", "reasoning.output_tokens", "Output tokens that were reasoning"),
)
# As the semantic conventions advise for gen_ai.client.token.usage.
_BUCKETS = [4**power for power in range(14)]


class _Instruments:
    """The instruments of one meter provider. They must not be made twice, so Guards share them."""

    def __init__(self, provider: Any) -> None:
        self._meter = meter = (provider or api).get_meter("tokencap", __version__)
        self._kinds: dict[str, Any] = {}
        self.users: weakref.WeakSet[Metrics] = weakref.WeakSet()
        self.used = meter.create_counter(
            "tokencap.tokens.used", "{token}", "Tokens charged to the budgets of a dimension"
        )
        self.fired = meter.create_counter(
            "tokencap.policy.action_fired", "{action}", "Actions of the policy that were carried out"
        )
        meter.create_observable_gauge(
            "tokencap.tokens.remaining",
            [partial(self._observe, lambda state: state.remaining, min)],
            "{token}",
            "Tokens left in the tightest budget of a dimension; negative when over",
        )
        meter.create_observable_gauge(
            "tokencap.budget.pct_used",
            [partial(self._observe, lambda state: state.pct_used, max)],
            "",  # of the exporters to Prometheus one adds a word for "1" to the name and another does not
            "Share of the tightest budget of a dimension that is used: 0.624 is 62.4 %",
        )
        self.usage = _histogram(
            meter, "gen_ai.client.token.usage", "{token}", "Number of input and output tokens used"
        )

    def kinds(self) -> dict[str, Any]:
        """Return the histograms of each kind of token, by the field of `TokenUsage`."""
        if not self._kinds:
            self._kinds = {
                field: _histogram(self._meter, f"gen_ai.client.inference.usage.{name}", "{token}", what)
                for field, name, what in _KINDS
            }
        return self._kinds

    def _observe(
        self,
        value: Callable[[BudgetState], float],
        tightest: Callable[[float, float], float],
        _: api.CallbackOptions,
    ) -> Iterable[api.Observation]:
        found: dict[tuple[tuple[str, str], ...], float] = {}
        for user in list(self.users):
            for labels, state in user.shown():
                found[labels] = tightest(found.get(labels, value(state)), value(state))
        return [api.Observation(each, dict(labels)) for labels, each in found.items()]


def _histogram(meter: Any, name: str, unit: str, description: str) -> Any:
    try:
        return meter.create_histogram(name, unit, description, explicit_bucket_boundaries_advisory=_BUCKETS)
    except TypeError:  # opentelemetry-api before 1.29
        return meter.create_histogram(name, unit, description)


class _Shared:
    """The instruments of every meter provider in use."""

    def __init__(self) -> None:
        self._default: _Instruments | None = None
        self._others: weakref.WeakKeyDictionary[Any, _Instruments] = weakref.WeakKeyDictionary()

    def of(self, provider: Any) -> _Instruments:
        """Return the instruments of a provider; None is that of the process."""
        if provider is None:
            # Made once, even before the process has its provider: the API hands them over to it.
            if self._default is None:
                self._default = _Instruments(None)
            return self._default
        found = self._others.get(provider)
        if found is None:
            found = self._others[provider] = _Instruments(provider)
        return found


_shared = _Shared()


class Metrics:
    """What one Guard tells the instruments."""

    def __init__(self, provider: Any, identifiers: frozenset[str], by_kind: bool) -> None:
        self._instruments = _shared.of(provider)
        self._kinds = self._instruments.kinds() if by_kind else {}
        self._identifiers = identifiers
        self._states: dict[BudgetKey, BudgetState] = {}
        self._instruments.users.add(self)

    @property
    def collected(self) -> bool:
        """False while the process has no meter provider: a counter of the API is a stand-in until then."""
        return getattr(self._instruments.used, "_real_instrument", True) is not None

    def call_ended(self, record: CallRecord) -> None:
        """Count the tokens of a call on each of its dimensions, and what the provider reported of it."""
        for dimension in record.identifiers if record.tokens else ():
            labels = {"provider": record.provider, "model": record.model, "dimension": dimension}
            self._instruments.used.add(record.tokens, labels)
        usage = record.usage
        if usage is not None:
            about = {
                "gen_ai.operation.name": operation_of(record.endpoint),
                "gen_ai.provider.name": provider_name(record.provider),
                "gen_ai.request.model": record.model,
            }
            for kind, tokens in (("input", usage.input_tokens), ("output", usage.output_tokens)):
                self._instruments.usage.record(tokens, {**about, "gen_ai.token.type": kind})
            for field, histogram in self._kinds.items():
                histogram.record(getattr(usage, field), about)

    def states(self, states: Sequence[BudgetState]) -> None:
        """Show these budgets from now on."""
        for state in states:
            if not state.unlimited:
                self._states.pop(state.key, None)
                self._states[state.key] = state
        while len(self._states) > _MOST_BUDGETS:
            self._states.pop(next(iter(self._states)), None)

    def shown(self) -> list[tuple[tuple[tuple[str, str], ...], BudgetState]]:
        """Return the states to show, each with its labels."""
        return [
            (
                (("dimension", state.key.dimension),)
                if state.key.dimension not in self._identifiers
                else (("dimension", state.key.dimension), ("identifier", state.key.identifier)),
                state,
            )
            for state in list(self._states.values())
        ]

    def fired(self, kind: ActionKind, dimension: str) -> None:
        """Count an action."""
        self._instruments.fired.add(1, {"action_kind": kind.value, "dimension": dimension})

    def close(self) -> None:
        """Show nothing any more."""
        self._instruments.users.discard(self)

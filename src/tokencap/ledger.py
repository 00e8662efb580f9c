"""The record of calls: who spent what, on which model, and how it ended. Never prompt or reply text.

A Guard answers with `usage()` and `calls()`. `open(backend)` asks a store without any Guard::

    from tokencap import ledger
    from tokencap.backends.sqlite import SQLiteBackend

    for row in ledger.open(SQLiteBackend("tokencap.db")).usage("model", since="24h"):
        print(row.key, row.tokens)
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timezone
from typing import Any

from ._audit import GRANT, LIMIT, Change, who
from ._entry import EVER, Entry, KnownBudget, Label, Retention
from ._periods import Period
from ._usage import Moment, Usage, UsageRow, Where, chooser, fold, names_of, period_of, seconds_of
from .backends.protocol import Backend, LedgerBackend
from .budget import BudgetKey
from .errors import ConfigurationError

__all__ = ["Change", "KnownBudget", "Ledger", "RecordedCall", "Retention", "Usage", "UsageRow", "open"]


@dataclass(frozen=True)
class RecordedCall:
    """One call. Amounts are tokens."""

    time: datetime
    """When it had ended, by the clock of the store."""
    provider: str
    endpoint: str
    model_asked: str
    model: str
    """The model that was used, after DEGRADE."""
    ending: str
    """ok, blocked, failed, cancelled, cut (its stream ended early) or expired (its process died)."""
    tokens: int
    """What the budgets were charged: `input + output`."""
    input: int
    cached: int
    written: int
    output: int
    reasoning: int
    estimate: int
    """Prompt tokens expected before the call."""
    estimated: bool
    """True when the amounts are not all the provider's own report."""
    seconds: float
    """How long it took."""
    identifiers: Mapping[str, str]
    """By dimension."""
    tags: Mapping[str, str]

    def to_dict(self) -> dict[str, Any]:
        """Return the call in types that JSON knows."""
        return {**self.__dict__, "time": self.time.isoformat()}


class Ledger:
    """The ledger of one store. Reading it never keeps a call waiting.

    `by` and `where` take these names: provider, endpoint, model, model_asked, ending; any dimension
    ("tenant", or "dimension:tenant" where a tag has the same name) and any tag ("agent" or "tag:agent").
    `by` also takes hour and day (UTC). `since` (inclusive) and `until` take a `datetime`, a `timedelta` or
    a text ("24h", "7d": so long ago; or ISO 8601). Raises ConfigurationError for anything else, and
    BackendError when the store fails.
    """

    def __init__(self, backend: LedgerBackend) -> None:
        self._backend = backend

    def usage(
        self,
        by: str | Sequence[str] | None = None,
        *,
        since: Moment = None,
        until: Moment = None,
        where: Where | None = None,
    ) -> Usage:
        """Sum up the calls by one name or several; without `by` into one row."""
        names = names_of(by)
        _chooser(where)
        start, end, now = self._range(since, until)
        sums = self._backend.sums(start or 0.0, end, period_of(names))
        return fold(sums, names, where, start, min(end, now))

    def calls(
        self,
        *,
        since: Moment = None,
        until: Moment = None,
        where: Where | None = None,
        newest_first: bool = False,
    ) -> Iterator[RecordedCall]:
        """Iterate single calls in order of time, a page at a time."""
        chosen = _chooser(where)
        start, end, _ = self._range(since, until)
        return self._calls(start or 0.0, end, chosen, newest_first)

    def budgets(self) -> Sequence[KnownBudget]:
        """Return every budget the store has heard of; `get_states` of the backend says how each is doing."""
        return self._backend.budgets()

    def changes(self) -> Sequence[Change]:
        """Return who changed limits, granted tokens and reset budgets, in the order of time."""
        return self._backend.changes()

    def _range(self, since: Moment, until: Moment) -> tuple[float | None, float, float]:
        now = self._backend.now()
        start, end = seconds_of(since, now, "since"), seconds_of(until, now, "until")
        return start, EVER if end is None else end, now

    def _calls(self, start: float, end: float, chosen: Any, newest_first: bool) -> Iterator[RecordedCall]:
        labels: dict[str, Label] = {}
        for at, entry in self._backend.calls(start, end, newest_first):
            label = labels.get(entry.label)
            if label is None:
                if len(labels) >= 10_000:
                    labels.clear()
                label = labels[entry.label] = Label.parse(entry.label)
            if chosen(label, entry):
                yield _call(at, label, entry)


def _chooser(where: Where | None) -> Callable[[Label, Any], bool]:
    """Return the function that tells which calls `where` is about."""
    if where is not None and not isinstance(where, Mapping):
        raise ConfigurationError(f"where is {where!r}; it must be a mapping like {{'model': 'gpt-5'}}")
    return chooser(where)


def _call(at: float, label: Label, entry: Entry) -> RecordedCall:
    return RecordedCall(
        time=datetime.fromtimestamp(at, timezone.utc),
        provider=label.provider,
        endpoint=label.endpoint,
        model_asked=label.model_asked,
        model=label.model,
        ending=entry.ending,
        tokens=entry.input + entry.output,
        input=entry.input,
        cached=entry.cached,
        written=entry.written,
        output=entry.output,
        reasoning=entry.reasoning,
        estimate=entry.estimate,
        estimated=entry.estimated,
        seconds=entry.seconds,
        identifiers=label.identifiers,
        tags=label.tags,
    )


def open(backend: Backend) -> Ledger:  # noqa: A001
    """Return the ledger of a store. Raises ConfigurationError when it keeps none."""
    if not isinstance(backend, LedgerBackend):
        raise ConfigurationError(
            f"the store {backend.name} keeps no ledger: it lacks the verbs of LedgerBackend"
        )
    return Ledger(backend)


def make_change(
    backend: Backend, key: BudgetKey, action: str, tokens: int | None, period: Period | None
) -> None:
    """Change a budget; a store that keeps a ledger also notes who did it. Not for others than Guards."""
    if isinstance(backend, LedgerBackend):
        backend.change(key, action, tokens, who(), period)
    elif action == LIMIT:
        backend.set_limit(key, tokens)
    elif action == GRANT:
        backend.grant(key, tokens or 0, period)
    else:
        backend.reset(key)

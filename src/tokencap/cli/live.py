"""What goes on in a store at the moment, read again and again at little cost.

Budgets are asked how they stand; of the ledger only what is new is read, in pages. Both are bounded, so that
a store with a million budgets and a thousand calls a second is looked at as briefly as a small one.
"""

from __future__ import annotations

import math
import time
from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass, field
from itertools import islice
from typing import TYPE_CHECKING, NamedTuple

from .._entry import Entry, KnownBudget, Label
from ..budget import Asked, BudgetKey, BudgetState
from .standing import Burn, Standing, unknown_budget, urgency

if TYPE_CHECKING:
    from ..backends.protocol import LedgerBackend

__all__ = ["Follower", "Live", "Rate", "Seen"]

_MINUTE = 60.0
_SETTLING_SECONDS = 0.25
"""A row may come into the ledger a little after the time that it bears."""
_MOST_CALLS = 10_000
_MOST_STATES = 100
_AT_ONCE = 500
_LOOK_AGAIN = 10.0
_SHARE = 20
_LATEST = 100
_STEPS = 60
_SHORTEST = 0.001
_MOST_LABELS = 10_000


class Seen(NamedTuple):
    """One call of the ledger."""

    at: float
    label: Label
    entry: Entry


class Rate(NamedTuple):
    """What calls come to in a minute. Amounts are tokens."""

    calls: float = 0.0
    input: float = 0.0
    cached: float = 0.0
    output: float = 0.0
    blocked: float = 0.0
    """Calls."""

    @property
    def tokens(self) -> float:
        """What the budgets are charged."""
        return self.input + self.output


class Live(NamedTuple):
    """A look at the store."""

    name: str
    now: float
    """By the clock of the store."""
    standings: list[Standing]
    """Those most in need of a look first."""
    known: int
    """How many budgets there are."""
    models: list[tuple[str, Rate]]
    """Those with most tokens first."""
    total: Rate
    calls: list[Seen]
    """The last ones, newest first."""


@dataclass
class _Step:
    """What calls came to in a part of the window."""

    models: dict[str, list[int]] = field(default_factory=dict)
    """The fields of `Rate`."""
    budgets: dict[BudgetKey, int] = field(default_factory=dict)
    """Tokens."""


class Follower:
    """Follows a store. `window`: the seconds just gone that the rates are taken from."""

    def __init__(
        self,
        backend: LedgerBackend,
        window: float = _MINUTE,
        dimension: str | None = None,
        identifier: str | None = None,
    ) -> None:
        self._backend = backend
        self._window = window
        self._dimension, self._identifier = dimension, identifier
        self._known: dict[BudgetKey, KnownBudget] = {}
        self._shown: list[BudgetKey] = []
        self._asked_at = self._asked_again_at = float("-inf")
        self._steps: dict[int, _Step] = {}
        self._whole_since = 0.0
        self._latest: deque[Seen] = deque(maxlen=_LATEST)
        self._labels: dict[str, Label] = {}
        self._counts: dict[BudgetKey, deque[tuple[float, int]]] = {}
        self._read_until = 0.0

    def look(self) -> Live:
        """Read what is new. Raises BackendError, and ConfigurationError for a budget that is not known."""
        now = self._backend.now()
        spent = self._read(now)
        first = self._step_of(self._read_until) - _STEPS + 1
        self._steps = {at: step for at, step in self._steps.items() if at >= first}
        begin = max(first * self._window / _STEPS, self._whole_since)
        span = max(self._read_until - begin, _SHORTEST)
        standings = self._stand(now, span, spent)
        models: dict[str, list[int]] = {}
        for each in self._steps.values():
            for model, counts in each.models.items():
                models[model] = [a + b for a, b in zip(models.get(model, (0,) * 5), counts)]
        rates = [(model, _rate(counts, span)) for model, counts in models.items()]
        total = _rate([sum(column) for column in zip(*models.values())] or [0] * 5, span)
        return Live(
            self._backend.name,
            now,
            standings,
            len(self._known),
            sorted(rates, key=lambda each: (-each[1].tokens, -each[1].calls, each[0])),
            total,
            list(self._latest),
        )

    def _step_of(self, at: float) -> int:
        return math.floor(at * _STEPS / self._window)

    def _read(self, now: float) -> set[BudgetKey]:
        """Count what came into the ledger since the last look; return the budgets of those calls."""
        until = now - _SETTLING_SECONDS
        since = max(self._read_until, until - self._window)
        if since >= until:
            self._read_until = min(self._read_until, until)  # a clock that was set back
            return set()
        self._read_until = until
        rows = self._backend.calls(since, until, newest_first=True)
        found = [Seen(at, self._label(entry.label), entry) for at, entry in islice(rows, _MOST_CALLS)]
        # Where there are too many, the newest stand for them all.
        if len(found) == _MOST_CALLS:
            self._whole_since = found[-1].at
        spent: set[BudgetKey] = set()
        mine = [each for each in found if self._is_mine(each.label)]
        for at, label, entry in mine:
            step = self._steps.setdefault(self._step_of(at), _Step())
            counts = (1, entry.input, entry.cached, entry.output, int(entry.ending == "blocked"))
            step.models[label.model] = [a + b for a, b in zip(step.models.get(label.model, (0,) * 5), counts)]
            for key in filter(self._is_asked_for, map(BudgetKey._make, label.identifiers.items())):
                step.budgets[key] = step.budgets.get(key, 0) + entry.input + entry.output
                spent.add(key)
        self._latest.extendleft(reversed(mine[:_LATEST]))
        return spent

    def _label(self, text: str) -> Label:
        label = self._labels.get(text)
        if label is None:
            if len(self._labels) >= _MOST_LABELS:
                self._labels.clear()
            label = self._labels[text] = Label.parse(text)
        return label

    def _is_mine(self, label: Label) -> bool:
        if self._dimension is None:
            return True
        named = label.identifiers.get(self._dimension)
        return named is not None and self._identifier in (None, named)

    def _stand(self, now: float, span: float, spent: Iterable[BudgetKey]) -> list[Standing]:
        """Return the budgets worth a look: of all of them now and then, of those always."""
        at = time.monotonic()
        due = at >= self._asked_at + _LOOK_AGAIN or any(key not in self._known for key in spent)
        if due and at >= self._asked_again_at:
            self._known = {one.key: one for one in self._backend.budgets() if self._is_asked_for(one.key)}
            chosen = list(self._known)
        else:
            due = False
            chosen = list(dict.fromkeys([*self._shown, *[key for key in spent if key in self._known]]))
            chosen = chosen[:_AT_ONCE]
        if self._dimension is not None and not self._known:
            raise unknown_budget(self._backend.budgets(), self._dimension, self._identifier)
        standings: list[Standing] = []
        for start in range(0, len(chosen), _AT_ONCE):
            some = [self._known[key] for key in chosen[start : start + _AT_ONCE]]
            states = self._backend.get_states([Asked(one.key, one.limit, one.period) for one in some])
            standings += [
                Standing(state, one.override, self._burn(state, now, span), now, one.thresholds)
                for one, state in zip(some, states)
            ]
        if due:
            # A store that takes long to say what it has is asked the less often.
            self._asked_at = time.monotonic()
            self._asked_again_at = self._asked_at + _SHARE * (self._asked_at - at)
        standings = sorted(standings, key=urgency)[:_MOST_STATES]
        self._shown = [one.state.key for one in standings]
        if len(self._counts) > 2 * _AT_ONCE:
            self._counts = {key: self._counts[key] for key in self._shown if key in self._counts}
        return standings

    def _is_asked_for(self, key: BudgetKey) -> bool:
        return self._dimension in (None, key.dimension) and self._identifier in (None, key.identifier)

    def _burn(self, state: BudgetState, now: float, span: float) -> Burn:
        if self._latest:
            return Burn(
                sum([step.budgets.get(state.key, 0) for step in self._steps.values()]) * _MINUTE / span
            )
        # Nobody keeps a ledger: what was added since we look, at most in the window.
        counts = self._counts.setdefault(state.key, deque())
        if not counts or now - counts[-1][0] >= self._window / _STEPS:
            counts.append((now, state.used))
        while now - counts[0][0] > self._window and len(counts) > 1:
            counts.popleft()
        since, used = counts[0]
        return Burn(max(0, state.used - used) * _MINUTE / max(now - since, _SHORTEST))


def _rate(counts: Iterable[int], span: float) -> Rate:
    return Rate(*[amount * _MINUTE / span for amount in counts])

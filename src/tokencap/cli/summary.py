"""What `tokencap run` says at the end: what was spent, and how the budgets stand."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import timedelta
from typing import TYPE_CHECKING, Any

from .._entry import EVER, Label
from ..budget import UNLIMITED, Asked, BudgetKey, BudgetState
from ..ledger import Ledger
from .standing import spell
from .text import clean, count, per_cent

if TYPE_CHECKING:
    from .._usage import Usage
    from ..backends.protocol import LedgerBackend
    from .guarding import Seen

__all__ = ["Summary"]

_MODELS = 4
_BUDGETS = 5


def _fullest(state: BudgetState) -> tuple[bool, float, BudgetKey]:
    return state.unlimited, -state.pct_used, state.key


@dataclass(frozen=True)
class Summary:
    """One run. Amounts are tokens."""

    run: str
    seen: Seen
    backend: str = ""
    usage: Usage | None = None
    """By model."""
    states: Sequence[BudgetState] = ()
    """The fullest first."""
    problem: str = ""

    def with_books(self, store: LedgerBackend, ago: timedelta, said: Mapping[str, str]) -> Summary:
        """Return the summary with what the store says: of the run, and of the budgets it counted on.

        Where the ledger is off, these are those of the identifiers that were `said` or made up.
        """
        usage = Ledger(store).usage("model", since=ago, where={"tag:run": self.run})
        labels = [Label.parse(one.label) for one in store.sums(store.now() - ago.total_seconds(), EVER)]
        keys = {
            BudgetKey(*pair)
            for label in labels
            if label.tags.get("run") == self.run
            for pair in label.identifiers.items()
        }
        known = [
            one
            for one in store.budgets()
            if one.key in keys or one.key.identifier in (self.run, said.get(one.key.dimension))
        ]
        states = store.get_states([Asked(one.key, one.limit, one.period) for one in known]) if known else ()
        return replace(self, backend=store.name, usage=usage, states=sorted(states, key=_fullest))

    def failed(self, problem: str) -> Summary:
        """Return the summary of a run whose store cannot be read."""
        return replace(self, problem=problem)

    def lines(self) -> list[str]:
        """Return it in words."""
        if not self.seen.processes:
            return [
                "[tokencap] run: nothing was guarded: no Python started that reads PYTHONPATH "
                "(python -I, -E and -S do not, nor do frozen programs)"
            ]
        if not self.seen.sdks:
            return ["[tokencap] run: 0 tokens: no SDK that tokencap guards was imported"]
        if self.problem:
            return [f"[tokencap] run: what was spent cannot be told: {self.problem}"]
        assert self.usage is not None
        lines = [f"[tokencap] run {self.run}: {_spent(self.usage)}"]
        for state in self.states[:_BUDGETS]:
            text = f"{count(state.used)} tokens used"
            if not state.unlimited:
                text = f"{count(state.used)} of {count(state.limit)} tokens used ({per_cent(state.pct_used)})"
            if state.reserved:
                text += f", {count(state.reserved)} still held by calls that were cut off"
            lines.append(f"[tokencap] {spell(state.key)}: {text}, in {clean(self.backend)}")
        if len(self.states) > _BUDGETS:
            lines.append(f"[tokencap] {count(len(self.states) - _BUDGETS)} more budgets: tokencap status")
        for place, many in self.seen.unseen.items():
            requests = "1 request" if many == 1 else f"{count(many)} requests"
            lines.append(f"[tokencap] not counted: {requests} to {clean(place)}")
        return lines

    def to_dict(self) -> dict[str, Any]:
        """Return it in types that JSON knows."""
        total = self.usage.total if self.usage is not None else None
        return {
            "run": self.run,
            "backend": self.backend,
            "processes": self.seen.processes,
            "sdks": list(self.seen.sdks),
            "calls": 0 if total is None else total.calls,
            "tokens": 0 if total is None else total.tokens,
            "blocked": 0 if total is None else total.blocked,
            "degraded": 0 if total is None else total.degraded,
            "models": {} if self.usage is None else {row.key: row.tokens for row in self.usage},
            "unseen": dict(self.seen.unseen),
            "budgets": [
                {
                    "dimension": state.key.dimension,
                    "identifier": state.key.identifier,
                    "used": state.used,
                    "reserved": state.reserved,
                    "limit": None if state.limit >= UNLIMITED else state.limit,
                }
                for state in self.states
            ],
            "problem": self.problem or None,
        }


def _spent(usage: Usage) -> str:
    total = usage.total
    if not total.calls:
        return "no call is in the ledger"
    calls = "1 call" if total.calls == 1 else f"{count(total.calls)} calls"
    text = f"{count(total.tokens)} tokens in {calls}"
    if total.tokens:
        models = [f"{clean(row.key)} {count(row.tokens)}" for row in usage.rows[:_MODELS] if row.tokens]
        more = len(usage.rows) - _MODELS
        text += f" ({', '.join(models)}{f', {more} more' if more > 0 else ''})"
    for many, what in ((total.blocked, "blocked"), (total.degraded, "degraded")):
        if many:
            text += f", {count(many)} {what}"
    return text

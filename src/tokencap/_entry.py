"""The nouns of the ledger: what a store keeps of a call, and what it sums up. Never prompt or reply text.

What many calls have in common (provider, endpoint, models, identifiers, tags) is one text, a *label*, which
a store writes once and refers to by number. Amounts are tokens, times are seconds since the epoch by the
clock of the store.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

from ._periods import Period
from .budget import BudgetKey
from .errors import ConfigurationError
from .usage import TokenUsage

__all__ = [
    "ENDINGS",
    "EVER",
    "EXPIRED",
    "Ahead",
    "Entry",
    "KnownBudget",
    "Label",
    "Retention",
    "Sum",
    "entry_of",
]

EXPIRED = "expired"
ENDINGS = ("ok", "blocked", "failed", "cancelled", "cut", EXPIRED)
"""Every way a call can end. A store may keep the position instead of the word: add at the end only."""

EVER = 2.0**40
"""A time that no call is ever made at: the end of a range that has none."""

_LONGEST_NAME = 256
_LONGEST_DAYS = 36_525


class Label(NamedTuple):
    """What a call has in common with others."""

    provider: str
    endpoint: str
    model_asked: str
    model: str
    """The model that was used, after DEGRADE."""
    identifiers: Mapping[str, str]
    """By dimension."""
    tags: Mapping[str, str]

    def text(self) -> str:
        """Return the label as a store keeps it: ASCII, the same for the same label."""
        fields: dict[str, object] = {
            "p": self.provider,
            "e": self.endpoint[:_LONGEST_NAME],
            "m": self.model[:_LONGEST_NAME],
            "i": dict(self.identifiers),
        }
        if self.model_asked != self.model:
            fields["a"] = self.model_asked[:_LONGEST_NAME]
        if self.tags:
            fields["t"] = dict(sorted(self.tags.items()))
        return json.dumps(fields, separators=(",", ":"))

    @classmethod
    def parse(cls, text: str) -> Label:
        """Return the label that `text` was made of."""
        fields = json.loads(text)
        model = fields["m"]
        return cls(fields["p"], fields["e"], fields.get("a", model), model, fields["i"], fields.get("t", {}))


class Entry(NamedTuple):
    """One call, as it is written into the ledger."""

    label: str
    """See `Label.text`."""
    ending: str
    """One of `ENDINGS`."""
    input: int = 0
    """All of the prompt, cache reads and writes included."""
    output: int = 0
    """All that was generated, reasoning included. The budgets were charged `input + output`."""
    cached: int = 0
    written: int = 0
    reasoning: int = 0
    estimate: int = 0
    """Prompt tokens expected before the call."""
    estimated: bool = False
    """True when `input` and `output` are not all the provider's own report."""
    seconds: float = 0.0

    @classmethod
    def expired(cls, label: str, charge: int) -> Entry:
        """Return what is left of a call whose owner died."""
        return cls(label, EXPIRED, charge, estimate=charge, estimated=True)


def entry_of(
    label: str,
    ending: str,
    tokens: int,
    usage: TokenUsage | None,
    estimate: int,
    estimated: bool,
    seconds: float,
) -> Entry:
    """Return the entry of a call that was charged `tokens`: what is not a reported prompt is output."""
    if usage is None or not tokens:
        sent = min(estimate, tokens)
        return Entry(label, ending, sent, tokens - sent, 0, 0, 0, estimate, estimated, seconds)
    sent = min(usage.input_tokens, tokens)
    return Entry(
        label,
        ending,
        sent,
        tokens - sent,
        usage.cache_read_tokens,
        usage.cache_write_tokens,
        usage.reasoning_tokens,
        estimate,
        estimated,
        seconds,
    )


class Sum(NamedTuple):
    """What calls of one label that ended in one way, in one period, come to."""

    label: str
    period: int
    """Seconds since the epoch at which the period begins; 0 where periods were not asked for."""
    ending: str
    calls: int
    estimated: int
    """How many of the calls have amounts that are not all the provider's own report."""
    input: int
    output: int
    cached: int
    written: int
    reasoning: int
    seconds: float


class Ahead(NamedTuple):
    """What happens to a budget at a share of its limit."""

    at_pct: float
    actions: tuple[str, ...]
    """WARN, WEBHOOK, DEGRADE, BLOCK."""

    @staticmethod
    def spell(all_: Iterable[Ahead]) -> str:
        """Return thresholds as a store keeps them, without a blank: `0.8=WARN,DEGRADE;1.0=BLOCK`."""
        return ";".join([f"{each.at_pct!r}={','.join(each.actions)}" for each in all_])

    @staticmethod
    def parse(text: str) -> tuple[Ahead, ...]:
        """Return the thresholds that `text` was made of, in ascending order."""
        pairs = [each.partition("=") for each in text.split(";")] if text else []
        return tuple(sorted([Ahead(float(share), tuple(names.split(","))) for share, _, names in pairs]))


class KnownBudget(NamedTuple):
    """A budget that a store has heard of."""

    key: BudgetKey
    limit: int
    """As last configured; `UNLIMITED` where it is only tracked."""
    override: int | None = None
    """The limit stored with `set_limit`, if there is one."""
    period: Period | None = None
    """How long the counter runs, as the last call that began a window said; None: for ever."""
    thresholds: tuple[Ahead, ...] = ()
    """Of the policy of the process that came to use it last."""


@dataclass(frozen=True)
class Retention:
    """How much of a ledger is kept: calls of the last `days`, and no more than about `rows` of them."""

    days: float = 90.0
    rows: int = 5_000_000
    seconds: float = field(init=False, repr=False)

    def __post_init__(self) -> None:
        days, rows = self.days, self.rows
        if isinstance(days, bool) or not isinstance(days, (int, float)) or not 0 < days <= _LONGEST_DAYS:
            raise ConfigurationError(
                f"days is {days!r}; it must be a number above 0, at most {_LONGEST_DAYS}"
            )
        if isinstance(rows, bool) or not isinstance(rows, int) or rows < 1:
            raise ConfigurationError(f"rows is {rows!r}; it must be a whole number, at least 1")
        object.__setattr__(self, "seconds", self.days * 86_400.0)

"""The plans of one Guard: one for each set of identifiers its calls are made for. Pure."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from threading import Lock
from typing import NamedTuple

from ._plan import Budget, Ceilings, Plan
from .budget import BudgetKey
from .errors import ConfigurationError
from .policy import Policy

__all__ = ["Plans"]

_REMEMBERED = 10_000


class _Part(NamedTuple):
    name: str
    identifier: str
    limit: int | None


class Plans:
    """Finds the plan of a call by who makes it; `identifiers` are for those who do not say."""

    def __init__(self, policy: Policy, identifiers: Mapping[str, str]) -> None:
        self._policy = policy
        self._identifiers = identifiers
        self._ceilings = Ceilings(
            policy.max_prompt_tokens, policy.max_output_tokens, policy.min_output_tokens
        )
        self._known: dict[tuple[tuple[_Part, ...], tuple[str, ...]], Plan] = {}
        self._lock = Lock()

    def of(self, identifiers: Mapping[str, str], known_only: bool = False) -> Plan:
        """Return the plan for these identifiers.

        Raises `ConfigurationError` when they name a dimension that is not there, when a required one has
        no identifier (unless `known_only`, which leaves it out) or when its limit cannot be found out.
        """
        if identifiers:
            self.check(identifiers)
        parts, unusable = [], []
        for name, policy in self._policy.dimensions.items():
            identifier = identifiers.get(name) or self._identifiers.get(name)
            try:
                if identifier is None:
                    raise ConfigurationError(
                        f"the dimension {name!r} is required and this call has no identifier for it; make it "
                        f"inside `with tokencap.scope(identifiers={{{name!r}: ...}})`. Nothing was sent"
                    )
                parts.append(_Part(name, identifier, policy.limit_for(identifier)))
            except ConfigurationError:
                if self._policy.enforce and not known_only:
                    raise
                unusable.append(name)
        # By the limits too, which a function may change from call to call.
        key = tuple(parts), tuple(unusable)
        return self._known.get(key) or self._make(*key)

    def _make(self, parts: tuple[_Part, ...], unusable: tuple[str, ...]) -> Plan:
        policy = self._policy
        budgets = [
            Budget.of(BudgetKey(name, identifier), policy.dimensions[name], limit, policy.enforce)
            for name, identifier, limit in parts
        ]
        plan = Plan.of(policy.name, budgets)
        if policy.enforce:
            plan = plan._replace(ceilings=self._ceilings)
        else:
            plan = plan._replace(watched=self._ceilings, enforces=False, observes=True, unusable=unusable)
        with self._lock:
            while len(self._known) >= _REMEMBERED:
                del self._known[next(iter(self._known))]
            self._known[parts, unusable] = plan
        return plan

    def check(self, names: Collection[str]) -> None:
        """Raise `ConfigurationError` for a dimension that is not in the policy."""
        unknown = [name for name in names if name not in self._policy.dimensions]
        if unknown:
            raise ConfigurationError(
                f"identifiers names {', '.join(map(repr, unknown))}, which the policy does not; "
                f"its dimensions are {', '.join(map(repr, self._policy.dimensions))}"
            )

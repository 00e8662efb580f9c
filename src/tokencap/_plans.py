"""The plans of one Guard: one for each set of identifiers its calls are made for. Pure."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from threading import Lock

from ._plan import Budget, Plan
from .budget import BudgetKey
from .errors import ConfigurationError
from .policy import Policy

__all__ = ["Plans"]

_REMEMBERED = 10_000


class Plans:
    """Finds the plan of a call by who makes it; `identifiers` are for those who do not say."""

    def __init__(self, policy: Policy, identifiers: Mapping[str, str]) -> None:
        self._policy = policy
        self._identifiers = identifiers
        self._known: dict[tuple[tuple[str, str, int | None], ...], Plan] = {}
        self._lock = Lock()

    def of(self, identifiers: Mapping[str, str], known_only: bool = False) -> Plan:
        """Return the plan for these identifiers.

        Raises `ConfigurationError` when they name a dimension that is not there, when a required one has
        no identifier (unless `known_only`, which leaves it out) or when its limit cannot be found out.
        """
        if identifiers:
            self.check(identifiers)
        parts = []
        for name, policy in self._policy.dimensions.items():
            identifier = identifiers.get(name) or self._identifiers.get(name)
            if identifier is not None:
                parts.append((name, identifier, policy.limit_for(identifier)))
            elif not known_only:
                raise ConfigurationError(
                    f"the dimension {name!r} is required and this call has no identifier for it; make it "
                    f"inside `with tokencap.scope(identifiers={{{name!r}: ...}})`. Nothing was sent"
                )
        # By the limits too, which a function may change from call to call.
        key = tuple(parts)
        return self._known.get(key) or self._make(key)

    def _make(self, key: tuple[tuple[str, str, int | None], ...]) -> Plan:
        dimensions = self._policy.dimensions
        budgets = [
            Budget.of(BudgetKey(name, identifier), dimensions[name], limit) for name, identifier, limit in key
        ]
        plan = Plan.of(self._policy.name, budgets)
        with self._lock:
            while len(self._known) >= _REMEMBERED:
                del self._known[next(iter(self._known))]
            self._known[key] = plan
        return plan

    def check(self, names: Collection[str]) -> None:
        """Raise `ConfigurationError` for a dimension that is not in the policy."""
        unknown = [name for name in names if name not in self._policy.dimensions]
        if unknown:
            raise ConfigurationError(
                f"identifiers names {', '.join(map(repr, unknown))}, which the policy does not; "
                f"its dimensions are {', '.join(map(repr, self._policy.dimensions))}"
            )

"""The plans of one Guard: one for each set of identifiers its calls are made for. Pure."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
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
    """Finds the plan of a call by who makes it; `identifiers` are for those who do not say.

    The plans of a child have the dimensions of the Guards around it too, each under its own policy.
    """

    def __init__(self, policy: Policy, identifiers: Mapping[str, str], outer: Plans | None = None) -> None:
        self.identifiers = identifiers
        self._policies: tuple[Policy, ...] = (*(outer._policies if outer else ()), policy)
        self.dimensions = {
            name: (one, level.enforce) for level in self._policies for name, one in level.dimensions.items()
        }
        """Each with whether it is enforced."""
        self._ceilings = _ceilings(level for level in self._policies if level.enforce)
        self._watched = _ceilings(level for level in self._policies if not level.enforce)
        self._known: dict[tuple[tuple[_Part, ...], tuple[str, ...]], Plan] = {}
        self._fixed = all(
            one.limit is None or isinstance(one.limit, int) for one, _ in self.dimensions.values()
        )
        self._plain: Plan | None = None
        """Of calls that say nothing of themselves, where every limit is a number."""

    def of(self, identifiers: Mapping[str, str], known_only: bool = False) -> Plan:
        """Return the plan for these identifiers.

        Raises `ConfigurationError` when they name a dimension that is not there, when a required one has
        no identifier (unless `known_only`, which leaves it out) or when its limit cannot be found out.
        """
        if identifiers:
            self.check(identifiers)
        elif self._plain is not None:
            return self._plain
        parts, unusable = [], []
        for name, (policy, enforce) in self.dimensions.items():
            identifier = identifiers.get(name) or self.identifiers.get(name)
            try:
                if identifier is None:
                    raise ConfigurationError(
                        f"the dimension {name!r} is required and this call has no identifier for it; make it "
                        f"inside `with tokencap.scope(identifiers={{{name!r}: ...}})`. Nothing was sent"
                    )
                parts.append(_Part(name, identifier, policy.limit_for(identifier)))
            except ConfigurationError:
                if enforce and not known_only:
                    raise
                unusable.append(name)
        # By the limits too, which a function may change from call to call.
        key = tuple(parts), tuple(unusable)
        plan = self._known.get(key) or self._make(*key)
        if self._fixed and not identifiers and not unusable:
            self._plain = plan
        return plan

    def _make(self, parts: tuple[_Part, ...], unusable: tuple[str, ...]) -> Plan:
        budgets = []
        for name, identifier, limit in parts:
            policy, enforce = self.dimensions[name]
            budgets.append(Budget.of(BudgetKey(name, identifier), policy, limit, enforce))
        plan = Plan.of(self._policies[-1].name, budgets)._replace(
            ceilings=self._ceilings,
            watched=self._watched,
            enforces=any(level.enforce for level in self._policies),
            observes=not all(level.enforce for level in self._policies),
            unusable=unusable,
        )
        if len(self._known) >= _REMEMBERED:
            self._known = {}
        self._known[parts, unusable] = plan
        return plan

    def check(self, names: Collection[str]) -> None:
        """Raise `ConfigurationError` for a dimension that is not in the policy."""
        unknown = [name for name in names if name not in self.dimensions]
        if unknown:
            raise ConfigurationError(
                f"identifiers names {', '.join(map(repr, unknown))}, which the policy does not; "
                f"its dimensions are {', '.join(map(repr, self.dimensions))}"
            )


def _ceilings(policies: Iterable[Policy]) -> Ceilings:
    """Return what all of these policies leave to one call."""
    left = Ceilings()
    for policy in policies:
        own = Ceilings(policy.max_prompt_tokens, policy.max_output_tokens, policy.min_output_tokens)
        left = own.within(left)
    return left

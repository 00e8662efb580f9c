"""What a Guard and its children have spent, and what the policy of a child is called."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Mapping
from dataclasses import replace
from threading import RLock

from ._fork import ForkAware, survive_forks
from ._scope import check_pairs
from .errors import ConfigurationError
from .policy import ActionKind, Policy
from .status import ChildStatus, Totals

__all__ = ["Branch", "child_of", "child_policy"]

_NAMES = 1_000
_OTHERS = "(others)"


class _Node:
    """Tokens of all children of one name under one Guard, or of that Guard itself."""

    def __init__(self) -> None:
        self.direct = self.subtree = self.open = 0
        self.children: dict[str, _Node] = {}
        self.would_have: Counter[ActionKind] = Counter()

    def named(self, name: str) -> _Node:
        if name not in self.children and len(self.children) >= _NAMES:
            name = _OTHERS
        return self.children.setdefault(name, _Node())

    def tell(self) -> dict[str, ChildStatus]:
        return {
            name: ChildStatus(node.direct, node.subtree, node.open, node.tell())
            for name, node in self.children.items()
        }


class Branch(ForkAware):
    """One Guard in the books of all Guards around it. Each keeps its own, by the names of its children."""

    def __init__(self, parent: Branch | None = None, name: str = "") -> None:
        self._own = _Node()
        # From the books of each Guard around: the nodes on the way to this one.
        self._ways: list[list[_Node]] = [[self._own]]
        if parent is None:
            self._root = self
            # A finalizer or a signal handler may make a call in the middle of another's.
            self._lock = RLock()
            survive_forks(self)
            return
        self._root = parent._root
        with self._root._lock:
            self._ways += [[*way, way[-1].named(name)] for way in parent._ways]
            for way in self._ways:
                way[-1].open += 1

    def after_fork_in_child(self) -> None:
        """See `_fork`."""
        self._lock = RLock()

    def close(self) -> None:
        """Note that this Guard was closed."""
        with self._root._lock:
            for way in self._ways:
                way[-1].open -= 1

    def spend(self, tokens: int) -> None:
        """Add the tokens of a call made by this Guard itself."""
        with self._root._lock:
            for way in self._ways:
                way[-1].direct += tokens
                for node in way:
                    node.subtree += tokens

    def count_would_have(self, kind: ActionKind) -> None:
        """Note an action that is only observed."""
        with self._root._lock:
            for way in self._ways:
                way[0].would_have[kind] += 1

    def totals(self) -> Totals:
        """Return what is in the books of this Guard."""
        with self._root._lock:
            own = self._own
            return Totals(own.direct, own.subtree, own.tell(), dict(own.would_have))


def child_of(path: str, name: object) -> str:
    """Return the path of a child: its name after that of its parent."""
    if not isinstance(name, str) or not name.strip() or "/" in name:
        raise ConfigurationError(f"a child is named {name!r}; names are non-empty strings without '/'")
    return f"{path}/{name}" if path else name


def child_policy(
    path: str, policy: Policy, identifiers: Mapping[str, str] | None, taken: Collection[str], short: bool
) -> tuple[Policy, dict[str, str]]:
    """Return the policy of a child under names of its own, and its identifiers under the same names.

    A dimension is called by the path of the child and its own name; the one of a `short` policy, made of
    a limit, by the path alone.
    """
    names = {name: path if short else f"{path}/{name}" for name in policy.dimensions}
    for name in names.values():
        if name in taken:
            raise ConfigurationError(
                f"there is a dimension {name!r} already, in the policy around; give the child another name"
            )
    given = check_pairs(identifiers, "identifier", "{'session': 'run-7'}")
    if short:
        given = {("session" if name == path.rpartition("/")[2] else name): one for name, one in given.items()}
    unknown = [name for name in given if name not in names]
    if unknown:
        raise ConfigurationError(
            f"identifiers names {', '.join(map(repr, unknown))}, which the policy of the child does not"
        )
    dimensions = {names[name]: one for name, one in policy.dimensions.items()}
    return replace(policy, dimensions=dimensions), {names[name]: one for name, one in given.items()}

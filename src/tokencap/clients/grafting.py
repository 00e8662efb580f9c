"""Copies of clients whose SDK has no `copy()`: the same objects but for one part, and what refers to it."""

from __future__ import annotations

from types import CellType, FunctionType, MethodType
from typing import Any

__all__ = ["grafted", "twin_of"]


def grafted(client: Any, part: str, package: str) -> Any:
    """Return a copy of a client with a copy of `part`, its attribute that every call goes through.

    Whatever else of the SDK's `package` hangs on the client and refers to either (resources made already,
    methods bound or wrapped in the constructor) is copied to refer to the copies; the rest is shared. The
    original stays alive as long as the copy: it closes the connections when it goes.
    """
    twin = object.__new__(type(client))
    old = getattr(client, part)
    graft = _Graft(package, {id(client): twin, id(old): twin_of(old)})
    for name, value in vars(client).items():
        vars(twin)[name] = graft.of(value)
    vars(twin)["_tokencap_original"] = client
    return twin


def twin_of(value: Any) -> Any:
    """Return a shallow copy, made without asking the object how: some answer before they are ready to."""
    twin = object.__new__(type(value))
    vars(twin).update(vars(value))
    return twin


class _Graft:
    """One copying, which meets every object once."""

    def __init__(self, package: str, met: dict[int, Any]) -> None:
        self._package = package
        self._met = met

    def of(self, value: Any) -> Any:
        """Return what stands in the copy for a value: itself, unless it refers to what was copied."""
        if id(value) in self._met:
            return self._met[id(value)]
        if isinstance(value, MethodType):
            owner = self.of(value.__self__)
            return value if owner is value.__self__ else MethodType(value.__func__, owner)
        module = value.__module__ if isinstance(value, FunctionType) else type(value).__module__
        if not str(module).startswith(self._package):
            return value
        self._met[id(value)] = value
        found = self._function(value) if isinstance(value, FunctionType) else self._object(value)
        self._met[id(value)] = found
        return found

    def _object(self, value: Any) -> Any:
        fields = getattr(value, "__dict__", {})
        changed = {name: new for name, old in fields.items() for new in [self.of(old)] if new is not old}
        if not changed:
            return value
        twin = twin_of(value)
        vars(twin).update(changed)
        return twin

    def _function(self, function: FunctionType) -> FunctionType:
        cells = function.__closure__ or ()
        held = [cell.cell_contents for cell in cells]
        new = [self.of(item) for item in held]
        if all(one is other for one, other in zip(new, held)):
            return function
        closure = tuple(CellType(item) for item in new)
        twin = FunctionType(
            function.__code__, function.__globals__, function.__name__, function.__defaults__, closure
        )
        twin.__kwdefaults__ = function.__kwdefaults__
        twin.__doc__ = function.__doc__
        twin.__dict__.update(function.__dict__)
        return twin

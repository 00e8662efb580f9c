"""What is to be done to a module once somebody imports it, without importing it for the purpose."""

from __future__ import annotations

import contextlib
import sys
from typing import TYPE_CHECKING, Any, Callable

if TYPE_CHECKING:
    from collections.abc import Sequence
    from importlib.abc import Loader, MetaPathFinder
    from importlib.machinery import ModuleSpec
    from types import ModuleType
else:  # to load them takes longer than all that every Python under `tokencap run` loads besides
    Loader = MetaPathFinder = object

__all__ = ["Arrival"]


class Arrival(MetaPathFinder):
    """Calls `arrived(module)` once a module has been imported; at once if it has been."""

    def __init__(self, name: str, arrived: Callable[[ModuleType], None]) -> None:
        self._name = name
        self._arrived = arrived

    def watch(self) -> None:
        """Begin to look out for it."""
        module = sys.modules.get(self._name)
        if module is None:
            sys.meta_path.insert(0, self)
        else:
            self._arrived(module)

    def stop(self) -> None:
        """Look out no more. Idempotent."""
        with contextlib.suppress(ValueError):
            sys.meta_path.remove(self)

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        """Return what the other finders say of the module, with our loader around theirs."""
        if fullname != self._name:
            return None
        for finder in sys.meta_path:
            spec = None if finder is self else finder.find_spec(fullname, path, target)
            if spec is not None:
                if spec.loader is not None:
                    spec.loader = _Telling(spec.loader, self._arrived)
                return spec
        return None


class _Telling(Loader):
    """A loader that calls back when the module is complete, and leaves itself out of it."""

    def __init__(self, loader: Any, arrived: Callable[[ModuleType], None]) -> None:
        self._loader = loader
        self._arrived = arrived

    def __getattr__(self, name: str) -> Any:
        return getattr(self.__dict__["_loader"], name)

    def create_module(self, spec: ModuleSpec) -> ModuleType | None:  # pyright: ignore[reportIncompatibleMethodOverride]
        """Do as the loader does."""
        module: ModuleType | None = self._loader.create_module(spec)
        return module

    def exec_module(self, module: ModuleType) -> None:
        """Do as the loader does, and tell."""
        module.__loader__ = self._loader
        if module.__spec__ is not None:
            module.__spec__.loader = self._loader
        self._loader.exec_module(module)
        self._arrived(module)

"""`patch()`: every client that finishes construction is guarded."""

from __future__ import annotations

import functools
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any, Callable

from ..errors import ConfigurationError
from ..policy import Provider, as_member
from .family import Family, families, installed, is_installed
from .litellm import PACKAGE, LiteLLM

if TYPE_CHECKING:
    from ..guard import Guard

__all__ = ["Patch"]

_DEFAULT = (Provider.ANTHROPIC, Provider.OPENAI)
"""What is patched when nothing is asked for by name, as far as it is installed."""


class Patch:
    """The constructors of the SDKs' base clients, wrapped. Every client class passes through them.

    LiteLLM, which has HTTP of its own beside the SDKs, is guarded as a whole.
    """

    def __init__(self, families: list[Family], litellm: bool, current: Callable[[], Guard]) -> None:
        self.families = families
        self.names = [family.provider.value for family in families] + [PACKAGE] * litellm
        """What is patched, as it is printed."""
        self._litellm = LiteLLM(self._owner) if litellm else None
        self._current = current
        self._active = False
        self._wrapped: list[tuple[type, Any, Any]] = []

    @classmethod
    def prepare(cls, providers: Iterable[Provider | str] | None, current: Callable[[], Guard]) -> Patch:
        """Return a patch for these providers, checked but not applied."""
        if providers is None:
            found = [family for family in families() if family.provider in _DEFAULT and installed(family)]
            if not found:
                raise ConfigurationError(
                    "neither the anthropic nor the openai SDK is installed; "
                    'pip install "tokencap[anthropic]" or "tokencap[openai]"'
                )
            return cls(found, is_installed(PACKAGE), current)
        if isinstance(providers, (str, bytes)) or not isinstance(providers, Iterable):
            raise ConfigurationError(f"providers is {providers!r}; it must be a list like ['anthropic']")
        named = list(providers)
        what = "a provider in providers="
        chosen = [as_member(Provider, item, what, PACKAGE) for item in named if item != PACKAGE]
        if not named:
            raise ConfigurationError("providers is empty; leave it out to patch anthropic and openai")
        if PACKAGE in named and not is_installed(PACKAGE):
            raise ConfigurationError("litellm is not installed; pip install litellm")
        asked = [family for family in families() if family.provider in chosen]
        for family in asked:
            if not installed(family):
                raise ConfigurationError(
                    f'the {family.package} SDK is not installed; pip install "tokencap[{family.provider}]"'
                )
        return cls(asked, PACKAGE in named, current)

    def apply(self) -> None:
        """Wrap the constructors."""
        self._active = True
        for family in self.families:
            for base in family.constructed():
                original = base.__dict__["__init__"]
                wrapped = self._guarding(original, family)
                base.__init__ = wrapped  # type: ignore[misc]
                self._wrapped.append((base, original, wrapped))
        if self._litellm is not None:
            self._litellm.apply()

    def _guarding(self, original: Any, family: Family) -> Any:
        @functools.wraps(original)
        def __init__(client: Any, /, *args: Any, **kwargs: Any) -> None:  # noqa: N807
            original(client, *args, **kwargs)
            if self._active:
                family.install(client, self._owner)

        return __init__

    def _owner(self) -> Guard | None:
        return self._current() if self._active else None

    def revert(self) -> None:
        """Put the constructors back; where somebody wrapped ours since, ours stays and does nothing."""
        self._active = False
        for base, original, wrapped in self._wrapped:
            if base.__dict__.get("__init__") is wrapped:
                base.__init__ = original  # type: ignore[misc]
        self._wrapped.clear()
        if self._litellm is not None:
            self._litellm.revert()

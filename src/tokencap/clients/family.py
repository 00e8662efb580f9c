"""The SDK families that share the seam: made by one generator, their every call ends in `request`."""

from __future__ import annotations

import importlib
import importlib.util
from typing import Any, NamedTuple

from ..errors import ConfigurationError
from ..policy import Provider

__all__ = ["FAMILIES", "Family", "family_of", "installed"]


class Family(NamedTuple):
    """One SDK, known by the module of its base clients, so that no SDK is imported to ask about it."""

    provider: Provider
    package: str

    @property
    def base_module(self) -> str:
        """Where `SyncAPIClient` and `AsyncAPIClient` are."""
        return f"{self.package}._base_client"

    def bases(self) -> tuple[type, type]:
        """Return the two base clients, importing the SDK."""
        module = importlib.import_module(self.base_module)
        return module.SyncAPIClient, module.AsyncAPIClient


FAMILIES = (Family(Provider.ANTHROPIC, "anthropic"), Family(Provider.OPENAI, "openai"))


def family_of(client: Any) -> tuple[Family, bool]:
    """Return the family of a client and whether it is asynchronous."""
    for base in type(client).__mro__:
        for family in FAMILIES:
            if base.__module__ == family.base_module and base.__name__ in ("SyncAPIClient", "AsyncAPIClient"):
                return family, base.__name__ == "AsyncAPIClient"
    hint = ""
    if isinstance(client, type):
        hint = f"; it is a class: pass an instance, {client.__name__}()"
    raise ConfigurationError(
        f"cannot guard a {type(client).__module__}.{type(client).__qualname__}{hint}. Supported are the "
        "clients of the anthropic SDK (Anthropic, AsyncAnthropic, their Bedrock, Vertex, Foundry variants) "
        "and of the openai SDK (OpenAI, AsyncOpenAI, AzureOpenAI ...)"
    )


def installed(family: Family) -> bool:
    """Return whether the SDK can be imported, without importing it."""
    try:
        return importlib.util.find_spec(family.package) is not None
    except (ImportError, ValueError):
        return False

"""The SDK families: how their clients are known, guarded in place and copied. One module each, found by name.

A provider `x` has its `FAMILY` in `clients/x.py`. No SDK is imported to ask whose a client is.
"""

from __future__ import annotations

import importlib
import importlib.util
from functools import cache
from typing import TYPE_CHECKING, Any, Callable

from ..errors import ConfigurationError
from ..policy import Provider

if TYPE_CHECKING:
    from ..guard import Guard

__all__ = ["Family", "Owner", "families", "family_of", "installed", "is_installed", "owner_of"]

Owner = Callable[[], "Guard | None"]
"""Says which Guard a client follows at this moment; None: no longer any. Raises if it must not be used."""

_MARK = "_tokencap_owner"


class Family:
    """One SDK."""

    def __init__(self, provider: Provider, package: str, clients: str) -> None:
        self.provider = provider
        self.package = package
        """The name it is imported by."""
        self.clients = clients
        """Its clients, as they are named in messages."""

    def knows(self, cls: type) -> bool:
        """Whether a class is one that this SDK's clients derive from, told by its name alone."""
        raise NotImplementedError

    def constructed(self) -> tuple[type, ...]:
        """Return the classes whose constructors all clients pass through. Imports the SDK."""
        raise NotImplementedError

    def hook(self, client: Any, owner: Owner) -> None:
        """Put the guarded seam on this client. A later owner takes the place of an earlier one."""
        raise NotImplementedError

    def copy(self, client: Any, owner: Owner) -> Any:
        """Return a guarded copy of a client, of the same class and on the same connections."""
        raise NotImplementedError

    def traces(self, client: Any) -> bool:  # noqa: ARG002
        """Whether the SDK tells OpenTelemetry of the calls of this client by itself."""
        return False

    def install(self, client: Any, owner: Owner) -> None:
        """Guard a client in place."""
        vars(client)[_MARK] = owner
        self.hook(client, owner)

        def get_status() -> Any:
            """Return the status of the Guard this client follows."""
            guard = owner()
            if guard is None:
                raise ConfigurationError("this client is no longer guarded")
            return guard.get_status()

        vars(client)["get_status"] = get_status


@cache
def families() -> tuple[Family, ...]:
    """Return the family of every provider."""
    return tuple(importlib.import_module(f".{provider.value}", __package__).FAMILY for provider in Provider)


def family_of(client: Any) -> Family:
    """Return the family of a client. Raises `ConfigurationError` when it is of none."""
    for base in type(client).__mro__:
        for family in families():
            if family.knows(base):
                return family
    raise _unknown(client)


def _unknown(client: Any) -> ConfigurationError:
    hint = f"; it is a class: pass an instance, {client.__name__}()" if isinstance(client, type) else ""
    supported = [f"of the {family.package} SDK ({family.clients})" for family in families()]
    return ConfigurationError(
        f"cannot guard a {type(client).__module__}.{type(client).__qualname__}{hint}. Supported are the "
        f"clients {', '.join(supported[:-1])} and {supported[-1]}"
    )


def owner_of(client: Any) -> Owner | None:
    """Return who guards a client, if anybody does."""
    owner: Owner | None = vars(client).get(_MARK)
    return owner


def installed(family: Family) -> bool:
    """Return whether the SDK can be imported, without importing it."""
    return is_installed(family.package)


def is_installed(package: str) -> bool:
    """Return whether a package can be imported, without importing it."""
    try:
        return importlib.util.find_spec(package) is not None
    except (ImportError, ValueError):
        return False

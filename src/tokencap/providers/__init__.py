"""What a call means on the wire: endpoint rows and dialects, one module per provider."""

from __future__ import annotations

from functools import lru_cache
from importlib import import_module
from types import ModuleType

from ..policy import Provider
from .dialect import Dialect, Endpoint, path_pattern
from .models import home_of

__all__ = ["PROVIDERS", "UNLISTED", "endpoint_of", "home_of"]

PROVIDERS: dict[Provider, ModuleType] = {
    provider: import_module(f".{provider.value}", __name__) for provider in Provider
}
"""The module of each provider, found by its name."""

UNLISTED = Endpoint("", Dialect(), generates=False)
"""Stands in for a path without a row, whose reply may still report tokens."""

_ROWS: dict[Provider, list[tuple[str, str, Endpoint | None]]] = {
    # The longest path first: `/chat/completions` before `/completions`.
    provider: sorted(
        [(row.method, row.path, row) for row in module.ENDPOINTS]
        + [("post", path, None) for path in module.FREE],
        key=lambda item: -len(item[1]),
    )
    for provider, module in PROVIDERS.items()
}


@lru_cache(maxsize=1024)
def endpoint_of(provider: Provider, method: str, path: str) -> Endpoint | None:
    """Return the row of a URL path (relative, absolute or with a prefix); None when it is free.

    A path that is in no table is `UNLISTED` if it was posted to.
    """
    path = path.split("?", 1)[0].split("#", 1)[0].rstrip("/")
    method = method.lower()
    for row_method, row_path, row in _ROWS[provider]:
        if row_method == method and path_pattern(row_path).search(path):
            return row
    return UNLISTED if method == "post" else None

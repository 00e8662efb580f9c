"""What a path costs, for the coverage report: the same rows the calls go by, and what stands beside them."""

from __future__ import annotations

import re
from collections.abc import Iterator
from functools import cache, lru_cache
from typing import NamedTuple
from urllib.parse import urlsplit

from ..policy import Provider, _Named
from . import PROVIDERS
from .dialect import NotSeen, path_pattern

__all__ = ["CoverageStatus", "Place", "place_of", "places"]


class CoverageStatus(_Named):
    """Whether a path or a method is counted."""

    TRACKED = "tracked"
    """Counted, and stopped when the budget is gone."""
    FREE = "free"
    """Takes no tokens."""
    NOT_SEEN = "not seen"
    """Spends tokens that no budget is charged; `Guard.call()` can."""
    UNKNOWN = "unknown"
    """In no table. Never stopped; counted if the reply turns out to report tokens."""


class Place(NamedTuple):
    """One row of the report: a path (`POST /v1/messages`), all below one (`POST /files ...`), or a method."""

    provider: Provider
    status: CoverageStatus
    name: str
    note: str = ""


@cache
def places(provider: Provider) -> tuple[Place, ...]:
    """Return everything that is known of a provider, in the order of its tables."""
    return tuple(place for place, _ in _patterns(provider))


def _patterns(provider: Provider) -> Iterator[tuple[Place, re.Pattern[str] | None]]:
    # The first that fits is meant: what is done later at the provider is free in itself.
    module = PROVIDERS[provider]
    for row in module.ENDPOINTS:
        note = "reports on a call begun elsewhere, and settles it" if row.follows else ""
        place = Place(provider, CoverageStatus.TRACKED, f"{row.method.upper()} {row.path}", note)
        yield place, path_pattern(row.path) if row.method == "post" else None
    not_seen: tuple[NotSeen, ...] = getattr(module, "NOT_SEEN", ())
    for item in not_seen:
        is_path = item.name.startswith("/")
        name = f"POST {item.name}" if is_path else f"{item.name}()"
        place = Place(provider, CoverageStatus.NOT_SEEN, name, item.why)
        yield place, path_pattern(item.name) if is_path else None
    done_later = {item.name for item in not_seen}
    for path in module.FREE:
        if path not in done_later:
            yield Place(provider, CoverageStatus.FREE, f"POST {path}"), path_pattern(path)
    for path in getattr(module, "MANAGED", ()):
        yield Place(provider, CoverageStatus.FREE, f"POST {path} ...", "stored or configured"), _below(path)


def _below(path: str) -> re.Pattern[str]:
    # At the start of a path, or after the version or the platform that a base URL puts before it.
    return re.compile("^(?:/openai|/anthropic)?(?:/v1)?" + path_pattern(path).pattern[:-1] + "(?:/|$)")


@lru_cache(maxsize=1024)
def place_of(provider: Provider, path: str) -> Place:
    """Return the row that a path belongs to which is posted to; an `UNKNOWN` one when there is none."""
    path = _BETWEEN.sub("", urlsplit(path).path.rstrip("/"))
    for place, pattern in _patterns(provider):
        if pattern is not None and pattern.search(path):
            return place
    # An identifier has a figure in it, which `v1` has too.
    parts = [
        "{}" if _IDENTIFIER.search(part) and not _VERSION.match(part) else part for part in path.split("/")
    ]
    name = "/".join(parts)
    return Place(provider, CoverageStatus.UNKNOWN, f"POST /{name.lstrip('/')}")


_BETWEEN = re.compile(r"^/?projects/[^/]+/locations/[^/]+|(?<=upload)/(?:\{api_version\}|v\d\w*)(?=/)")
"""What Gemini's paths say of whose they are, or in which version."""
_IDENTIFIER = re.compile(r"\d|.{33}")
_VERSION = re.compile(r"v\d+\w*$")

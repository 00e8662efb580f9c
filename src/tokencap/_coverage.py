"""`coverage()`: what is tracked, what is free and what is not seen, for the SDKs that are installed."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

from .clients.family import families
from .clients.methods import Methods, methods_of, sdk_version
from .clients.passing import passed
from .policy import Provider
from .providers.coverage import CoverageStatus, Place, place_of, places

__all__ = ["Coverage", "CoverageRow", "CoverageStatus", "coverage"]


class CoverageRow(NamedTuple):
    """One path, or one method that is no HTTP call."""

    provider: str
    status: CoverageStatus
    name: str
    """`POST /v1/messages`; with `...` for all below; `realtime.connect()` for a method."""
    methods: tuple[str, ...]
    """What reaches it in the SDK that is installed, as from a client; none when it is not installed."""
    note: str
    calls: int
    """Requests of guarded clients in this process that went there and were not charged beforehand."""


class Coverage(NamedTuple):
    """The report. `str()` of it is a table."""

    sdks: Mapping[str, str]
    """The versions of the SDKs that are installed, by package."""
    rows: tuple[CoverageRow, ...]

    def __str__(self) -> str:
        versions = ", ".join(f"{name} {version}" for name, version in self.sdks.items()) or "no SDK installed"
        lines = [f"coverage for {versions}"]
        for status in CoverageStatus:
            rows = [row for row in self.rows if row.status is status]
            if rows:
                lines += ["", f"{status} ({len(rows)})"]
                width = max(len(row.name) for row in rows)
                lines += [f"  {row.provider:9}  {row.name:{width}}  {_told(row)}".rstrip() for row in rows]
        return "\n".join(lines)


def coverage() -> Coverage:
    """Return what the budgets of this process can see of what the installed SDKs can do.

    It reads the SDKs' sources (a fraction of a second) and imports none of them.
    """
    sdks: dict[str, str] = {}
    rows: list[CoverageRow] = []
    counts = passed()
    for family in families():
        version = sdk_version(family.package)
        if version is not None:
            sdks[family.package] = version
        reached = _reached(family.provider, methods_of(family.package))
        known = [*places(family.provider), *(place for place in counts if place.provider is family.provider)]
        for place in dict.fromkeys([*known, *reached]):
            methods = tuple(sorted(reached.get(place, ())))
            calls = counts.get(place, 0)
            rows.append(
                CoverageRow(str(place.provider), place.status, place.name, methods, place.note, calls)
            )
    return Coverage(sdks, tuple(rows))


def _reached(provider: Provider, methods: Methods) -> dict[Place, set[str]]:
    """Return which methods of an SDK reach which place."""
    reached: dict[Place, set[str]] = {}
    for path, names in methods.posts.items():
        reached.setdefault(place_of(provider, path), set()).update(
            name for name in names if not name.startswith("lib.")
        )
    by_name = {place.name: place for place in places(provider)}
    for name in methods.connects:
        unknown = Place(provider, CoverageStatus.UNKNOWN, f"{name}()", "a websocket")
        reached.setdefault(by_name.get(f"{name}()", unknown), set()).add(name)
    return reached


_SHOWN = 3


def _told(row: CoverageRow) -> str:
    parts = []
    if row.methods and f"{row.methods[0]}()" != row.name:
        more = len(row.methods) - _SHOWN
        parts.append(", ".join(row.methods[:_SHOWN]) + (f" and {more} more" if more > 0 else ""))
    if row.note:
        parts.append(row.note)
    if row.calls:
        parts.append(f"{row.calls:,} {'request' if row.calls == 1 else 'requests'} in this process")
    return "; ".join(parts)

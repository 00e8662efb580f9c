"""What a report is made of: sums of the ledger, folded until they fit into a page. Pure.

Nothing is lost in folding: what there is no room for by name is summed up as "everything else", so the
totals of a page are those of the ledger, whatever its size.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterable, Mapping, Sequence
from operator import add
from typing import NamedTuple, Optional

from .._entry import ENDINGS, Label, Sum

__all__ = ["LONGEST_NAME", "MOST_ROWS", "Facts", "cut", "fold", "step_of"]

MOST_ROWS = 20_000
"""Rows in a page: about 1 MB, at the very most 8."""
MOST_VALUES = 200
"""Names kept of each facet, those with most tokens."""
MOST_FACETS = 6
"""Dimensions kept, and tags: those that most calls have."""
MOST_PERIODS = 100
LONGEST_NAME = 80

_DAY = 86_400
_STEPS = (60, 300, 900, 3_600, 10_800, 21_600, _DAY)
_FIXED = ("provider", "model", "model_asked")
_COUNTS = Sum._fields[3:]

Value = Optional[str]
"""The name of something; empty: the calls have none; None: everything else, which has no room by name."""

Group = tuple[tuple[int, ...], bool]
"""What is kept of a label: the place of its name in each facet, and whether another model was used."""


class Facts(NamedTuple):
    """Calls by time and by whatever they have in common."""

    step: int
    """How long the periods are, in seconds."""
    facets: tuple[str, ...]
    """provider, model, model_asked, dimension:NAME ..., tag:NAME ..., ending."""
    values: Mapping[str, Sequence[Value]]
    """The names of each facet, those with most tokens first; of endings all there are."""
    rest: Mapping[str, int]
    """How many names of a facet are in "everything else", where there are any."""
    left_out: Sequence[str]
    """Dimensions and tags that there was no room for."""
    columns: tuple[str, ...]
    rows: Sequence[Sequence[float]]
    """The period (seconds since the epoch), a position in `values` for each facet, 1 where another model
    was used than asked for, and the counts."""

    def total(self) -> dict[str, float]:
        """Return what all rows come to. Amounts are tokens."""
        first = len(self.columns) - len(_COUNTS)
        found: dict[str, float] = {
            name: sum([row[first + at] for row in self.rows]) for at, name in enumerate(_COUNTS)
        }
        found["seconds"] = round(found["seconds"], 3)
        found["tokens"] = found["input"] + found["output"]
        calls = self.columns.index("calls")
        degraded = self.columns.index("degraded")
        found["degraded"] = sum([row[calls] for row in self.rows if row[degraded]])
        ending = self.columns.index("ending")
        for at, name in enumerate(self.values["ending"]):
            found[str(name)] = sum([row[calls] for row in self.rows if row[ending] == at])
        return found


def step_of(span: float) -> int:
    """Return how long periods are, so that a page shows at most `MOST_PERIODS` of them."""
    for step in _STEPS:
        if span / step <= MOST_PERIODS - 1:
            return step
    step = 7 * _DAY
    while span / step > MOST_PERIODS - 1:
        step *= 2
    return step


def fold(sums: Sequence[Sum], step: int, most_rows: int = MOST_ROWS) -> Facts:
    """Return the facts that sums come to, in periods of `step` seconds and at most `most_rows` rows.

    The facet with most names gives up names first, so that those with few keep them all.
    """
    counters, left_out = _counted(sums)
    ranked = {
        facet: heapq.nsmallest(MOST_VALUES, found, key=lambda name: (-found[name], name))
        for facet, found in counters.items()
    }
    sizes = {facet: len(found) for facet, found in counters.items()}
    counters.clear()
    places = _places({one.label for one in sums}, ranked)
    room = [len(names) for names in ranked.values()]
    while True:
        rows = _rows(sums, places, room, step, most_rows)
        if rows is not None:
            break
        widest = room.index(max(room))
        if not room[widest]:
            raise ValueError(f"{most_rows} rows are too few")
        room[widest] //= 2
    values: dict[str, Sequence[Value]] = {}
    rest: dict[str, int] = {}
    for (facet, names), kept in zip(ranked.items(), room):
        values[facet] = [cut(name) for name in names[:kept]]
        if kept < sizes[facet]:
            rest[facet] = sizes[facet] - kept
            values[facet] = [*values[facet], None]
    values["ending"] = ENDINGS
    columns = ("period", *values, "degraded", *_COUNTS)
    return Facts(step, tuple(values), values, rest, left_out, columns, rows)


def cut(name: str) -> str:
    """Return a name as it is written in a page: in at most `LONGEST_NAME` letters."""
    return name if len(name) <= LONGEST_NAME else name[: LONGEST_NAME - 1] + "…"


def _names_of(label: Label) -> dict[str, str]:
    return {
        "provider": label.provider,
        "model": label.model,
        "model_asked": label.model_asked,
        **{f"dimension:{name}": value for name, value in label.identifiers.items()},
        **{f"tag:{name}": value for name, value in label.tags.items()},
    }


def _counted(sums: Iterable[Sum]) -> tuple[dict[str, dict[str, int]], list[str]]:
    """Return the tokens of each name of each facet kept, and the facets left out."""
    tokens: dict[str, int] = {}
    calls: dict[str, int] = {}
    for one in sums:
        tokens[one.label] = tokens.get(one.label, 0) + one.input + one.output
        calls[one.label] = calls.get(one.label, 0) + one.calls
    found: dict[str, dict[str, int]] = {facet: {} for facet in _FIXED}
    weight: dict[str, int] = {}
    for text, spent in tokens.items():
        for facet, name in _names_of(Label.parse(text)).items():
            counter = found.setdefault(facet, {})
            counter[name] = counter.get(name, 0) + spent
            weight[facet] = weight.get(facet, 0) + calls[text]
    left_out = []
    for kind in ("dimension:", "tag:"):
        facets = sorted(
            [facet for facet in found if facet.startswith(kind)],
            key=lambda facet: (len(facet) > LONGEST_NAME, -weight[facet], facet),
        )
        left_out += [
            facet for at, facet in enumerate(facets) if at >= MOST_FACETS or len(facet) > LONGEST_NAME
        ]
    order = [*_FIXED, *sorted([facet for facet in found if facet not in _FIXED and facet not in left_out])]
    all_calls, all_tokens = sum(calls.values()), sum(tokens.values())
    for facet in order[len(_FIXED) :]:
        if weight[facet] < all_calls:
            found[facet][""] = all_tokens - sum(found[facet].values())
    return {facet: found[facet] for facet in order}, [cut(facet) for facet in left_out[: 2 * MOST_FACETS]]


def _places(labels: Iterable[str], ranked: Mapping[str, Sequence[str]]) -> dict[str, Group]:
    """Return where the names of each label stand in each facet, and whether another model was used."""
    place = {facet: {name: at for at, name in enumerate(names)} for facet, names in ranked.items()}
    found: dict[str, Group] = {}
    same: dict[Group, Group] = {}  # labels are many, and what is kept of them is alike
    for text in labels:
        label = Label.parse(text)
        own = _names_of(label)
        at = tuple([names.get(own.get(facet, ""), len(names)) for facet, names in place.items()])
        group = at, label.model != label.model_asked
        found[text] = same.setdefault(group, group)
    return found


def _rows(
    sums: Iterable[Sum],
    places: Mapping[str, Group],
    room: Sequence[int],
    step: int,
    most_rows: int,
) -> list[list[float]] | None:
    """Return the rows in order of time, with room for so many names of each facet; None: they are too many.

    A name without room is at the place after the last: "everything else".
    """
    groups: dict[Group, tuple[int, ...]] = {}
    endings = {ending: at for at, ending in enumerate(ENDINGS)}
    found: dict[tuple[int, ...], list[float]] = {}
    for one in sums:
        group = places[one.label]
        at = groups.get(group)
        if at is None:
            at = groups[group] = tuple(map(min, group[0], room))
        key = (one.period // step * step, *at, endings[one.ending], int(group[1]))
        counts = found.get(key)
        if counts is None and len(found) >= most_rows:
            return None
        found[key] = list(one[3:]) if counts is None else list(map(add, counts, one[3:]))
    for counts in found.values():
        counts[-1] = round(counts[-1], 3)
    return [[*key, *counts] for key, counts in sorted(found.items())]

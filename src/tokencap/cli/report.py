"""`tokencap report`: where the tokens went, as one HTML file that needs no network."""

from __future__ import annotations

import argparse
import base64
import hashlib
import html
import json
import os
import re
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .._entry import EVER
from .._usage import seconds_of
from ..errors import ConfigurationError, TokencapError
from .facts import cut, fold, step_of
from .options import add_command, add_range, range_of
from .standing import standings
from .store import opened
from .text import clean, count, when

if TYPE_CHECKING:
    from .._entry import Sum
    from ..backends.protocol import LedgerBackend
    from .console import Console
    from .options import Commands

__all__ = ["add", "data_of", "page_of", "write"]

_DAY = 86_400
_HOUR = 3_600.0
_MOST_BUDGETS = 200


def add(commands: Commands) -> None:
    """Add the command."""
    parser = add_command(
        commands,
        "report",
        perform,
        "Write a report to hand around: one HTML file with charts and filters, which needs no network.",
        [
            ("tokencap report -o report.html", "the last 30 days"),
            ("tokencap report --since 7d --title 'Week 12' -o week12.html", "a week, with a heading"),
            ("tokencap report --since ever --json -o report.json", "what the page is made of, for a script"),
        ],
        notes=(
            "The file holds names (models, identifiers, tags) and counts, never a prompt or a reply. It is\n"
            "below 8 MB for a ledger of any size: where there are too many names, the smallest are summed up."
        ),
    )
    parser.add_argument(
        "-o", "--output", metavar="FILE", help="default: report.html; with --json: -, which is stdout"
    )
    add_range(parser, "30d")
    parser.add_argument("--title", default="Token report", help="the heading (default: Token report)")


def perform(args: argparse.Namespace, console: Console) -> int:
    """Run the command."""
    output = args.output or ("-" if args.json else "report.html")
    path = None if output == "-" else Path(output).expanduser()
    if path is not None:
        _check_place(path)
    with opened(args.backend) as backend:
        data = data_of(backend, *range_of(args))
    text = json.dumps(data) + "\n" if args.json else page_of(data, args.title)
    if path is None:
        console.write(text)
        return 0
    write(path, text)
    total = data["total"]
    console.lines(
        [
            f"{clean(output)}: {count(total['tokens'])} tokens in {count(total['calls'])} calls, "
            f"{when(data['since'])} to {when(data['until'])}, {len(text) // 1000 + 1} kB"
        ]
    )
    if not args.json:
        console.lines([f"Open it in a browser: {clean(path.absolute().as_uri())}"])
    return 0


# -- what the page is made of ----------------------------------------------------------------------------


def data_of(backend: LedgerBackend, since: str | None = None, until: str | None = None) -> dict[str, Any]:
    """Return what a report of a store says, in types that JSON knows.

    Amounts are tokens, times seconds since the epoch. Raises ConfigurationError for a time that is none or
    that has no calls, BackendError when the store fails.
    """
    now = backend.now()
    start = seconds_of(since, now, "since") or 0.0
    asked = seconds_of(until, now, "until")
    end = EVER if asked is None else asked
    sums, first, step = _sums(backend, start, end)
    if not sums:
        raise ConfigurationError(_nothing(backend, start, asked))
    facts = fold(sums, step)
    known = standings(backend, _HOUR)
    return {
        "version": 1,
        "backend": backend.name,
        "made": now,
        "since": start or first,
        "until": min(end, now),
        "step": facts.step,
        "total": facts.total(),
        "facets": list(facts.facets),
        "values": dict(facts.values),
        "rest": dict(facts.rest),
        "left_out": list(facts.left_out),
        "columns": list(facts.columns),
        "rows": list(facts.rows),
        "budgets": [
            {
                **one.to_dict(),
                "dimension": cut(one.state.key.dimension),
                "identifier": cut(one.state.key.identifier),
            }
            for one in known[:_MOST_BUDGETS]
        ],
        "budgets_left_out": max(0, len(known) - _MOST_BUDGETS),
    }


def _sums(backend: LedgerBackend, start: float, end: float) -> tuple[list[Sum], float, int]:
    """Return the sums of the ledger in periods, when the first call was, and how long the periods are."""
    days = list(backend.sums(start, end, _DAY))
    if not days:
        return [], start, _DAY
    first, last = (float(choose([one.period for one in days])) for choose in (min, max))
    row = next(iter(backend.calls(start, end)), None)
    # A store may keep single calls for a shorter time than the sums of days: then the days are what there is.
    if row is not None and row[0] < first + _DAY:
        first = row[0]
        last = max(first, next(iter(backend.calls(start, end, newest_first=True)), row)[0])
        step = step_of(last - first)
        if step < _DAY:
            fine = list(backend.sums(start, end, step))
            if sum([one.calls for one in fine]) >= sum([one.calls for one in days]):
                return fine, first, step
    return days, max(first, start), max(_DAY, step_of(last - first))


def _nothing(backend: LedgerBackend, start: float, until: float | None) -> str:
    """Return what to say where there is no call."""
    if next(iter(backend.calls(0.0, EVER)), None) is None and not backend.sums(0.0, EVER, _DAY):
        return (
            f"the ledger of {clean(backend.name)} has no call yet, so there is nothing to report. It is "
            "written by guarded calls: run your app under tokencap.wrap() or tokencap.patch(), without "
            "ledger=False, and try again"
        )
    upto = "" if until is None else f" and before {when(until)}"
    return (
        f"no call since {when(start)}{upto}, so there is nothing to report: look further back with "
        "--since 90d, or at all with --since ever"
    )


# -- the file --------------------------------------------------------------------------------------------


def page_of(data: dict[str, Any], title: str) -> str:
    """Return the page: one file, whose policy lets nothing run but its own script and nothing be fetched."""
    style, script = _part("report.css"), _part("report.js")
    total = data["total"]
    parts = {
        "title": html.escape(title),
        "policy": (
            f"default-src 'none'; script-src {_hash(script)}; style-src {_hash(style)}; img-src data:; "
            "base-uri 'none'; form-action 'none'"
        ),
        "style": style,
        "script": script,
        "data": _embeddable(data),
        "summary": html.escape(
            f"{count(total['tokens'])} tokens in {count(total['calls'])} calls, "
            f"{when(data['since'])} to {when(data['until'])}."
        ),
    }
    # In one pass: what is put in is not looked at again.
    return re.sub(r"\{\{(\w+)\}\}", lambda found: parts[found[1]], _part("report.html"))


def _part(name: str) -> str:
    return resources.files("tokencap.cli").joinpath("_report").joinpath(name).read_text(encoding="utf-8")


def _hash(text: str) -> str:
    digest = base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
    return f"'sha256-{digest}'"


def _embeddable(data: dict[str, Any]) -> str:
    """Return JSON in which HTML finds no tag, entity or comment, whatever a tenant is called."""
    text = json.dumps(data, separators=(",", ":"))
    return text.replace("&", "\\u0026").replace("<", "\\u003c").replace(">", "\\u003e")


def _check_place(path: Path) -> None:
    """Raise TokencapError where no file can be written, before the ledger is read."""
    if path.is_dir():
        raise TokencapError(f"{path} is a folder: name the file, like -o {path / 'report.html'}")
    if not path.absolute().parent.is_dir():
        folder = path.parent
        raise TokencapError(
            f"there is no folder {folder}: make it first (mkdir -p {folder}), or name another with -o"
        )


def write(path: Path, text: str) -> None:
    """Write a file, whole or not at all. Raises TokencapError when that cannot be done."""
    path = Path(os.path.realpath(path))
    raw = text.encode("utf-8", "replace")
    try:
        if path.exists() and not path.is_file():  # a pipe, /dev/stdout
            path.write_bytes(raw)
            return
        part = path.with_name(f".{path.name}.{os.getpid()}.part")
        try:
            part.write_bytes(raw)
            os.replace(part, path)
        except BaseException:
            part.unlink(missing_ok=True)
            raise
    except OSError as error:
        raise TokencapError(
            f"{path} cannot be written ({error.strerror}): name another file with -o"
        ) from error

"""Write docs/coverage.md from the rows that calls go by, for the SDKs that are installed.

    python scripts/coverage_table.py

A test fails while the page says something else than this would write.
"""

from __future__ import annotations

from pathlib import Path

import tokencap
from tokencap import Coverage, CoverageRow, CoverageStatus

PAGE = Path(__file__).resolve().parent.parent / "docs" / "coverage.md"

HEAD = """\
# What is counted, and what is not

Made by `scripts/coverage_table.py` from the tables that calls go by, for {versions}.
`print(tokencap.coverage())` prints the same for the SDKs you have installed, with the requests of this
process that went where no budget was charged.

The methods are those that send the request. Whatever ends in one of them is counted there, once: `parse`,
`stream`, tool runners, `with_raw_response`, `with_streaming_response`, `client.post(...)`, copies of a client,
Azure, Bedrock and Vertex.
"""

SECTIONS = {
    CoverageStatus.TRACKED: (
        "Tracked",
        "Counted to the token that the provider reports, and stopped before it is sent once the budget is gone.",
    ),
    CoverageStatus.NOT_SEEN: (
        "Not seen",
        "Spends tokens that no budget is charged by itself. Put `with guard.call(...) as call:` around it and "
        "`call.settle(usage)`.",
    ),
    CoverageStatus.UNKNOWN: (
        "In no table",
        "Never stopped. Counted when the reply turns out to report tokens, and named in `tokencap.coverage()`.",
    ),
    CoverageStatus.FREE: (
        "Free",
        "Takes no tokens, and works when the budget is gone. `...` is all below a path.",
    ),
}


def document(coverage: Coverage) -> str:
    """Return the page."""
    versions = ", ".join(f"{name} {version}" for name, version in coverage.sdks.items())
    parts = [HEAD.format(versions=versions)]
    for status, (title, text) in SECTIONS.items():
        rows = [row for row in coverage.rows if row.status is status]
        if rows:
            parts.append(f"## {title}\n\n{text}\n")
            parts.append("| provider | what | methods | |\n|---|---|---|---|")
            parts[-1] += "".join(map(_line, rows)) + "\n"
    return "\n".join(parts)


_SHOWN = 4


def _line(row: CoverageRow) -> str:
    methods = [f"`{name}`" for name in row.methods]
    if len(methods) > _SHOWN:
        methods = [*methods[: _SHOWN - 1], f"{len(methods) - _SHOWN + 1} more"]
    return f"\n| {row.provider} | `{row.name}` | {', '.join(methods)} | {row.note} |"


if __name__ == "__main__":
    PAGE.parent.mkdir(exist_ok=True)
    PAGE.write_text(document(tokencap.coverage()), encoding="utf-8")
    print(f"wrote {PAGE}")

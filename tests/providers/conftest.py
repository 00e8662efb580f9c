"""What the tests of this folder share, and the count of variants in the summary of the run."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tokencap.backends.memory import MemoryBackend

sys.path.insert(0, str(Path(__file__).parents[1]))


@pytest.fixture(scope="session")
def backend() -> Iterator[MemoryBackend]:
    backend = MemoryBackend()
    yield backend
    backend.close()


def pytest_terminal_summary(terminalreporter: Any) -> None:
    paths: Any = sys.modules.get("paths")
    if paths is None or not paths.CASES:
        return
    ran, cases = paths.RAN, paths.CASES
    say = terminalreporter.write_line
    terminalreporter.section("call paths")
    by_sdk = {sdk: sum(1 for provider, _ in ran if provider == sdk) for sdk in sorted({p for p, _ in ran})}
    parts = ", ".join(f"{sdk} {count}" for sdk, count in by_sdk.items())
    say(f"{len(ran)} variants exact ({parts}); {len(cases)} cases through wrap() and patch()")
    for name, reason in sorted(paths.SKIPPED.items()):
        say(f"not run: {name}: {reason}")

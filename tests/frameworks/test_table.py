"""What is said of frameworks hangs together: apps, versions, reasons, the page. None is installed here."""

from __future__ import annotations

import re
import sys
from pathlib import Path

import pytest

HOME = Path(__file__).parent
ROOT = HOME.parents[1]
sys.path[:0] = [str(ROOT / "scripts"), str(HOME)]

from known import KNOWN  # noqa: E402

import frameworks  # noqa: E402

PAGE = (ROOT / "docs" / "frameworks.md").read_text()


def test_each_app_has_its_versions_and_no_versions_are_without_an_app() -> None:
    names = sorted(frameworks.NAMES)
    assert sorted(path.stem for path in (HOME / "apps").glob("*.py")) == names
    assert sorted(path.stem for path in frameworks.LOCKS.glob("*.txt")) == names
    assert sorted(path.stem for path in frameworks.LOCKS.glob("*.in")) == names


@pytest.mark.parametrize("name", frameworks.NAMES)
def test_every_version_is_exact(name: str) -> None:
    lines = (frameworks.LOCKS / f"{name}.txt").read_text().splitlines()
    assert lines
    assert [line for line in lines if not re.match(r"[\w.-]+(\[[\w,-]+\])?==[\w.!+-]+( ;.*)?$", line)] == []


@pytest.mark.parametrize("name", frameworks.NAMES)
def test_the_page_has_the_result_of_every_route_for_the_versions_that_are_locked(name: str) -> None:
    part = PAGE.partition(f"\n### {name}\n")[2].partition("\n### ")[0]
    for package, version in frameworks.versions(name).items():
        assert f"{package} {version}" in part
    assert re.findall(r"^\| ([^|]+?) \|", part, re.MULTILINE)[1:] == frameworks.routes_of(name)


def test_the_reasons_are_of_routes_and_cells_that_there_are() -> None:
    for name, routes in KNOWN.items():
        assert set(routes) <= set(frameworks.routes_of(name))
        for cells in routes.values():
            assert set(cells) <= {*frameworks.CELLS, "bare"}

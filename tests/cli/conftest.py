"""A store in each place that the command can reach, and the command over it."""

from __future__ import annotations

from pathlib import Path

import pytest
from command import PLACES, Command, place_of


@pytest.fixture(params=PLACES)
def place(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    return place_of(request.param, tmp_path)


@pytest.fixture
def tokencap_(place: str, capsys: pytest.CaptureFixture[str]) -> Command:
    """The command on `place`."""
    return Command(place, capsys)


@pytest.fixture(autouse=True)
def wide(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "121")
    for name in ("TOKENCAP_BACKEND", "NO_COLOR", "FORCE_COLOR"):
        monkeypatch.delenv(name, raising=False)

"""What the tests of this folder share."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tokencap.backends.memory import MemoryBackend

sys.path.insert(0, str(Path(__file__).parents[1]))


@pytest.fixture(scope="session")
def backend() -> Iterator[MemoryBackend]:
    backend = MemoryBackend()
    yield backend
    backend.close()

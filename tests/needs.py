"""What a test does where something it needs is missing."""

from __future__ import annotations

import os
from types import ModuleType
from typing import NoReturn

import pytest

__all__ = ["missing", "since"]


def missing(reason: str) -> NoReturn:
    """Skip the test and say why; fail it in CI, which has to have everything."""
    if os.environ.get("CI"):
        pytest.fail(reason)
    pytest.skip(reason)


def since(sdk: ModuleType, major: int, why: str) -> None:
    """Skip the test with an SDK older than that."""
    if int(sdk.__version__.split(".")[0]) < major:
        pytest.skip(f"{sdk.__name__} {sdk.__version__} {why}")

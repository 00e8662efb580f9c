"""Tests in several processes: told as by one, and nothing is lost when a process is."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from forked import forks

pytestmark = forks

ONE = """
import os, pytest, time, warnings
def test_passes(): print("not shown")
def test_fails(tmp_path): print("said by one"); os.write(1, b"written by one"); assert tmp_path == 0
def test_warns(): warnings.warn("careful")
def test_takes_as_long_as_the_others(): time.sleep(0.3)
"""
OTHER = """
import atexit, os, pytest, signal, time
atexit.register(lambda: print("ended", file=open(f"{os.getpid()}.ended", "w")))
@pytest.fixture(scope="session")
def number():
    yield 1
    assert 0, "torn down"
def test_is_skipped(): pytest.skip("for a reason")
def test_fails(number): time.sleep(0.1); print("said by other"); assert number == 2
"""
DIES = """
def test_dies(): time.sleep(0.2); os.kill(os.getpid(), signal.SIGKILL)
def test_is_not_reached(): pass
"""


def run(folder: Path, other: str, *options: str) -> subprocess.CompletedProcess[str]:
    (folder / "test_one.py").write_text(ONE)
    (folder / "test_other.py").write_text(other)
    return subprocess.run(
        [sys.executable, "-m", "pytest", "-p", "parallel", "--processes=2", "-rs", *options],
        capture_output=True,
        text=True,
        timeout=60,
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parent), "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"},
    )


def test_what_happened_is_told_as_if_by_one_process(tmp_path: Path) -> None:
    done = run(tmp_path, OTHER)
    assert done.returncode == 1, done.stdout
    assert "2 failed, 3 passed, 1 skipped, 1 warning, 1 error in" in done.stdout
    assert "said by one\nwritten by one\n" in done.stdout
    assert "said by other\n" in done.stdout
    assert "AssertionError: torn down" in done.stdout
    assert "UserWarning: careful" in done.stdout
    assert "test_other.py:8: for a reason" in done.stdout
    assert "not shown" not in done.stdout
    # The one that found the tests, and those that ran them.
    assert len(list(tmp_path.glob("*.ended"))) == 3


def test_a_process_that_dies_is_a_failure(tmp_path: Path) -> None:
    done = run(tmp_path, OTHER + DIES)
    assert done.returncode == 1, done.stdout
    assert "a process died in test_other.py::test_dies" in done.stdout


def test_the_first_failure_can_end_all(tmp_path: Path) -> None:
    done = run(tmp_path, OTHER + "def test_is_interrupted(): time.sleep(60)\n", "--exitfirst")
    assert done.returncode == 1, done.stdout
    assert "stopping after 1 failures" in done.stdout
    assert "1 failed" in done.stdout

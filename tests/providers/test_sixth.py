"""CONTRIBUTING shows how a sixth provider is added: its blocks go into a copy of the package, and are run."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import tokencap

PAGE = (Path(__file__).parents[2] / "CONTRIBUTING.md").read_text(encoding="utf-8")
HERE = Path(__file__).parent / "sixth"
BLOCKS = re.findall(r"^<!-- (file|line of): (\S+) -->\n```python\n(.*?)^```$", PAGE, re.M | re.S)
LAST = '    COHERE = "cohere"\n'


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> Any:
    root = tmp_path_factory.mktemp("sixth")
    package = root / "tokencap"
    shutil.copytree(Path(tokencap.__file__).parent, package, ignore=shutil.ignore_patterns("__pycache__"))
    for kind, name, text in BLOCKS:
        path = package / name
        if kind == "file":
            path.write_text(text, encoding="utf-8")
        else:
            assert path.read_text(encoding="utf-8").count(LAST) == 1
            path.write_text(path.read_text(encoding="utf-8").replace(LAST, LAST + text), encoding="utf-8")
    code = f"import sys; sys.path[:0] = {[str(root), str(HERE)]!r}; import app"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=300, cwd=root)
    assert done.returncode == 0, done.stdout + done.stderr
    return json.loads(done.stdout.splitlines()[-1])


def test_it_is_one_line_and_two_modules() -> None:
    assert [(kind, name) for kind, name, _ in BLOCKS] == [
        ("line of", "policy.py"),
        ("file", "providers/fable.py"),
        ("file", "clients/fable.py"),
    ]
    assert BLOCKS[0][2].count("\n") == 1


def test_its_client_answers_as_before_and_is_counted(found: Any) -> None:
    assert found["is its class"]
    assert found["wrapped"] == found["bare"]
    assert found["counted"] == 111


def test_what_does_not_fit_is_refused_before_it_is_sent(found: Any) -> None:
    assert found["refused"].startswith("budget exceeded (session=")
    assert found["free"] == {"tokens": 11}
    assert found["sent"] == ["/v1/tales", "/v1/tales/count"]
    assert found["records"] == [["fable", "/v1/tales", 111, "ok"], ["fable", "/v1/tales", 0, "blocked"]]


def test_patch_degrades_caps_and_stops_it(found: Any) -> None:
    (first, second) = found["patched"]
    assert first == ["tale-1", 150]
    assert second[0] == "tale-0"
    assert 0 < second[1] < 1_000 - 111
    assert found["patched and counted"] == 2 * 111
    assert found["patched and refused"]


def test_the_coverage_report_has_its_rows(found: Any) -> None:
    assert found["coverage"] == [["tracked", "POST /v1/tales"], ["free", "POST /v1/tales/count"]]

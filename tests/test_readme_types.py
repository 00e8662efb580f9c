"""What mypy --strict and pyright make of programs of users, those of the README first: a part of `make lint`.

The functions that a reader would write are left without annotations there, which is all that is allowed.
"""

from __future__ import annotations

import importlib.util
import re
import subprocess
import sys
from pathlib import Path

import pytest

from test_readme import ROOT, _programs

pytestmark = pytest.mark.types

MYPY = [
    "--strict",
    "--allow-untyped-defs",
    "--allow-incomplete-defs",
    "--allow-untyped-calls",
    "--check-untyped-defs",
    "--config-file=",
    f"--cache-dir={ROOT / '.mypy_cache' / 'readme'}",
    "--python-version=3.10",
]


@pytest.fixture
def programs(tmp_path: Path) -> list[str]:
    paths = []
    for program in _programs():
        path = tmp_path / f"readme_line_{program[0].line}.py"
        path.write_text("\n".join(block.text for block in program), encoding="utf-8")
        paths.append(str(path))
    assert len(paths) > 15
    return paths


def check(module: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    if importlib.util.find_spec(module) is None:
        pytest.skip(f"{module} is not installed")
    command = [sys.executable, "-m", module, *arguments]
    return subprocess.run(command, capture_output=True, text=True, cwd=ROOT, timeout=600)


def test_the_programs_of_the_readme_pass_mypy_strict(programs: list[str]) -> None:
    done = check("mypy", *MYPY, *programs)
    assert done.returncode == 0, done.stdout + done.stderr


def test_the_programs_of_the_readme_pass_pyright(programs: list[str]) -> None:
    done = check("pyright", "--pythonpath", sys.executable, *programs)
    assert done.returncode == 0, done.stdout + done.stderr
    assert re.search(r"^0 errors", done.stdout, re.MULTILINE)


def test_a_mistake_in_a_program_would_be_seen(tmp_path: Path) -> None:
    wrong = tmp_path / "wrong.py"
    wrong.write_text(
        "import openai\n\nimport tokencap\n\nclient = tokencap.wrap(openai.OpenAI(), limit=5)\n"
        "client.chat.completions.create(model=5, messages=[])\nclient.get_status().used_up\n"
    )
    found = check("mypy", *MYPY, str(wrong)).stdout
    assert "call-overload" in found
    assert "attr-defined" in found


CLIENTS = {
    "anthropic": ("Anthropic", "AsyncAnthropic"),
    "openai": ("OpenAI", "AsyncOpenAI", "AzureOpenAI", "AsyncAzureOpenAI"),
    "mistralai.client": ("Mistral",),
}


@pytest.mark.parametrize("sdk", CLIENTS)
def test_a_client_is_of_its_type_where_no_other_sdk_is_installed(sdk: str, tmp_path: Path) -> None:
    names = [
        name if "Azure" in name or sdk not in ("anthropic", "openai") else f"Guarded{name}"
        for name in CLIENTS[sdk]
    ]
    lines = [
        f"import {sdk}, tokencap",
        "guard = tokencap.Guard(tokencap.Policy.tracking())",
        *[f"reveal_type(tokencap.wrap({sdk}.{name}()))" for name in CLIENTS[sdk]],
        *[f"reveal_type(guard.wrap({sdk}.{name}()))" for name in CLIENTS[sdk]],
    ]
    program, config = tmp_path / "one_sdk.py", tmp_path / "mypy.ini"
    program.write_text("\n".join(lines), encoding="utf-8")
    missing = "".join(
        f"[mypy-{other},{other}.*]\nfollow_imports = skip\nfollow_imports_for_stubs = True\n"
        for other in ("anthropic", "openai")
        if other != sdk
    )
    config.write_text(f"[mypy]\n{missing}", encoding="utf-8")
    done = check(
        "mypy", f"--config-file={config}", f"--cache-dir={tmp_path / 'cache'}", "--strict", str(program)
    )
    revealed = re.findall(r'Revealed type is "(?:[\w.]+\.)?(\w+)"', done.stdout)
    assert revealed == names + names, done.stdout + done.stderr

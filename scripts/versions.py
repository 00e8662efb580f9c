"""The call matrix on every Python from 3.9 to 3.15 found here, with the oldest and the newest SDKs.

    python scripts/versions.py [--python 3.9] [--sdks oldest] [--jobs 2]

Each combination gets an environment of its own under .venv/versions, with the wheel that would be
published, and runs the matrix of calls and the smoke test on the loopback provider. What fails is shown in
full at the end; the exit status is the number of combinations that failed, at most 100.
"""

from __future__ import annotations

import argparse
import os
import re
import shutil
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parent.parent
VENVS = ROOT / ".venv" / "versions"
MINORS = range(9, 16)

# The oldest supported, as in the extras. The first two were written for an httpx that still took `proxies=`,
# which 0.28 does not, and those of Gemini and Mistral ask for 0.28: so they come in two lots.
_LATER = "; python_version >= '3.10'"
SDKS = {
    "oldest": ["anthropic==0.40.0", "openai==1.40.0", "cohere==5.21.0", "httpx<0.28"],
    "mixed": ["anthropic", "openai", f"google-genai==2.18.0{_LATER}", f"mistralai==3.0.0{_LATER}"],
    "newest": ["anthropic", "openai", "cohere", f"google-genai{_LATER}", f"mistralai{_LATER}"],
}
TOOLS = ["pytest>=8", "hypothesis", "redis", "typing_extensions"]
MATRIX = ["tests/providers"]
SHOWN = ("anthropic", "openai", "cohere", "google-genai", "mistralai", "httpx", "pydantic")


class Outcome(NamedTuple):
    python: str
    sdks: str
    versions: dict[str, str]
    matrix: str
    smoke: str
    seconds: float
    log: str
    """What to show of it; empty when all passed."""


def main() -> int:
    parser = argparse.ArgumentParser(description="Run the call matrix on every Python with old and new SDKs.")
    parser.add_argument("--python", action="append", metavar="3.N", help="only this version; may be repeated")
    parser.add_argument("--sdks", choices=list(SDKS), help="only this lot of SDKs")
    parser.add_argument("--jobs", type=int, default=min(4, os.cpu_count() or 1), help="how many at a time")
    arguments = parser.parse_args()

    found = find_pythons()
    if arguments.python:
        found = {name: path for name, path in found.items() if name in arguments.python}
    absent = [f"3.{minor}" for minor in MINORS if f"3.{minor}" not in found]
    if not found:
        print("no Python of the versions asked for was found")
        return 100
    wheel = _build()
    pairs = [(name, sdks) for name in found for sdks in SDKS if arguments.sdks in (None, sdks)]
    print(f"{len(pairs)} combinations, {arguments.jobs} at a time")
    with ThreadPoolExecutor(arguments.jobs) as pool:
        tried = [pool.submit(try_one, found[name], name, sdks, wheel) for name, sdks in pairs]
        outcomes = [one.result() for one in tried]
    failed = [one for one in outcomes if one.log]
    for one in failed:
        print(f"\n===== Python {one.python}, {one.sdks} SDKs\n{one.log}")
    print("\n" + table(outcomes))
    if absent and not arguments.python:
        print(f"\nnot found here: Python {', '.join(absent)}")
    return min(len(failed), 100)


def find_pythons() -> dict[str, str]:
    """Return an interpreter for each minor version: on the PATH, of pyenv, of uv, this one."""
    homes = [Path(os.environ.get("PYENV_ROOT", Path.home() / ".pyenv")) / "versions"]
    homes.append(Path.home() / ".local" / "share" / "uv" / "python")
    installed = [str(path) for home in homes for path in home.glob("*/bin/python3")]
    found: dict[str, tuple[tuple[int, ...], str]] = {}
    names = [f"python3.{minor}" for minor in MINORS]
    candidates = [path for path in map(shutil.which, names) if path]
    for path in [*candidates, *installed, sys.executable]:
        version = _version(path)
        if version is not None and version[0] == 3 and version[1] in MINORS:
            name = f"3.{version[1]}"
            found[name] = max(found.get(name, ((), "")), (version, path), key=lambda pair: pair[0])
    return {name: found[name][1] for name in sorted(found, key=lambda text: int(text[2:]))}


def _version(python: str) -> tuple[int, ...] | None:
    # A shim of pyenv answers with an error where its version is not active; a stripped one has no ensurepip.
    code = "import ensurepip, sqlite3, ssl, sys, venv; print(*sys.version_info[:3])"
    try:
        done = subprocess.run([python, "-c", code], capture_output=True, text=True, timeout=30)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return tuple(map(int, done.stdout.split())) if done.returncode == 0 else None


def _build() -> Path:
    folder = VENVS / "wheel"
    shutil.rmtree(folder, ignore_errors=True)
    command = [sys.executable, "-m", "pip", "wheel", "--quiet", "--disable-pip-version-check", "--no-deps"]
    subprocess.run([*command, "--wheel-dir", str(folder), str(ROOT)], check=True)
    return next(folder.glob("*.whl"))


def try_one(python: str, name: str, sdks: str, wheel: Path) -> Outcome:
    """Install into an environment, run the matrix and the smoke test there."""
    began = time.monotonic()
    home = VENVS / f"{name}-{sdks}"
    inside = home / ("Scripts" if os.name == "nt" else "bin") / "python"
    log = ""
    versions: dict[str, str] = {}
    matrix = smoke = "-"
    try:
        if not inside.exists():
            _run([python, "-m", "venv", str(home)])
            _run([str(inside), "-m", "pip", "install", "--quiet", "--upgrade", "pip"])
        upgrade = ["--upgrade"] if sdks == "newest" else []
        pip = [str(inside), "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
        _run([*pip, *upgrade, *TOOLS, *SDKS[sdks]])
        _run([*pip, "--no-deps", "--force-reinstall", str(wheel)])
        versions = _installed(inside)
        options = ["-q", "-m", "not service and not live", "-p", "no:cacheprovider"]
        status, output = _try([str(inside), "-m", "pytest", *options, *MATRIX])
        matrix = _last(output, r"\d+ passed.*?(?= in )", "failed" if status else "?")
        log += output if status else ""
        status, output = _try([str(inside), "scripts/smoke_test.py", "--offline"])
        smoke = _last(output, r"\d+ passed, \d+ failed", "failed" if status else "?")
        log += output if status else ""
    except subprocess.CalledProcessError as error:
        log += f"{' '.join(map(str, error.cmd))}\n{error.stdout}"
    seconds = time.monotonic() - began
    print(f"  Python {name:5} {sdks:7} {'FAILED' if log else 'ok':7} {seconds:4.0f} s", flush=True)
    return Outcome(name, sdks, versions, matrix, smoke, seconds, log)


def _environment() -> dict[str, str]:
    # Neither the sources nor somebody's key may stand in for what is tested.
    hidden = ("PYTHONPATH", "PYTHONHOME", "VIRTUAL_ENV", "ANTHROPIC_API_KEY", "OPENAI_API_KEY")
    return {name: value for name, value in os.environ.items() if name not in hidden}


def _run(command: list[str]) -> str:
    return subprocess.run(
        command,
        cwd=ROOT,
        env=_environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=True,
    ).stdout


def _try(command: list[str]) -> tuple[int, str]:
    try:
        return 0, _run(command)
    except subprocess.CalledProcessError as error:
        return error.returncode, str(error.stdout)


def _installed(python: Path) -> dict[str, str]:
    code = (
        "from importlib.metadata import version, PackageNotFoundError\n"
        f"for name in {SHOWN!r}:\n"
        "    try: print(name, version(name))\n"
        "    except PackageNotFoundError: print(name, '-')"
    )
    return dict(line.split() for line in _run([str(python), "-c", code]).splitlines())


def _last(output: str, pattern: str, otherwise: str) -> str:
    found = re.findall(pattern, output)
    return found[-1] if found else otherwise


def table(outcomes: list[Outcome]) -> str:
    """Return the outcomes as a table of text."""
    rows = [["Python", "SDKs", *SHOWN, "matrix", "smoke test", "s", ""]]
    for one in outcomes:
        versions = [one.versions.get(name, "?") for name in SHOWN]
        verdict = "FAILED" if one.log else "ok"
        rows.append([one.python, one.sdks, *versions, one.matrix, one.smoke, f"{one.seconds:.0f}", verdict])
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths)).rstrip() for row in rows
    )


if __name__ == "__main__":
    sys.exit(main())

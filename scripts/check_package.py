"""Build the wheel and the sdist, and try the wheel where nothing else is installed.

    python3 scripts/check_package.py [.venv]

What is built lands in `dist/`. The wheel is made from the sdist, so both are proved complete.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import tarfile
import venv
import zipfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
DIST = ROOT / "dist"

IN_WHEEL = (
    "tokencap/__init__.py",
    "tokencap/py.typed",
    "tokencap/_loopback/__init__.py",
    "tokencap/backends/_lua/reserve.lua",
    "tokencap/cli/_site/sitecustomize.py",
    "tokencap/cli/_report/report.html",
    "tokencap/cli/_report/report.css",
    "tokencap/cli/_report/report.js",
)
IN_SDIST = (
    *("README.md", "CHANGELOG.md", "CONTRIBUTING.md", "LICENSE", "Makefile", "docker-compose.yml"),
    *("scripts/demo.py", "tests", ".ci/run", "docs/coverage.md", "examples/prometheus-alerts.yml"),
)

# Run by the bare interpreter: no module may drag in a package that is an extra, nor need one without reason.
TRY_BARE = """
import importlib, pkgutil, sys
before = set(sys.modules)
import tokencap
heavy = {"anthropic", "openai", "redis", "tiktoken", "opentelemetry", "httpx", "pydantic", "typer", "rich"}
modules = pkgutil.walk_packages(tokencap.__path__, "tokencap.")
names = [module.name for module in modules if not module.name.endswith("__main__")]
# What only its own extra loads.
adapters = {"tokencap.telemetry._otel_metrics", "tokencap.telemetry._otel_spans"}
assert adapters < set(names)
for name in set(names) - adapters:
    importlib.import_module(name)
loaded = sorted(heavy & {name.partition(".")[0] for name in set(sys.modules) - before})
assert not loaded, f"import tokencap loads {loaded}"
missing = [name for name in tokencap.__all__ if not hasattr(tokencap, name)]
assert not missing, f"__all__ names {missing}"
from importlib.metadata import version
assert version("tokencap") == tokencap.__version__
with tokencap.Guard(tokencap.Policy({"session": tokencap.DimensionPolicy(limit=10)})) as guard:
    assert guard.get_status().dimensions["session"].remaining == 10
try:
    tokencap.wrap(object())
except tokencap.ConfigurationError as error:
    assert "anthropic" in str(error)
print(f"tokencap {tokencap.__version__}: {len(names) - len(adapters)} of {len(names)} modules import with no extra, no SDK is loaded")
"""

# The one on the path of every Python that `tokencap run` starts is data of the wheel: it must get in.
TRY_RUN = """
import subprocess, sys
argv = [sys.executable, "-m", "tokencap", "run", "--", sys.executable, "-c", "print('as ever')"]
done = subprocess.run(argv, capture_output=True, text=True)
assert (done.returncode, done.stdout) == (0, "as ever\\n"), done
assert "no SDK that tokencap guards was imported" in done.stderr, done
print("tokencap run guards the Python that it starts")
"""


def main() -> int:
    parser = argparse.ArgumentParser(description="Build the distributions and try the wheel on its own.")
    parser.add_argument("venvs", nargs="?", default=".venv", help="where to make the environments")
    venvs = ROOT / parser.parse_args().venvs

    shutil.rmtree(DIST, ignore_errors=True)
    build = _environment(venvs / "build")
    _run(build, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "build")
    _run(build, "-m", "build", "--outdir", str(DIST), str(ROOT), quiet=True)
    (wheel,) = DIST.glob("*.whl")
    (sdist,) = DIST.glob("*.tar.gz")

    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
        _expect(wheel.name, IN_WHEEL, names)
        stray = [n for n in names if not n.startswith(("tokencap/", "tokencap-"))]
        if stray:
            raise SystemExit(f"{wheel.name} holds {stray}")
    with tarfile.open(sdist) as archive:
        _expect(sdist.name, IN_SDIST, [n.partition("/")[2] for n in archive.getnames()])

    bare = _environment(venvs / "bare", fresh=True)
    _run(bare, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--no-index", str(wheel))
    scratch = venvs / "bare" / "scratch"
    scratch.mkdir()
    _run(bare, "-I", "-W", "error", "-c", TRY_BARE, cwd=scratch)
    _run(bare, "-I", "-W", "error", "-c", TRY_RUN, cwd=scratch)
    for path in (sdist, wheel):
        print(f"{path.relative_to(ROOT)}  {path.stat().st_size / 1000:.0f} kB")
    return 0


def _environment(path: Path, fresh: bool = False) -> Path:
    python = path / ("Scripts" if os.name == "nt" else "bin") / "python"
    if fresh or not python.exists():
        venv.create(path, with_pip=True, clear=fresh)
    return python


def _run(python: Path, *args: str, cwd: Path = ROOT, quiet: bool = False) -> None:
    done = subprocess.run(
        [str(python), *args],
        cwd=cwd,
        stdout=subprocess.PIPE if quiet else None,
        stderr=subprocess.STDOUT if quiet else None,
        text=True,
    )
    if done.returncode:
        sys.stderr.write(done.stdout or "")
        raise SystemExit(f"failed: {' '.join(args[:3])}")


def _expect(archive: str, wanted: tuple[str, ...], names: list[str]) -> None:
    missing = [w for w in wanted if not any(n == w or n.startswith(f"{w}/") for n in names)]
    if missing:
        raise SystemExit(f"{archive} lacks {missing}")


if __name__ == "__main__":
    sys.exit(main())

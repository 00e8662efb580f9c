"""Run the SDKs' own test suites with their clients guarded: no test may be lost that passes unguarded.

    python scripts/transparency.py [--sdk anthropic] [--mode wrap] [--jobs 2] [-- tests/test_client.py]

The suites come with the source distributions of the SDK versions that are installed here. Each SDK gets an
environment of its own under .venv/transparency with everything its tests ask for; the server that the
generated tests of the resources need is in `transparency_plugin`. A suite runs three times: bare, under
`patch()`, and with every client that a test makes wrapped. A test is lost when it passes bare and not
guarded, three times: some go by the clock, and fail on a busy machine. The exit status is the number of lost tests that are not in `REASONS`, at most 100.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import subprocess
import sys
import tarfile
import time
from collections import Counter
from importlib.metadata import version
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parent.parent
HOME = ROOT / ".venv" / "transparency"
SDKS = ("anthropic", "openai")
MODES = ("patch", "wrap")

_COPIES = (
    "compares all private attributes of a client with its copy's; each guarded client has its own `request`"
)
_CUT_OFF = (
    "a stream cut off right behind message_delta: the Guard looks for message_stop before it hands message_delta "
    "on, so that the SDK's own span of such a stream has ended by then"
)
_UNASKED = "a server that reports usage to a stream that did not ask for it: the Guard did ask, and hides what comes of it"

REASONS: dict[tuple[str, str], dict[str, str]] = {
    ("anthropic", "patch"): {
        r"test_client_copy\.py::test_copy_(keeps_every_constructor_argument|of_a_client_built_from)": _COPIES,
        r"::test_(async_)?stream_ended_after_message_delta": _CUT_OFF,
    },
    ("openai", "patch"): {r"test_stream_moderation\.py": _UNASKED},
    ("anthropic", "wrap"): {},
    ("openai", "wrap"): {},
}
"""By SDK and mode: what the names of tests look like that cannot pass guarded, and why."""


class Result(NamedTuple):
    """The outcome of every test of one run, and what went through the Guard meanwhile."""

    outcomes: dict[str, list[str]]
    guarded: dict[str, int]
    seconds: float

    def count(self, outcome: str) -> int:
        return sum(1 for kind, _ in self.outcomes.values() if kind == outcome)

    def passed(self, test: str) -> bool:
        return self.outcomes.get(test, [""])[0] == "passed"


class Suite:
    """The test suite of one version of an SDK, and the environment it runs in."""

    def __init__(self, sdk: str, jobs: int) -> None:
        self.sdk, self.jobs = sdk, jobs
        self.version = version(sdk)
        self.home = HOME / f"{sdk}-{self.version}"
        self.source = self.home / f"{sdk}-{self.version}"
        self.python = self.home / "venv" / ("Scripts" if os.name == "nt" else "bin") / "python"

    def install(self) -> None:
        """Download and unpack the source, and install the SDK with all extras and what its tests want."""
        stamp = self.home / ".installed"
        if stamp.exists():
            return
        print(f"installing the tests of {self.sdk} {self.version} (once)", flush=True)
        self.home.mkdir(parents=True, exist_ok=True)
        pip = ["-m", "pip", "--quiet", "--disable-pip-version-check"]
        pinned = f"{self.sdk}=={self.version}"
        _run(
            [
                sys.executable,
                *pip,
                "download",
                "--no-deps",
                "--no-binary",
                ":all:",
                "-d",
                str(self.home),
                pinned,
            ]
        )
        with tarfile.open(next(self.home.glob("*.tar.gz"))) as archive:
            archive.extractall(self.home, **({"filter": "data"} if hasattr(tarfile, "data_filter") else {}))
        if not (self.source / "tests").is_dir():
            raise SystemExit(f"the source distribution of {pinned} has no tests")
        _run([sys.executable, "-m", "venv", str(self.home / "venv")])
        _run([str(self.python), *pip, "install", "--upgrade", "pip>=25.1"])
        _run([str(self.python), *pip, "install", pinned])
        code = f"from importlib.metadata import metadata; print(*metadata({self.sdk!r}).get_all('Provides-Extra') or ())"
        extras = ",".join(_run([str(self.python), "-c", code]).split())
        group = f"{self.source / 'pyproject.toml'}:dev"
        _run([str(self.python), *pip, "install", f"{self.sdk}[{extras}]=={self.version}", "--group", group])
        stamp.touch()

    def run(self, mode: str, tests: list[str]) -> Result:
        """Run the suite, or some of it."""
        began = time.monotonic()
        results = self.home / f"{mode}.json"
        results.unlink(missing_ok=True)
        options = [
            "-q",
            "--tb=short",
            "-n",
            str(self.jobs),
            "-p",
            "transparency_plugin",
            "-p",
            "no:cacheprovider",
        ]
        environment = {
            name: value
            for name, value in os.environ.items()
            if name in ("PATH", "HOME", "LANG", "TMPDIR", "SYSTEMROOT")
        }
        environment.update(
            PYTHONPATH=os.pathsep.join([str(ROOT / "src"), str(ROOT / "scripts")]),
            TRANSPARENCY_SDK=self.sdk,
            TRANSPARENCY_MODE=mode,
            TRANSPARENCY_RESULTS=str(results),
            DEFER_PYDANTIC_BUILD="false",
        )
        with (self.home / f"{mode}.log").open("w") as log:
            subprocess.run(
                [str(self.python), "-m", "pytest", *options, *tests],
                cwd=self.source,
                env=environment,
                stdout=log,
                stderr=subprocess.STDOUT,
            )
        if not results.exists():
            raise SystemExit(f"the run ended without results; see {log.name}")
        found = json.loads(results.read_text())
        return Result(found["outcomes"], found["guarded"], time.monotonic() - began)

    def again(self, mode: str, tests: list[str]) -> Result:
        """Run these tests once more."""
        names = self.home / "again.txt"
        names.write_text("\n".join(tests))
        return self.run(mode, [f"@{names}"])


def main() -> int:
    parser = argparse.ArgumentParser(description="Run the SDKs' own tests with their clients guarded.")
    parser.add_argument("--sdk", choices=SDKS, action="append", help="only this one")
    parser.add_argument("--mode", choices=MODES, action="append", help="only this one")
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1, help="processes for each run")
    parser.add_argument("tests", nargs="*", help="only these tests of the suite, after --")
    arguments = parser.parse_args()
    if sys.version_info < (3, 10):
        print("the SDKs of today need Python 3.10 or later")
        return 100

    rows, unexplained = [], 0
    for sdk in arguments.sdk or SDKS:
        suite = Suite(sdk, arguments.jobs)
        suite.install()
        bare = suite.run("bare", arguments.tests)
        rows.append(_row(suite, "bare", bare, "", ""))
        print(f"  {sdk} bare: {bare.count('passed')} passed ({bare.seconds:.0f} s)", flush=True)
        for mode in arguments.mode or MODES:
            guarded = suite.run(mode, arguments.tests)
            print(f"  {sdk} {mode}: {guarded.count('passed')} passed ({guarded.seconds:.0f} s)", flush=True)
            lost = lost_tests(suite, mode, bare, guarded)
            reasons = {test: _reason(sdk, mode, test) for test in lost}
            rows.append(_row(suite, mode, guarded, str(len(lost)), str(sum(map(bool, reasons.values())))))
            unexplained += _explain(sdk, mode, lost, reasons)
            if not arguments.tests and not guarded.guarded["calls"]:
                print(f"  {sdk} {mode}: nothing went through the Guard")
                unexplained += 1
    print("\n" + _table(rows))
    return min(unexplained, 100)


def lost_tests(suite: Suite, mode: str, bare: Result, guarded: Result) -> dict[str, str]:
    """Return the tests that pass bare and not guarded, and what they say; those that do so by chance are not."""
    suspects = [test for test in bare.outcomes if bare.passed(test) and not guarded.passed(test)]
    if not suspects:
        return {}
    said: dict[str, str] = {}
    for _ in range(2):
        again = suite.again(mode, suspects)
        suspects = [test for test in suspects if not again.passed(test)]
        # One run's log is overwritten by the other's; what a test said is in its outcome.
        said = {test: again.outcomes.get(test, ["", "it was not run"])[1] for test in suspects}
        steady = suite.again("bare", suspects) if suspects else bare
        suspects = [test for test in suspects if steady.passed(test)]
        if not suspects:
            return {}
    return {test: said[test] for test in suspects}


def _reason(sdk: str, mode: str, test: str) -> str:
    for pattern, reason in REASONS.get((sdk, mode), {}).items():
        if re.search(pattern, test):
            return reason
    return ""


def _explain(sdk: str, mode: str, lost: dict[str, str], reasons: dict[str, str]) -> int:
    """Print the lost tests; return how many have no reason."""
    for reason in dict.fromkeys(filter(None, reasons.values())):
        tests = [test for test in lost if reasons[test] == reason]
        print(f"\n{sdk} {mode}: {len(tests)} lost: {reason}")
        for name, count in Counter(test.split("[")[0] for test in tests).items():
            print(f"    {count:3} {name}")
    bad = [test for test in lost if not reasons[test]]
    for test in bad:
        print(f"\n{sdk} {mode}: LOST {test}\n{lost[test]}")
    return len(bad)


HEADINGS = [
    "SDK",
    "version",
    "mode",
    "passed",
    "failed",
    "skipped",
    "lost",
    "with a reason",
    "clients",
    "calls",
    "s",
]


def _row(suite: Suite, mode: str, result: Result, lost: str, excused: str) -> list[str]:
    counts = [result.count("passed"), result.count("failed") + result.count("error")]
    counts.append(len(result.outcomes) - sum(counts))
    guarded = ["", ""] if mode == "bare" else [str(result.guarded[name]) for name in ("clients", "calls")]
    return [
        suite.sdk,
        suite.version,
        mode,
        *map(str, counts),
        lost,
        excused,
        *guarded,
        f"{result.seconds:.0f}",
    ]


def _table(rows: list[list[str]]) -> str:
    whole = [HEADINGS, *rows]
    widths = [max(len(row[column]) for row in whole) for column in range(len(HEADINGS))]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths)).rstrip() for row in whole
    )


def _run(command: list[str]) -> str:
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(f"{' '.join(command)}\n{done.stdout}{done.stderr}")
    return done.stdout


if __name__ == "__main__":
    sys.exit(main())

"""Every framework on every route, bare and under `tokencap.patch()`, against the loopback provider.

    python scripts/frameworks.py [langchain ...] [--route stream] [--docs] [--lock]

Each framework has a file of exact versions in tests/frameworks/requirements and gets an environment of its
own under .venv/frameworks, made anew when that file changes. Each route runs in two fresh processes: bare,
and guarded from the first line on. Printed is a matrix of

    answer    what the app returns is the same under the guard
    count     the books hold exactly what the provider's journal does, in every run
    blocked   a call that is refused is not sent, is not tried again, and surfaces as BudgetExceededError
    degraded  past its threshold, every call reaches the provider with the cheaper model, and the app works

A cell that is not green has its reason in tests/frameworks/known.py, or counts towards the exit status. Where the
reason is how a framework takes errors, a bare run against a provider that turns every call down has to show it.
`--docs` writes the table in docs/frameworks.md from the last results of each framework, `--lock` resolves the
newest versions into the files of requirements.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

ROOT = Path(__file__).resolve().parent.parent
HOME = ROOT / "tests" / "frameworks"
LOCKS = HOME / "requirements"
VENVS = ROOT / ".venv" / "frameworks"
DOCS = ROOT / "docs" / "frameworks.md"

sys.path[:0] = [str(ROOT / "src"), str(HOME)]

from harness import CHEAPER, REPORT  # noqa: E402
from known import KNOWN  # noqa: E402

from tokencap._loopback import LoopbackProvider  # noqa: E402

NAMES = (
    *("langchain", "openai-agents", "crewai", "llama-index", "autogen", "pydantic-ai", "instructor"),
    *("litellm", "dspy", "smolagents", "haystack", "agno", "strands", "semantic-kernel"),
)
CELLS = ("answer", "count", "blocked", "degraded")
PATIENCE = 1200.0
"""Seconds for one process: the machine may be busy."""

# Nothing of theirs may call home, look for updates or fetch tables: there may be no network.
QUIET = {
    "AGNO_TELEMETRY": "false",
    "ANONYMIZED_TELEMETRY": "false",
    "CREWAI_DISABLE_TELEMETRY": "true",
    "CREWAI_DISABLE_TRACKING": "true",
    "CREWAI_DISABLE_VERSION_CHECK": "true",
    "CREWAI_TRACING_ENABLED": "false",
    "DO_NOT_TRACK": "1",
    "HAYSTACK_TELEMETRY_ENABLED": "False",
    "HF_HUB_OFFLINE": "1",
    "LANGCHAIN_TRACING_V2": "false",
    "LANGSMITH_TRACING": "false",
    "LITELLM_LOCAL_ANTHROPIC_BETA_HEADERS": "True",
    "LITELLM_LOCAL_MODEL_COST_MAP": "True",
    "LITELLM_LOG": "ERROR",
    "LITELLM_TELEMETRY": "False",
    "OPENAI_AGENTS_DISABLE_TRACING": "1",
    "OTEL_SDK_DISABLED": "true",
    "PYTHONWARNINGS": "ignore",
    "TOKENIZERS_PARALLELISM": "false",
}


class Cell(NamedTuple):
    """One verdict: what is shown, and whether it is green."""

    shown: str
    green: bool
    detail: str = ""
    """What to show in full when it is not."""


class Row(NamedTuple):
    """One route of a framework, judged."""

    route: str
    calls: int
    cells: dict[str, Cell]
    bare: str = ""
    """The error of the bare run, if that failed."""


def main() -> int:
    parser = argparse.ArgumentParser(description="Run every framework bare and guarded.")
    parser.add_argument("names", nargs="*", metavar="framework", help=f"of {', '.join(NAMES)}; default: all")
    parser.add_argument("--route", default="", metavar="REGEX", help="only the routes it is found in")
    parser.add_argument("--docs", action="store_true", help="write docs/frameworks.md from the last results")
    parser.add_argument("--lock", action="store_true", help="resolve the newest versions, and stop")
    parser.add_argument("--install", action="store_true", help="make the environments, and stop")
    arguments = parser.parse_args()
    unknown = [name for name in arguments.names if name not in NAMES]
    if unknown:
        parser.error(f"there is no app for {', '.join(unknown)}; there are {', '.join(NAMES)}")
    names = arguments.names or NAMES
    if arguments.lock:
        lock(names)
        return 0
    wrong: list[str] = []
    for name in names:
        install(name)
        if not arguments.install:
            wrong += try_framework(name, arguments.route)
    if arguments.docs:
        write_docs()
    if arguments.install:
        return 0
    print(f"\n{len(wrong)} cells are neither green nor explained" + "".join(f"\n  {one}" for one in wrong))
    return min(len(wrong), 100)


# -- environments ----------------------------------------------------------------------------------------


def uv() -> list[str] | None:
    """Return the command of an installer many times quicker than pip, installed for us; None: use pip."""
    home = ROOT / ".venv" / "uv"
    command = home / _SCRIPTS / "uv"
    if not command.exists():
        try:
            subprocess.run([sys.executable, "-m", "venv", str(home)], check=True)
            _pip(home, "uv")
        except subprocess.CalledProcessError:
            return None
    return [str(command), "--quiet"]


_SCRIPTS = "Scripts" if os.name == "nt" else "bin"


def _pip(home: Path, *what: str) -> None:
    pip = [str(home / _SCRIPTS / "python"), "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
    subprocess.run([*pip, *what], check=True)


def python_of(name: str) -> Path:
    return VENVS / name / _SCRIPTS / "python"


def install(name: str) -> None:
    """Make the environment of a framework, unless there is one of these very versions."""
    locked = LOCKS / f"{name}.txt"
    stamp = VENVS / name / ".installed"
    wanted = hashlib.sha256(locked.read_bytes()).hexdigest()
    if stamp.exists() and stamp.read_text() == wanted:
        return
    print(f"installing {name} (once)", flush=True)
    shutil.rmtree(VENVS / name, ignore_errors=True)
    quick = uv()
    if quick is None:
        subprocess.run([sys.executable, "-m", "venv", str(VENVS / name)], check=True)
        _pip(VENVS / name, "--requirement", str(locked))
    else:
        subprocess.run([*quick, "venv", "--python", sys.executable, str(VENVS / name)], check=True)
        into = ["--python", str(python_of(name)), "--requirement", str(locked)]
        subprocess.run([*quick, "pip", "install", *into], check=True)
    stamp.write_text(wanted)


def lock(names: Iterable[str]) -> None:
    """Resolve the newest versions of the packages named in `<name>.in` into `<name>.txt`."""
    quick = uv()
    if quick is None:
        raise SystemExit("resolving needs uv, which could not be installed")
    for name in names:
        form = ["--universal", "--python-version", "3.11", "--no-annotate", "--no-header", "--upgrade"]
        output = ["--output-file", f"{name}.txt"]
        subprocess.run([*quick, "pip", "compile", *form, f"{name}.in", *output], cwd=LOCKS, check=True)


def versions(name: str) -> dict[str, str]:
    """Return the versions locked of the packages a framework is named by, and of the SDKs under it."""
    locked = dict(re.findall(r"^([\w.-]+)==([\w.]+)", (LOCKS / f"{name}.txt").read_text(), re.MULTILINE))
    # What follows the first comment is there for the sake of the rest.
    asked = re.findall(r"^[\w.-]+", (LOCKS / f"{name}.in").read_text().partition("#")[0], re.MULTILINE)
    return {package: locked[package] for package in (*asked, "openai", "anthropic") if package in locked}


# -- runs ------------------------------------------------------------------------------------------------


def routes_of(name: str) -> list[str]:
    """Return the routes of an app, without importing what it needs."""
    return re.findall(r'^@route\("([^"]+)"', (HOME / "apps" / f"{name}.py").read_text(), re.MULTILINE)


def try_framework(name: str, chosen: str) -> list[str]:
    """Run the routes of a framework, print its part of the matrix, return what is wrong."""
    with ThreadPoolExecutor(2) as pool:
        plain, ours = pool.map(lambda mode: run_routes(name, mode, chosen), ("bare", "guarded"))
    rows = [judge(route, plain[route], ours[route]) for route in plain]
    taken = [row.route for row in rows if "blocked" in KNOWN.get(name, {}).get(row.route, {})]
    if taken:
        faulty = run_routes(name, "faulty", f"^({'|'.join(map(re.escape, taken))})$")
        rows = [_as_bare(row, faulty[row.route]) if row.route in faulty else row for row in rows]
    if not chosen and rows:
        kept = {"versions": versions(name), "rows": [row._asdict() for row in rows]}
        (VENVS / name / "results.json").write_text(json.dumps(kept))
    print("\n" + "\n".join(shown(name, rows)), flush=True)
    return list(judged(name, rows)) or ([] if rows else [f"{name}: no route was run"])


def judge(route: str, plain: dict[str, Any], ours: dict[str, Any]) -> Row:
    """Compare the reports of a route."""
    if "error" in plain:
        return Row(route, 0, {}, plain["error"])
    if "error" in ours:
        broken = Cell("FAILED", False, f"{ours['error']}\n{ours['output']}")
        return Row(route, plain["calls"], dict.fromkeys(CELLS, broken))
    return Row(route, plain["calls"], {cell: _JUDGES[cell](plain, ours) for cell in CELLS})


def run_routes(name: str, mode: str, chosen: str) -> dict[str, dict[str, Any]]:
    """Run the routes in one fresh process, and in another one what a route that ended it left undone."""
    chosen_routes = [route for route in routes_of(name) if re.search(chosen, route)]
    left = list(chosen_routes)
    reports: dict[str, dict[str, Any]] = {}
    while left:
        printed, output = child(name, mode, *left)
        if not printed:
            raise SystemExit(f"the app of {name} cannot be loaded\n{output}")
        for one in printed:
            if "ended" in one:
                reports[one["ended"]] = {**one, "output": output[-4000:]}
        left = [route for route in left if route not in reports]
        if left:
            reports[left[0]] = {"error": "its process ended, or ran too long", "output": output[-4000:]}
            del left[0]
    return {route: reports[route] for route in chosen_routes}


def child(name: str, *arguments: str) -> tuple[list[dict[str, Any]], str]:
    """Run the harness in a process of its own, with a provider of its own; return its reports and output."""
    with LoopbackProvider() as provider, tempfile.TemporaryDirectory(prefix="tokencap-") as folder:
        environ = {
            key: value for key, value in os.environ.items() if not key.startswith(("PYTHON", "VIRTUAL"))
        }
        environ |= {**QUIET, **provider.environ, "LOOPBACK_URL": provider.url, "HOME": folder}
        environ |= {"OPENAI_API_BASE": provider.openai_url, "ANTHROPIC_API_BASE": provider.url}
        process = subprocess.Popen(
            [str(python_of(name)), str(HOME / "harness.py"), name, *arguments],
            cwd=folder,
            env=environ,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )
        try:
            output = process.communicate(timeout=PATIENCE)[0]
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            output = process.communicate()[0]
    reports = [line[len(REPORT) :] for line in output.splitlines() if line.startswith(REPORT)]
    return [json.loads(one) for one in reports], output


# -- verdicts --------------------------------------------------------------------------------------------


def _answer(plain: dict[str, Any], ours: dict[str, Any]) -> Cell:
    if plain["answer"] == ours["answer"] and plain["calls"] == ours["calls"]:
        return Cell("ok", True)
    found = differences([plain["calls"], plain["answer"]], [ours["calls"], ours["answer"]])
    return Cell("DIFFERS", False, "bare and ours, " + "\n".join(islice(found, 4)))


def differences(one: Any, other: Any, path: str = "") -> Iterator[str]:
    """Yield where two documents differ, and how."""
    if isinstance(one, dict) and isinstance(other, dict) and one.keys() == other.keys():
        for key in one:
            yield from differences(one[key], other[key], f"{path}.{key}")
    elif isinstance(one, list) and isinstance(other, list) and len(one) == len(other):
        for index, pair in enumerate(zip(one, other)):
            yield from differences(*pair, f"{path}[{index}]")
    elif one != other:
        yield f"{path}: {one!r:.300} and {other!r:.300}"


def _count(plain: dict[str, Any], ours: dict[str, Any]) -> Cell:
    pairs = [(ours[f"counted{when}"], ours[f"tokens{when}"]) for when in ("", "_degraded", "_last")]
    if all(counted == billed for counted, billed in pairs) and plain["tokens"] == ours["tokens"] > 0:
        return Cell(f"ok {ours['tokens']}", True)
    detail = f"counted and billed, after each run: {pairs}; bare: {plain['tokens']}"
    return Cell("WRONG" if ours["counted"] else "NOT SEEN", False, detail)


def _blocked(plain: dict[str, Any], ours: dict[str, Any]) -> Cell:
    first, between = ours["blocked"], ours.get("stopped")
    detail = f"at the first call: {first}" + (f"\nafter the first call: {between}" if between else "")
    # One call went out before `between`; of calls that an app makes side by side, each is refused once.
    sent = first["sent"] or (between is not None and between["sent"] > 1)
    if sent:
        return Cell("SENT", False, detail)
    found = [one for one in (first, between) if one is not None]
    most = plain["calls"] if ours["at_once"] else 1
    if any(not 1 <= one["refusals"] <= most for one in found):
        return Cell("RETRIED", False, detail)
    ways = list(dict.fromkeys(one["surfaced"] for one in found))
    lost = any(not way.startswith(("raised", "cause")) for way in ways)
    return Cell(" / ".join(ways), not lost, detail if lost else "")


def _as_bare(row: Row, faulty: dict[str, Any]) -> Row:
    """Say of a refusal that was repeated or swallowed whether an error of the provider is, too, bare."""
    verdict = row.cells.get("blocked")
    if verdict is None or verdict.green:
        return row
    repeated, swallowed = faulty.get("calls", 0) > 1, "raised" in faulty and faulty["raised"] is None
    alike = {"RETRIED": repeated, "swallowed": swallowed}.get(verdict.shown, True)
    if alike:
        return row
    other = verdict._replace(
        shown=f"{verdict.shown}, NOT SO BARE", detail=f"{verdict.detail}\nbare: {faulty}"
    )
    return row._replace(cells={**row.cells, "blocked": other})


def _degraded(_plain: dict[str, Any], ours: dict[str, Any]) -> Cell:
    seen = ours["degraded"]
    if seen["error"] is not None:
        return Cell("BROKEN", False, str(seen["error"]))
    if not seen["models"] and seen["embeddings"]:
        return Cell("-", True)
    if seen["models"] and all(model in CHEAPER.values() for model in seen["models"]):
        return Cell(f"ok {len(seen['models'])}", True)
    return Cell("NOT SEEN", False, f"models that the provider saw: {seen['models']}")


_JUDGES = {"answer": _answer, "count": _count, "blocked": _blocked, "degraded": _degraded}


def judged(name: str, rows: list[Row]) -> Iterator[str]:
    """Yield what is neither green nor explained, and what is explained and green."""
    for row in rows:
        known = KNOWN.get(name, {}).get(row.route, {})
        if row.bare:
            if "bare" not in known:
                yield f"{name}, {row.route}: fails bare: {row.bare}"
            continue
        for cell in CELLS:
            unlike = row.cells[cell].shown.endswith("NOT SO BARE")
            if not row.cells[cell].green and (cell not in known or unlike):
                yield f"{name}, {row.route}, {cell}: {row.cells[cell].shown}"
            if row.cells[cell].green and cell in known:
                yield f"{name}, {row.route}, {cell}: is green, and known.py says it is not"
        if "bare" in known:
            yield f"{name}, {row.route}: works bare, and known.py says it does not"


def shown(name: str, rows: list[Row]) -> Iterator[str]:
    """Yield the lines of the matrix."""
    yield ", ".join(f"{package} {version}" for package, version in versions(name).items())
    table = [["route", "calls", *CELLS]]
    for row in rows:
        cells = [row.cells[cell].shown for cell in CELLS] if row.cells else ["fails bare"]
        table.append([row.route, str(row.calls), *cells])
    widths = [
        max(len(line[column]) for line in table if column < len(line)) for column in range(2 + len(CELLS))
    ]
    for line in table:
        yield "  " + "  ".join(cell.ljust(width) for cell, width in zip(line, widths)).rstrip()
    explained: dict[str, dict[str, None]] = {}
    for row in rows:
        known = KNOWN.get(name, {}).get(row.route, {})
        if row.bare and "bare" not in known:
            yield f"  {row.route} fails bare, UNEXPLAINED: {row.bare}"
        elif row.bare:
            explained.setdefault(f"fails bare: {known['bare']}", {})[row.route] = None
        for cell, verdict in row.cells.items():
            if not verdict.green and cell not in known:
                detail = verdict.detail.strip().replace("\n", "\n    ")
                yield f"  {row.route}, {cell}: UNEXPLAINED\n    {detail}"
            elif not verdict.green:
                explained.setdefault(known[cell], {})[row.route] = None
    for reason, routes in explained.items():
        yield f"  {', '.join(routes)}: {reason}"


# -- the table in the docs -------------------------------------------------------------------------------

BEGIN, END = "<!-- results: written by scripts/frameworks.py --docs -->", "<!-- end of results -->"


def write_docs() -> None:
    """Write the last results of every framework into the table of docs/frameworks.md."""
    lines = [BEGIN, ""]
    for name in NAMES:
        path = VENVS / name / "results.json"
        if not path.exists():
            raise SystemExit(f"there are no results of {name} yet: run it first")
        kept = json.loads(path.read_text())
        named = ", ".join(f"{package} {version}" for package, version in kept["versions"].items())
        lines += [f"### {name}", "", named, "", f"| route | {' | '.join(CELLS)} |", "|---|---|---|---|---|"]
        for row in kept["rows"]:
            known = KNOWN.get(name, {}).get(row["route"], {})
            if row["bare"]:
                lines.append(f"| {row['route']} | fails bare: {known.get('bare', row['bare'])} | | | |")
                continue
            cells = [row["cells"][cell] for cell in CELLS]
            texts = [
                re.sub(r"^ok \d+$", "ok", text) if green else known.get(cell, text)
                for cell, (text, green, _) in zip(CELLS, cells)
            ]
            lines.append(f"| {row['route']} | {' | '.join(texts)} |")
        lines.append("")
    page = DOCS.read_text()
    before, rest = page.split(BEGIN)
    DOCS.write_text(before + "\n".join([*lines, END]) + rest.split(END)[1])


if __name__ == "__main__":
    sys.exit(main())

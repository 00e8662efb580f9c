"""The package as a whole: what it exports, what it costs to import, and which way its imports run."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from functools import cache
from pathlib import Path

import pytest

import tokencap

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "src" / "tokencap"
MODULES = sorted(path for path in PACKAGE.rglob("*.py") if "_loopback" not in path.parts)

MOST_LINES = 250
LONGER = {
    "_default.py": "wrap() has an overload per client class, twice: limit and policy exclude each other",
    "guard.py": "as many overloads for Guard.wrap()",
    "_session.py": "the whole life of a call",
    "_keeper.py": "all that goes on beside the calls of a process, and how it comes to an end",
    "policy.py": "four nouns and every message about them, read together",
    "providers/openai.py": "one table of rows with the dialects they name",
    "backends/memory.py": "one store, whole",
    "backends/redis.py": "every verb of a store, and how it is reached",
    "backends/sqlite.py": "one store in its two flavours",
    "backends/_sqlite_books.py": "the statements of one schema, read together",
    "backends/_sqlite_ledger.py": "the rows of the ledger, as they are written and as they are read",
    "backends/_redis_scripts.py": "how every verb is spelled for the scripts, read together",
    "backends/_redis_topology.py": "every way of reaching a Redis",
    "backends/_redis_cluster.py": "a cluster as its calls see it: slots, moves, nodes that fail",
}


def run(code: str, *options: str) -> str:
    done = subprocess.run(
        [sys.executable, *options, "-c", code],
        capture_output=True,
        text=True,
        timeout=60,
        cwd=PACKAGE.parent,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_the_version_is_one_and_the_changelog_knows_it() -> None:
    assert re.fullmatch(r"\d+\.\d+\.\d+", tokencap.__version__)
    assert 'path = "src/tokencap/_version.py"' in (ROOT / "pyproject.toml").read_text()
    assert tokencap.__version__ in (ROOT / "CHANGELOG.md").read_text()


def test_the_oldest_sdks_that_the_extras_allow_are_those_that_are_tested() -> None:
    tried = dict(re.findall(r"\"([a-z-]+)==([\d.]+)", (ROOT / "scripts" / "versions.py").read_text()))
    extras = (ROOT / "pyproject.toml").read_text().split("[project.optional-dependencies]")[1]
    bounds = dict(re.findall(r"\"([a-z-]+)>=([\d.]+)", extras.split("\notel =")[0]))
    assert {name: tried[name].startswith(f"{bounds[name]}.") for name in tried} == dict.fromkeys(tried, True)
    assert len(tried) == 5


def test_the_public_names_are_sorted_there_and_all() -> None:
    names = tokencap.__all__
    assert names == sorted(
        names, key=lambda name: (name.islower() or name == "__version__", name)
    ) or names == sorted(names)
    assert len(set(names)) == len(names)
    for name in names:
        assert getattr(tokencap, name) is not None
    assert set(names) <= set(dir(tokencap))
    with pytest.raises(AttributeError, match="no attribute 'wrapp'"):
        tokencap.wrapp  # type: ignore[attr-defined]  # noqa: B018


def test_the_names_a_type_checker_sees_are_those_that_are_there() -> None:
    tree = ast.parse((PACKAGE / "__init__.py").read_text())
    seen = {alias.name for node in ast.walk(tree) if isinstance(node, ast.ImportFrom) for alias in node.names}
    assert set(tokencap.__all__) <= seen
    star: dict[str, object] = {}
    exec("from tokencap import *", star)
    assert set(tokencap.__all__) <= set(star)


HEAVY = "anthropic openai tiktoken redis httpx httpx2 pydantic opentelemetry asyncio sqlite3 logging"


def test_importing_the_package_loads_no_sdk_and_nothing_heavy() -> None:
    loaded = run("import sys, tokencap; print(*sys.modules)", "-S").split()
    assert not set(HEAVY.split()) & set(loaded)
    own = [name for name in loaded if name.startswith("tokencap.")]
    assert own == ["tokencap._version"]


def test_using_the_package_loads_no_sdk_that_is_not_used() -> None:
    code = """
import sys, tokencap
from tokencap import *
from tokencap.backends.sqlite import SQLiteBackend
Guard(Policy.tracking(), backend=SQLiteBackend("/tmp/never-made.db"), otel_enabled=False)
for name in tokencap.__all__: getattr(tokencap, name)
print(*sys.modules)
"""
    loaded = run(code).split()
    assert not {"anthropic", "openai", "tiktoken", "redis", "httpx", "httpx2", "pydantic"} & set(loaded)


def test_every_module_can_be_imported_by_itself_on_a_bare_python() -> None:
    # One process for all: each module is forgotten again, so that no other one's imports help it.
    names = [
        name_of(path)
        for path in MODULES
        if not path.name.startswith(("_redis", "_otel")) and path.name != "redis.py"
    ]
    code = f"""
import importlib, sys
for name in {names!r}:
    for loaded in [m for m in sys.modules if m.split(".")[0] == "tokencap"]:
        del sys.modules[loaded]
    importlib.import_module(name)
"""
    run(code, "-S", "-W", "error")


# -- imports run one way ---------------------------------------------------------------------------------


def name_of(path: Path) -> str:
    parts = path.relative_to(PACKAGE.parent).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def _skipped(node: ast.AST) -> bool:
    return isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test)


def _at_import(body: list[ast.stmt]) -> list[ast.ImportFrom]:
    """Return the imports that happen when the module is loaded."""
    found: list[ast.ImportFrom] = []
    for node in body:
        if isinstance(node, ast.ImportFrom):
            found.append(node)
        elif isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)) or _skipped(node):
            continue
        else:
            for field in ("body", "orelse", "finalbody", "handlers"):
                found += _at_import(
                    [n for n in getattr(node, field, []) if isinstance(n, (ast.stmt, ast.ExceptHandler))]
                )  # type: ignore[misc]
    return found


@cache
def imports() -> dict[str, set[str]]:
    """Return which modules of ours each module loads when it is loaded."""
    names = {name_of(path): path for path in MODULES}
    graph: dict[str, set[str]] = {}
    for name, path in names.items():
        package = name if path.name == "__init__.py" else name.rpartition(".")[0]
        graph[name] = set()
        for node in _at_import(ast.parse(path.read_text()).body):
            if not node.level:
                base = node.module or ""
            else:
                above = package.split(".")[: len(package.split(".")) - node.level + 1]
                base = ".".join([*above, *([node.module] if node.module else [])])
            for alias in node.names:
                target = f"{base}.{alias.name}" if f"{base}.{alias.name}" in names else base
                if target in names and target != name:
                    graph[name].add(target)
    return graph


def test_no_module_imports_itself_by_way_of_others() -> None:
    graph = imports()
    done: set[str] = set()

    def visit(name: str, path: tuple[str, ...]) -> None:
        assert name not in path, " -> ".join([*path[path.index(name) :], name])
        if name not in done:
            for target in sorted(graph[name]):
                visit(target, (*path, name))
            done.add(name)

    for name in graph:
        visit(name, ())
    assert "tokencap.guard" in graph["tokencap._default"]
    assert "tokencap.errors" in graph["tokencap.policy"]


LAYERS = [
    (
        "errors",
        "usage",
        "budget",
        "_audit",
        "_entry",
        "_periods",
        "_version",
        "_fork",
        "_typing",
        "policy",
        "_flow",
        "_scope",
    ),
    ("providers", "status", "_plan", "_plans", "_degrade", "_usage", "telemetry"),
    (
        "backends",
        "ledger",
        "_actions",
        "_admission",
        "_changes",
        "_observe",
        "_output",
        "_followup",
        "_keeper",
        "_learned",
        "_runtime",
        "_session",
        "_tree",
        "_waiting",
        "_delivery",
        "_webhooks",
    ),
    ("_call",),
    ("clients",),
    ("guard", "_coverage"),
    ("_toml", "_fields", "_read", "_config"),
    ("_default",),
    ("cli",),
    ("__main__",),
]


def test_imports_run_downwards_only() -> None:
    height = {name: number for number, layer in enumerate(LAYERS) for name in layer}
    for name, targets in imports().items():
        if name == "tokencap":
            continue
        for target in targets - {"tokencap", "tokencap._version"}:
            here, there = name.split(".")[1], target.split(".")[1]
            assert height[there] <= height[here], f"{name} imports {target}"


PURE = (
    "_session _plan _plans _periods _degrade _scope _admission _output _observe _toml policy status"
    " budget usage"
)


@pytest.mark.parametrize("module", PURE.split())
def test_the_pure_core_knows_no_store_no_sdk_and_no_event_loop(module: str) -> None:
    tree = ast.parse((PACKAGE / f"{module}.py").read_text())
    loaded = {alias.name for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names}
    assert not loaded & {"asyncio", "sqlite3", "redis", "anthropic", "openai", "threading"}
    assert not any(
        ".backends" in target or ".clients" in target for target in imports()[f"tokencap.{module}"]
    )


# -- shape -----------------------------------------------------------------------------------------------


def test_no_module_is_long_without_a_reason() -> None:
    long = {
        str(path.relative_to(PACKAGE)): lines
        for path in MODULES
        for lines in [len(path.read_text().splitlines())]
        if lines > MOST_LINES
    }
    assert set(long) - set(LONGER) == set(), long


def test_who_the_provider_is_is_asked_in_the_providers_only() -> None:
    # `counting` chooses whose counter to ask, and is listed so that it stays the only one.
    allowed = {"clients/counting.py"}
    asking = re.compile(r"provider(?:\.value)?\s*(?:==|!=|is|is not)\s*(?:Provider|['\"])")
    found = {
        str(path.relative_to(PACKAGE))
        for path in MODULES
        if path.parent.name != "providers" and asking.search(path.read_text())
    }
    assert found <= allowed


def test_process_wide_state_is_one_object() -> None:
    for path in MODULES:
        assert not any(isinstance(node, ast.Global) for node in ast.walk(ast.parse(path.read_text()))), path


def test_the_package_says_that_it_is_typed() -> None:
    assert (PACKAGE / "py.typed").exists()

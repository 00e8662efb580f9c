"""What README.md and CONTRIBUTING.md show is run as a reader would run it, and says what they say it says.

Each Python block runs by itself, with real SDK clients that go to the loopback provider, in an empty folder.
Lines of it that begin with `# ->` are the output it has to have. A comment right above a block changes that:
`<!-- continues -->` runs it after the block before it, in one program, `<!-- needs redis -->` with REDIS_URL
set to a real server, and `<!-- needs the other SDKs -->` where Gemini, Mistral and Cohere answer too.
`<!-- compile only: why -->` is for packages that are not dependencies of this project: such a block has to
compile, and its calls of tokencap have to fit the real signatures. What begins with `file:` or `line of:` is
run by `providers/test_sixth.py`.
"""

from __future__ import annotations

import ast
import contextlib
import importlib
import inspect
import io
import os
import re
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, NamedTuple

import pytest

import tokencap
import wire_cohere  # noqa: F401  adds its answers
import wire_gemini  # noqa: F401
import wire_mistral  # noqa: F401
from backends.redis_servers import shared_server
from tokencap._fields import TOP
from tokencap._loopback import LoopbackProvider
from wire import Wire

ROOT = Path(__file__).parents[1]
PAGES = ("README.md", "CONTRIBUTING.md", "CHANGELOG.md")
TEXTS = {name: (ROOT / name).read_text(encoding="utf-8") for name in PAGES}


class Block(NamedTuple):
    """A fenced block: where it is, what the comment above it says, and what is in it."""

    page: str
    line: int
    language: str
    note: str
    text: str

    @property
    def place(self) -> str:
        return f"{self.page}:{self.line}"

    @property
    def compile_only(self) -> bool:
        return self.note.startswith("compile only:")

    @property
    def of_another_test(self) -> bool:
        return self.note.startswith(("file: ", "line of: "))

    def shown(self) -> list[str]:
        """Return the lines of output it promises."""
        found = re.findall(r"^ *# ->(?: (.*))?$", self.text, re.MULTILINE)
        return [line.rstrip() for line in found]


_FENCE = re.compile(
    r"^(?:<!-- (?P<note>[^\n]*?) -->\n)?```(?P<language>\w*)\n(?P<text>.*?)^```$", re.M | re.S
)


def _blocks() -> Iterator[Block]:
    for page, text in TEXTS.items():
        for found in _FENCE.finditer(text):
            line = text.count("\n", 0, found.start("text")) + 1
            yield Block(page, line, found["language"], found["note"] or "", found["text"])


BLOCKS = list(_blocks())
PYTHON = [block for block in BLOCKS if block.language == "python" and not block.of_another_test]


def _programs() -> list[list[Block]]:
    """Return the blocks that are run, those that continue another with what they continue."""
    programs: list[list[Block]] = []
    for block in PYTHON:
        if block.compile_only:
            continue
        if block.note == "continues":
            programs[-1].append(block)
        else:
            programs.append([block])
    return programs


def expect_all_named(missing: object) -> None:
    """Fail for what the pages leave out; until the version has its date in the changelog, only say it.

    What they do say has to be right at any time.
    """
    if missing:
        text = f"not in the pages yet: {missing}"
        if f"## [{tokencap.__version__}] - not released yet" not in TEXTS["CHANGELOG.md"]:
            pytest.fail(text)
        pytest.skip(text)


NOTES = ("", "continues", "needs redis", "needs the other SDKs", "demo")


def test_every_block_says_what_it_is() -> None:
    for block in BLOCKS:
        assert block.language in ("python", "sh", "text", "toml"), block.place
        known = block.note in NOTES or block.compile_only or block.of_another_test
        assert known, f"{block.place}: {block.note}"
    assert len(PYTHON) > 15


# -- python ----------------------------------------------------------------------------------------------


def _plain(line: str) -> str:
    return re.sub(r"session=[0-9a-f]{8}\b", "session=????????", line.rstrip())


def _said(printed: str, shown: list[str]) -> list[str]:
    """Return what was printed, without the start-up lines if none of those is shown."""
    lines = [line.rstrip() for line in printed.splitlines()]
    if not any(line.startswith("[tokencap] ") for line in shown):
        lines = [line for line in lines if not line.startswith(("[tokencap] ", " " * 11))]
    return lines


class _OverHTTP(BaseHTTPRequestHandler):
    """What the call matrix is answered with in memory, for the SDKs as they come."""

    wire: Wire

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["content-length"]))
        _, reply = self.wire.receive("POST", f"http://wire{self.path}", dict(self.headers), body)
        self.send_response(reply.status)
        for name, value in reply.headers.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(b"".join(reply.chunks))

    def log_message(self, format: str, *args: Any) -> None:
        """Say nothing."""


@pytest.fixture
def other_providers(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    for module in ("google.genai", "mistralai.client", "cohere"):
        pytest.importorskip(module)
    from cohere.environment import ClientEnvironment
    from mistralai.client import sdkconfiguration

    handler = type("Handler", (_OverHTTP,), {"wire": Wire()})
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        url = f"http://127.0.0.1:{server.server_port}"
        monkeypatch.setenv("GOOGLE_GEMINI_BASE_URL", f"{url}/gemini")
        # CO_API_URL is read but once, and maybe has been.
        monkeypatch.setattr(ClientEnvironment.PRODUCTION, "_value_", f"{url}/cohere")
        for name in sdkconfiguration.SERVERS:
            monkeypatch.setitem(sdkconfiguration.SERVERS, name, f"{url}/mistral")
        for name in ("GEMINI_API_KEY", "MISTRAL_API_KEY", "CO_API_KEY"):
            monkeypatch.setenv(name, "none")
        yield
        server.shutdown()


@pytest.mark.parametrize("program", _programs(), ids=lambda program: program[0].place)
def test_blocks_run_and_print_what_they_show(
    program: list[Block], loopback: LoopbackProvider, request: pytest.FixtureRequest, monkeypatch: Any
) -> None:
    monkeypatch.delenv("TOKENCAP_LIMIT", raising=False)
    if any(block.note == "needs redis" for block in program):
        monkeypatch.setenv("REDIS_URL", shared_server().url)
    if any(block.note == "needs the other SDKs" for block in program):
        request.getfixturevalue("other_providers")
    names: dict[str, Any] = {"__name__": "__main__"}
    for block in program:
        code = compile("\n" * (block.line - 1) + block.text, block.page, "exec")
        with contextlib.redirect_stdout(io.StringIO()) as printed:
            exec(code, names)
        shown = block.shown()
        said = _said(printed.getvalue(), shown)
        assert [_plain(line) for line in said] == [_plain(line) for line in shown], block.place


def test_the_block_for_the_first_minute_is_a_program_of_its_own(tmp_path: Path) -> None:
    block = next(block for block in PYTHON if "LoopbackProvider" in block.text)
    path = tmp_path / "first.py"
    path.write_text(block.text, encoding="utf-8")
    keyless = {
        name: value for name, value in os.environ.items() if not name.endswith(("_API_KEY", "_BASE_URL"))
    }
    done = subprocess.run(
        [sys.executable, str(path)], capture_output=True, text=True, cwd=tmp_path, env=keyless, timeout=120
    )
    assert done.returncode == 0, done.stderr
    assert [_plain(line) for line in done.stdout.splitlines()] == [_plain(line) for line in block.shown()]


def _named(node: ast.expr) -> str:
    return ast.unparse(node) if isinstance(node, (ast.Attribute, ast.Name)) else ""


def _check_calls(code: str) -> int:
    """Bind every call of tokencap in `code` to the real signature; return how many there were."""
    checked = 0
    for node in ast.walk(ast.parse(code)):
        if isinstance(node, ast.Attribute) and _named(node).startswith("tokencap."):
            _resolve(_named(node))
        if isinstance(node, ast.Call) and _named(node.func).startswith("tokencap."):
            keywords = {keyword.arg: None for keyword in node.keywords if keyword.arg}
            inspect.signature(_resolve(_named(node.func))).bind(*[None] * len(node.args), **keywords)
            checked += 1
    return checked


def _resolve(dotted: str) -> Any:
    """Return what a name like `tokencap.backends.sqlite.SQLiteBackend` means."""
    found: Any = tokencap
    path = "tokencap"
    for name in dotted.split(".")[1:]:
        path = f"{path}.{name}"
        try:
            found = getattr(found, name)
        except AttributeError:
            found = importlib.import_module(path)
    return found


@pytest.mark.parametrize(
    "block", [block for block in PYTHON if block.compile_only], ids=lambda block: block.place
)
def test_blocks_of_frameworks_compile_and_call_tokencap_as_it_is(block: Block) -> None:
    compile(block.text, block.page, "exec")
    assert _check_calls(block.text) >= 1


def test_a_call_that_does_not_fit_is_noticed() -> None:
    with pytest.raises(TypeError, match="budget"):
        _check_calls("tokencap.patch(budget=5)")
    with pytest.raises(ImportError):
        _check_calls("tokencap.Provider, tokencap.nothing")


# -- the rest --------------------------------------------------------------------------------------------


def test_the_demo_prints_what_is_shown_of_it() -> None:
    block = next(block for block in BLOCKS if block.note == "demo")
    done = subprocess.run(
        [sys.executable, str(ROOT / "scripts" / "demo.py"), "--offline"],
        capture_output=True,
        encoding="utf-8",
        env={**os.environ, "PYTHONIOENCODING": "utf-8"},
        timeout=120,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    printed = iter([_plain(line) for line in done.stdout.splitlines()])
    for line in block.text.splitlines():
        # In this order, with lines left out where it says so and between the parts.
        assert line.strip() in ("", "...") or _plain(line) in printed, line


def test_the_make_targets_there_are() -> None:
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    targets = set(re.findall(r"^([a-z-]+):.*##", makefile, re.MULTILINE))
    for page in ("README.md", "CONTRIBUTING.md"):
        named = re.findall(r"(?:^|`)make ([a-z][a-z-]*)", TEXTS[page], re.MULTILINE)
        assert named, page
        assert set(named) <= targets, page
    expect_all_named({target for target in targets if f"make {target}" not in TEXTS["CONTRIBUTING.md"]})


def test_the_extras_and_files_there_are() -> None:
    project = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    for text in TEXTS.values():
        for extra in re.findall(r"tokencap\[(\w+)\]", text):
            assert re.search(rf"^{extra} = \[", project, re.MULTILINE), extra
    for page in ("README.md", "CONTRIBUTING.md"):
        for path in re.findall(r"(?<![\w/.])((?:src|tests|scripts|\.ci)/[\w./<>{}-]*\w)", TEXTS[page]):
            if "<" not in path:
                assert (ROOT / path).exists(), f"{page}: {path}"


def _anchors(text: str) -> set[str]:
    titles = re.findall(r"^#+ (.*)$", re.sub(r"^```.*?^```$", "", text, flags=re.M | re.S), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}


OURS = re.compile(r"https://github\.com/pykul/tokencap/(?:blob|tree)/main/")


def test_links_lead_somewhere() -> None:
    for page, text in TEXTS.items():
        if page == "README.md":  # which is shown on PyPI, too, where no other file is
            assert re.findall(r"\]\((?!#|https:)([^)\s]+)\)", text) == []
        text = OURS.sub("", text)
        for target in re.findall(r"\]\(([^)\s]+)\)", text):
            path, _, anchor = target.partition("#")
            if "://" in path:
                continue
            assert not path or (ROOT / path).exists(), f"{page}: {target}"
            assert not anchor or anchor in _anchors(TEXTS[path or page]), f"{page}: {target}"


SIGNATURE = re.compile(r"^#{3,4} `(tokencap\.[\w.]+)\((.*)\)`$", re.MULTILINE)


@pytest.mark.parametrize("name", [found[1] for found in SIGNATURE.finditer(TEXTS["README.md"])])
def test_a_signature_in_the_reference_is_the_one_in_the_source(name: str) -> None:
    """In order, with its defaults; and all of it."""
    given = next(found[2] for found in SIGNATURE.finditer(TEXTS["README.md"]) if found[1] == name)
    stated = ast.parse(f"def f({given}): ...").body[0]
    assert isinstance(stated, ast.FunctionDef)
    real = dict(inspect.signature(_resolve(name)).parameters)
    real.pop("self", None)
    positional = [argument.arg for argument in stated.args.args]
    keyword = [argument.arg for argument in stated.args.kwonlyargs]
    defaults: dict[str, Any] = dict(
        zip(reversed(positional), map(ast.literal_eval, reversed(stated.args.defaults)))
    )
    defaults.update(
        (name, ast.literal_eval(value)) for name, value in zip(keyword, stated.args.kw_defaults) if value
    )
    for name_, kind in [(n, False) for n in positional] + [(n, True) for n in keyword]:
        assert (real[name_].kind is inspect.Parameter.KEYWORD_ONLY) is kind, name_
        assert defaults.get(name_, inspect.Parameter.empty) == real[name_].default, name_
    named = [*positional, *keyword]
    assert [parameter for parameter in real if parameter in named] == named
    left_out = [f"{name}({parameter}=)" for parameter in real if parameter not in named]
    expect_all_named([] if name in FOR_TESTS else left_out)


HOMES = {
    "guard": "tokencap.Guard",
    "call": "tokencap.Call",
    "SQLiteBackend": "tokencap.backends.sqlite.SQLiteBackend",
    "RedisBackend": "tokencap.backends.redis.RedisBackend",
    "MemoryBackend": "tokencap.backends.memory.MemoryBackend",
}
"""What the names in running text stand for; the others are those of `tokencap`."""


def test_calls_in_running_text_fit_the_real_signatures() -> None:
    checked = []
    for page in PAGES:
        for span in re.findall(r"`([\w.]+\([^`]*\))`", _prose(TEXTS[page])):
            call = ast.parse(span.replace("=...", "=None").replace("...", ""), mode="eval").body
            assert isinstance(call, ast.Call)
            name, _, method = _named(call.func).partition(".")
            if name not in HOMES and name not in tokencap.__all__:
                continue
            home = HOMES.get(name, f"tokencap.{name}")
            real = inspect.signature(_resolve(f"{home}.{method}" if method else home))
            given: list[Any] = [None] * (len(call.args) + ("self" in real.parameters))
            # In part: running text names the arguments it is about.
            real.bind_partial(*given, **{keyword.arg: None for keyword in call.keywords if keyword.arg})
            checked.append(span)
    assert len(checked) > 20


def _prose(text: str) -> str:
    return re.sub(r"^```.*?^```$|^#.*?$", "", text, flags=re.MULTILINE | re.DOTALL)


FOR_TESTS = ("tokencap.backends.sqlite.SQLiteBackend", "tokencap.backends.memory.MemoryBackend")
"""They also take a clock."""

PLAIN = ("GuardedAnthropic", "GuardedAsyncAnthropic", "GuardedOpenAI", "GuardedAsyncOpenAI", "CheckResult")
"""Names for type checkers, and one that is only met as `check_result`."""


def test_the_readme_knows_every_public_name() -> None:
    named = set(re.findall(r"\w+", TEXTS["README.md"]))
    expect_all_named(sorted({*tokencap.__all__} - {*PLAIN, "__version__"} - named))


@pytest.mark.parametrize("kind", [tokencap.ActionKind, tokencap.Provider, tokencap.ResetPeriod])
def test_the_members_of_the_enums_are_all_named(kind: Any) -> None:
    section = TEXTS["README.md"].partition("### Enums\n")[2].partition("\n#")[0]
    named = section.partition(f"`{kind.__name__}`")[2].partition(". ")[0]
    expect_all_named([member.name for member in kind if f"`{member.name}`" not in named])


def test_the_keys_of_the_file_are_all_named() -> None:
    section = TEXTS["README.md"].partition("### Without code")[2].partition("\n## ")[0]
    expect_all_named([key for key in TOP if f"`{key}`" not in section])


@pytest.mark.parametrize("page", PAGES)
def test_tables_are_tables(page: str) -> None:
    """A page shows the rows as they are typed where the second is not the line under a heading."""
    for table in re.findall(r"(?:^\|.*\n)+", _prose(TEXTS[page]), re.MULTILINE):
        rows = table.splitlines()
        assert re.fullmatch(r"\|(?: ?:?-+:? ?\|)+", rows[1] if rows[1:] else ""), rows[0]


def test_the_fields_of_the_nouns_are_all_named() -> None:
    nouns = (tokencap.StatusResponse, tokencap.ThresholdInfo, tokencap.BudgetState, tokencap.CallRecord)
    names = [f"{noun.__name__}.{field}" for noun in nouns for field in noun.__annotations__]
    assert len(names) > 20
    expect_all_named([name for name in names if f"`{name.partition('.')[2]}`" not in TEXTS["README.md"]])


def test_every_webhook_field_and_metric_is_named() -> None:
    actions = (ROOT / "src/tokencap/_actions.py").read_text(encoding="utf-8")
    metrics = (ROOT / "src/tokencap/telemetry/_otel_metrics.py").read_text(encoding="utf-8")
    fields = re.findall(r'^            "(\w+)":', actions, re.MULTILINE)
    names = re.findall(r'"(tokencap\.[a-z_.]+\.[a-z_]+)"', metrics)
    assert len(fields) > 8
    assert len(names) > 3
    expect_all_named([name for name in (*fields, *names) if f"`{name}`" not in TEXTS["README.md"]])
